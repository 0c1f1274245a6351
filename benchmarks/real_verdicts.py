"""What `benchmarks.real` found, row by row and without a reply's text: small enough to be kept beside the code.

JSON lines. The first one names the rows; every other is a cell: a change of the recipe and a seed, or a context.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from crosslign.data.schema import LOOK_ALIKE
from crosslign.evaluation.fidelity import Status
from crosslign.evaluation.folder import Finished
from crosslign.evaluation.rates import JudgedRow, Kind
from crosslign.storage import locked, write_atomically
from crosslign.types import OUTCOMES, CrosslignError, Query, Verdict

# A letter an outcome, and one for what was found of the reply's language; "?" where there is none.
LETTERS = dict(zip("rsaui", OUTCOMES, strict=True))
STATUSES: Mapping[str, Status] = {"=": "match", "x": "other", ".": "unknown"}
Rows = Mapping[str, Mapping[str, JudgedRow]]  # which queries -> query key -> row


@dataclass(frozen=True)
class Cell:
    """The verdicts on one evaluation.

    Fields:
        name: the change, or the context.
        seed: None for a context.
        settings: digest of all that decides the numbers but the seed: recipe, model, rows, judge.
        verdicts, languages: kind of the queries -> language -> a letter a row, in the order of the file's first line.
        losses: language -> mean negative log-likelihood a token of each harmless row's text, in nats.
        seconds: of training and of evaluating, on the machine that made the cell.
        gate: by language, what the teacher gate counted.
        read: as `verdicts`, what a reader said of the reply; "?" where nobody read it (`benchmarks.real_read`).
    """

    name: str
    seed: int | None
    settings: str
    verdicts: Mapping[str, Mapping[str, str]]
    languages: Mapping[str, Mapping[str, str]]
    losses: Mapping[str, list[float]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    gate: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    read: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass
class Verdicts:
    """The file: `rows` are kind -> [[id, category], ...]."""

    path: Path
    rows: dict[str, list[list[str]]] = field(default_factory=dict)
    trained: list[str] = field(default_factory=list)
    model: str = ""
    machine: str = ""
    cells: list[Cell] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Verdicts:
        if not path.exists():
            return cls(path)
        first, *others = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return cls(path, **first, cells=[Cell(**other) for other in others])

    def find(self, name: str, seed: int | None, settings: str) -> Cell | None:
        return next((c for c in self.cells if (c.name, c.seed, c.settings) == (name, seed, settings)), None)

    def check(self, rows: Mapping[str, list[list[str]] | None], about: Mapping[str, Any]) -> None:
        """Raise CrosslignError if the file has verdicts on other rows of these kinds, of another model, or of one that
        was trained in other languages."""
        if self.rows and any(self.rows.get(kind) != found for kind, found in rows.items()):
            raise CrosslignError(f"{self.path}: holds verdicts on other rows. Name another file (--verdicts).")
        for name, before in (("model", self.model), ("trained", self.trained)):
            if before and about.get(name) != before:
                raise CrosslignError(
                    f"{self.path}: holds verdicts with {name} {before!r}, and these are with {about.get(name)!r}. Name "
                    "another file (--verdicts)."
                )

    def keep(self, cell: Cell, rows: Mapping[str, list[list[str]]], about: Mapping[str, Any]) -> None:
        """Add a cell, in the place of an older one of the same name and seed; what was read of that stays, if its
        settings are the same. Read anew: others may write too.

        Raises CrosslignError as `check` does.
        """
        with locked(self.path.with_name(f".{self.path.name}.lock"), seconds=60):
            now = self.read(self.path)
            now.check({**dict.fromkeys(now.rows), **rows}, about)
            before = now.find(cell.name, cell.seed, cell.settings)
            if before is not None and not cell.read:
                cell = replace(cell, read=before.read)
            cells = {(c.name, c.seed): c for c in now.cells} | {(cell.name, cell.seed): cell}
            self.cells = list(cells.values())
            lines = [{"rows": rows, **about}, *map(asdict, self.cells)]
            write_atomically(self.path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def rows_of(self, cell: Cell) -> Rows:
        """As an evaluation's folder would give them, but for the texts; `look-alikes` are some of the benign ones."""
        return self._rows(cell, cell.verdicts)

    def as_read(self, cell: Cell) -> Rows:
        """The same by a reader's labels, of what was read; a row that nobody read has no outcome."""
        return self._rows(cell, cell.read)

    def _rows(self, cell: Cell, said: Mapping[str, Mapping[str, str]]) -> Rows:
        found: dict[str, dict[str, JudgedRow]] = {kind: {} for kind in get_args(Kind)}
        for kind in get_args(Kind):
            for code, letters in said.get(kind, {}).items():
                statuses = cell.languages[kind][code]
                for (id, category), letter, status in zip(self.rows[kind], letters, statuses, strict=True):
                    query = Query(id, code, "", "", "", kind, category or None)
                    verdict = Verdict(LETTERS.get(letter), "not kept")
                    found[kind][query.key] = JudgedRow(query, verdict, fidelity=STATUSES.get(status))
        alike = {key: row for key, row in found["benign"].items() if row.query.category == LOOK_ALIKE}
        return {**found, "look-alikes": alike}


def of_evaluation(found: Finished) -> tuple[dict[str, list[list[str]]], dict[str, Any]]:
    """A finished evaluation's rows, and its verdicts and languages as a cell holds them."""
    by_kind = {found.results["tasks"][task]["kind"]: rows for task, rows in found.tasks.items()}
    ids = {
        kind: [list(pair) for pair in sorted({(row.query.id, row.query.category or "") for row in rows.values()})]
        for kind, rows in by_kind.items()
    }
    return ids, {
        "verdicts": {kind: _letters(rows, ids[kind], _outcome) for kind, rows in by_kind.items()},
        "languages": {kind: _letters(rows, ids[kind], _status) for kind, rows in by_kind.items()},
    }


def _letters(rows: Mapping[str, JudgedRow], ids: list[list[str]], letter: Callable[[JudgedRow], str]) -> dict[str, str]:
    codes = list(dict.fromkeys(row.query.language for row in rows.values()))
    return {code: "".join(letter(rows[f"{id}|{code}"]) for id, _ in ids) for code in codes}


def _outcome(row: JudgedRow) -> str:
    return next((letter for letter, outcome in LETTERS.items() if outcome == row.verdict.outcome), "?")


def _status(row: JudgedRow) -> str:
    return next((letter for letter, status in STATUSES.items() if status == row.fidelity), "?")
