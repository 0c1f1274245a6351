"""The command line: demo, validate, generate; other files have the rest."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosslign import __version__
from crosslign.cli import evaluate as cli_eval
from crosslign.cli import train as cli_train
from crosslign.cli.common import (
    comma_list,
    loading_arguments,
    pairs,
    quiet_libraries,
    sampling_arguments,
    sampling_parameters,
    say,
)
from crosslign.types import CrosslignError

VALIDATE_EPILOG = """\
A query table has one column a language (en, zh, sw, ...) and optionally id, category and label
(harmful, benign, unlabelled). Names that differ are mapped:

  crosslign validate queries.csv
  crosslign validate prompts.jsonl --columns en=prompt,zh=prompt_zh --languages zh
  crosslign validate DAMO-NLP-SG/MultiJail --split train          a hub dataset
"""
GENERATE_EPILOG = """\
  crosslign generate --model Qwen/Qwen2.5-7B-Instruct --table queries.csv --languages bn,sw --out before.jsonl
  crosslign generate --model Qwen/Qwen2.5-7B-Instruct --adapter runs/msd --table queries.csv --out after.jsonl
  crosslign generate --model MODEL --table queries.csv --context teacher --template dialogue --out teacher.jsonl

An interrupted call continues where it stopped. Look at the teacher's completions before training: training moves the
student to the teacher, wherever the teacher is.
"""

DEMO_EPILOG = """\
No download, no GPU: a language model of 1.2M parameters is trained on the spot from synthetic text so that it refuses
harmful requests in English and complies with them in four low-resource languages (about two minutes, once; it is
kept in the user's cache). Then crosslign aligns it by the same code as any other model, and an exact judge counts.

  crosslign demo
  crosslign demo --seed 3 --steps 100 --out runs/demo-3

--out gets report.md, results.json (both explained in docs/testbed.md), the query tables, in model/ all that a training
run writes, and in evaluation/ what crosslign eval and compare write: compared/report.html shows every answer.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 fine, 1 an error that the message explains, 130 interrupted."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if not sys.stderr.isatty():
        # tqdm reads this when it is first imported, so it also quiets the bars of the libraries.
        os.environ.setdefault("TQDM_DISABLE", "1")
    logging.basicConfig(level=logging.INFO if arguments.verbose else logging.WARNING, format="%(message)s")
    try:
        if arguments.command not in ("probe", "train") and rest:
            parser.error(f"unrecognised arguments: {' '.join(rest)}")
        return int(arguments.run(arguments, rest))
    except CrosslignError as error:
        print(f"crosslign: {error}", file=sys.stderr)
        return 130 if str(error).startswith("interrupted") else 1
    except KeyboardInterrupt:
        print("crosslign: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crosslign",
        description="Make an open LLM as safe in every language as it already is in English, by Multilingual "
        "Self-Distillation: queries in, no responses needed.",
        epilog="Start with `crosslign demo`, then `crosslign validate YOUR_TABLE` and `crosslign train RECIPE`.",
    )
    parser.add_argument("--version", action="version", version=f"crosslign {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more on standard error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    raw = argparse.RawDescriptionHelpFormatter

    demo = commands.add_parser(
        "demo",
        help="see the method work on a model made on the spot",
        formatter_class=raw,
        epilog=DEMO_EPILOG,
        description="Make a tiny model with a cross-lingual safety gap, align it, and show what changed.",
    )
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="draws languages, model, queries (default: 0)")
    demo.add_argument("--steps", type=int, metavar="N", help="alignment steps (default: the testbed's)")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: runs/demo")
    demo.add_argument("--overwrite", action="store_true", help="replace the demo in --out")
    demo.set_defaults(run=_demo)

    cli_train.add_commands(commands)

    validate = commands.add_parser(
        "validate",
        help="check a query table",
        formatter_class=raw,
        epilog=VALIDATE_EPILOG,
        description="Check a query table and summarise it. Exit code 1 if it has errors.",
    )
    validate.add_argument("table", help="CSV, TSV, JSONL or Parquet file, hub dataset id, or builtin:demo")
    _table_arguments(validate)
    validate.add_argument("--strict", action="store_true", help="count warnings as errors")
    validate.set_defaults(run=_validate)

    generate = commands.add_parser(
        "generate",
        help="completions of a model for a query table",
        formatter_class=raw,
        epilog=GENERATE_EPILOG,
        description="Complete every query of a table and write JSONL: id, language, query, completion, truncated, ...",
    )
    generate.add_argument("--model", required=True, help="hub id, folder or .gguf file")
    generate.add_argument("--adapter", help="folder of a finished LoRA run")
    generate.add_argument("--table", required=True, help="query table, as for validate")
    _table_arguments(generate)
    generate.add_argument("--out", required=True, type=Path, help="JSONL file to write")
    generate.add_argument("--overwrite", action="store_true", help="replace the file instead of continuing it")
    generate.add_argument(
        "--context",
        choices=("student", "teacher"),
        default="student",
        help="complete what a user sends, or the teacher's context (default: student)",
    )
    generate.add_argument("--template", default="instruct", help="teacher template: instruct, judged, dialogue, a file")
    generate.add_argument("--max-judgement-length", type=int, default=128, metavar="N")
    sampling_arguments(generate)
    loading_arguments(generate)
    generate.set_defaults(run=_generate)

    cli_eval.add_commands(commands)
    return parser


def _table_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--languages", type=comma_list, metavar="en,zh,...", help="languages to read (default: all columns)"
    )
    parser.add_argument("--source-language", default="en", help="the language safety is judged in (default: en)")
    parser.add_argument("--columns", type=pairs, default={}, metavar="en=prompt,...", help="columns of other names")
    parser.add_argument("--where", type=pairs, default={}, metavar="column=value", help="only rows with this value")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave out the first N rows")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N rows")
    parser.add_argument("--split", default="train", help="hub datasets: split")
    parser.add_argument("--revision", help="hub datasets: revision")


