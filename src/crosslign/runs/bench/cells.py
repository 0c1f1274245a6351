"""The cells of a bench: which there are, of what each is made, and how far it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from crosslign.evaluation.stages import RESULTS, folder_name
from crosslign.evaluation.utility import UtilityRequest
from crosslign.ownership import read_mark
from crosslign.runs.bench.config import BASE, BenchConfig, UntrainedMethod, asks, learns, titles, untrained
from crosslign.runs.bench.contents import CONTENTS, contents
from crosslign.runs.config import EvaluationConfig, RunConfig, TaskConfig
from crosslign.runs.recipe import merged, parse_config, parse_section, read_recipe
from crosslign.storage import digest, write_atomically
from crosslign.types import CrosslignError

CELLS, RECORD = "cells", "cell.json"
RUN, EVALUATION, DIRECTION, ERROR = "run", "evaluation", "direction.safetensors", "error.txt"
MEASURED = ("evaluation", "utility", "asked")  # parts of a cell's settings: what is measured of what was trained
SEED = "{seed}"
State = Literal["open", "begun", "failed", "finished"]


@dataclass(frozen=True)
class Cell:
    """One model, trained or not by one method from one seed, and its evaluation.

    Fields:
        raw: the recipe as it stands, before it is checked.
        untrained: what is done without training; None: it is trained.
        evaluation, tasks: what it is asked; the tasks are those of the bench, in its order.
        utility: None: not measured.
    """

    model: str
    method: str
    seed: int
    folder: Path
    raw: Mapping[str, Any]
    untrained: UntrainedMethod | None
    evaluation: EvaluationConfig
    utility: UtilityRequest | None

    @property
    def name(self) -> str:
        return f"{self.model} / {self.method} / seed {self.seed}"

    @cached_property
    def config(self) -> RunConfig:
        """The recipe, checked. Raises CrosslignError that names model and method."""
        return parse_config(self.raw, f"{self.model} / {self.method}")

    @property
    def source_language(self) -> str:
        return self.config.data.source_language

    @property
    def trained(self) -> list[str]:
        """Languages that a method of this bench is trained on, whether or not this one is."""
        return list(self.config.data.languages or ())

    def settings(self) -> dict[str, str]:
        """A digest of each part that decides the cell's numbers; without those of `CONTENTS` that are not known."""
        recipe = learns(self.config)
        parts: dict[str, Any] = {"evaluation": asks(self.evaluation)}
        if self.utility is not None:
            parts["utility"] = {key: value for key, value in vars(self.utility).items() if key != "batch_size"}
        has_learned = self.untrained is None or self.untrained.steer is not None
        if self.untrained is None:
            parts["recipe"] = recipe
        else:
            sections = ("model", "student", "data", "seed") if has_learned else ("model", "student")
            parts["recipe"] = [self.source_language, *(recipe[name] for name in sections)]
            parts["method"] = self.untrained.model_dump(mode="json")
        parts |= contents(self.config, self.evaluation.tasks, self.utility, self.untrained)
        return {name: digest(part) for name, part in parts.items()}

    def record(self) -> dict[str, Any]:
        """What `cell.json` says, or {}."""
        found = read_mark(self.folder / RECORD)
        return found if found.get("kind") == "cell" else {}

    def state(self) -> State:
        """What the record says, and for a finished one whether its evaluation is still there."""
        states: dict[str, State] = {"running": "begun", "failed": "failed", "finished": "finished"}
        found = states.get(str(self.record().get("status")), "open")
        is_gone = found == "finished" and not (self.folder / EVALUATION / RESULTS).is_file()
        return "begun" if is_gone else found

    def seconds(self) -> dict[str, float]:
        """What each part of it has taken so far."""
        found = self.record().get("seconds")
        return {k: float(v) for k, v in found.items() if type(v) in (int, float)} if isinstance(found, dict) else {}

    def update(self, **values: Any) -> None:
        text = json.dumps({**self.record(), "kind": "cell", **values}, indent=1, ensure_ascii=False)
        write_atomically(self.folder / RECORD, f"{text}\n")

    def differences(self) -> list[str]:
        """The parts in which what is there was made with other settings."""
        before = self.record().get("settings")
        if not isinstance(before, dict):
            return []
        now = self.settings()
        unknown = {name for name in CONTENTS if name not in before or name not in now}
        return sorted(name for name in {*before, *now} - unknown if before.get(name) != now.get(name))

    def is_ready(self) -> bool:
        """Whether it can stand in a table: finished, as the bench file is now."""
        return self.state() == "finished" and not self.differences()


