"""Hostile recipes: YAML that grows, sinks or never ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from inputs import Hostile, written


def changed(key: str, value: Any) -> Callable[[Path], Path]:
    """Makes the good recipe with another value."""

    def make(path: Path) -> Path:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        *parents, last = key.split(".")
        section = recipe
        for part in parents:
            section = section.setdefault(part, {})
        section[last] = value
        path.write_text(yaml.dump(recipe), encoding="utf-8")
        return path

    return make


def frozen(pattern: str) -> Callable[[Path], Path]:
    return changed("model", {"path": "x", "finetuning": "full", "frozen": [pattern]})


def template(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"{{query}} {text}"}]}


INF, NAN = float("inf"), float("nan")
NUMBERS: list[tuple[str, Any, str]] = [
    ("objective.temperature", INF, "inf is no finite number"),
    ("objective.temperature", 1e-12, "greater than or equal to 0.01"),
    ("objective.beta", 1e-300, "greater than or equal to 0.001"),
    ("objective.top_k", True, "should be a number, not true"),
    ("training.learning_rate", INF, "inf is no finite number"),
    ("training.learning_rate", "1e400", "inf is no finite number"),
    ("training.learning_rate", "nan", "out of range"),
    ("training.learning_rate", NAN, "nan is no finite number"),
    ("training.learning_rate", 0, "out of range"),
    ("training.learning_rate", "٣", "expected a number"),
    ("training.weight_decay", -1, "out of range"),
    ("training.num_train_epochs", NAN, "nan is no finite number"),
    ("training.max_steps", 1e30, "out of range"),
    ("training.max_steps", 2.5, "expected a whole number"),
    ("training.max_steps", True, "expected a number"),
    ("training.max_steps", [1], "expected a number"),
    ("training.max_steps", None, "expected a number"),
    ("training.save_steps", 0, "out of range"),
    ("training.adam_beta1", 1, "out of range"),
    ("training.max_grad_norm", NAN, "nan is no finite number"),
    ("training.lr_scheduler_kwargs", {"x": NAN}, "nan is no finite number"),
    ("training.use_cpu", "false", "expected bool, found 'false'"),
    ("training.lr_scheduler_kwargs", {"x": 1}, "unexpected keyword argument 'x'"),
    ("training.optim", "x" * 9999, "xxx ..."),
    ("training.optim_args", "zzz", "training: ValueError"),
    ("sampling.temperature", 1e-9, "0 (greedy) or from 0.01 to 100"),
    ("sampling.max_completion_length", 10**30, "less than or equal to"),
    ("model.lora.r", 10**9, "less than or equal to 10000"),
    ("seed", 10**400, "more than 300 digits"),
    ("data.epoch_size", 10**20, "less than or equal to"),
]
TOKEN = "hf_" + "aB3" * 12  # no real one
SECRETS: list[tuple[str, Any]] = [
    ("training.hub_token", "x" * 9),
    ("training.push_to_hub_token", "x" * 9),
    ("training.hub_model_id", TOKEN),
    ("evaluation", {"tasks": ["builtin:demo"], "judge": {"names": ["llm:x"], "url": "https://me:word@host/v1"}}),
    ("gate", {"judge": {"names": ["llm:x"], "url": "https://host/v1?api_key=word"}}),
    ("model.revision", "https://word@host/"),
]


def _pipe(path: Path) -> Path:
    path.unlink()
    os.mkfifo(path)
    return path


_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
_MERGES = "m0: &m0 {k: v}\n" + "".join(
    f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}\n" for n in range(1, 12)
)

RECIPES = [
    Hostile("alias bomb", written(_BOMB), ("aliases stand for too many values", "CROSSLIGN_MAX_CONFIG_VALUES")),
    Hostile("merge bomb", written(_MERGES), ("aliases stand for too many values",)),
    Hostile("contains itself", written("model: &m\n  path: x\n  lora: *m\n"), ("contains itself", "line 1")),
    Hostile("deep", written("model: " + "[" * 100_000), ("deep",)),
    Hostile("rather deep", written("model: " + "[" * 80 + "]" * 80), ("deep", "CROSSLIGN_MAX_DEPTH")),
    Hostile("number of 10,000 digits", written("seed: " + "9" * 10_000), ("not valid YAML",)),
    Hostile("python object", written("model: !!python/object/apply:os.getcwd []"), ("not valid YAML",)),
    Hostile("no UTF-8", written(b"model: \xff\xfe"), ("UTF-8",)),
    Hostile("null characters", written("model: \0\0"), ("not valid YAML",)),
    Hostile("two megabytes", written("model: " + "x" * 2_000_000), ("CROSSLIGN_MAX_CONFIG_KB",)),
    Hostile("pipe", _pipe, ("a pipe",)),
    *(Hostile(f"{key} {value}", changed(key, value), (said,)) for key, value, said in NUMBERS),
    *(Hostile(f"secret in {key}", changed(key, value), ("is shown and saved",)) for key, value in SECRETS),
    Hostile("gate.drop as a word", changed("gate.drop", "drop"), ("gate.drop", "valid list")),
    Hostile(
        "gate.drop of other faults", changed("gate.drop", ["unsafe", "x" * 9999]), ("'wrong_language' or", "xxx ...")
    ),
    Hostile("gate.drop with a list", changed("gate.drop", [["unsafe"]]), ("gate.drop.0",)),
    Hostile("gate.probe of -1", changed("gate.probe", -1), ("gate.probe", "greater than or equal to 0")),
    Hostile("fsdp", changed("training.fsdp", "x" * 1000), ("Unknown `fsdp` option",)),
    Hostile("fsdp settings", changed("training", {"fsdp": True, "fsdp_config": "/nowhere/\n.json"}), ("training: ",)),
    Hostile("fsdp settings alone", changed("training.fsdp_config", {"version": 2}), ("without training.fsdp: true",)),
    Hostile("fsdp 1", changed("training", {"fsdp": True, "fsdp_config": {"version": 1}}), ("version 1",)),
    Hostile("deepspeed", changed("training.deepspeed", {"a": [1]}), ("ZeRO optimization config",)),
    Hostile("thousands of mistakes", changed("objective", {f"k{n}": n for n in range(5000)}), ("and 4990 more",)),
    Hostile("huge value", changed("objective.divergence", "x" * 100_000), ("xxx ...",)),
    Hostile("huge key", changed("x" * 100_000, 1), ("xxx ...",)),
    Hostile("keys that are no text", changed("objective", {1: 2, None: 4}), ("objective",)),
    Hostile("messages that are deep", changed("student.messages", [{"role": "user", "content": []}]), ("messages",)),
    Hostile("template that is huge", changed("teacher.template", {"messages": list(range(50_000))}), ("message 1",)),
    Hostile("template with a format", changed("teacher.template", template("{query:>999999999}")), ("unknown field",)),
    Hostile("template with a conversion", changed("teacher.template", template("{query!r}")), ("unknown field",)),
    Hostile("template with attributes", changed("teacher.template", template("{query.__class__}")), ("unknown field",)),
    Hostile("frozen that is long", frozen("(a)" * 500), ("model.frozen", "1000 characters")),
    Hostile("frozen that counts far", frozen("a{9999999999}"), ("model.frozen", "no regular expression")),
    Hostile("escape sequences", written('"\\e[2J\\e]0;owned\\a": 1'), ("unknown key",)),
]
