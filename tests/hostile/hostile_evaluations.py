"""Hostile evaluation folders: edited, damaged, or with something else in them. Each has one task."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inputs import Hostile

Make = Callable[[Path], Path]


def _file(name: str) -> Callable[[Path], Path]:
    return lambda folder: next(folder.rglob(name))


def _with(name: str, content: bytes | None) -> Make:
    """The folder with another file of this name; None: with a folder in its place."""

    def make(folder: Path) -> Path:
        file = _file(name)(folder)
        file.unlink()
        if content is None:
            file.mkdir()
        else:
            file.write_bytes(content)
        return folder

    return make


def _pipe(name: str) -> Make:
    def make(folder: Path) -> Path:
        file = _file(name)(folder)
        file.unlink()
        os.mkfifo(file)
        return folder

    return make


def _row(name: str, **changes: Any) -> Make:
    """The folder with other values in the first row of a file."""

    def make(folder: Path) -> Path:
        file = _file(name)(folder)
        first, *others = file.read_text(encoding="utf-8").splitlines()
        lines = [json.dumps({**json.loads(first), **changes}), *others]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder

    return make


def _results(change: Callable[[dict[str, Any]], object]) -> Make:
    def make(folder: Path) -> Path:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        change(results)
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
        return folder

    return make


def _other_rate(results: dict[str, Any]) -> None:
    task = next(iter(results["tasks"].values()))
    next(iter(task["languages"].values()))["invalid"] = {"value": 0.0, "low": 75.8, "high": 100.0, "count": 0, "n": 9}


def _other_name(results: dict[str, Any]) -> None:
    results["tasks"]["\x1b[2J\x1b]0;owned\x07"] = results["tasks"].popitem()[1]


VERDICTS, COMPLETIONS = "verdicts-lexicon.jsonl", "completions.jsonl"
AGAIN = "Run crosslign eval again"
EVALUATIONS = [
    Hostile("no results", lambda folder: folder / "nowhere", ("no finished evaluation",)),
    Hostile("results of noise", _with("results.json", bytes(range(256)) * 9), ("no finished evaluation",)),
    Hostile("results 100,000 deep", _with("results.json", b"[" * 100_000), ("deep",)),
    Hostile("results are a pipe", _pipe("results.json"), ("a pipe",)),
    Hostile("results are a folder", _with("results.json", None), ("a folder",)),
    Hostile("empty manifest", _results(lambda r: r["manifest"].clear()), ("manifest.tasks", AGAIN)),
    Hostile("empty tasks", _results(lambda r: r["tasks"].clear()), ("damaged (tasks", AGAIN)),
    Hostile("tasks of text", _results(lambda r: r.update(tasks="x")), ("damaged (tasks", AGAIN)),
    Hostile("no judges", _results(lambda r: r["manifest"]["judges"].clear()), ("manifest.judges",)),
    Hostile("unknown judge", _results(lambda r: r["manifest"].update(judges={"../x": {}})), ("0 judged rows", AGAIN)),
    Hostile("task elsewhere", _results(lambda r: r["manifest"].update(tasks={"../..": {}})), ("0 judged",)),
    Hostile("edited rate", _results(_other_rate), ("says other numbers than the rows",), handled=True),
    Hostile("unknown outcome", _row(VERDICTS, outcome="harmless"), (f"{VERDICTS}, line 1 is no row",)),
    Hostile("abstention without a reason", _row(VERDICTS, outcome=None, reason=""), ("line 1",)),
    Hostile("completion of a number", _row(COMPLETIONS, completion=5), (f"{COMPLETIONS}, line 1",)),
    Hostile("fidelity of a list", _row("fidelity.jsonl", status=[]), ("fidelity.jsonl, line 1",)),
    Hostile("verdicts are a pipe", _pipe(VERDICTS), ("a pipe",)),
    Hostile("completions are a folder", _with(COMPLETIONS, None), ("a folder",)),
    Hostile("edited verdict", _row(VERDICTS, reason="mine"), ("was changed after",), handled=True),
    Hostile("escape sequences", _results(_other_name), ("0 judged rows",)),
]
