"""The command bench."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from crosslign.cli.common import quiet_libraries, say, show
from crosslign.types import CrosslignError

BENCH_EPILOG = """\
  crosslign bench bench.yaml --plan            which cells there are; check all that can be checked here
  crosslign bench bench.yaml                   make them one after the other, then the tables
  crosslign bench bench.yaml --tables          the tables of the cells that are finished; needs no model
  crosslign bench bench.yaml --seeds '[0, 1]'  keys of the file are flags, as those of a recipe are for train

A bench file:

  recipe: recipes/qwen3_8b.yaml                what all share; a file or its sections
  models: {qwen3-8b: Qwen/Qwen3-8B}            name: hub id or folder, or changes to the recipe
  methods:                                     name: changes to the recipe, or what is done without training
    msd: {}
    sft: {method: sft}
    prompt: {context: teacher, template: system}
    steer: {steer: {scale: 1}}
  seeds: [0, 1, 2]
  tasks: [multijail, "table:benign:harmless.csv"]
  languages: [en, zh, bn, sw, jv]
  trained: [en, zh, bn]                        the others are unseen
  judge: qwen3guard
  reference: msd
  out: runs/bench

A cell is a model, a method and a seed, in a folder of its own under out/cells, made by what train and eval do. The same
command goes on where it stopped, and tries cells again that have failed; a failed one does not stop the others. Several
GPUs, or a SLURM array: one process each, on the same folder,

  CUDA_VISIBLE_DEVICES=0 crosslign bench bench.yaml --shard 0/4     and so on to 3/4
  crosslign bench bench.yaml --shard $SLURM_ARRAY_TASK_ID/4         with sbatch --array=0-3

out gets tables.html, tables.md, tables.tex and numbers.csv. It ends with 1 if a cell has failed. See docs/bench.md.
"""


def add_commands(commands: Any) -> None:
    """Add bench to the parser's commands."""
    bench = commands.add_parser(
        "bench",
        help="models x methods x seeds, measured alike, and the tables",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=BENCH_EPILOG,
        allow_abbrev=False,
        description="Train and measure models by several methods on the same queries with the same judge, and compare "
        "them.",
    )
    bench.add_argument("file", metavar="BENCH.yaml", help="see below, docs/bench.md and benchmarks/paper.yaml")
    what = bench.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="list the cells, check what can be checked, make nothing")
    what.add_argument("--tables", action="store_true", help="write the tables of the finished cells, make no cell")
    bench.add_argument("--shard", metavar="I/N", help="make every N-th cell from the I-th, counted from 0")
    bench.add_argument("--overwrite", action="store_true", help="make cells anew that were made with other settings")
    bench.set_defaults(run=_bench)


def _bench(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    import crosslign.testbed.registered  # noqa: F401  its judge, by the name testbed
    from crosslign.runs.bench.bench import only_tables, plan, run_bench
    from crosslign.runs.bench.config import load_bench

    quiet_libraries(arguments.verbose)
    bench = load_bench(arguments.file, rest)
    if arguments.plan:
        show(plan(bench, shard=arguments.shard, overwrite=arguments.overwrite))
        return 0
    if arguments.tables:
        if arguments.shard is not None:
            raise CrosslignError("--shard: the tables are of all cells. Leave it out.")
        show(f"tables  {only_tables(bench, say)}")
        return 0
    made = run_bench(bench, say, shard=arguments.shard, overwrite=arguments.overwrite)
    show(made.said)
    if made.page is not None:
        show(f"tables  {made.page}")
    return 1 if made.counts["failed"] else 0
