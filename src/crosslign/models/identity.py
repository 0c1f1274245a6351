"""Which weights these are, told from files without loading them; adapters checked, identified and loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers.utils import cached_file

from crosslign.models.load import ModelSource, load_error, load_model
from crosslign.types import CrosslignError

SAMPLES, SAMPLE_BYTES = 64, 65536  # of a weights file: 4 MB, whatever its size
# What decides completions; a folder may hold logs and checkpoints too, which do not.
_READ_WHOLE = ("config.json", "generation_config.json", "tokenizer*", "vocab*", "merges.txt", "*.jinja",
               "special_tokens_map.json", "added_tokens.json")  # fmt: skip


def weights_mark(source: ModelSource) -> str:
    """A mark that changes when the model does, in a fraction of a second.

    Hub id: the commit, `config.json` being fetched if it is not there. Folder or .gguf: 16 hexadecimal digits over the
    small files that decide completions, and over size, header and evenly spaced samples of the weights: training moves
    weights everywhere. A single weight that was edited by hand may go unnoticed.

    Raises CrosslignError if a hub model is out of reach.
    """
    if source.kind == "hub":
        try:
            found = cached_file(source.path, "config.json", revision=source.revision or "main")
        except Exception as error:  # see load_tokenizer
            raise load_error("configuration", source.path, error) from error
        return Path(found or "unknown/").parent.name
    digest = hashlib.sha256()
    for file in _files(source):
        digest.update(file.name.encode())
        for part in _samples(file) if file.suffix in (".safetensors", ".gguf") else (file.read_bytes(),):
            digest.update(part)
    return digest.hexdigest()[:16]


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


def check_adapter(adapter: str | None) -> None:
    """Raise CrosslignError unless this is the folder of a finished LoRA run, or None."""
    if adapter is not None and not (Path(adapter) / "adapter_config.json").is_file():
        raise CrosslignError(f"--adapter: {adapter} has no adapter_config.json; is it a finished LoRA run?")


def adapter_sha256(adapter: str | None) -> str | None:
    """So that an adapter trained anew in the same folder does not continue the old one's files."""
    if adapter is None:
        return None
    digest = hashlib.sha256()
    for file in sorted(Path(adapter).glob("adapter_model*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def load_with_adapter(source: ModelSource, adapter: str | None) -> Any:
    """The model, with its LoRA adapter if there is one, in evaluation mode. Weights are read here."""
    model = load_model(source)
    return model if adapter is None else PeftModel.from_pretrained(model, adapter).eval()
