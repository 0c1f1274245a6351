"""LoRA adapters: what one may hold, checked before weights are loaded; its hash; loading; its type while sampling.

An adapter is not trusted. What is loaded is decided by its weights, whose names and shapes must fit each other and the
base model; of its configuration only what scales them counts, and what would do more is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel

from crosslign.models.files import ADAPTER_CONFIG, tensor_shapes, weight_files
from crosslign.models.load import ModelSource, load_skeleton, not_finite
from crosslign.storage import file_sha256
from crosslign.types import CrosslignError, cause
from crosslign.untrusted import read_json

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.weight)?")
# What decides the result; everything else must be as peft leaves it, but for what loading does not read.
_USED = ("r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out")
_UNREAD = ("auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type", "peft_type",
           "peft_version", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
           "lora_dropout", "init_lora_weights", "megatron_core", "loftq_config", "qalora_group_size",
           "runtime_config")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A checked adapter: peft's configuration, and the two sizes that each adapted module must have."""

    config: LoraConfig
    modules: dict[str, tuple[int, int]]


def check_adapter(adapter: str | None, where: str = "--adapter: ", source: ModelSource | None = None) -> None:
    """Raise CrosslignError unless this is the folder of a finished LoRA run, of the model at `source` if that is given,
    or None; no weights are read."""
    if adapter is None:
        return
    try:
        found = read_adapter(Path(adapter))
        if source is not None and (skeleton := _skeleton(source)) is not None:
            check_fit(skeleton, found, adapter)
    except CrosslignError as error:
        raise CrosslignError(f"{where}{error}") from error


def _skeleton(source: ModelSource) -> torch.nn.Module | None:
    """None where the model itself is damaged: loading its weights says what is wrong."""
    folder = Path(source.path)
    try:
        found: torch.nn.Module = load_skeleton(source)
        files = weight_files(folder) if folder.is_dir() else []
        stored = {name: shape for file in files for name, shape in tensor_shapes(file).items()}
    except CrosslignError:
        return None
    sizes = {name: tuple(parameter.shape) for name, parameter in found.named_parameters()}
    return found if all(stored.get(name, size) == size for name, size in sizes.items()) else None


def read_adapter(folder: Path) -> Adapter:
    """Raises CrosslignError, with the file and what is wrong, for what is no plain LoRA adapter in safetensors."""
    place, weights = folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS
    if not place.is_file():
        raise CrosslignError(f"{folder} has no {ADAPTER_CONFIG}; is it a finished LoRA run?")
    if not weights.is_file():
        pickle = (folder / "adapter_model.bin").exists()
        why = (
            "It has adapter_model.bin, a pickle, which is not read for safety; load it with peft where you trust it, "
            "and save it again with `save_pretrained`."
            if pickle
            else "The run did not end, or the copy was cut off."
        )
        raise CrosslignError(f"{folder} has no {ADAPTER_WEIGHTS}. {why}")
    config = _config(read_json(place), place)
    modules = _modules(tensor_shapes(weights), config.r, weights)
    config.target_modules = set(modules)
    return Adapter(config, modules)


def _config(raw: dict[str, Any], place: Path) -> LoraConfig:
    if raw.get("peft_type") != "LORA":
        raise CrosslignError(f"{place}: peft_type is {str(raw.get('peft_type'))[:40]!r}; only 'LORA' is loaded.")
    usual = dataclasses.asdict(LoraConfig())
    for name, value in raw.items():
        if name not in (*_USED, *_UNREAD) and value and value != usual.get(name):
            raise CrosslignError(f"{place}: {name[:40]!r} is set; only plain LoRA adapters are loaded.")
    r, alpha = raw.get("r"), raw.get("lora_alpha")
    if type(r) is not int or r < 1:
        raise CrosslignError(f"{place}: r is {str(r)[:40]!r}; it is the rank, a whole number from 1.")
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not -1e9 < alpha < 1e9:
        raise CrosslignError(f"{place}: lora_alpha is {str(alpha)[:40]!r}; it is a number of a sane size.")
    flags = {name: raw.get(name, False) for name in _USED[2:]}
    for name, value in flags.items():
        if type(value) is not bool:
            raise CrosslignError(f"{place}: {name} is {str(value)[:40]!r}; it is true or false.")
    base, revision = raw.get("base_model_name_or_path"), raw.get("revision")
    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        **flags,
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=base if isinstance(base, str) else None,
        revision=revision if isinstance(revision, str) else None,
    )


