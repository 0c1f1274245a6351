"""An adapter written into its base model: W + s B A, computed in float32, rounded once, saved as an ordinary model.

    W [outputs, inputs] of each adapted layer; A [r, inputs], B [outputs, r] of the adapter;
    s = alpha / r, with rsLoRA alpha / sqrt(r)      (LoRA, arXiv 2106.09685; rsLoRA, arXiv 2312.03732)

The base is read, never written, and always unquantised. Where its files have the names and shapes of its layers, they
are read, changed and written one after the other, so that one of them at a time is in memory. Else (a .gguf file, an
adapter on embeddings, DoRA, a checkpoint in another form) the whole model is loaded and peft merges it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.torch import save_file

from crosslign.models.adapter import ADAPTER_WEIGHTS, Adapter, check_fit, read_adapter, with_adapter
from crosslign.models.files import CODE, INDEX, WEIGHTS, tensor_shapes, weight_files
from crosslign.models.load import (
    Dtype,
    ModelSource,
    check_source,
    load_error,
    load_model,
    load_skeleton,
    stored_tensors,
)
from crosslign.models.teacher import Mark, fingerprint_of, mark
from crosslign.types import Announce, CrosslignError, silent
from crosslign.untrusted import read_json

_CONFIGS = ("config.json", "generation_config.json")
_TYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}


@dataclass(frozen=True)
class Merged:
    """What was merged.

    Fields:
        fingerprint: of the base's weights in the type in which it was trained; None if it could not be compared.
        dtype: of the adapted layers that were written.
        streamed: whether one file at a time was in memory.
        rounding: the share of the adapter's change that was lost in rounding to `dtype`: the Frobenius norm of the
            error by that of the change, over all layers.
    """

    fingerprint: str | None
    dtype: str
    streamed: bool
    rounding: float


def merge_adapter(
    source: ModelSource,
    adapter: Path,
    out: Path,
    *,
    dtype: Dtype = "auto",
    fingerprint: str | None = None,
    announce: Announce = silent,
) -> Merged:
    """Write base plus adapter into the folder `out`, which is there: weights and configuration, no tokenizer.

    Args:
        source: the base; its `dtype` is the one in which `fingerprint` was taken. Its quantisation is left out.
        dtype: of the result; "auto": the base's own, of a .gguf file float32.
        fingerprint: the base's, from the run's record; None if it was taken of a quantised base.
        announce: gets a line for each file.

    Raises CrosslignError if base and adapter do not belong together, the base is quantised, or the adapter changes
    weights that the model uses twice.
    """
    source = dataclasses.replace(source, quantization=None)
    check_source(source)
    found = read_adapter(adapter)
    skeleton = load_skeleton(source)
    if source.kind != "gguf" and getattr(skeleton.config, "quantization_config", None):
        raise CrosslignError(
            f"model.path: {source.path} is quantised, and an adapter cannot be merged into such weights. Use it as it "
            "is, or name the unquantised model as --base."
        )
    check_fit(skeleton, found, str(adapter))
    tied = dict(getattr(skeleton, "all_tied_weights_keys", None) or {})
    twice = {name.removesuffix(".weight") for pair in tied.items() for name in pair}
    if shared := sorted(twice & set(found.modules)):
        raise CrosslignError(
            f"{adapter}: the adapter changes {shared[0][:80]}, whose weights the model uses twice (tied embeddings), "
            "so it cannot be merged. Use the adapter as it is."
        )
    check = _Fingerprint(skeleton, tied, _types(source, skeleton), fingerprint)
    base = None if source.kind == "gguf" else _folder(source)
    if base is not None and _can_stream(base, skeleton, tied, found, adapter):
        return _stream(base, found, adapter, out, dtype, check, announce)
    return _whole(source, found, adapter, out, dtype, check)


def _folder(source: ModelSource) -> Path:
    """The folder with the base's files; those of a hub model are fetched into the cache."""
    if source.kind == "folder":
        return Path(source.path)
    try:
        found = snapshot_download(
            source.path, revision=source.revision, allow_patterns=[*_CONFIGS, WEIGHTS, INDEX, "*.safetensors", CODE]
        )
    except Exception as error:  # see load_tokenizer
        raise load_error("model", source.path, error) from error
    return Path(found)


def _types(source: ModelSource, skeleton: Any) -> list[torch.dtype]:
    """The types in which the run can have loaded the base: what its configuration names, or what "auto" stands for."""
    if source.dtype != "auto":
        return [_TYPES[source.dtype]]
    return list(dict.fromkeys([skeleton.config.dtype or torch.float32, torch.float32, torch.bfloat16]))


class _Fingerprint:
    """The base's fingerprint, from its tensors one by one, compared with that of the run's record."""

    def __init__(
        self, skeleton: Any, tied: Mapping[str, str], types: Iterable[torch.dtype], expected: str | None
    ) -> None:
        names = {name for name, _ in skeleton.named_parameters(remove_duplicate=False)}
        self.names = {name: [name] for name in names}
        for name, stored in tied.items():
            if name in names and stored in names:
                self.names[stored].append(name)
        self.expected = expected
        self.marks: dict[torch.dtype, dict[str, Mark]] = {dtype: {} for dtype in types if expected is not None}

    def add(self, stored: str, tensor: torch.Tensor) -> None:
        """A tensor of the base, under the name that it has in its file."""
        for dtype, marks in self.marks.items():
            for name in self.names.get(stored, ()):
                marks[name] = mark(name, tensor.to(dtype))

    def check(self, where: object) -> str | None:
        """Raises CrosslignError unless the tensors are those of the record."""
        if self.expected is not None and self.expected not in {fingerprint_of(m.values()) for m in self.marks.values()}:
            raise CrosslignError(
                f"{where}: these are not the weights that the adapter was trained on (the run's record has the "
                f"fingerprint {self.expected}). Name that model as --base."
            )
        return self.expected


