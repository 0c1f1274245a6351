"""Hostile caches, runs and places for output: edited, cut off, of another origin, links to what is not ours."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hostile_models import ADAPTERS, NOISE, Make, holding, saying
from inputs import Hostile

CHECKPOINT = "checkpoint-1"


def _precious(path: Path) -> Path:
    """A file of the user beside `path`."""
    file = path.parent / "precious"
    file.write_text("mine")
    return file


# Caches: folders with one file of completions


def _rows(**change: Any) -> Make:
    def make(folder: Path) -> Path:
        (file,) = folder.glob("completions-*.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({**row, **change}) + "\n" for row in rows))
        return folder

    return make


def _edited(edit: Callable[[bytes], bytes]) -> Make:
    def make(folder: Path) -> Path:
        (file,) = folder.glob("completions-*.jsonl")
        file.write_bytes(edit(file.read_bytes()))
        return folder

    return make


def _linked_cache(folder: Path) -> Path:
    (file,) = folder.glob("completions-*.jsonl")
    foreign = _precious(folder)
    foreign.write_bytes(file.read_bytes().splitlines(keepends=True)[0])
    file.unlink()
    file.symlink_to(foreign)
    return folder


def _linked_lock(folder: Path) -> Path:
    (file,) = folder.glob("completions-*.jsonl")
    file.unlink()
    file.with_name(f"{file.name}.lock").unlink(missing_ok=True)
    file.with_name(f"{file.name}.lock").symlink_to(_precious(folder))
    return folder


def _piped_cache(folder: Path) -> Path:
    (file,) = folder.glob("completions-*.jsonl")
    file.unlink()
    os.mkfifo(file)
    return folder


CACHES = [
    Hostile("negative ids", _rows(token_ids=[-1, -2]), handled=True),
    Hostile("textual ids", _rows(token_ids=["1", "2"]), handled=True),
    Hostile("text as ids", _rows(token_ids="12"), handled=True),
    Hostile("ids of 30 digits", _rows(token_ids=[10**30]), handled=True),
    Hostile("ids beyond the vocabulary", _rows(token_ids=[5, 270]), handled=True),
    Hostile("far too many tokens", _rows(token_ids=[5] * 300_000), handled=True),
    Hostile("no tokens", _rows(token_ids=[]), handled=True),
    Hostile("textual end", _rows(truncated="no"), handled=True),
    Hostile("half a line", _edited(lambda data: data[:-9]), handled=True),
    Hostile("null characters", _edited(lambda data: data + b"\0" * 5000), handled=True),
    Hostile("deep line", _edited(lambda data: data + b"[" * 100_000 + b"\n"), handled=True),
    Hostile("file of another origin", _edited(lambda _: b"mine\n"), ("nothing beside it says that crosslign made it",)),
    Hostile("link", _linked_cache, ("is a link",)),
    Hostile("linked lock", _linked_lock, ("is no lock of crosslign",)),
    Hostile("pipe", _piped_cache, ("is no file",)),
    Hostile("file as the folder", _precious, ("cache_dir", "is a file, not a folder")),
]


# Runs that were interrupted after their first checkpoint


class Poison:
    """A pickle that empties a file when it is loaded without care."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.file), "w"))


def _unmarked(make: Make) -> Make:
    """In the checkpoint, whose manifest an interruption has left out."""
    return lambda run: make(holding("manifest.json", None)(run / CHECKPOINT)).parent


def _poisoned(name: str) -> Make:
    def make(checkpoint: Path) -> Path:
        torch.save(Poison(_precious(checkpoint.parent)), checkpoint / name)
        return checkpoint

    return _unmarked(make)


def _saved(file: Path, value: Any) -> Path:
    torch.save(value, file)
    return file.parent


def _state(**values: Any) -> Make:
    return _unmarked(saying("trainer_state.json", **values))


def _linked_checkpoint(run: Path) -> Path:
    place = run.parent / "elsewhere"
    (run / CHECKPOINT).rename(place)
    (run / CHECKPOINT).symlink_to(place)
    return run


