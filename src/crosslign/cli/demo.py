"""The command demo."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosslign.cli.common import quiet_libraries, say, show, whole
from crosslign.types import MAX_SEED

DEMO_EPILOG = """\
No download, no GPU: a language model of 1.2M parameters is trained on the spot from synthetic text so that it refuses
harmful requests in English and complies with them in four low-resource languages (about two minutes, once; it is
kept in the user's cache). Then crosslign aligns it by the same code as any other model, and an exact judge counts.

  crosslign demo
  crosslign demo --seed 3 --steps 100 --out runs/demo-3

--out gets report.txt, results.json (both explained in docs/testbed.md), the query tables, in model/ all that a training
run writes, and in evaluation/ what crosslign eval and compare write: compared/report.html shows every answer.
"""


def add_commands(commands: Any) -> None:
    """Add demo to the parser's commands."""
    demo = commands.add_parser(
        "demo",
        help="see the method work on a model made on the spot",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=DEMO_EPILOG,
        description="Make a tiny model with a cross-lingual safety gap, align it, and show what changed.",
    )
    demo.add_argument(
        "--seed", type=whole(0, MAX_SEED), default=0, metavar="N", help="draws languages, model, queries (default: 0)"
    )
    demo.add_argument("--steps", type=whole(1, 100_000), metavar="N", help="alignment steps (default: the testbed's)")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: runs/demo")
    demo.add_argument("--overwrite", action="store_true", help="replace the demo in --out")
    demo.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from crosslign.testbed.cache import BaseSpec
    from crosslign.testbed.demo import run_demo
    from crosslign.testbed.experiment import Alignment
    from crosslign.testbed.world import World

    alignment = Alignment() if arguments.steps is None else Alignment(steps=arguments.steps)
    quiet_libraries(arguments.verbose)
    spec = BaseSpec(World(seed=arguments.seed))
    show(run_demo(spec, alignment, arguments.out, overwrite=arguments.overwrite, announce=say))
    return 0