def _can_stream(base: Path, skeleton: Any, tied: Mapping[str, str], adapter: Adapter, folder: Path) -> bool:
    """Whether the files hold the model's parameters under their own names, and the adapter is one of linear layers."""
    shapes = {name: shape for file in weight_files(base) for name, shape in tensor_shapes(file).items()}
    own = {name: tuple(p.shape) for name, p in skeleton.named_parameters(remove_duplicate=False)}
    same = all(shapes.get(name, shapes.get(tied.get(name, ""))) == shape for name, shape in own.items())
    modules = dict(skeleton.named_modules())
    plain = all(isinstance(modules[name], torch.nn.Linear) for name in adapter.modules)
    parts = all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in tensor_shapes(folder / ADAPTER_WEIGHTS))
    config = adapter.config
    return same and plain and parts and not config.use_dora and not config.fan_in_fan_out


class _Rounding:
    """Sums the squares of a change, and of what rounding takes from it."""

    def __init__(self) -> None:
        self.change = self.error = 0.0

    def add(self, before: torch.Tensor, exact: torch.Tensor, stored: torch.Tensor) -> None:
        self.change += float((exact - before).double().square().sum())
        self.error += float((stored.float() - exact).double().square().sum())

    @property
    def share(self) -> float:
        return (self.error / self.change) ** 0.5 if self.change else 0.0


def _stream(
    base: Path, adapter: Adapter, folder: Path, out: Path, dtype: Dtype, check: _Fingerprint, announce: Announce
) -> Merged:
    target, rounding, files = _TYPES.get(dtype), _Rounding(), weight_files(base)
    places: dict[str, str] = {}
    size, types = 0, set()
    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as low:
        for number, file in enumerate(files, start=1):
            announce(f"{file.name}: file {number} of {len(files)}")
            tensors: dict[str, torch.Tensor] = {}
            for name, tensor in _tensors(file):
                check.add(name, tensor)
                kind = target if target is not None and tensor.is_floating_point() else tensor.dtype
                module = name.removesuffix(".weight")
                if module in adapter.modules and name != module:
                    before = tensor.float()
                    exact = before + _change(low, module, adapter)
                    tensor = exact.to(kind)
                    rounding.add(before, exact, tensor)
                    types.add(kind)
                    _check_finite(tensor, name, kind)
                tensors[name] = tensor.to(kind).contiguous()
                places[name] = file.name
                size += tensors[name].numel() * tensors[name].element_size()
            save_file(tensors, out / file.name, metadata={"format": "pt"})
    known = check.check(base)
    if not (base / WEIGHTS).is_file():
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    own_code = base.glob(CODE) if "auto_map" in read_json(base / _CONFIGS[0]) else ()
    for file in [*(base / config for config in _CONFIGS), *own_code]:
        if file.is_file():
            shutil.copyfile(file, out / file.name)
    if target is not None:
        raw = {k: v for k, v in read_json(out / _CONFIGS[0]).items() if k != "torch_dtype"}
        (out / _CONFIGS[0]).write_text(json.dumps({**raw, "dtype": dtype}, indent=2) + "\n", encoding="utf-8")
    return Merged(known, " ".join(sorted(_name(kind) for kind in types)), True, rounding.share)


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            yield name, opened.get_tensor(name)


def _change(low: Any, module: str, adapter: Adapter) -> torch.Tensor:
    """s B A of a layer, [outputs, inputs], in float32."""
    config = adapter.config
    a, b = (low.get_tensor(f"base_model.model.{module}.lora_{side}.weight").float() for side in "AB")
    return (config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)) * (b @ a)


def _check_finite(tensor: torch.Tensor, name: str, kind: torch.dtype) -> None:
    if not torch.isfinite(tensor).all():
        raise CrosslignError(
            f"{name[:80]}: base and adapter together hold inf or NaN as {_name(kind)}. One of them is damaged, or "
            "--dtype is too narrow."
        )


def _whole(source: ModelSource, adapter: Adapter, folder: Path, out: Path, dtype: Dtype, check: _Fingerprint) -> Merged:
    """By peft, with the whole model in memory as float32."""
    own = None if source.kind == "gguf" else load_skeleton(source).config.dtype
    model = load_model(dataclasses.replace(source, dtype="float32"), stay=True)
    for name, tensor in list(stored_tensors(model)):
        check.add(name, tensor)
    known = check.check(source.path)
    before = {name: model.get_submodule(name).weight.detach().clone() for name in adapter.modules}
    merged = with_adapter(model, str(folder)).merge_and_unload()
    kind = _TYPES.get(dtype) or own or torch.float32
    exact = {name: merged.get_submodule(name).weight.detach() for name in before}
    rounding = _Rounding()
    for name, weight in exact.items():
        _check_finite(weight.to(kind), name, kind)
        rounding.add(before[name], weight, weight.to(kind))
    merged.to(kind).save_pretrained(out)
    return Merged(known, _name(kind), False, rounding.share)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
