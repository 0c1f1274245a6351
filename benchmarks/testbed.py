"""The testbed as files, for `crosslign bench benchmarks/testbed.yaml`: `python -m benchmarks.testbed --seeds 5`.

Of each seed the pretrained model, the tables that alignment trains on, harmless rows of them in the unseen languages,
and one table for each evaluation set; and for all seeds the recipe and the teacher's template, in which {seed} stands
for the seed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from crosslign.runs.recipe import dump
from crosslign.storage import write_atomically
from crosslign.testbed.cache import BaseSpec, base_model
from crosslign.testbed.experiment import TEACHER_TEMPLATE, Alignment, alignment_config
from crosslign.testbed.tables import SETS, Tables, TableSizes
from crosslign.testbed.world import World

OUT = Path("runs/testbed")
UNSEEN = "unseen.csv"  # harmless rows alone, in the languages that alignment does not see


def write_world(seed: int, out: Path, alignment: Alignment, sizes: TableSizes) -> str:
    """One seed's files, in `out/SEED`; returns the recipe."""
    world, folder = World(seed=seed), out / str(seed)
    tables = Tables(world, sizes)
    model = folder / "base"
    shutil.copytree(base_model(BaseSpec(world), announce=print), model, dirs_exist_ok=True)
    for name in SETS:
        tables.write(folder / f"{name}.csv", tables.evaluation[name], world.codes())
    harmless = [replace(row, id=f"unseen-{row.id}") for row in tables.targets if row.request.concept.label == "benign"]
    tables.write(folder / UNSEEN, harmless, world.codes("en", "unseen"))
    config = alignment_config(model, tables, folder, alignment)
    return dump(config).replace(str(folder), str(out / "{seed}"))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.testbed", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N-1 (default: 5)")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="alignment steps (default: 400)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"default: {OUT}")
    arguments = parser.parse_args(argv)
    recipes = [
        write_world(seed, arguments.out, Alignment(steps=arguments.steps), TableSizes())
        for seed in range(arguments.seeds)
    ]
    write_atomically(arguments.out / "recipe.yaml", recipes[0])
    write_atomically(arguments.out / "teacher.yaml", yaml.safe_dump(TEACHER_TEMPLATE, sort_keys=False))
    print(f"written: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
