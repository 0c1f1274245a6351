"""Hostile models and adapters: parts missing, parts of something else, sizes that no memory holds."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inputs import Hostile
from safetensors.torch import load_file, save_file

from crosslign.models.adapter import ADAPTER_WEIGHTS
from crosslign.models.files import ADAPTER_CONFIG, INDEX, WEIGHTS

Make = Callable[[Path], Path]
NOISE = random.Random(0).randbytes(4000)


def holding(name: str, content: bytes | str | None) -> Make:
    """The folder with this file; None for without it."""

    def make(folder: Path) -> Path:
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder

    return make


def saying(name: str, **values: Any) -> Make:
    """The folder with other values in a JSON file of it."""

    def make(folder: Path) -> Path:
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**found, **values}))
        return folder

    return make


def cut(name: str) -> Make:
    return lambda folder: holding(name, (folder / name).read_bytes()[:-50])(folder)


def tensors(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Make:
    def make(folder: Path) -> Path:
        save_file({k: t.contiguous() for k, t in change(load_file(folder / name)).items()}, folder / name)
        return folder

    return make


def _pickle_only(folder: Path, name: str, pickle: str) -> Path:
    (folder / name).rename(folder / pickle)
    return folder


def _pipe(folder: Path) -> Path:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    return folder


def _dangling_tokenizer(folder: Path) -> Path:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("nowhere")
    return folder


def _huge_tokenizer(folder: Path) -> Path:
    os.truncate(folder / "tokenizer.json", 201_000_000)
    return folder


def _sharded(**weight_map: str) -> Make:
    def make(folder: Path) -> Path:
        (folder / WEIGHTS).unlink()
        return holding(INDEX, json.dumps({"weight_map": weight_map}))(folder)

    return make


def _gguf(content: bytes) -> Make:
    def make(folder: Path) -> Path:
        path = folder / "model.gguf"
        path.write_bytes(content)
        return path

    return make


MODELS = [
    Hostile("no weights", holding(WEIGHTS, None), ("has no weights",)),
    Hostile("a pickle", lambda f: _pickle_only(f, WEIGHTS, "pytorch_model.bin"), ("a pickle", "convert it")),
    Hostile("empty weights", holding(WEIGHTS, b""), (WEIGHTS, "no whole safetensors file")),
    Hostile("noise as weights", holding(WEIGHTS, NOISE), (WEIGHTS, "no whole safetensors file")),
    Hostile("endless header", holding(WEIGHTS, b"\xff" * 8 + NOISE), (WEIGHTS, "no whole safetensors file")),
    Hostile("cut off weights", cut(WEIGHTS), (WEIGHTS, "no whole safetensors file")),
    Hostile("missing tensor", tensors(WEIGHTS, lambda t: dict(sorted(t.items())[1:])), ("lack 1 tensors",)),
    Hostile("index that leaves the folder", _sharded(a="../model.safetensors"), (INDEX, "in this folder")),
    Hostile("index of what is not there", _sharded(a="model-1.safetensors"), ("model-1.safetensors", "is missing")),
    Hostile("empty index", _sharded(), (INDEX, "names no files")),
    Hostile("no configuration", holding("config.json", None), ("has no config.json",)),
    Hostile("configuration cut off", holding("config.json", '{"model_type": "lla'), ("config.json: not JSON",)),
    Hostile("list as configuration", holding("config.json", "[]"), ("config.json: expected a JSON object",)),
    Hostile("deep configuration", holding("config.json", '{"a": ' + "[" * 10**5), ("config.json", "deep")),
    Hostile("pipe as configuration", _pipe, ("config.json",)),
    Hostile("vocabulary of a trillion", saying("config.json", vocab_size=10**12), ("have different sizes",)),
    Hostile("billion hidden units", saying("config.json", hidden_size=10**9), ("have different sizes",)),
    Hostile("billion layers", saying("config.json", num_hidden_layers=10**9), ("num_hidden_layers is 1000000000",)),
    Hostile("a billion heads", saying("config.json", num_attention_heads=10**9), ("could not be loaded",)),
    Hostile("more layers than weights", saying("config.json", num_hidden_layers=3), ("lack 9 tensors",)),
    Hostile("text as a size", saying("config.json", hidden_size="large"), ("could not be loaded",)),
    Hostile("unknown type", saying("config.json", model_type="../x"), ("could not be loaded",)),
    Hostile("no activation", saying("config.json", hidden_act="os.system"), ("could not be loaded",)),
    Hostile("kernel of the hub", saying("config.json", attn_implementation="owner/kernel"), ("could not be loaded",)),
    Hostile(
        "an adapter inside", holding(ADAPTER_CONFIG, '{"base_model_name_or_path": "o/n"}'), ("not a model", "as the")
    ),
    Hostile("tokenizer of noise", holding("tokenizer.json", NOISE), ("the tokenizer of",)),
    Hostile("tokenizer cut off", cut("tokenizer.json"), ("the tokenizer of",)),
    Hostile("tokenizer that links nowhere", _dangling_tokenizer, ("tokenizer.json: cannot be read",)),
    Hostile("huge tokenizer", _huge_tokenizer, ("tokenizer.json", "CROSSLIGN_MAX_MODEL_FILE_MB")),
    Hostile("no such folder", lambda f: f.parent / "none" / "such", ("no folder",)),
    Hostile("gguf of noise", _gguf(b"GGUF" + NOISE), ("model.gguf",)),
    Hostile("gguf of version 3 and noise", _gguf(b"GGUF\3\0\0\0" + NOISE), ("model.gguf",)),
    Hostile("gguf that ends", _gguf(b"GGUF\3\0\0\0" + b"\1" + b"\0" * 7 + b"\xff" * 7 + b"\0"), ("model.gguf",)),
]

ADAPTERS = [
    Hostile("no weights", holding(ADAPTER_WEIGHTS, None), (f"has no {ADAPTER_WEIGHTS}",)),
    Hostile("a pickle", lambda f: _pickle_only(f, ADAPTER_WEIGHTS, "adapter_model.bin"), ("a pickle", "save it again")),
    Hostile("noise as weights", holding(ADAPTER_WEIGHTS, NOISE), (ADAPTER_WEIGHTS, "no whole safetensors file")),
    Hostile("cut off weights", cut(ADAPTER_WEIGHTS), (ADAPTER_WEIGHTS, "no whole safetensors file")),
    Hostile(
        "NaN",
        tensors(ADAPTER_WEIGHTS, lambda found: {k: v * float("nan") for k, v in found.items()}),
        ("the adapter's weights hold inf or NaN",),
    ),
    Hostile("no configuration", holding(ADAPTER_CONFIG, None), (f"has no {ADAPTER_CONFIG}",)),
    Hostile("configuration cut off", holding(ADAPTER_CONFIG, '{"r": '), (f"{ADAPTER_CONFIG}: not JSON",)),
    Hostile("list as configuration", holding(ADAPTER_CONFIG, "[1]"), ("expected a JSON object",)),
    Hostile("empty configuration", holding(ADAPTER_CONFIG, "{}"), ("peft_type is 'None'",)),
    Hostile("unknown type", saying(ADAPTER_CONFIG, peft_type="OWN"), ("peft_type is 'OWN'",)),
    Hostile("another type", saying(ADAPTER_CONFIG, peft_type="PREFIX_TUNING"), ("peft_type is 'PREFIX_TUNING'",)),
    Hostile("list as type", saying(ADAPTER_CONFIG, peft_type=["LORA"]), ("peft_type is",)),
    Hostile("rank of a billion", saying(ADAPTER_CONFIG, r=10**9), ("says that r is 1000000000",)),
    Hostile("fractional rank", saying(ADAPTER_CONFIG, r=1e9), ("r is '1000000000.0'",)),
    Hostile("negative rank", saying(ADAPTER_CONFIG, r=-4), ("r is '-4'",)),
    Hostile("no rank", saying(ADAPTER_CONFIG, r=None), ("r is 'None'",)),
    Hostile("textual alpha", saying(ADAPTER_CONFIG, lora_alpha="8"), ("lora_alpha is '8'",)),
    Hostile("endless alpha", saying(ADAPTER_CONFIG, lora_alpha=float("inf")), ("lora_alpha is 'inf'",)),
    Hostile("textual flag", saying(ADAPTER_CONFIG, use_rslora="yes"), ("use_rslora is 'yes'",)),
    Hostile("ranks by pattern", saying(ADAPTER_CONFIG, rank_pattern={"(a+)+$": 9}), ("'rank_pattern' is set",)),
    Hostile("layers repeated", saying(ADAPTER_CONFIG, layer_replication=[[0, 10**9]]), ("'layer_replication' is",)),
    Hostile("module to import", saying(ADAPTER_CONFIG, megatron_config={"a": 1}), ("'megatron_config' is set",)),
    Hostile("unknown setting", saying(ADAPTER_CONFIG, run_this="x"), ("'run_this' is set",)),
    Hostile(
        "module that the model lacks",
        tensors(ADAPTER_WEIGHTS, lambda t: {k.replace("q_proj", "x_proj"): v for k, v in t.items()}),
        ("does not fit the model", "x_proj", "no such layer"),
    ),
    Hostile(
        "module of another size",
        tensors(ADAPTER_WEIGHTS, lambda t: {k: v[:, :9] if "lora_A" in k else v for k, v in t.items()}),
        ("does not fit the model", "there it has [32, 32]"),
    ),
    Hostile(
        "half of a module",
        tensors(ADAPTER_WEIGHTS, lambda t: dict(sorted(t.items())[1:])),
        ("only one of LoRA's two tensors",),
    ),
    Hostile(
        "tensor of the base model",
        tensors(ADAPTER_WEIGHTS, lambda t: {**t, "base_model.model.lm_head.weight": sorted(t.items())[0][1].clone()}),
        ("is no tensor of a LoRA adapter",),
    ),
    Hostile(
        "targets by a slow pattern",
        saying(ADAPTER_CONFIG, target_modules="(.*)*(.*)*x", base_model_name_or_path="owner/name"),
        handled=True,  # which layers it changes, its weights say
    ),
    Hostile("record of noise", holding("run.json", NOISE), handled=True),
    Hostile("record with numbers as languages", saying("run.json", languages=[1, None]), handled=True),
    Hostile("record with a number as languages", saying("run.json", languages=5), handled=True),
    Hostile("no such folder", lambda f: f.parent / "none", (f"has no {ADAPTER_CONFIG}",)),
]

# A folder with a configuration and a tokenizer alone: a dry run says what memory is needed, or that it cannot.
_SIZES: tuple[tuple[str, Any, str, bool], ...] = (
    ("hidden_size", 10**15, "not enough", True),
    ("head_dim", 10**12, "not enough", True),
    ("intermediate_size", -4, "memory: not known", True),
    ("num_hidden_layers", 10**9, "memory: not known", True),
    ("num_hidden_layers", 10**400, "0000 ... in its configuration", True),
    ("num_hidden_layers", 0, "model.lora", False),
    ("num_local_experts", 10**9, "no model has more than 2000", True),
    ("num_attention_heads", 0, "model.path", False),
    ("vocab_size", "many", "model.path", False),
)
CONFIGURATIONS = [
    *(
        Hostile(f"{key} {str(value)[:15]}", saying("config.json", **{key: value}), (said,), handled)
        for key, value, said, handled in _SIZES
    ),
    Hostile("no configuration", holding("config.json", None), ("config.json",)),
    Hostile("pipe", _pipe, ("config.json",)),
    Hostile("no JSON", holding("config.json", NOISE), ("config.json",)),
    Hostile("half a file of weights", holding(WEIGHTS, NOISE), (WEIGHTS,)),
]
