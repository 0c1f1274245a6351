"""Hostile finished runs, as card, merge and push get them: edited records, cards of others, links, damaged adapters."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile_models import MODELS, NOISE, Make, cut, holding, saying, tensors
from inputs import Hostile

RECORD, CARD, NUMBERS = "run.json", "README.md", "evaluation.json"
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
ESCAPES = "\x1b]0;owned\x07](https://evil.example)\n---\n# <script>"


def _linked(name: str) -> Make:
    def make(run: Path) -> Path:
        precious = run.parent / "precious"
        precious.write_bytes((run / name).read_bytes())
        (run / name).unlink()
        (run / name).symlink_to(precious)
        return run

    return make


def _record(change: Callable[[dict[str, Any]], object]) -> Make:
    def make(run: Path) -> Path:
        record = json.loads((run / RECORD).read_text())
        change(record)
        (run / RECORD).write_text(json.dumps(record))
        return run

    return make


def _pipe(name: str) -> Make:
    def make(run: Path) -> Path:
        (run / name).unlink()
        os.mkfifo(run / name)
        return run

    return make


FINISHED_RUNS = [
    Hostile("no such folder", lambda run: run.parent / "none", ("holds no run of crosslign",)),
    Hostile("no record", holding(RECORD, None), ("holds no run of crosslign",)),
    Hostile("record of noise", holding(RECORD, NOISE), ("holds no run of crosslign",)),
    Hostile("run that goes on", saying(RECORD, status="running"), ("this run is not finished",)),
    Hostile("numbers as languages", saying(RECORD, languages=[1, None]), ("is damaged (languages",)),
    Hostile("textual steps", saying(RECORD, steps="many"), ("is damaged (steps",)),
    Hostile("list as data", saying(RECORD, data=[[1]]), ("is damaged (data",)),
    Hostile("licence with a link", _record(lambda r: r["base"].update(license="x](y)")), ("(base.license",)),
    Hostile("data of fewer tables", saying(RECORD, data=[]), ("is damaged",), only=("card", "merge")),
    Hostile("gate of text", saying(RECORD, gate={"dropped": 5}), ("is damaged",), only=("card", "merge")),
    Hostile("textual divergence", saying(RECORD, divergence={"before": "x", "after": 5}), handled=True),
    Hostile("escape sequences", _record(lambda r: r["base"].update(name=ESCAPES)), handled=True),
    Hostile("no configuration", holding("config.yaml", None), ("config.yaml: cannot be read",)),
    Hostile("configuration of noise", holding("config.yaml", NOISE), ("config.yaml",)),
    Hostile("configuration of another version", holding("config.yaml", "no_such_key: 1"), ("no_such_key",)),
    Hostile("no adapter", holding(ADAPTER_WEIGHTS, None), (f"has no {ADAPTER_WEIGHTS}",)),
    Hostile("adapter cut off", cut(ADAPTER_WEIGHTS), ("no whole safetensors file",)),
    Hostile("another type of adapter", saying(ADAPTER_CONFIG, peft_type="OWN"), ("peft_type is 'OWN'",)),
    Hostile(
        "NaN",
        tensors(ADAPTER_WEIGHTS, lambda found: {k: v * float("nan") for k, v in found.items()}),
        ("hold inf or NaN",),
        only=("merge",),
    ),
    Hostile(
        "adapter of another model",
        tensors(ADAPTER_WEIGHTS, lambda t: {k: v[:, :9] if "lora_A" in k else v for k, v in t.items()}),
        ("does not fit the model",),
        only=("merge",),
    ),
    Hostile(
        "fingerprint of another base",
        saying(RECORD, teacher_fingerprint="0" * 16),
        ("not the weights that the adapter was trained on",),
        only=("merge",),
    ),
    Hostile("card of somebody", holding(CARD, "mine"), ("was written or changed by somebody",), only=("card",)),
    Hostile("card of noise", holding(CARD, NOISE), ("invalid UTF-8",), only=("card", "push")),
    Hostile("linked card", _linked(CARD), ("is a link",), only=("card", "push")),
    Hostile("card is a pipe", _pipe(CARD), ("pipe",), only=("card",)),
    Hostile("no card", holding(CARD, None), ("has no model card",), only=("push",)),
    Hostile("numbers of somebody", holding(NUMBERS, "{}"), ("was not written by crosslign",), only=("card",)),
    Hostile("numbers of noise", holding(NUMBERS, NOISE), (NUMBERS,), only=("merge", "push")),
    Hostile("results of text", saying(NUMBERS, results="x"), ("holds no results",), only=("merge", "push")),
    Hostile(
        "results without tasks",
        saying(NUMBERS, results={"kind": "comparison"}),
        ("is damaged",),
        only=("merge", "push"),
    ),
    Hostile("linked tokenizer", _linked("tokenizer.json"), handled=True, only=("push",)),
    Hostile("linked adapter", _linked(ADAPTER_WEIGHTS), ("is a link, and is not sent",), only=("push",)),
]

# Base models of a merge: it reads no tokenizer of theirs, and sees that the adapter does not fit before sizes are made.
BASES = [
    hostile
    for hostile in MODELS
    if hostile.name not in ("tokenizer of noise", "tokenizer cut off", "billion hidden units")
]
