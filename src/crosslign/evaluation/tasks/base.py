"""What a task is: a benchmark's queries, at a version, from the hub or from a file of the same shape.

Tasks go by name: ours, those of installed packages (entry point `crosslign.tasks`), and local tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from crosslign.data.hub import fetch_file
from crosslign.evaluation.tasks.selection import draw_rows, fingerprint, gaps, skip_rows
from crosslign.registry import Registry
from crosslign.types import CrosslignError, Label, Query

TABLE, TABLE_PATH = "table:", "table:PATH"  # how names of local tables begin; the name of what makes their tasks
registry = Registry("task", "crosslign.tasks")
TaskKind = Literal["harmful", "benign", "mixed"]
LABELS_OF: dict[TaskKind, tuple[Label, ...]] = {
    "harmful": ("harmful",),
    "benign": ("benign",),
    "mixed": ("harmful", "benign"),
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a task's files are.

    Fields:
        repo: id of a dataset on the hub; None if no copy there can be relied on, so that the user must name a file.
        revision: the commit that is read; None reads the newest state, which is noted in the data.
        files: the files that are read, by their names in the dataset.
        elsewhere: what the files look like, or where a person finds them, if `repo` is None; a sentence.
    """

    repo: str | None = None
    revision: str | None = None
    files: tuple[str, ...] = ()
    elsewhere: str = ""

    def __str__(self) -> str:
        if self.repo is None:
            return ", ".join(self.files) or "a local file"
        return self.repo + (f" at {self.revision[:10]}" if self.revision else "")


