"""Tasks by name: ours, those of installed packages, and local tables.

A package can add its own through an entry point that names a Task or a function that makes one:

    [project.entry-points."crosslign.tasks"]
    my_task = "my_package:my_task"
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from crosslign.evaluation.tasks.base import Task, TaskFactory
from crosslign.types import CrosslignError, nearest

ENTRY_POINT_GROUP = "crosslign.tasks"
TABLE = "table:"

Factory = TypeVar("Factory", bound=TaskFactory)
_BUILTIN: dict[str, TaskFactory] = {}


def register(name: str) -> Callable[[Factory], Factory]:
    """Decorator: make a task of this package known by name."""

    def add(factory: Factory) -> Factory:
        _BUILTIN[name] = factory
        return factory

    return add


def names() -> tuple[str, ...]:
    """Names of all tasks: ours and those of installed packages. `table:PATH` makes one of any query table."""
    installed = (e.name for e in entry_points(group=ENTRY_POINT_GROUP))
    return tuple(sorted({*_BUILTIN, *installed} - {TABLE}))


def available() -> list[Task]:
    """All tasks, by name. Raises CrosslignError if an installed package's cannot be had."""
    return [get_task(name) for name in names()]


def get_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """The task `name`; `table:PATH`, `table:harmful:PATH` or `table:benign:PATH` is a task of a local query table.

    Raises CrosslignError for an unknown name, or an option that the task does not take.
    """
    values = dict(options or {})
    if name.startswith(TABLE):
        values["name"] = name
        factory = _BUILTIN[TABLE]
    elif name in _BUILTIN:
        factory = _BUILTIN[name]
    else:
        found = next((e for e in entry_points(group=ENTRY_POINT_GROUP) if e.name == name), None)
        if found is None:
            raise CrosslignError(f"unknown task {name!r}. {nearest(name, [*names(), f'{TABLE}PATH'])}")
        made = _import(found)
        # A class can have all members of a task and still has to be made one.
        factory = (lambda: made) if isinstance(made, Task) and not isinstance(made, type) else made
    return _make(name, factory, values)


def _import(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:  # a user's package may fail in any way while it is imported
        raise CrosslignError(
            f"task {entry.name!r} ({entry.value}) could not be imported: {type(error).__name__}: {error}"
        ) from error


def _make(name: str, factory: TaskFactory, values: Mapping[str, Any]) -> Task:
    if not callable(factory):
        raise CrosslignError(f"task {name!r}: its package names a {type(factory).__name__}, which is no task.")
    parameters = inspect.signature(factory).parameters
    for key in values:
        if key not in parameters:
            takes = [p for p in parameters if p != "name"]
            raise CrosslignError(f"task {name!r} takes no option {key!r}. It takes: {', '.join(takes) or 'none'}.")
    try:
        task = factory(**values)
    except (TypeError, ValueError) as error:
        raise CrosslignError(f"task {name!r}: {error}") from error
    if not isinstance(task, Task):
        raise CrosslignError(f"task {name!r}: its package makes a {type(task).__name__}, which is no task.")
    return task
