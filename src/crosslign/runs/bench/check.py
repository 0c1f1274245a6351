"""What can be known before hours are spent: of all cells what the file alone decides, then what they read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from crosslign import baselines
from crosslign.contexts import load_teacher_template
from crosslign.distillation import strategies
from crosslign.evaluation.judges.registry import registry as judges
from crosslign.evaluation.tasks import get_task
from crosslign.evaluation.utility import check_utility
from crosslign.languages import english_name
from crosslign.models import ModelSource, check_source, load_tokenizer
from crosslign.runs.arguments import training_arguments
from crosslign.runs.bench.cells import Cell
from crosslign.runs.bench.config import BenchConfig
from crosslign.runs.bench.make import check_out, other_settings
from crosslign.runs.evaluate import checked_judges, checked_tasks
from crosslign.runs.prepare import load_tables, model_source, prepare
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
    check_out(bench, overwrite=overwrite)
    for code in (*(bench.languages or ()), *(bench.trained or ())):
        english_name(code)
    for task in cells[0].evaluation.tasks:
        get_task(task.name, task.options)
    for name in cells[0].evaluation.judge.names:
        judges.factory(name.partition(":")[0])
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
    student = config.student
    if student.messages is not None or not student.chat_template_kwargs.keys() <= {"enable_thinking"}:
        key = "chat_template_kwargs" if student.messages is None else "messages"
        raise CrosslignError(
            f"student.{key}: a bench asks every model as crosslign eval does: one turn of the user, and no option of "
            "the chat template but enable_thinking. A model that learned from other contexts would be measured out of "
            "place. Leave it out."
        )
    if cell.untrained is not None:
        load_teacher_template(cell.untrained.template)
        return
    baselines.get(config.method.name, config.method.options)
    strategies.get(config.strategy.name, config.strategy.options, seed=config.seed)
    load_teacher_template(config.teacher.template)


def check_inputs(cells: Sequence[Cell]) -> list[str]:
    """What the cells read: models, tables, tasks, judges, lm-eval. Returns what is missing or wrong, each once.

    Of a method's seeds the first is looked at, unless they read other files.
    """
    look = _Look()
    for cell in cells:
        where, config = f"{cell.model} / {cell.method}", cell.config
        source, judge = model_source(config), cell.evaluation.judge
        is_there = look.once(source, cell.model, partial(_look_at_model, source))
        if cell.untrained is None or cell.untrained.steer is not None:
            key = config.model_dump_json(exclude={"output_dir", "seed", "cache_dir"})
            if is_there:
                look.once(key, where, partial(prepare, config, check_folder=False))
            else:
                look.once(config.data, where, partial(load_tables, config))
                arguments = partial(training_arguments, config.training, output_dir=config.output_dir, seed=config.seed)
                look.once(config.training, where, arguments)
        look.once((judge, source.path), "judge", partial(checked_judges, judge, "judge", tested=[source.path]))
        for task in cell.evaluation.tasks:
            one = cell.evaluation.model_copy(update={"tasks": [task]})
            tasks = partial(checked_tasks, one, "", languages=one.languages, source_language=cell.source_language)
            look.once(task, "tasks", tasks)
        if cell.utility is not None:
            codes = cell.evaluation.languages or cell.trained
            look.once((cell.utility, codes), "utility", partial(check_utility, cell.utility, codes))
    return list(look.wrong)


class _Look:
    """Checks, each made once by its key, whose errors are kept in `wrong`."""

    def __init__(self) -> None:
        self.wrong: dict[str, None] = {}
        self._well: dict[str, bool] = {}

    def once(self, key: object, where: str, check: Callable[[], object]) -> bool:
        """Whether all is well."""
        mark = repr(key)
        if mark not in self._well:
            try:
                _under(where, check)
            except CrosslignError as error:
                self.wrong[str(error)] = None
                self._well[mark] = False
            else:
                self._well[mark] = True
        return self._well[mark]


def _look_at_model(source: ModelSource) -> None:
    check_source(source)
    load_tokenizer(source)


def _under(where: str, check: Callable[[], object]) -> None:
    try:
        check()
    except CrosslignError as error:
        text = str(error)
        raise CrosslignError(text if text.startswith(where) else f"{where}: {text}") from error
