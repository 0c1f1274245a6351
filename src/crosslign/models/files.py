"""What lies in a local model's folder, checked before anything of it is loaded.

A local path never becomes a request to the hub: what looks like one and is not there is an error, and what is there
holds its own weights, in safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from crosslign.types import CrosslignError, cause, excerpt
from crosslign.untrusted import check_file, leaves, parse_json, read_json, read_text

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
# Files that a tokenizer is made of.
TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*",
             "*.jinja", "additional_chat_templates/*", "*.model", "*.tiktoken")  # fmt: skip
CODE = "*.py"  # a model's own, which its configuration names (`auto_map`)
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_MOST = 2_000


def looks_local(path: str) -> bool:
    """Whether this can be no hub id: it is there, or is no `name` or `owner/name`."""
    return Path(path).exists() or path.startswith((".", "/", "~")) or path.endswith(".gguf") or path.count("/") > 1


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a safetensors file, from its header.

    Raises CrosslignError if it is no such file, or is cut off.
    """
    try:
        with safe_open(file, "pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CrosslignError(
            f"{file}: is no whole safetensors file ({cause(error)}). Copy or download it again."
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The files with a model's weights: one, or those that its index names.

    Raises CrosslignError if there is none, the index is no index, or one of its files lies elsewhere or is missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        pickles = sorted(p.name for p in folder.glob("*.bin"))
        why = (
            f"It has {pickles[0]}, a pickle, which is not read for safety; convert it with "
            "`save_pretrained(..., safe_serialization=True)`."
            if pickles
            else "Was the download cut off?"
        )
        raise CrosslignError(f"the folder {folder} has no weights ({WEIGHTS} or {INDEX}). {why}")
    found = parse_json(read_text(index, "MODEL_FILE_MB"), index)
    places = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise CrosslignError(f"{index}: names no files of weights (weight_map). Copy or download it again.")
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CrosslignError(f"{index}: {name[:80]!r} is no safetensors file in this folder.")
        if not (folder / name).is_file():
            raise CrosslignError(f"{folder}: {name}, which {INDEX} names, is missing. Was the download cut off?")
    return [folder / name for name in names]


def check_model(folder: Path, *, weights: bool = True) -> None:
    """Raise CrosslignError unless this folder holds a whole model of its own; reads headers, no weights.

    With `weights=False` they may be missing altogether.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        raise CrosslignError(
            f"the folder {folder} holds an adapter ({ADAPTER_CONFIG}), not a model. Name its base model here, and the "
            "folder as the adapter."
        )
    if not (folder / "config.json").is_file():
        raise CrosslignError(f"the folder {folder} has no config.json; is it a model folder?")
    if not weights and not (folder / WEIGHTS).exists() and not (folder / INDEX).exists():
        return
    tensors = sum(len(tensor_shapes(file)) for file in weight_files(folder))
    config = folder / "config.json"
    _check_layers(read_json(config), tensors, config)


def _check_layers(config: Mapping[str, Any], tensors: int, where: Path) -> None:
    """More layers than tensors are made one by one before a library compares their sizes."""
    for key, value in config.items():
        if key in _LAYERS and isinstance(value, int) and value > tensors:
            raise CrosslignError(
                f"{where}: {key} is {value}, but the weights hold only {tensors} tensors: they do not belong together."
            )
        if isinstance(value, dict):
            _check_layers(value, tensors, where)


def check_counts(config: Mapping[str, Any], where: object) -> None:
    """Raise CrosslignError for more layers or experts than any model has: each is made before anything is compared."""
    for key, value in leaves(config, where):
        name = key.rpartition(".")[2]
        if (name in _LAYERS or "experts" in name) and isinstance(value, int) and value > _MOST:
            count = excerpt(str(value), 20)
            raise CrosslignError(f"{where}: {name} is {count} in its configuration; no model has more than {_MOST}.")


def check_tokenizer(folder: Path) -> None:
    """Raise CrosslignError if a file of a tokenizer is no file, or far larger than any tokenizer's."""
    for file in {file for pattern in TOKENIZER for file in folder.glob(pattern)}:
        try:
            if not file.is_dir():
                check_file(file, "MODEL_FILE_MB")
        except OSError as error:
            raise CrosslignError(f"{file}: cannot be read: {error.strerror}.") from error
