"""The testbed as files, for `crosslign bench benchmarks/testbed.yaml`: `python -m benchmarks.testbed --seeds 5`.

Of each seed the pretrained model, the tables that alignment trains on, further tables that a method may train on, and
one table for each evaluation set; and for all seeds the recipe and the teacher's template, in which {seed} stands for
the seed. The further tables hold the same requests as the first one:

- unseen.csv: its harmless rows in the unseen languages;
- switched.csv: in the trained languages, three words of ten said in another of them (code-switching);
- translated.csv: in the unseen languages, as a bad translator says them: one word of ten is another word;
- wrapped.csv: in the trained languages, in one of two wrappers; harder_known.csv and harder_new.csv are the rows of
  harder.csv in these two wrappers and in the other two, harmless_known.csv and harmless_new.csv those of benign.csv and
  lookalike.csv;
- mispaired.csv: in the trained languages, one row of five beside the English text of another row; shifted.csv: all.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from crosslign.runs.recipe import dump
from crosslign.storage import write_atomically
from crosslign.testbed.cache import BaseSpec, base_model
from crosslign.testbed.experiment import TEACHER_TEMPLATE, Alignment, alignment_config
from crosslign.testbed.tables import SETS, Row, Tables, TableSizes
from crosslign.testbed.world import WRAPPERS, World

OUT = Path("runs/testbed")
SWITCHED = 0.3  # share of a request's words that are said in another language
WRAPPERS_KNOWN = 2  # of the world's, those of wrapped.csv
WRONG = 0.1  # share of a translation's words that are wrong
MISPAIRED = 0.2  # share of rows with the English text of another row, in mispaired.csv
Rewording = Callable[[str, str], str]  # English word and its language -> the word that stands there


def write_world(world: World, out: Path, alignment: Alignment, sizes: TableSizes) -> str:
    """One world's files, in `out/SEED`; returns the recipe."""
    folder = out / str(world.seed)
    tables = Tables(world, sizes)
    model = folder / "base"
    made = base_model(BaseSpec(world), announce=print)
    shutil.rmtree(model, ignore_errors=True)  # not written over: a process may have the weights mapped into memory
    shutil.copytree(made, model)
    for name in SETS:
        tables.write(folder / f"{name}.csv", tables.evaluation[name], world.codes())
    harmless = [row for row in tables.targets if row.request.concept.label == "benign"]
    tables.write(folder / "unseen.csv", renamed("unseen", harmless), world.codes("en", "unseen"))
    low, unseen = world.codes("en", "low"), world.codes("en", "unseen")
    reworded(folder / "switched.csv", world, renamed("switched", tables.targets), low, switching(world, low))
    reworded(folder / "translated.csv", world, renamed("translated", tables.targets), unseen, mistaking(world))
    config = alignment_config(model, tables, folder, alignment)
    tables.write(folder / "wrapped.csv", wrapped(world, tables.targets), low)
    write_stories(world, tables, folder)
    for file, share in (("mispaired.csv", MISPAIRED), ("shifted.csv", 1.0)):
        mispaired(folder / file, folder / "targets.csv", world.seed, share)
    return dump(config).replace(str(folder), str(out / "{seed}"))


def write_stories(world: World, tables: Tables, folder: Path) -> None:
    """Harmful and harmless requests in the wrappers of wrapped.csv, and in the other two."""
    harmless = [row for name in ("benign", "lookalike") for row in tables.evaluation[name]]
    sets = {"harder": tables.evaluation["harder"], "harmless": wrapped(world, harmless, len(WRAPPERS))}
    for name, rows in sets.items():
        for part, wanted in (("known", True), ("new", False)):
            tables.write(folder / f"{name}_{part}.csv", [r for r in rows if is_known(r) is wanted], world.codes())


def renamed(prefix: str, rows: Sequence[Row]) -> list[Row]:
    return [replace(row, id=f"{prefix}-{row.id}") for row in rows]


def wrapped(world: World, rows: Sequence[Row], wrappers: int = WRAPPERS_KNOWN) -> list[Row]:
    """These requests, each in one of the first so many wrappers."""
    rng = random.Random(f"wrapped {world.seed}")
    return [Row(f"wrapped-{row.id}", replace(row.request, wrapper=rng.randrange(wrappers))) for row in rows]


def is_known(row: Row) -> bool:
    return row.request.wrapper is not None and row.request.wrapper < WRAPPERS_KNOWN


def switching(world: World, codes: Sequence[str]) -> Rewording:
    rng = random.Random(f"switched {world.seed}")

    def say(word: str, code: str) -> str:
        other = rng.choice([one for one in codes if one != code]) if rng.random() < SWITCHED else code
        return world.languages[other].words.get(word, word)

    return say


def mistaking(world: World) -> Rewording:
    rng = random.Random(f"translated {world.seed}")

    def say(word: str, code: str) -> str:
        words = world.languages[code].words
        return rng.choice(list(words.values())) if rng.random() < WRONG else words.get(word, word)

    return say


def reworded(path: Path, world: World, rows: Sequence[Row], codes: Sequence[str], say: Rewording) -> None:
    """A query table of these rows, word for word by `say`; English, the first language, stays as it is."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["id", "label", "category", *codes])
    for row in rows:
        concept = row.request.concept
        texts = [world.query(row.request, codes[0])]
        for code in codes[1:]:
            words = world.languages[code].gloss(world.query(row.request, code)).split()
            texts.append(" ".join(say(word, code) for word in words))
        writer.writerow([row.id, concept.label, concept.category, *texts])
    write_atomically(path, text.getvalue())


def mispaired(path: Path, table: Path, seed: int, share: float) -> None:
    """The table with the English texts of a share of its rows, drawn at random, passed round among these rows."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = random.Random(f"mispaired {seed}").sample(range(len(rows)), round(share * len(rows)))
    english = [rows[i]["en"] for i in chosen]
    for i, text in zip(chosen, [*english[1:], english[0]], strict=True):
        rows[i]["en"] = text
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, out.getvalue())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.testbed", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N-1 (default: 5)")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="alignment steps (default: 400)")
    parser.add_argument(
        "--polite", action="store_true", help="replies three times as long; OUT then has a name of its own"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"default: {OUT}, or {OUT}-polite")
    arguments = parser.parse_args(argv)
    out = arguments.out or (OUT.with_name(f"{OUT.name}-polite") if arguments.polite else OUT)
    recipes = [
        write_world(World(seed=seed, polite=arguments.polite), out, Alignment(steps=arguments.steps), TableSizes())
        for seed in range(arguments.seeds)
    ]
    write_atomically(out / "recipe.yaml", recipes[0])
    write_atomically(out / "teacher.yaml", yaml.safe_dump(TEACHER_TEMPLATE, sort_keys=False))
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
