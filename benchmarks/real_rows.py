"""The plan of `benchmarks.real`, and which rows are trained on, held out, chosen by, and fresh."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from benchmarks.real_variants import BASE, RECIPES, cell_folder, evaluation_folder
from crosslign.data.load import TableSpec, require_table
from crosslign.evaluation.rates import Kind
from crosslign.storage import digest, write_atomically
from crosslign.types import CrosslignError

TRAIN, MILD, HELD_OUT, VALIDATION = "train.csv", "mild.csv", "heldout.csv", "validation.csv"
HARMFUL, HARMLESS = "harmful.csv", "harmless.csv"  # TRAIN and MILD with the rows of further tables
REQUESTS, STATEMENTS = "builtin:benign", "builtin:statements"  # harmless rows that are trained on


@dataclass(frozen=True)
class Plan:
    """What is measured, with what, and where it goes."""

    model: str
    queries: Sequence[Path]
    out: Path
    trained: tuple[str, ...]
    watched: tuple[str, ...]
    category: str
    other: str
    mild: tuple[str, ...]
    more: tuple[Path, ...]
    validation: Path | None
    fresh: Path | None
    rows: int
    held_out: int
    completion: int
    batch: int
    verdicts: Path

    @property
    def languages(self) -> tuple[str, ...]:
        return ("en", *self.trained, *self.watched)

    @property
    def fresh_name(self) -> str:
        """Of what belongs to the fresh rows: `fresh2` if their file is named so, as rows_fresh2.csv."""
        word = self.fresh.stem.rpartition("_")[2] if self.fresh is not None else ""
        return word if word.startswith("fresh") else "fresh"

    @property
    def fresh_rows(self) -> Path:
        return self.out / f"{self.fresh_name}.csv"

    def measured(self, name: str) -> tuple[str, ...]:
        """The languages that a cell is measured in: all but the base and the recipes without the watched ones, in half
        the time."""
        return self.languages if name in (BASE, *RECIPES) else ("en", *self.trained)

    def cell(self, name: str, seed: int | None = None) -> Path:
        return cell_folder(self.out, name, seed)

    def evaluation(self, name: str, seed: int | None = None) -> Path:
        return evaluation_folder(self.out, name, seed)


def split(plan: Plan, *, only_say: bool = False) -> None:
    """Write the rows to train on, those held out, those to choose a checkpoint by, and the fresh ones; which is which
    depends on ids alone. Of the further tables to train on (`plan.more`), rows of the category that is only held out
    are left out.

    Raises CrosslignError if a row or a text, in any language, would be in two of them, for too few rows, and where the
    folder holds other rows that a call may be working with: with `only_say`, or if there is a cell.
    """
    fixed = only_say or any(path.is_dir() for path in plan.out.glob("*"))
    first, *others = map(read_table, plan.queries)
    rows = [{**row, **{key: v for more in others for key, v in more.get(id, {}).items()}} for id, row in first.items()]
    missing = {"id", "category", *plan.languages} - {key for row in rows for key in row}
    if missing:
        raise CrosslignError(f"{', '.join(map(str, plan.queries))}: the columns {sorted(missing)} are missing.")

    def of(category: str) -> list[dict[str, str]]:
        label = "benign" if category in plan.mild else "harmful"
        found = [{**row, "label": label} for row in rows if row["category"] == category]
        complete = (row for row in found if all(map(row.get, plan.languages)))
        return sorted(complete, key=lambda row: digest(row["id"]))

    own = of(plan.category)
    train, held_out = own[: plan.rows], own[plan.rows :]
    held_out += of(plan.other)[: max(plan.held_out - len(held_out), 0)]
    for number, found, flag in ((plan.rows, train, "--rows"), (plan.held_out, held_out, "--held-out")):
        if len(found) < number:
            raise CrosslignError(
                f"{plan.queries[0]}: {flag} asks for {number} rows, and {len(found)} are left of {plan.category!r} and "
                f"{plan.other!r} that have all languages. Take fewer: {flag} {len(found)}."
            )
    mild = [row for category in plan.mild for row in of(category)]
    known, watched, codes = {row["id"]: row for row in rows}, [], ("en", *plan.trained)
    more = [row for path in plan.more for row in whole(path, plan, known, codes) if row["category"] != plan.other]
    harmful, harmless = ([row for row in more if row["label"] == label] for label in ("harmful", "benign"))
    trained = [*train, *mild, *more, *shipped_rows()]
    check_apart(trained, held_out, plan.languages, "trained on", "held out")
    write_table(plan.out / TRAIN, train, plan.languages, fixed=fixed)
    write_table(plan.out / MILD, mild, plan.languages, fixed=fixed)
    write_table(plan.out / HELD_OUT, held_out, plan.languages, fixed=fixed)
    write_table(plan.out / HARMFUL, [*train, *harmful], codes, fixed=fixed)
    write_table(plan.out / HARMLESS, [*mild, *harmless], codes, fixed=fixed)
    if plan.validation is not None:
        watched = whole(plan.validation, plan, known, codes)
        check_apart(trained, watched, codes, "trained on", "chosen by")
        check_apart(watched, held_out, codes, "chosen by", "held out")
        write_table(plan.out / VALIDATION, watched, codes, fixed=fixed)
    if plan.fresh is not None:
        fresh = whole(plan.fresh, plan, known, plan.languages)
        check_apart(trained, fresh, plan.languages, "trained on", "fresh")
        check_apart(held_out, fresh, plan.languages, "held out", "fresh")
        check_apart(watched, fresh, codes, "chosen by", "fresh")
        write_table(plan.fresh_rows, fresh, plan.languages, fixed=fixed)


def whole(path: Path, plan: Plan, known: Mapping[str, Mapping[str, str]], codes: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a further table, with what is known of them; a mild category is harmless, unless this table has
    labels. Raises CrosslignError for a row that is not known or lacks a language, and for a label that is none."""
    found = []
    for id, texts in read_table(path).items():
        row = {**known.get(id, {}), **texts}
        if missing := [code for code in ("category", *codes) if not row.get(code)]:
            raise CrosslignError(f"{path}: row {id!r} lacks {', '.join(missing)}.")
        label = texts.get("label") or ("benign" if row["category"] in plan.mild else "harmful")
        if label not in get_args(Kind):
            raise CrosslignError(f"{path}: row {id!r}: label {label!r}; it is one of {', '.join(get_args(Kind))}.")
        found.append({**row, "label": label})
    return found


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """Rows by id. Raises CrosslignError for an id that is there twice."""
    found: dict[str, dict[str, str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["id"] in found:
                raise CrosslignError(f"{path}: the id {row['id']!r} is there twice.")
            found[row["id"]] = row
    return found


def check_apart(
    one: Sequence[Mapping[str, str]], other: Sequence[Mapping[str, str]], codes: Sequence[str], what: str, whats: str
) -> None:
    """Raise CrosslignError if a row is in both, by its id or by a text in any language; `what` and `whats` say for what
    the rows of either are."""
    ids = {row["id"] for row in one}
    texts = {" ".join(row[code].split()).casefold() for row in one for code in codes if row.get(code)}
    for row in other:
        same = [code for code in codes if " ".join(row[code].split()).casefold() in texts]
        if row["id"] in ids or same:
            where = f"its text in {same[0]}" if same else "its id"
            raise CrosslignError(f"row {row['id']!r} is {whats}, and {where} is {what} too. Leave one of them out.")


def shipped_rows() -> list[dict[str, str]]:
    """The harmless rows that ship and are trained on."""
    tables = [require_table(TableSpec(name), "en", None) for name in (REQUESTS, STATEMENTS)]
    return [{"id": row.id, **row.texts} for table in tables for row in table.rows]


def rows_of(table: Path) -> dict[str, list[list[str]]]:
    """Label -> id and category of its rows, as verdicts name them."""
    found: dict[str, list[list[str]]] = {}
    for id, row in sorted(read_table(table).items()):
        found.setdefault(row["label"], []).append([id, row["category"]])
    return found


def write_table(path: Path, rows: Sequence[Mapping[str, str]], codes: Sequence[str], *, fixed: bool) -> None:
    """With `fixed`, raise CrosslignError in place of changing what is there."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["id", "label", "category", *codes], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if fixed and path.exists() and path.read_bytes() != text.getvalue().encode():
        raise CrosslignError(f"{path}: holds other rows, and cells are made of them. Name another --out.")
    write_atomically(path, text.getvalue())