_NONE = ("no complete checkpoint to resume from", "was not written to its end")
RUNS = [
    Hostile("no record", holding("run.json", None), ("holds no run of crosslign",)),
    Hostile("record of noise", holding("run.json", NOISE), ("holds no run of crosslign",)),
    Hostile("list as record", holding("run.json", "[]"), ("holds no run of crosslign",)),
    Hostile("record of another kind", holding("run.json", '{"status": ["x"]}'), ("holds no run of crosslign",)),
    Hostile("textual seconds", saying("run.json", seconds="long"), ("holds no run of crosslign",)),
    Hostile("textual evaluations", saying("run.json", evaluations=["a"]), ("holds no run of crosslign",)),
    Hostile("no configuration", holding("config.yaml", None), ("config.yaml is missing",), only=("resume",)),
    Hostile("configuration of noise", holding("config.yaml", NOISE), ("config.yaml",), only=("resume",)),
    Hostile("linked checkpoint", _linked_checkpoint, (CHECKPOINT, "is a link")),
    Hostile(
        "metrics of noise",
        holding("metrics.jsonl", NOISE + b'\n{"step": 1, "divergence": "x"}\n{"step": 1, "divergence": NaN}\n[1]\n'),
        handled=True,
    ),
    *(
        Hostile(name.replace("_", " "), make, says, only=("resume",))
        for name, make, says in [
            ("manifest of noise", lambda r: holding("manifest.json", NOISE)(r / CHECKPOINT).parent, ("manifest.json",)),
            ("empty state", _unmarked(holding("trainer_state.json", b"")), _NONE),
            ("list as state", _unmarked(holding("trainer_state.json", "[]")), _NONE),
            ("state with a key too many", _state(run_this="x"), _NONE),
            ("state of another step", _state(global_step=10**9), _NONE),
            ("textual step", _state(global_step="1"), _NONE),
            ("negative epoch", _state(epoch=-5), _NONE),
            ("no number as epoch", _state(epoch=float("nan")), _NONE),
            ("textual history", _state(log_history=["x"]), _NONE),
            ("no weights", _unmarked(holding("adapter_model.safetensors", None)), ("adapter_model.safetensors",)),
            ("weights of noise", _unmarked(holding("adapter_model.safetensors", NOISE)), ("no whole safetensors",)),
            *(
                (f"{name} {what}", make, ("the checkpoint cannot be read",))
                for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")
                for what, make in (
                    ("of noise", _unmarked(holding(name, NOISE))),
                    ("cut off", _unmarked(lambda c, n=name: holding(n, (c / n).read_bytes()[:100])(c))),
                    ("poisoned", _poisoned(name)),
                    ("of plain pickle", _unmarked(holding(name, pickle.dumps({"a": NOISE})))),
                    ("of another kind", _unmarked(lambda c, n=name: _saved(c / n, ["x"]))),
                )
            ),
        ]
    ),
]


# Runs that are finished, which are talked to

CHAT_RUNS = [
    *(run for run in RUNS if run.says == ("holds no run of crosslign",)),
    Hostile("unfinished", saying("run.json", status="running"), ("is not finished",)),
    Hostile("no configuration", holding("config.yaml", None), ("config.yaml: cannot be read",)),
    Hostile("configuration of noise", holding("config.yaml", NOISE), ("config.yaml",)),
    Hostile("configuration of a list", holding("config.yaml", "[1]"), ("config.yaml: a recipe is a mapping",)),
    Hostile("no such run", lambda run: run.parent / "none", ("holds no run of crosslign",)),
    Hostile("languages that are none", saying("run.json", languages=["\x1b[2J"]), ("is not a language code",)),
    # An adapter's record need not be read whole; a run's must.
    *(adapter for adapter in ADAPTERS if adapter.name != "no such folder" and not adapter.name.startswith("record ")),
]


# Runs with one evaluation, whose page is made


def _entry(**change: Any) -> Make:
    """In the record's first evaluation."""
    return lambda run: saying("run.json", evaluations=[{**_evaluations(run)[0], **change}])(run)


def _task(**change: Any) -> Make:
    """In every task of that evaluation."""
    return lambda run: _entry(tasks={n: {**t, **change} for n, t in _evaluations(run)[0]["tasks"].items()})(run)


def _evaluations(run: Path) -> Any:
    return json.loads((run / "run.json").read_text())["evaluations"]