def cells_of(bench: BenchConfig) -> list[Cell]:
    """All cells, model by model, the model as it is first.

    Raises CrosslignError for a recipe's file that is missing or none.
    """
    shared = bench.recipe if isinstance(bench.recipe, Mapping) else read_recipe(bench.recipe)
    if bench.trained is not None:
        shared = merged(shared, {"data": {"languages": bench.trained}})
    methods: dict[str, Mapping[str, Any]] = {BASE: {"context": "student"}}
    methods |= {name: changes or {} for name, changes in bench.methods.items()}
    out = Path(bench.out)
    found = []
    for model, given in bench.models.items():
        changes = {"model": {"path": given}} if isinstance(given, str) else given
        for method, own in methods.items():
            without = untrained(method, own)
            raw = merged(merged(shared, changes), {} if without is not None else own)
            for seed in _seeds(bench, raw, without):
                folder = out / CELLS / folder_name(model) / folder_name(method) / f"seed-{seed}"
                own_raw = _of_seed({**raw, "seed": seed}, seed)
                own_raw["output_dir"] = str(folder / RUN)
                own_raw.setdefault("cache_dir", str(out / "cache"))
                found.append(
                    Cell(
                        model,
                        method,
                        seed,
                        folder,
                        own_raw,
                        None if without is None else untrained(method, _of_seed(own, seed)),
                        _evaluation(bench, seed),
                        # lm-eval asks the model by itself: a prompt's effect on ability is not measured.
                        None if without is not None and without.context == "teacher" else _utility(bench),
                    )
                )
    return found


def _seeds(bench: BenchConfig, raw: Mapping[str, Any], without: UntrainedMethod | None) -> Sequence[int]:
    """The seeds that make a difference: greedy answers of a model that nobody trains are the same with all of them."""
    differ = without is None or without.steer is not None or bench.temperature > 0
    asked = [raw.get("model"), [task.model_dump() for task in bench.tasks], without and without.template]
    return bench.seeds if differ or SEED in json.dumps(asked, default=str) else bench.seeds[:1]


def _of_seed(value: Any, seed: int) -> Any:
    """`{seed}` in every text."""
    if isinstance(value, str):
        return value.replace(SEED, str(seed))
    if isinstance(value, Mapping):
        return {key: _of_seed(inner, seed) for key, inner in value.items()}
    return [_of_seed(inner, seed) for inner in value] if isinstance(value, list) else value


def _evaluation(bench: BenchConfig, seed: int) -> EvaluationConfig:
    own = set(EvaluationConfig.model_fields)
    raw = bench.model_dump(mode="json", include=own)
    raw["tasks"] = [{key: task[key] for key in TaskConfig.model_fields} for task in raw["tasks"]]
    return parse_section(EvaluationConfig, _of_seed(raw, seed), "bench")


def _utility(bench: BenchConfig) -> UtilityRequest | None:
    u = bench.utility
    if u is None:
        return None
    return UtilityRequest(u.tasks, u.paths, u.languages, u.limit, bench.batch_size, u.max_new_tokens)


def shard_of(cells: Sequence[Cell], shard: str | None) -> list[Cell]:
    """Every N-th cell from the I-th, for `I/N`; I counts from 0.

    Raises CrosslignError for another text.
    """
    if shard is None:
        return list(cells)
    parts = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", shard)
    if parts is None or not int(parts[1]) < int(parts[2]):
        raise CrosslignError(f"--shard: {shard!r:.40} is not I/N with I from 0 to N-1: 0/4, 1/4, 2/4 and 3/4 make all.")
    return list(cells)[int(parts[1]) :: int(parts[2])]


def titles_of(bench: BenchConfig, cell: Cell) -> dict[str, tuple[str, bool]]:
    """Title, and whether it is a harder one, of each task by the name that this cell's evaluation has for it."""
    known = zip(titles(bench.tasks), (task.harder for task in bench.tasks), strict=True)
    return dict(zip((task.name for task in cell.evaluation.tasks), known, strict=True))