def _modules(shapes: dict[str, tuple[int, ...]], r: int, weights: Path) -> dict[str, tuple[int, int]]:
    """The adapted modules by name, each with what its two tensors take and give."""
    sides: dict[str, dict[str, int]] = {}
    for name, shape in shapes.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            if name.endswith(".base_layer.weight"):  # peft keeps the embedding that it adapts
                continue
            raise CrosslignError(f"{weights}: {name[:80]!r} is no tensor of a LoRA adapter.")
        side = match[2][-1]
        if match[2] == "magnitude_vector":
            continue
        if len(shape) != 2 or shape["AB".index(side)] != r:
            raise CrosslignError(
                f"{weights}: {name[:80]} has the shape {list(shape)}, but {ADAPTER_CONFIG} says that r is {r}."
            )
        sides.setdefault(match[1], {})[side] = shape[1 - "AB".index(side)]
    for name, found in sides.items():
        if len(found) != 2:
            raise CrosslignError(f"{weights}: of {name[:80]} only one of LoRA's two tensors is there.")
    if not sides:
        raise CrosslignError(f"{weights}: holds no tensor of a LoRA adapter.")
    return {name: (found["A"], found["B"]) for name, found in sides.items()}


def adapter_sha256(adapter: str | None) -> str | None:
    """Over all that is read of an adapter, so that a changed one does not continue the old one's files."""
    if adapter is None:
        return None
    parts = [file_sha256(Path(adapter) / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def with_adapter(model: Any, folder: str) -> Any:
    """The model with its adapter, in evaluation mode.

    Raises CrosslignError if it is none (`check_adapter`) or does not fit the model.
    """
    adapter = read_adapter(Path(folder))
    check_fit(model, adapter, folder)
    try:
        found = PeftModel.from_pretrained(model, folder, config=adapter.config, local_files_only=True)
    except Exception as error:  # peft raises many kinds
        raise CrosslignError(f"{folder}: the adapter could not be loaded: {cause(error)}.") from error
    if (name := not_finite((n, p) for n, p in found.named_parameters() if ".lora_" in n)) is not None:
        raise CrosslignError(f"{folder}: the adapter's weights hold inf or NaN (the first are in {name}).")
    return found.eval()


def check_fit(model: torch.nn.Module, adapter: Adapter, folder: str) -> None:
    """Raise CrosslignError unless the model, which may be a skeleton, has what the adapter changes."""
    modules = dict(model.named_modules())
    for name, sizes in adapter.modules.items():
        weight = getattr(modules.get(name), "weight", None)
        weight = getattr(weight, "quant_state", weight)  # which knows a 4-bit weight's shape
        shape = tuple(getattr(weight, "shape", ())) or None
        if shape is None or sorted(shape) != sorted(sizes):
            has = f"there it has {list(shape)}" if shape else "the model has no such layer"
            raise CrosslignError(
                f"{folder}: the adapter does not fit the model: it changes {name[:80]}, {sizes[0]} to {sizes[1]}; "
                f"{has}. Was it trained on another model?"
            )


@contextmanager
def adapter_in_base_type(model: Any) -> Iterator[None]:
    """Inside the block the adapter's weights have the base model's type, for sampling; after it, their own.

    An adapter is trained in float32. On a half-precision base each of its layers would cast activations to and fro,
    which costs more than half precision gains where a token is computed at a time. The parameters themselves are set
    aside and put back, so nothing that is trained is rounded.
    """
    dtype = model.get_input_embeddings().weight.dtype
    # Replaced, not changed in place: what hooks and optimizers hold on to is the parameter.
    held = [
        (module._parameters, name, parameter)
        for path, module in model.named_modules()
        for name, parameter in module._parameters.items()
        if ".lora_" in f"{path}.{name}" and parameter is not None and parameter.dtype != dtype
    ]
    try:
        for parameters, name, parameter in held:
            parameters[name] = torch.nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
        yield
    finally:
        for parameters, name, parameter in held:
            parameters[name] = parameter
