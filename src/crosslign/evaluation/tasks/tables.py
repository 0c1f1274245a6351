"""Local query tables, hub datasets of the same shape, and tables that ship with the package, as tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import get_args

from crosslign.data.load import TableSpec, require_table
from crosslign.evaluation.tasks.base import TABLE, TABLE_PATH, Place, Reading, Source, Task, TaskKind, registry
from crosslign.types import CrosslignError

DEMO = "builtin:demo"
BENIGN_HELDOUT = "builtin:benign-heldout"


@dataclass(frozen=True)
class TableReader:
    """Reads a query table as `crosslign validate` does, with its checks: duplicate ids and missing source texts are
    errors."""

    spec: TableSpec

    def __call__(self, place: Place, source_language: str, languages: Sequence[str] | None) -> Reading:
        if place.path is not None:
            raise CrosslignError(f"{place.task}: the task's name says which table it reads; leave the path out.")
        table = require_table(self.spec, source_language, None)
        notes = []
        if any(row.label == "unlabelled" for row in table.rows):
            notes.append(
                f"Rows of {self.spec.path} have no label; add a column `label` (harmful, benign), or name the task "
                f"{TABLE}harmful:PATH or {TABLE}benign:PATH."
            )
        return Reading(list(table.queries()), table.languages, tuple(notes))


@registry.register(TABLE_PATH)
def local_table(
    name: str, columns: Mapping[str, str] | None = None, where: Mapping[str, Sequence[str]] | None = None
) -> Task:
    """The task of `table:PATH`, `table:harmful:PATH` or `table:benign:PATH`.

    A kind before the path keeps the rows of that label, and gives it to rows that have none. `columns` and `where` are
    those of a recipe's tables.
    """
    path = name.removeprefix(TABLE)
    kind: TaskKind = "mixed"
    for one in get_args(TaskKind):
        if path.startswith(f"{one}:"):
            kind, path = one, path.removeprefix(f"{one}:")
    if not path:
        raise CrosslignError(f"task {name!r}: name a file after the colon, for example {TABLE}queries.csv.")
    label = "unlabelled" if kind == "mixed" else kind
    return Task(
        name=name,
        kind=kind,
        languages=(),
        source=Source(files=(path,)),
        licence="the table's own",
        citation=f"the query table {PurePath(path).name}",
        reader=TableReader(TableSpec(path, columns=columns or {}, where=where or {}, label=label)),
    )


@registry.register(DEMO)
def demo() -> Task:
    """24 harmful and 24 harmless queries in seven languages, our own writing."""
    return Task(
        name=DEMO,
        kind="mixed",
        languages=("en", "zh", "es", "ar", "bn", "sw", "vi"),
        source=Source(files=(DEMO,)),
        licence="Apache-2.0",
        citation="the demonstration queries of crosslign",
        reader=TableReader(TableSpec(DEMO)),
    )


@registry.register(BENIGN_HELDOUT)
def benign_heldout() -> Task:
    """96 harmless queries in twelve languages, our own writing; 37 of them sound harmful (category look_alike). None
    stands in builtin:benign."""
    return Task(
        name=BENIGN_HELDOUT,
        kind="benign",
        languages=("en", "zh", "es", "ar", "hi", "bn", "vi", "th", "ind", "sw", "jv", "ru"),
        source=Source(files=(BENIGN_HELDOUT,)),
        licence="Apache-2.0",
        citation="the harmless queries of crosslign",
        reader=TableReader(TableSpec(BENIGN_HELDOUT)),
    )
