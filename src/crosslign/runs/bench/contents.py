"""What the files hold that a cell reads: an edit makes another cell of it, though no path has changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from crosslign.contexts import SHIPPED
from crosslign.data.files import READERS
from crosslign.evaluation.tasks import get_task
from crosslign.evaluation.tasks.base import TABLE
from crosslign.evaluation.utility import UtilityRequest
from crosslign.models import ModelSource, weights_mark
from crosslign.models.files import looks_local
from crosslign.runs.bench.config import UntrainedMethod
from crosslign.runs.config import ModelConfig, RunConfig, TaskConfig
from crosslign.runs.prompts import template_settings
from crosslign.storage import file_sha256

# The parts. One is left out where nothing of it is a file, or a file is not on this machine: then nothing is known.
TABLES, ASKED, TEMPLATE, WEIGHTS = CONTENTS = ("tables", "asked", "template", "weights")


def contents(
    config: RunConfig, tasks: Sequence[TaskConfig], utility: UtilityRequest | None, untrained: UntrainedMethod | None
) -> dict[str, Any]:
    """tables: that are learned from; asked: files of tasks and of utility; template: the teacher's, of tables too, or
    a prompt's; weights: of the model as it is first.

    Raises CrosslignError for a template's file that is none.
    """
    found: dict[str, Any] = {ASKED: _asked(tasks, utility), WEIGHTS: _weights(config.model)}
    if untrained is None or untrained.steer is not None:
        found[TABLES] = _tables(table.path for table in config.data.tables)
    if untrained is None:
        own = [table.teacher for table in config.data.tables if table.teacher is not None]
        found[TEMPLATE] = _templates([config.teacher.template, *own], config.teacher.max_judgement_length)
    elif untrained.context == "teacher":
        found[TEMPLATE] = _templates([untrained.template], untrained.max_judgement_length)
    return {name: part for name, part in found.items() if part is not None}


def _tables(paths: Iterable[str]) -> list[str] | None:
    """A data set of the hub, or a table that ships, by its name."""
    found = []
    for path in map(Path, paths):
        if path.is_file():
            found.append(file_sha256(path))
        elif path.suffix.lower() in READERS:
            return None
        else:
            found.append(str(path))
    return found


def _asked(tasks: Sequence[TaskConfig], utility: UtilityRequest | None) -> list[str] | None:
    found = _tables(get_task(task.name).source.files[0] for task in tasks if task.name.startswith(TABLE))
    named = [path for task in tasks for path in (task.path, task.options.get("wrapper")) if isinstance(path, str)]
    named += utility.paths.values() if utility is not None else ()
    for path in (Path(name).expanduser() for name in named):
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        if found is None or not path.exists():
            return None
        found += [file_sha256(file) for file in files if file.is_file()]
    return found or None


def _templates(templates: Sequence[str | dict[str, Any]], max_judgement_length: int) -> Any:
    files = [template for template in templates if isinstance(template, str) and template not in SHIPPED]
    if not files or not all(Path(file).is_file() for file in files):
        return None
    found = [template_settings(file, max_judgement_length) for file in files]
    return found[0] if len(found) == 1 else found


def _weights(model: ModelConfig) -> list[str] | None:
    found = []
    for path in (path for path in (model.path, model.tokenizer) if path is not None):
        files = [file for file in (Path(path), *Path(path).glob("*")) if file.is_file()]
        if files:
            stats = [(file.name, file.stat()) for file in sorted(files)]
            found.append(_mark(path, tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)))
        elif path.endswith(".gguf") or looks_local(path):
            return None
    if model.chat_template is not None:
        template = Path(model.chat_template)
        if not template.is_file():
            return None
        found.append(file_sha256(template))
    return found or None


@lru_cache
def _mark(path: str, files: tuple[tuple[str, int, int], ...]) -> str:
    """Computed once in a process for each state of its `files`: a bench asks for it often."""
    return weights_mark(ModelSource(path))
