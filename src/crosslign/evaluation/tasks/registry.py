"""Tasks by name: ours, those of installed packages (entry point `crosslign.tasks`), and local tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crosslign.evaluation.tasks.base import Task
from crosslign.registry import Registry
from crosslign.types import CrosslignError

TABLE, TABLE_PATH = "table:", "table:PATH"  # how names of local tables begin; the name of what makes their tasks
registry = Registry("task", "crosslign.tasks")


def names() -> tuple[str, ...]:
    """Names of all tasks: ours and those of installed packages. `table:PATH` makes one of any query table."""
    return tuple(name for name in registry.names() if name != TABLE_PATH)


def available() -> list[Task]:
    """All tasks, by name. Raises CrosslignError if an installed package's cannot be had."""
    return [get_task(name) for name in names()]


def get_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """The task `name`; `table:PATH`, `table:harmful:PATH` or `table:benign:PATH` is a task of a local query table.

    Raises CrosslignError for an unknown name, or an option that the task does not take.
    """
    if name.startswith(TABLE):
        task = registry.make(TABLE_PATH, options, name=name)
    else:
        task = registry.factory(name)
        if not isinstance(task, Task):
            task = registry.make(name, options)
        elif options:
            raise CrosslignError(f"task {name!r} takes no option {next(iter(options))!r}. It takes: none.")
    if not isinstance(task, Task):
        raise CrosslignError(f"task {name!r}: its package makes a {type(task).__name__}, which is no task.")
    return task
