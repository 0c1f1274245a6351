"""The command align."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosslign.cli.common import comma_list, quiet_libraries, say, show, whole

ALIGN_EPILOG = """\
  crosslign align Qwen/Qwen2.5-7B-Instruct --languages sw,bn --queries my_queries.csv --out runs/align
  crosslign align MODEL --languages sw,jv --queries english.csv --translator seq2seq --hours 2 --out runs/align
  crosslign align MODEL --languages sw --queries queries.csv --judge qwen3guard --training.max_steps 40 --out DIR

Stages: queries, before, teacher, plan, train, after, card. Each says what it has decided and which flag overrules it.
The same command goes on after an interruption. Every key of a recipe is a flag, as for train (crosslign train --help).
It ends with 0 if all is well, or if no language has a gap to English; with 1 if the teacher does not help, or if in
the end no language is safer, one is less safe, or too many harmless requests are refused. Everything that was made is
kept. See docs/align.md.
"""


def add_commands(commands: Any) -> None:
    """Add align to the parser's commands."""
    align = commands.add_parser(
        "align",
        help="all of it: measure, look at the teacher, train, measure again",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=ALIGN_EPILOG,
        allow_abbrev=False,
        description="Make a model as safe in some languages as it is in English, with the evidence.",
    )
    align.add_argument("model", metavar="MODEL", help="hub id, folder or .gguf file")
    align.add_argument("--languages", required=True, type=comma_list, metavar="sw,jv,...", help="to align in")
    align.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of all that is made")
    align.add_argument("--hours", type=float, metavar="N", help="time to train and evaluate in (default: 160 steps)")
    align.add_argument("--skip", type=comma_list, action="extend", default=[], metavar="STAGE,...", help="leave it out")
    align.add_argument("--overwrite", action="store_true", help="make stages anew that had other settings")
    group = align.add_argument_group("queries")
    group.add_argument(
        "--queries", default="builtin:demo", metavar="TABLE", help="harmful queries: a table (default: builtin:demo)"
    )
    group.add_argument(
        "--benign", default="builtin:benign", metavar="TABLE", help="harmless queries (default: builtin:benign)"
    )
    group.add_argument("--translator", metavar="NAME[:WHAT]", help="for languages that a table lacks; see translate")
    group.add_argument("--translator-url", metavar="URL", help="of the translator endpoint")
    group.add_argument("--holdout", type=float, default=1 / 3, metavar="SHARE", help="to measure with (default: 1/3)")
    group = align.add_argument_group("decisions")
    group.add_argument("--judge", type=comma_list, default=["lexicon"], metavar="JUDGE", help="one, as for eval")
    group.add_argument("--judge-url", metavar="URL", help="endpoint of an llm judge")
    group.add_argument("--min-gap", type=float, default=5.0, metavar="POINTS", help="see before (default: 5)")
    group.add_argument(
        "--max-over-refusal-rise", type=float, default=5.0, metavar="POINTS", help="above the base model's (default: 5)"
    )
    group.add_argument(
        "--probe-queries", type=whole(1), default=20, metavar="N", help="that templates are tried on (default: 20)"
    )
    align.set_defaults(run=_align)


def _align(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from crosslign.evaluation.result_tables import terminal
    from crosslign.runs.align.queries import Wanted
    from crosslign.runs.align.stages import AlignRequest, align

    quiet_libraries(arguments.verbose)
    a = arguments
    wanted = Wanted(tuple(a.languages), a.queries, a.benign, a.translator, a.translator_url, a.holdout)
    request = AlignRequest(
        a.model,
        wanted,
        a.out,
        a.hours,
        a.min_gap,
        a.max_over_refusal_rise,
        a.probe_queries,
        {"names": a.judge, "url": a.judge_url},
        tuple(rest),
        tuple(a.skip),
        a.overwrite,
    )
    outcome = align(request, say)
    if outcome.results is not None:
        show(f"{terminal(outcome.results)}\n\nreport  {a.out / 'compared' / 'report.html'}")
    (show if outcome.code == 0 else say)(outcome.said)
    return outcome.code
