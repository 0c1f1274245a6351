"""The commands that give a finished run to others: card, merge and push."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosslign.cli.common import quiet_libraries, say, show

CARD_EPILOG = """\
  crosslign card runs/msd                               with the evaluations that the run has made itself
  crosslign card runs/msd --evaluation runs/compared    with those of crosslign eval or compare

Every finished run has a card already. RUN may be runs/msd/best, the best checkpoint.
"""
MERGE_EPILOG = """\
  crosslign merge runs/msd --out merged

The sum is computed in float32 and rounded once, to the base model's own type or to --dtype. The base is only read, one
file of it at a time. That it is the one the adapter was trained on is proved by the fingerprint in run.json.
"""
PUSH_EPILOG = """\
  crosslign push runs/msd OWNER/NAME --dry-run      list the files, ask nobody
  crosslign push runs/msd OWNER/NAME                a private repository
  crosslign push merged OWNER/NAME                  a merged model

Sent are weights, configuration, tokenizer, card, recipe and the numbers of evaluations; never a completion. The token
comes from HF_TOKEN or from `hf auth login`.
"""


def add_commands(commands: Any) -> None:
    """Add card, merge and push to the parser's commands."""
    raw = argparse.RawDescriptionHelpFormatter
    card = commands.add_parser(
        "card",
        help="write the model card of a finished run",
        formatter_class=raw,
        epilog=CARD_EPILOG,
        description="Write README.md, the model card, into the folder of a finished run.",
    )
    card.add_argument("run_folder", type=Path, metavar="RUN", help="output_dir of a finished run, or best/ in it")
    card.add_argument("--evaluation", type=Path, metavar="DIR", help="folder of crosslign eval or compare")
    card.add_argument("--overwrite", action="store_true", help="replace a card that somebody has changed")
    card.set_defaults(run=_card)

    merge = commands.add_parser(
        "merge",
        help="write a run's adapter into its base model",
        formatter_class=raw,
        epilog=MERGE_EPILOG,
        description="Write base model and adapter of a finished LoRA run as one ordinary model.",
    )
    merge.add_argument("run_folder", type=Path, metavar="RUN", help="output_dir of a finished LoRA run, or best/ in it")
    merge.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the merged model")
    merge.add_argument("--base", metavar="MODEL", help="where the base model is now (default: as the run had it)")
    merge.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="type of the weights (default: the base model's own)",
    )
    merge.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the base model")
    merge.add_argument("--overwrite", action="store_true", help="replace the merged model in --out")
    merge.set_defaults(run=_merge)

    push = commands.add_parser(
        "push",
        help="send a run's adapter or model to the Hugging Face hub",
        formatter_class=raw,
        epilog=PUSH_EPILOG,
        description="Send the files of a finished run, or of a merged model, to a repository on the hub.",
    )
    push.add_argument("run_folder", type=Path, metavar="RUN", help="output_dir of a finished run, or a merged model")
    push.add_argument("repo", metavar="REPO", help="OWNER/NAME; it is made if it is not there")
    push.add_argument("--dry-run", action="store_true", help="list the files and stop; nothing is sent")
    push.add_argument("--public", action="store_true", help="let all see it (default: private)")
    push.add_argument("--overwrite", action="store_true", help="go on where the repository holds files already")
    push.set_defaults(run=_push)


def _card(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from crosslign.runs.sharing.card import write_card
    from crosslign.runs.sharing.evidence import given_evaluation, own_evaluation
    from crosslign.runs.sharing.finished import read_finished

    quiet_libraries(arguments.verbose)
    run = read_finished(arguments.run_folder)
    given = arguments.evaluation
    results = own_evaluation(run) if given is None else given_evaluation(run, given, say)
    show(f"card  {write_card(run, results, overwrite=arguments.overwrite)}")
    return 0


def _merge(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from crosslign.runs.sharing.finished import read_finished
    from crosslign.runs.sharing.merge import merge

    quiet_libraries(arguments.verbose)
    a = arguments
    run = read_finished(a.run_folder)
    flags = {name: getattr(a, name) for name in ("base", "dtype", "trust_remote_code", "overwrite")}
    merged = merge(run, a.out, **flags, announce=say)
    show(f"model {a.out}, {merged.dtype}; rounding took {100 * merged.rounding:.2f} % of the adapter's change")
    return 0


def _push(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from crosslign.evaluation.tables import aligned
    from crosslign.runs.sharing.push import check_repo, listing, push, shared_files

    quiet_libraries(arguments.verbose)
    a = arguments
    if a.dry_run:
        check_repo(a.repo)
        rows = [("file", "bytes"), *listing(shared_files(a.run_folder))]
        show(f"{aligned(rows)}\n\nNothing was sent to {a.repo}.")
        return 0
    show(f"model {push(a.run_folder, a.repo, public=a.public, overwrite=a.overwrite, announce=say)}")
    return 0
