"""Hostile recipes: YAML that grows, sinks or never ends."""

from __future__ import annotations

import os
from pathlib import Path

from inputs import Hostile, written


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
    Hostile("escape sequences", written('"\\e[2J\\e]0;owned\\a": 1'), ("unknown key",)),
]
