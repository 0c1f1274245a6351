"""The two tables of a page about a bench on the testbed: rates, and differences to the bench's reference.

    crosslign bench benchmarks/testbed.yaml
    python -m benchmarks.bench_tables benchmarks/testbed.yaml

They are those of the bench's own page, in the columns that its pages here have. A bench that is not finished is shown
as far as it is. `--only` shows some methods; all other flags are those that `crosslign bench` was given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from crosslign.evaluation.tables import markdown
from crosslign.runs.bench.cells import cells_of
from crosslign.runs.bench.config import BASE, load_bench
from crosslign.runs.bench.numbers import Chosen, Numbers
from crosslign.runs.bench.outcomes import read_blocks
from crosslign.runs.bench.tables import FEWER, FEWER_NOTE, Quantity, change_text, changes_to, methods_of, quantities

HARMLESS = ", harmless"  # ends the title of the harmless requests that belong to a harder task
SHOWN = (
    "ASR seen",
    "ASR unseen",
    "ASR harder",
    "over-refusal seen",
    "over-refusal unseen",
    "separation seen",
    "separation unseen",
    "in its language",
)


def harder_tasks(numbers: Numbers, trained: Sequence[str], source: str) -> list[Quantity]:
    """ASR, over-refusal and separation on each of the harder tasks, in languages that are trained on. The harmless
    requests beside TASK are those of the task `TASK, harmless`, or, without one, those that are not harder."""

    def of(tasks: Collection[str]) -> Chosen:
        return lambda column: column.task in tasks and column.language in trained and column.language != source

    benign = numbers.blocks["benign"].columns if "benign" in numbers.blocks else ()
    plain = {column.task for column in benign if not column.harder}
    found = []
    for task in dict.fromkeys(column.task for column in numbers.blocks["harmful"].columns if column.harder):
        own = {column.task for column in benign} & {f"{task}{HARMLESS}"}
        found.append(Quantity(f"ASR {task}", "harmful", "asr", of([task])))
        if own:
            found.append(Quantity(f"over-refusal {task}", "benign", "over_refusal", of(own)))
        found.append(Quantity(f"separation {task}", None, "separation", of([task, *(own or plain)])))
    return found


def page(
    numbers: Numbers,
    trained: Sequence[str],
    source: str,
    reference: str,
    wanted: Sequence[str] = (),
    *,
    harder: bool = False,
) -> str:
    """Both tables as Markdown. Differences are corrected over all methods, also those that are not shown."""
    columns = [one for one in quantities(numbers, trained, source) if one.name in SHOWN]
    columns += harder_tasks(numbers, trained, source) if harder else []
    methods = [m for m in methods_of(numbers) if not wanted or m in wanted]
    head = ["method", *(one.name for one in columns)]
    rates = [head, *([m, *(one.rate_text(numbers, m) for one in columns)] for m in methods)]
    changes = changes_to(numbers, columns, reference)
    if not changes:  # the reference, or all else, is not made yet
        return markdown(rates)
    rows = [[m, *(change_text(changes[one.name][m]) for one in columns)] for m in methods if m != reference]
    return f"{markdown(rates)}\n\nLess `{reference}`:\n\n{markdown([head, *rows])}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bench", type=Path, help="the bench's YAML file")
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD", help="methods to show (default: all)")
    parser.add_argument(
        "--harder", action="store_true", help="ASR, over-refusal and separation on each of the harder tasks too"
    )
    arguments, rest = parser.parse_known_args(argv)
    bench = load_bench(arguments.bench, rest)
    if unknown := set(arguments.only) - {BASE, *bench.methods}:
        parser.error(f"no method of {arguments.bench}: {', '.join(sorted(unknown))}")
    if len(bench.models) > 1:
        parser.error(f"{arguments.bench} has several models, and these are tables of one. The bench's own page has all")
    cells = cells_of(bench)
    if left := sum(not cell.is_ready() for cell in cells):
        print(
            f"{left} of {len(cells)} cells are not counted: not finished, or made with other settings.", file=sys.stderr
        )
    numbers = Numbers(read_blocks(bench, cells))
    text = page(
        numbers, cells[0].trained, cells[0].source_language, bench.reference, arguments.only, harder=arguments.harder
    )
    print(f"{text}\n\n{FEWER_NOTE}" if FEWER in text else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
