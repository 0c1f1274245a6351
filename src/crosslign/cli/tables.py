"""The commands on query tables: validate and generate."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosslign.cli.common import (
    comma_list,
    context_arguments,
    loading_arguments,
    model_source,
    pairs,
    quiet_libraries,
    sampling_arguments,
    sampling_parameters,
    say,
    show,
    whole,
)
from crosslign.untrusted import shown

# Flags that are fields of GenerateRequest.
REQUEST = ("context", "template", "max_length", "max_judgement_length", "thinking", "batch_size", "seed", "overwrite")

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


def add_commands(commands: Any) -> None:
    """Add validate and generate to the parser's commands."""
    raw = argparse.RawDescriptionHelpFormatter
    validate = commands.add_parser(
        "validate",
        help="check a query table",
        formatter_class=raw,
        epilog=VALIDATE_EPILOG,
        description="Check a query table and summarise it. Exit code 1 if it has errors.",
    )
    validate.add_argument(
        "table", help="CSV, TSV, JSONL, Parquet or Excel file, hub dataset id, or a table that ships (builtin:demo)"
    )
    _languages_argument(validate)
    table_arguments(validate)
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
    _languages_argument(generate)
    table_arguments(generate)
    generate.add_argument("--out", required=True, type=Path, help="JSONL file to write")
    generate.add_argument("--overwrite", action="store_true", help="replace the file instead of continuing it")
    context_arguments(generate)
    sampling_arguments(generate)
    loading_arguments(generate)
    generate.set_defaults(run=_generate)


def _languages_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--languages", type=comma_list, metavar="en,zh,...", help="languages to read (default: all columns)"
    )


def table_arguments(parser: Any) -> None:
    """Which rows and columns of the table `arguments.table` are read; `table_spec` reads them."""
    parser.add_argument("--source-language", default="en", help="the language safety is judged in (default: en)")
    parser.add_argument("--columns", type=pairs, default={}, metavar="en=prompt,...", help="columns of other names")
    parser.add_argument("--where", type=pairs, default={}, metavar="column=value", help="only rows with this value")
    parser.add_argument("--skip", type=whole(0), default=0, metavar="N", help="leave out the first N rows")
    parser.add_argument("--limit", type=whole(1), metavar="N", help="at most N rows")
    parser.add_argument("--split", default="train", help="hub datasets: split")
    parser.add_argument("--revision", help="hub datasets: revision")


def table_spec(arguments: argparse.Namespace) -> Any:
    """`TableSpec` of `arguments.table` and of `table_arguments`."""
    from crosslign.data.load import TableSpec

    same = {name: getattr(arguments, name) for name in ("columns", "skip", "limit", "split", "revision")}
    return TableSpec(arguments.table, where={c: [v] for c, v in arguments.where.items()}, **same)


def _validate(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from crosslign.data.load import load_table, summarise
    from crosslign.data.provenance import describe
    from crosslign.data.schema import look_alike_hint
    from crosslign.languages import english_name

    spec = table_spec(arguments)
    table, problems = load_table(spec, arguments.source_language, arguments.languages)
    most = 50
    for problem in problems[:most]:
        show(str(problem))
    if len(problems) > most:
        show(f"... and {len(problems) - most} more problems")
    errors = sum(p.severity == "error" for p in problems)
    warnings = len(problems) - errors
    if table is not None:
        summary = summarise(table)
        show(f"{arguments.table}: {summary['rows']} rows, {len(summary['languages'])} languages")
        show("labels:     " + ", ".join(f"{k} {v}" for k, v in summary["labels"].items()))
        show("categories: " + shown(", ".join(f"{k} {v}" for k, v in summary["categories"].items()), one_line=True))
        show(f"\n{'language':<26}{'texts':>7}   characters: {'5%':>5}{'median':>8}{'95%':>7}{'max':>7}")
        for code, row in summary["languages"].items():
            name = f"{code} ({english_name(code)})"
            show(f"{name:<26}{row['texts']:>7}{'':>15}{row['p5']:>5}{row['p50']:>8}{row['p95']:>7}{row['max']:>7}")
        if table.provenance is not None:
            show("\nprovenance:\n" + "\n".join(shown(line, one_line=True) for line in describe(table.provenance)))
        if hint := look_alike_hint(table.rows):
            show(f"\nhint: {hint}")
        show()
    show(f"{errors} errors, {warnings} warnings")
    return 1 if errors or (arguments.strict and warnings) else 0


def _generate(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from crosslign.contexts import load_teacher_template
    from crosslign.data.load import require_table
    from crosslign.runs.generate import GenerateRequest, generate

    quiet_libraries(arguments.verbose)
    load_teacher_template(arguments.template)
    table = require_table(table_spec(arguments), arguments.source_language, arguments.languages)
    request = GenerateRequest(
        model_source(arguments),
        arguments.out,
        arguments.adapter,
        sampling_parameters(arguments),
        **{name: getattr(arguments, name) for name in REQUEST},
    )
    count = generate(request, table, say)
    say(f"{count} completions in {arguments.out}")
    return 0