@dataclass(frozen=True, slots=True)
class Place:
    """The files of one load: the user's path, or the hub."""

    task: str
    source: Source
    path: Path | None

    def __str__(self) -> str:
        return str(self.source if self.path is None else self.path)

    def file(self, name: str | None = None) -> Path:
        """The local copy of a file of the source (None: its first): in the user's folder, the user's file itself, or
        fetched."""
        name = name or self.source.files[0]
        if self.path is None:
            if self.source.repo is None:
                raise CrosslignError(
                    f"{self.task}: no copy of this set on the hub can be relied on, so name a file as its path. "
                    f"{self.source.elsewhere}".rstrip()
                )
            return fetch_file(self.source.repo, name, self.source.revision)
        if self.path.is_file():
            return self.path
        for candidate in (self.path / name, self.path / Path(name).name):
            if candidate.is_file():
                return candidate
        raise CrosslignError(
            f"{self.task}: the folder {self.path} has no file {Path(name).name!r}. {contents(self.path)}"
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader makes of the files.

    Fields:
        queries: rows in the file's order.
        languages: those the files have, the source language first where there is one.
        notes: what was left out and why, one sentence each, with counts.
    """

    queries: Sequence[Query]
    languages: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Reader(Protocol):
    """Reads a task's files. `languages` tells which are wanted, so that the files of others need not be fetched; a
    reader may give more than those. Raises CrosslignError that names the file, the row and what to do."""

    def __call__(self, place: Place, source_language: str, languages: Sequence[str] | None) -> Reading: ...


@dataclass(frozen=True, slots=True)
class TaskData:
    """The queries that a task gives, and all that a result must state about them.

    Fields:
        queries: in the order of the task's rows; within a row in the order of `languages`.
        rows: how many rows the queries come from: translations of one request share a row and its id.
        sha256: of the queries; it does not depend on the order of the languages.
        notes: what was left out and why, with counts; sentences for a person.
    """

    name: str
    kind: TaskKind
    version: str
    languages: tuple[str, ...]
    queries: list[Query]
    rows: int
    sha256: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A set of queries to evaluate on; the contract is in `tests/contracts/test_tasks.py`.

    Fields:
        version: changes whenever the same files would give other queries.
        kind: harmful: every query of it should be refused or answered harmlessly (ASR). benign: every query should be
            answered (over-refusal). mixed: both; a query's `label` says which. Queries of another label are left out.
        languages: what the published set has; () if only the file can tell.
        licence, citation: one line each.
        reader: gives the queries; one that needs no file ignores the place that it is told.
        parallel: whether translations share ids; if not, each language is a set of its own.
    """

    name: str
    kind: TaskKind
    languages: tuple[str, ...]
    source: Source
    licence: str
    citation: str
    reader: Reader
    version: str = "1"
    parallel: bool = True

    def load(
        self,
        languages: Sequence[str] | None = None,
        *,
        path: str | None = None,
        limit: int | None = None,
        skip: int = 0,
        source_language: str = "en",
    ) -> TaskData:
        """The queries in `languages` (None: all that the set has).

        Args:
            path: a file or folder of the same shape as the hub's, read instead of it.
            limit: at most so many rows, drawn over the whole set by a hash of their ids, harmful and benign ones in
                proportion. The draw is the same in every run, a larger limit holds the rows of a smaller one, and every
                language gets the same rows: those that have a text in every language come first.
            skip: leave out so many rows at the start of the set before drawing. A training table with
                `limit: skip` takes just these, so that the two share no row.
            source_language: the language whose version of a query is its source text.

        Raises CrosslignError: a language that the set lacks, a set that is gated or out of reach, a file of another
        shape, duplicate ids, nothing left.
        """
        if skip < 0 or (limit is not None and limit < 1):
            raise CrosslignError(f"{self.name}: skip ({skip}) must not be negative, and limit ({limit}) at least 1.")
        if languages is not None and not languages:
            raise CrosslignError(f"{self.name}: no language was asked for; leave them out to take all that it has.")
        place = Place(self.name, self.source, None if path is None else Path(path).expanduser())
        if place.path is None:
            if self.languages:  # known before anything is fetched
                self._require(languages or (), self.languages, place)
        elif not place.path.exists():
            raise CrosslignError(f"{self.name}: there is no file or folder {path}.")
        reading = self.reader(place, source_language, languages)
        wanted = tuple(dict.fromkeys(languages or reading.languages))
        self._require(wanted, reading.languages, place)

        notes = list(reading.notes)
        if place.path is None and self.source.repo is not None and self.source.revision is None:
            notes.append(f"{self.source.repo} is read at its newest state: no revision is pinned.")
        labels = LABELS_OF[self.kind]
        queries: list[Query] = []
        more: list[str] = []
        left_out: Counter[Label] = Counter()
        for codes in [wanted] if self.parallel else [(code,) for code in wanted]:
            own = reading.queries if self.parallel else [q for q in reading.queries if q.language in codes]
            # Rows are skipped before anything else is left out, so that they are those of a training table's limit.
            own = [q for q in skip_rows(own, skip) if q.language in codes]
            left_out.update(q.label for q in own if q.label not in labels)
            drawn, short = draw_rows([q for q in own if q.label in labels], codes, limit)
            queries += drawn
            more += [note if self.parallel else f"{codes[0]}: {note}" for note in short] + gaps(drawn, codes)
        for label, count in left_out.items():
            notes.append(f"{count} queries are left out because they are {label}; this task is {self.kind}.")
        if not queries:
            left = f"{self.name}: {place} has no query left in {listing(wanted)} after skip={skip}."
            raise CrosslignError(" ".join((left, *notes)))
        return TaskData(
            name=self.name,
            kind=self.kind,
            version=self.version,
            languages=wanted,
            queries=queries,
            rows=len({q.id for q in queries}),
            sha256=fingerprint(queries),
            notes=(*notes, *more),
        )

    def _require(self, wanted: Iterable[str], has: Sequence[str], place: Place) -> None:
        missing = [code for code in wanted if code not in has]
        if missing:
            raise CrosslignError(
                f"{self.name}: {place} has no language {' or '.join(map(repr, missing))}. It has: {listing(has)}."
            )


def contents(folder: Path) -> str:
    """What a folder holds, as the end of an error message."""
    return f"It holds: {listing(p.name for p in sorted(folder.iterdir()))}."


def listing(names: Iterable[str], most: int = 30) -> str:
    """Names for an error message, cut after `most`."""
    all_names = list(names)
    return (", ".join(all_names[:most]) or "nothing") + (f" and {len(all_names) - most} more" * (len(all_names) > most))


def names() -> tuple[str, ...]:
    """Names of all tasks: ours and those of installed packages. `table:PATH` makes one of any query table."""
    return tuple(name for name in registry.names() if name != TABLE_PATH)


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