def _table_spec(arguments: argparse.Namespace, path: str) -> Any:
    from crosslign.data.load import TableSpec

    return TableSpec(
        path,
        columns=arguments.columns,
        where={c: [v] for c, v in arguments.where.items()},
        skip=arguments.skip,
        limit=arguments.limit,
        split=arguments.split,
        revision=arguments.revision,
    )


def _demo(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from crosslign.testbed.cache import BaseSpec
    from crosslign.testbed.demo import check_range, run_demo
    from crosslign.testbed.experiment import Alignment
    from crosslign.testbed.world import World

    alignment = Alignment() if arguments.steps is None else Alignment(steps=arguments.steps)
    check_range(arguments.seed, alignment.steps)
    quiet_libraries(arguments.verbose)
    spec = BaseSpec(World(seed=arguments.seed))
    print(run_demo(spec, alignment, arguments.out, overwrite=arguments.overwrite, announce=say))
    return 0


def _validate(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from crosslign.data.load import load_table, summarise
    from crosslign.languages import english_name

    spec = _table_spec(arguments, arguments.table)
    table, problems = load_table(spec, arguments.source_language, arguments.languages)
    shown = 50
    for problem in problems[:shown]:
        print(problem)
    if len(problems) > shown:
        print(f"... and {len(problems) - shown} more problems")
    errors = sum(p.severity == "error" for p in problems)
    warnings = len(problems) - errors
    if table is not None:
        summary = summarise(table)
        print(f"{arguments.table}: {summary['rows']} rows, {len(summary['languages'])} languages")
        print("labels:     " + ", ".join(f"{k} {v}" for k, v in summary["labels"].items()))
        print("categories: " + ", ".join(f"{k} {v}" for k, v in summary["categories"].items()))
        print(f"\n{'language':<26}{'texts':>7}   characters: {'5%':>5}{'median':>8}{'95%':>7}{'max':>7}")
        for code, row in summary["languages"].items():
            name = f"{code} ({english_name(code)})"
            print(f"{name:<26}{row['texts']:>7}{'':>15}{row['p5']:>5}{row['p50']:>8}{row['p95']:>7}{row['max']:>7}")
        print()
    print(f"{errors} errors, {warnings} warnings")
    return 1 if errors or (arguments.strict and warnings) else 0


def _generate(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from crosslign.contexts import STUDENT_MESSAGES, ContextBuilder, RoleContext, load_teacher_template
    from crosslign.data.load import require_table
    from crosslign.models import ModelSource
    from crosslign.runs.generate import GenerateRequest, generate

    quiet_libraries(arguments.verbose)
    template = load_teacher_template(arguments.template)
    table = require_table(_table_spec(arguments, arguments.table), arguments.source_language, arguments.languages)
    options = {"enable_thinking": arguments.thinking}
    request = GenerateRequest(
        ModelSource(
            arguments.model,
            chat_template=arguments.chat_template,
            dtype=arguments.dtype,
            trust_remote_code=arguments.trust_remote_code,
        ),
        arguments.adapter,
        table.languages,
        arguments.out,
        sampling_parameters(arguments),
        arguments.context,
        arguments.batch_size,
        arguments.seed,
        arguments.overwrite,
    )

    def contexts(tokenizer: Any) -> ContextBuilder:
        return ContextBuilder(
            tokenizer,
            RoleContext(STUDENT_MESSAGES, arguments.max_length, options),
            RoleContext(template.messages, arguments.max_length, options),
            template,
            arguments.max_judgement_length,
        )

    described: dict[str, Any] = {"thinking": arguments.thinking, "max_length": arguments.max_length}
    if arguments.context == "teacher":
        described["template"] = [[m.role, m.content] for m in (*template.judgement_messages, *template.messages)]
        described["max_judgement_length"] = arguments.max_judgement_length
    count = generate(request, [table], contexts, described, say)
    say(f"{count} completions in {arguments.out}")
    return 0

