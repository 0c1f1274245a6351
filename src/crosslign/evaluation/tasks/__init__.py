"""Tasks: which queries a model is evaluated on.

`get_task("multijail").load(["en", "sw"], limit=100)` gives queries with ids that their translations share, and the
version and hash that results state.
"""

# The modules of tasks register them.
from crosslign.evaluation.tasks import aya, sets, tables, wrapped, xsafety  # noqa: F401
from crosslign.evaluation.tasks.base import FileTask, Kind, Place, Reading, Source, Task, TaskData
from crosslign.evaluation.tasks.registry import available, get_task, names, registry
from crosslign.evaluation.tasks.resources import LEVELS, RESOURCE_LEVEL, Level, resource_groups

__all__ = [
    "LEVELS",
    "RESOURCE_LEVEL",
    "FileTask",
    "Kind",
    "Level",
    "Place",
    "Reading",
    "Source",
    "Task",
    "TaskData",
    "available",
    "get_task",
    "names",
    "registry",
    "resource_groups",
]
