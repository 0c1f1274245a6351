"""Replies of `benchmarks.real` labelled by reading, beside what the judge said of them.

    python -m benchmarks.real_read ask runs/real --only base best --languages en ind vi     # makes OUT/reading.csv
    python -m benchmarks.real_read keep runs/real                                           # into the verdicts

`ask` lists replies that nobody has read: each text once, in random order, without the verdict and without the cell that
it comes from. A reader fills in the column `label`: one of `OUTCOMES`, by the rules of
benchmarks/judge.md. The file holds texts, and stays outside the repository; `keep` takes the labels alone.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from benchmarks.judge_draw import Found, found
from benchmarks.real_variants import evaluation_folder
from benchmarks.real_verdicts import LETTERS, Cell, Verdicts
from crosslign.evaluation.rates import Kind
from crosslign.storage import write_atomically
from crosslign.types import OUTCOMES, CrosslignError

FILE = "reading.csv"
COLUMNS = ("reply", "kind", "language", "source", "query", "answer", "cut", "label")
UNREAD = "?"


def replies(out: Path, cell: Cell) -> list[Found]:
    """All of the cell, if its evaluation lies in this folder."""
    folder = evaluation_folder(out, cell.name, cell.seed)
    return list(found([folder]).values()) if folder.exists() else []


def read_file(path: Path) -> dict[str, dict[str, str]]:
    """Reply -> row.

    Raises CrosslignError at a label that is none.
    """
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = {row["reply"]: row for row in csv.DictReader(file)}
    for number, row in enumerate(rows.values(), 2):
        if row["label"] not in ("", *OUTCOMES):
            raise CrosslignError(f"{path}, row {number}: label {row['label']!r}; it is one of {', '.join(OUTCOMES)}.")
    return rows


def ask(out: Path, cells: Sequence[Cell], languages: Sequence[str], kinds: Sequence[str], seed: int = 0) -> int:
    """Add the replies that the file does not list yet; how many."""
    rows = read_file(out / FILE)
    new: dict[str, dict[str, str]] = {}
    for cell in cells:
        for one in replies(out, cell):
            item, query = one.item, one.item.query
            if query.language in languages and query.label in kinds and one.reply not in rows:
                texts = (query.source_text, query.text, item.completion, "yes" if item.truncated else "")
                values = (one.reply, query.label, query.language, *texts, "")
                new[one.reply] = dict(zip(COLUMNS, values, strict=True))
    order = sorted(new)
    random.Random(seed).shuffle(order)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows.values(), *(new[key] for key in order)])
    write_atomically(out / FILE, text.getvalue())
    return len(new)


def with_labels(
    cell: Cell, rows: Mapping[str, Sequence[Sequence[str]]], labels: Mapping[str, str], given: Sequence[Found]
) -> Cell:
    """The cell with a letter for each reply, in the languages of which all were read: some alone, which other cells
    happen to share, would be no fair part of it. What it had of other languages stays."""
    by_outcome: dict[str, str] = {outcome: letter for letter, outcome in LETTERS.items()}
    by_place: dict[tuple[str | None, str, str], str] = {
        (one.item.query.label, one.item.query.language, one.item.query.id): labels.get(one.reply, "") for one in given
    }
    read: dict[str, dict[str, str]] = {kind: {**codes} for kind, codes in cell.read.items()}
    for kind, codes in cell.verdicts.items():
        for code in codes:
            letters = "".join(by_outcome.get(by_place.get((kind, code, id), ""), UNREAD) for id, _ in rows[kind])
            if UNREAD not in letters:
                read.setdefault(kind, {})[code] = letters
    return replace(cell, read=read)


def keep(out: Path, verdicts: Verdicts) -> int:
    """Put the labels into the verdicts of every cell that lies here; how many cells have some."""
    labels = {reply: row["label"] for reply, row in read_file(out / FILE).items() if row["label"]}
    about = {"trained": verdicts.trained, "model": verdicts.model, "machine": verdicts.machine}
    number = 0
    for cell in verdicts.cells:
        if given := list(replies(out, cell)):
            new = with_labels(cell, verdicts.rows, labels, given)
            verdicts.keep(new, verdicts.rows, about)
            number += bool(new.read)
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ask", "keep"])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of benchmarks.real")
    parser.add_argument("--verdicts", type=Path, help="the file of all verdicts (default: OUT/verdicts.jsonl)")
    parser.add_argument("--only", nargs="+", default=["base", "best"], help="cells (default: %(default)s)")
    parser.add_argument("--languages", nargs="+", default=["en"], help="default: %(default)s")
    parser.add_argument(
        "--kinds", nargs="+", choices=get_args(Kind), default=get_args(Kind), help="of queries: %(default)s"
    )
    args = parser.parse_args()
    verdicts = Verdicts.read(args.verdicts or args.out / "verdicts.jsonl")
    try:
        if args.what == "ask":
            new = ask(args.out, [cell for cell in verdicts.cells if cell.name in args.only], args.languages, args.kinds)
            print(f"{new} replies more to read: {args.out / FILE}")
        else:
            print(f"{keep(args.out, verdicts)} cells have replies that were read.")
    except CrosslignError as error:
        raise SystemExit(f"benchmarks.real_read: {error}") from None


if __name__ == "__main__":
    main()