_CANDIDATE = {"value": 200, "where": "x", "over_refusal": None, "invalid": None, "objection": None}
_BEST = {"step": 0, "folder": "best", "where": "x", "value": 5.0, "over_refusal": None}
EVALUATED_RUNS = [
    Hostile("no record", holding("run.json", None), ("no finished evaluation",)),
    Hostile("record of noise", holding("run.json", NOISE), ("run.json",)),
    Hostile("list as record", holding("run.json", "[]"), ("expected a JSON object",)),
    Hostile("record of another kind", holding("run.json", '{"status": ["x"]}'), ("is damaged (status",)),
    Hostile("record 100,000 deep", holding("run.json", "[" * 100_000), ("deep",)),
    Hostile("no evaluations", saying("run.json", evaluations=[]), ("records no evaluation",)),
    Hostile("textual evaluations", saying("run.json", evaluations=["a"]), ("is damaged (evaluations.0",)),
    Hostile("evaluation without tasks", _entry(tasks={}), ("evaluations.0.tasks",)),
    Hostile("textual step", _entry(step="1"), ("evaluations.0.step",)),
    Hostile("step of 30 digits", _entry(step=10**30), ("evaluations.0.step",)),
    Hostile("rate of 200 %", _entry(best=_CANDIDATE), ("evaluations.0.best.value",)),
    Hostile("no number as a rate", _task(all=float("nan")), (".all",)),
    Hostile("list as languages", _task(languages=[]), (".languages",)),
    Hostile("unknown metric", _task(metric="x"), (".metric",)),
    Hostile("textual best", saying("run.json", best={**_BEST, "value": "low"}), ("is damaged (best.value",)),
    Hostile("best of a step elsewhere", saying("run.json", best={**_BEST, "step": 10**9}), handled=True),
    Hostile("no languages that there are", _task(languages={"\x1b[2J": 5.0, "<b>": None, "": 7.0}), handled=True),
    Hostile("no configuration", holding("config.yaml", None), ("config.yaml: cannot be read",)),
    Hostile("configuration of noise", holding("config.yaml", NOISE), ("config.yaml",)),
    Hostile(
        "unknown limit", holding("config.yaml", "evaluation: {best: {max_over_refusal: x}}"), ("max_over_refusal",)
    ),
    Hostile("configuration of another version", holding("config.yaml", "evaluation: 5\nno_such_key: 1"), handled=True),
    Hostile("no metrics", holding("metrics.jsonl", None), handled=True),
    Hostile(
        "metrics of noise",
        holding(
            "metrics.jsonl", NOISE + b'\n{"step": 1, "divergence": 1e29}\n{"step": -1e300, "divergence": 1}\n[1]\n'
        ),
        handled=True,
    ),
]


# Places for output. The good one is not there yet.


def _foreign_folder(path: Path) -> Path:
    path.mkdir()
    for name in ("notes.txt", "results.json", "probe.json", "pairs.jsonl", "metrics.jsonl", "targets.csv"):
        (path / name).write_text("mine")
    return path


def _foreign_file(path: Path) -> Path:
    path.write_text("mine")
    return path


def _link_to_file(path: Path) -> Path:
    path.symlink_to(_precious(path))
    return path


def _link_to_folder(path: Path) -> Path:
    path.symlink_to(_foreign_folder(path.with_name("precious")))
    return path


def _dangling(path: Path) -> Path:
    path.symlink_to(path.with_name("nowhere"))
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _sealed(path: Path) -> Path:
    folder = path.with_name("sealed")
    folder.mkdir()
    folder.chmod(0o500)
    return folder / "out"


OUTPUTS = [
    Hostile("folder of another origin", _foreign_folder),
    Hostile("file of another origin", _foreign_file),
    Hostile("link to a file", _link_to_file),
    Hostile("link to a folder", _link_to_folder),
    Hostile("link to nothing", _dangling),
    Hostile("name of 5,000 letters", lambda path: path / ("x" * 5000)),
    Hostile("pipe", _pipe),
    Hostile("below a file", lambda path: _foreign_file(path) / "out"),
    *([] if os.geteuid() == 0 else [Hostile("no permission", _sealed, ("no permission",))]),
]
