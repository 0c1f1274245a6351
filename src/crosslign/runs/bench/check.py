"""What can be known before hours are spent: of all cells what the file alone decides, then what they read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from crosslign import baselines
from crosslign.contexts import load_teacher_template
from crosslign.distillation import strategies
from crosslign.evaluation.tasks import get_task
from crosslign.evaluation.utility import check_utility
from crosslign.languages import english_name
from crosslign.models import ModelSource, check_source, load_tokenizer
from crosslign.runs.arguments import training_arguments
from crosslign.runs.bench.cells import Cell
from crosslign.runs.bench.config import BenchConfig
from crosslign.runs.bench.make import check_out, other_settings
from crosslign.runs.config import TaskConfig
from crosslign.runs.evaluate import checked_judges, checked_tasks
from crosslign.runs.prepare import model_source, prepare
from crosslign.types import CrosslignError


def check_file(bench: BenchConfig, cells: Sequence[Cell], *, overwrite: bool = False) -> None:
    """What needs no model, no data and no network.

    Raises CrosslignError for an unknown method, strategy, task, judge or language, an option that one does not take, a
    package that is missing, or a folder with cells of other settings.
    """
    if "RANK" in os.environ:
        raise CrosslignError(
            "crosslign bench runs in one process. Several GPUs: one process each, with --shard 0/4, 1/4, ..."
        )
    check_out(bench)
    for code in (*(bench.languages or ()), *(bench.trained or ())):
        english_name(code)
    for task in cells[0].evaluation.tasks:
        get_task(task.name, task.options)
    for cell in cells:
        _under(f"{cell.model} / {cell.method}", partial(_check_cell, cell))
    if not overwrite:
        for cell in cells:
            if cell.differences():
                raise CrosslignError(other_settings(cell))


def _check_cell(cell: Cell) -> None:
    config = cell.config
    if not config.data.languages:
        raise CrosslignError(
            "which languages are trained on is not said. Name them as `trained`, or as data.languages in the recipe."
        )
    checked_judges(cell.evaluation.judge, "judge", tested=[config.model.path])
    if cell.untrained is not None:
        load_teacher_template(cell.untrained.template)
        return
    baselines.get(config.method.name, config.method.options)
    strategies.get(config.strategy.name, config.strategy.options, seed=config.seed)
    load_teacher_template(config.teacher.template)
    training_arguments(config.training, output_dir=config.output_dir, seed=config.seed)


def check_inputs(cells: Sequence[Cell]) -> list[str]:
    """What the cells read: models, tables, tasks, lm-eval. Returns what is missing or wrong, each once.

    Of a method's seeds the first is looked at, unless they read other files.
    """
    found: dict[str, None] = {}

    def try_(where: str, check: Callable[[], object]) -> bool:
        try:
            _under(where, check)
        except CrosslignError as error:
            found.setdefault(str(error))
            return False
        return True

    looked: dict[str, bool] = {}
    for cell in cells:
        source = model_source(cell.config)
        mark = repr(source)
        if mark not in looked:
            looked[mark] = try_(cell.model, partial(_look_at_model, source))
        config = cell.config.model_dump_json(exclude={"output_dir", "seed", "cache_dir"})
        trains = cell.untrained is None or cell.untrained.steer is not None
        if trains and looked[mark] and config not in looked:
            where = f"{cell.model} / {cell.method}"
            looked[config] = try_(where, partial(prepare, cell.config, check_folder=False))
        asked = cell.evaluation.model_dump_json(include={"tasks"})
        if asked not in looked:
            looked[asked] = True
            for task in cell.evaluation.tasks:
                _look_at_task(cell, task, try_)
    if cells[0].utility is not None:
        utility, codes = cells[0].utility, cells[0].evaluation.languages
        try_("utility", lambda: check_utility(utility, codes or cells[0].trained))
    return list(found)


def _look_at_model(source: ModelSource) -> None:
    check_source(source)
    load_tokenizer(source)


def _look_at_task(cell: Cell, task: TaskConfig, try_: Callable[[str, Callable[[], object]], bool]) -> None:
    one = cell.evaluation.model_copy(update={"tasks": [task]})
    try_("tasks", lambda: checked_tasks(one, "", languages=one.languages, source_language=cell.source_language))


def _under(where: str, check: Callable[[], object]) -> None:
    try:
        check()
    except CrosslignError as error:
        text = str(error)
        raise CrosslignError(text if text.startswith(where) else f"{where}: {text}") from error
