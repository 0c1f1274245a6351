"""Local query tables, hub datasets of the same shape, and the table that ships with the package, as tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import get_args

from crosslign.data.load import TableSpec, require_table
from crosslign.evaluation.tasks.base import FileTask, Kind, Place, Reading, Source
from crosslign.evaluation.tasks.registry import TABLE, TABLE_PATH, registry
from crosslign.types import CrosslignError

DEMO = "builtin:demo"


@dataclass(frozen=True)
class TableReader:
    """Reads a query table as `crosslign validate` does, with its checks: duplicate ids and missing source texts are
    errors. Rows without a label of their own get the one that the task's kind says, if it says one."""

    table: str
    kind: Kind
    columns: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __call__(self, place: Place, source_language: str, languages: Sequence[str] | None) -> Reading:
        if place.path is not None:
            raise CrosslignError(f"{place.task}: the task's name says which table it reads; leave the path out.")
        spec = TableSpec(
            self.table,
            columns=self.columns,
            where=self.where,
            label="unlabelled" if self.kind == "mixed" else self.kind,
        )
        table = require_table(spec, source_language, None)
        notes = []
        if self.kind == "mixed" and any(row.label == "unlabelled" for row in table.rows):
            notes.append(
                f"Rows of {self.table} have no label; add a column `label` (harmful, benign), or name the task "
                f"{TABLE}harmful:PATH or {TABLE}benign:PATH."
            )
        return Reading(list(table.queries()), table.languages, tuple(notes))


@registry.register(TABLE_PATH)
def local_table(
    name: str, columns: Mapping[str, str] | None = None, where: Mapping[str, Sequence[str]] | None = None
) -> FileTask:
    """The task of `table:PATH`, `table:harmful:PATH` or `table:benign:PATH`.

    A kind before the path keeps the rows of that label, and gives it to rows that have none. `columns` and `where` are
    those of a recipe's tables.
    """
    path = name.removeprefix(TABLE)
    kind: Kind = "mixed"
    for one in get_args(Kind):
        if path.startswith(f"{one}:"):
            kind, path = one, path.removeprefix(f"{one}:")
    if not path:
        raise CrosslignError(f"task {name!r}: name a file after the colon, for example {TABLE}queries.csv.")
    return _table(name, path, kind, columns or {}, where or {})


@registry.register(DEMO)
def demo() -> FileTask:
    """24 harmful and 24 harmless queries in seven languages, our own writing."""
    return _table(DEMO, DEMO, "mixed", {}, {}, ("en", "zh", "es", "ar", "bn", "sw", "vi"))


def _table(
    name: str,
    path: str,
    kind: Kind,
    columns: Mapping[str, str],
    where: Mapping[str, Sequence[str]],
    languages: tuple[str, ...] = (),
) -> FileTask:
    ours = path == DEMO
    return FileTask(
        name=name,
        version="1",
        kind=kind,
        languages=languages,
        source=Source(files=(path,)),
        licence="Apache-2.0" if ours else "the table's own",
        citation="the demonstration queries of crosslign" if ours else f"the query table {PurePath(path).name}",
        reader=TableReader(path, kind, columns, where),
    )
