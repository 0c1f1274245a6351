"""Which model this is, told from files without loading weights; the model with its adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from crosslign.models.adapter import with_adapter
from crosslign.models.files import TOKENIZER
from crosslign.models.forward import causal_lm
from crosslign.models.load import ModelSource, load_error, load_model, token_ids
from crosslign.storage import digest

SAMPLES, SAMPLE_BYTES = 64, 65536  # of a weights file: 4 MB, whatever its size
# What decides completions; a folder may hold logs and checkpoints too, which do not.
_READ_WHOLE = ("config.json", "generation_config.json", "*.safetensors.index.json", "*.py", *TOKENIZER)
# What a configuration holds besides, which changes no completion.
_NAMES = ("_name_or_path", "architectures", "dtype", "transformers_version", "use_cache")


def weights_mark(source: ModelSource) -> str:
    """A mark that changes when the model does, in a fraction of a second.

    Hub id: the commit, `config.json` being fetched if it is not there. Folder or .gguf: 16 hexadecimal digits over the
    small files that decide completions, and over size, header and evenly spaced samples of the weights: training moves
    weights everywhere. A single weight that was edited by hand may go unnoticed. Another tokenizer and a chat template
    that the source names count too.

    Raises CrosslignError if a hub model is out of reach.
    """
    tokenizer = None if source.tokenizer is None else ModelSource(source.tokenizer)
    template = None if source.chat_template is None else Path(source.chat_template).read_bytes()
    parts = [_commit(s) if s.kind == "hub" else _digest(_files(s)) for s in (source, tokenizer) if s is not None]
    if template is not None:
        parts.append(hashlib.sha256(template).hexdigest()[:16])
    return "+".join(parts)


def _commit(source: ModelSource) -> str:
    try:
        found = cached_file(source.path, "config.json", revision=source.revision or "main")
    except Exception as error:  # see load_tokenizer
        raise load_error("configuration", source.path, error) from error
    return Path(found or "unknown/").parent.name


def _digest(files: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(file.name.encode())
        for part in _samples(file) if file.suffix in (".safetensors", ".gguf") else (file.read_bytes(),):
            found.update(part)
    return found.hexdigest()[:16]


def _files(source: ModelSource) -> list[Path]:
    path = Path(source.path)
    if source.kind == "gguf":
        return [path]
    names = {file for pattern in ("*.safetensors", *_READ_WHOLE) for file in path.glob(pattern) if file.is_file()}
    return sorted(names)


def _samples(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    yield str(size).encode()
    with path.open("rb") as file:
        if size <= SAMPLES * SAMPLE_BYTES:
            yield file.read()
            return
        for number in range(SAMPLES):
            file.seek(number * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            yield file.read(SAMPLE_BYTES)


def sampling_mark(weights: str, model: Any, tokenizer: Any) -> str:
    """A hash of all in a loaded model that a completion depends on: its weights (their `fingerprint`), its
    configuration and what ends a completion."""
    settings = {k: v for k, v in causal_lm(model).config.to_dict().items() if k not in _NAMES}
    return digest([weights, settings, token_ids(tokenizer, model).stop])


def load_with_adapter(source: ModelSource, adapter: str | None) -> Any:
    """The model, with its LoRA adapter if there is one, in evaluation mode. Weights are read here."""
    model = load_model(source)
    return model if adapter is None else with_adapter(model, adapter)
