"""Tasks: which queries a model is evaluated on.

`get_task("multijail").load(["en", "sw"], limit=100)` gives queries with ids that their translations share, and the
version and hash that results state.
"""

# The modules of tasks register them.
from crosslign.evaluation.tasks import aya, sets, tables, wrapped, xsafety  # noqa: F401
from crosslign.evaluation.tasks.base import Place, Reading, Source, Task, TaskData, TaskKind, get_task, names
from crosslign.evaluation.tasks.resources import RESOURCE_LEVEL, resource_groups

__all__ = [
    "RESOURCE_LEVEL",
    "Place",
    "Reading",
    "Source",
    "Task",
    "TaskData",
    "TaskKind",
    "get_task",
    "names",
    "resource_groups",
]
