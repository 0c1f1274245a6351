"""Draw replies of real models to be labelled by reading, show them without the judge's verdict, and judge them anew.

    python -m benchmarks.judge_draw draw FOLDER...                # adds to judge_labels.csv, strata drawn evenly
    python -m benchmarks.judge_draw show FOLDER... --rows 0 25    # query and reply, no verdict: one label a row is read
    python -m benchmarks.judge_draw judge FOLDER...               # the verdicts of today's lexicon into the file

A FOLDER is one of `crosslign eval` (`after` if its path says so: see `side_of`) or of `crosslign inspect-teacher`,
whose student is `before` and whose teacher is `teacher`. The file holds ids, hashes of the replies and labels, never a
text.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from crosslign.evaluation.folder import read_folder
from crosslign.evaluation.judges.lexicon import LexiconJudge
from crosslign.storage import digest, read_rows, write_atomically
from crosslign.types import JudgeItem, Query

LABELS = Path(__file__).with_name("judge_labels.csv")
# Drawn of each stratum at most. Verdicts that are common, or that an error would hide in, get more.
DRAWN = {"harmful": {"unsafe": 24, "refused": 10}, "benign": {"refused": 5, "safe_complied": 4}}
OTHERS = {"harmful": 5, "benign": 3}
PAIRS = "pairs.jsonl"
HALVES = ("development", "held_out")


@dataclass(frozen=True)
class Labelled:
    """A reply, by its hash, with what the judge and a reader said of it.

    Fields:
        batch: of one call of `draw`.
        side: the model `before` or `after` training, or as the `teacher`.
        half: `development` may be looked at while the lexicon is mended; `held_out` not.
        stratum, size: the judge's verdict when the replies were drawn, and how many of the batch's replies had it (of
            this language, label and side).
        verdict: today's judge. right: the reader's label.
    """

    batch: str
    reply: str
    id: str
    language: str
    label: str
    side: str
    half: str
    stratum: str
    size: str
    verdict: str
    right: str = ""


@dataclass(frozen=True)
class Found:
    side: str
    item: JudgeItem
    outcome: str

    @property
    def reply(self) -> str:
        return digest([self.item.query.id, self.item.query.language, self.item.completion])[:16]


def side_of(folder: Path) -> str:
    """A trained model's evaluation lies in its run's folder, as `benchmarks.real` has it."""
    return "after" if folder.name == "evaluation" else "before"


def found(folders: Iterable[Path]) -> dict[tuple[str, str], Found]:
    """All replies by their hash and side (training leaves many as they were); one of each query, language and side,
    the first folder's."""
    replies: dict[tuple[str, ...], Found] = {}
    for folder in folders:
        for one in _pairs(folder) if (folder / PAIRS).exists() else _evaluated(folder):
            query = one.item.query
            replies.setdefault((query.id, query.language, one.side), one)
    return {(one.reply, one.side): one for one in replies.values()}


def _evaluated(folder: Path) -> Iterator[Found]:
    for rows in read_folder(folder).tasks.values():
        for row in rows.values():
            if row.verdict.outcome:
                item = JudgeItem(row.query, row.completion, row.truncated)
                yield Found(side_of(folder), item, row.verdict.outcome)


def _pairs(folder: Path) -> Iterator[Found]:
    for row in read_rows(folder / PAIRS):
        names = ("id", "language", "query", "source_language", "source_query", "label", "category")
        query = Query(*(row[name] for name in names))
        for side, name in (("before", "student"), ("teacher", "teacher")):
            said = row[name]
            yield Found(side, JudgeItem(query, said["completion"], said["truncated"]), said["outcome"])


def draw(replies: Iterable[Found], batch: str, halves: Sequence[str]) -> list[Labelled]:
    """So many of each language, label, side and verdict, in random order, and by turns of these halves."""
    rng = random.Random(int(batch))
    strata: dict[tuple[str, ...], list[Found]] = {}
    for one in sorted(replies, key=lambda one: one.reply):
        query = one.item.query
        strata.setdefault((query.language, str(query.label), one.side, one.outcome), []).append(one)
    drawn = []
    for (language, label, side, outcome), members in sorted(strata.items()):
        take = rng.sample(members, min(len(members), DRAWN[label].get(outcome, OTHERS[label])))
        for number, one in enumerate(take, rng.randrange(2)):
            place = (batch, one.reply, one.item.query.id, language, label, side, halves[number % len(halves)])
            drawn.append(Labelled(*place, stratum=outcome, size=str(len(members)), verdict=outcome))
    rng.shuffle(drawn)
    return drawn


def read_labels(path: Path = LABELS) -> list[Labelled]:
    with path.open(encoding="utf-8", newline="") as file:
        return [Labelled(**row) for row in csv.DictReader(file)]


def write_labels(rows: Sequence[Labelled], path: Path = LABELS) -> None:
    names = [field.name for field in fields(Labelled)]
    lines = [names, *([*asdict(row).values()] for row in rows)]
    write_atomically(path, "".join(",".join(line) + "\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["draw", "show", "judge"])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--rows", nargs=2, type=int, default=[0, 25])
    parser.add_argument("--label", choices=sorted(DRAWN), help="draw of these queries only")
    parser.add_argument("--languages", nargs="+", help="draw of these only")
    parser.add_argument("--halves", nargs="+", choices=HALVES, default=HALVES, help="of the rows that are drawn")
    args = parser.parse_args()
    replies = found(args.folders)
    rows = read_labels() if LABELS.exists() else []
    if args.what == "draw":
        known = {(row.reply, row.side) for row in rows}
        wanted = sorted(DRAWN) if args.label is None else [args.label]
        new = [one for name, one in replies.items() if name not in known and one.item.query.label in wanted]
        if args.languages is not None:
            new = [one for one in new if one.item.query.language in args.languages]
        write_labels([*rows, *draw(new, str(1 + max((int(row.batch) for row in rows), default=-1)), args.halves)])
        return
    if args.what == "show":
        for number, row in enumerate(rows[slice(*args.rows)], args.rows[0]):
            item = replies[row.reply, row.side].item
            print(f"=== {number} {row.language} {row.label}\n{item.query.source_text} | {item.query.text}")
            print(f"--> {item.completion}\n")
        return
    there = [row for row in rows if (row.reply, row.side) in replies]
    verdicts = LexiconJudge().judge([replies[row.reply, row.side].item for row in there])
    said = {row.reply: str(verdict.outcome) for row, verdict in zip(there, verdicts, strict=True)}
    write_labels([replace(row, verdict=said.get(row.reply, row.verdict)) for row in rows])


if __name__ == "__main__":
    main()
