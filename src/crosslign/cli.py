"""The command line: demo, validate, probe, train, generate; eval, compare and report are in `cli_eval`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosslign import __version__, cli_eval
from crosslign.cli_common import comma_list as _list
from crosslign.cli_common import pairs as _pairs
from crosslign.cli_common import quiet_libraries as _quiet_libraries
from crosslign.cli_common import say as _say
from crosslign.types import CrosslignError

TRAIN_EPILOG = """\
A recipe is a YAML file; every key can be set on the command line too:

  crosslign train recipes/smollm2_135m_cpu.yaml --training.max_steps 20 --objective.weighting uniform
  crosslign train RECIPE --data.tables.0.path queries.csv --data.languages '[zh, bn, sw]'
  crosslign train RECIPE --print-config          show the resolved run, load nothing
  crosslign train RECIPE --resume                continue from the last complete checkpoint

Keys (default):
"""
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

PROBE_EPILOG = """\
  crosslign probe recipes/qwen2.5_7b.yaml --queries 50
  crosslign probe RECIPE --templates instruct,judged,dialogue --out runs/probe      compare teacher templates
  crosslign probe RECIPE --templates my_templates/ --data.languages '[bn, sw]'      keys of the recipe, as in train

Training moves the student to the teacher, wherever the teacher is: look here first. --out gets probe.json and
pairs.jsonl (every query with both answers). `gate: {min_flip_rate: 0.5}` in a recipe makes train look by itself.
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

MEANING = """\
Before and after are measured on the same completions. Where the divergence falls, the model, given the request alone,
answers more like the frozen model that also sees its source-language version. Whether that is safer, an evaluation has
to say: see crosslign generate."""


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

    train = commands.add_parser(
        "train",
        help="align a model by a recipe",
        formatter_class=raw,
        add_help=False,
        allow_abbrev=False,
        description="Align a model by Multilingual Self-Distillation.",
    )
    train.add_argument("recipe", nargs="?", help="YAML file; see recipes/")
    train.add_argument("-h", "--help", action="store_true", help="this text and all configuration keys")
    train.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    train.add_argument("--dry-run", action="store_true", help="check everything, load no weights, and stop")
    train.add_argument("--resume", action="store_true", help="continue an interrupted run")
    train.add_argument("--overwrite", action="store_true", help="replace the run in output_dir")
    train.set_defaults(run=_train, parser=train)

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

    probe = commands.add_parser(
        "probe",
        help="before training: does the teacher context answer safely?",
        formatter_class=raw,
        epilog=PROBE_EPILOG,
        allow_abbrev=False,
        description="Sample student and teacher context on a recipe's harmful and benign queries, judge both, and say "
        "in each language how often the teacher turns an unsafe answer into a safe one.",
    )
    probe.add_argument("recipe", help="YAML file; every key can be set as in train (--section.key value)")
    probe.add_argument(
        "--queries", type=int, default=20, metavar="K", help="harmful queries a language, and benign ones (default: 20)"
    )
    probe.add_argument("--judge", default="lexicon", help="as for eval; lexicon is offline and a proxy (default)")
    probe.add_argument("--judge-url", metavar="URL", help="endpoint of an llm judge")
    probe.add_argument(
        "--templates", metavar="DIR|a,b,...", help="compare teacher templates: a folder of YAML files, or names"
    )
    probe.add_argument("--out", type=Path, metavar="DIR", help="write probe.json and pairs.jsonl (default: nothing)")
    probe.add_argument("--overwrite", action="store_true", help="replace the probe in --out")
    probe.set_defaults(run=_probe)

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
    generate.add_argument("--max-completion-length", type=int, default=256, metavar="N", help="tokens (default: 256)")
    generate.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    generate.add_argument("--top-p", type=float, default=1.0)
    generate.add_argument("--batch-size", type=int, default=16, metavar="N")
    generate.add_argument("--max-length", type=int, default=2048, metavar="N", help="longest context in tokens")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--chat-template", help="Jinja file, for a tokenizer without a chat template")
    generate.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    generate.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    generate.add_argument("--thinking", action="store_true", help="let a thinking model think (off by default)")
    generate.set_defaults(run=_generate)

    cli_eval.add_commands(commands)
    return parser


def _table_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--languages", type=_list, metavar="en,zh,...", help="languages to read (default: all columns)")
    parser.add_argument("--source-language", default="en", help="the language safety is judged in (default: en)")
    parser.add_argument("--columns", type=_pairs, default={}, metavar="en=prompt,...", help="columns of other names")
    parser.add_argument("--where", type=_pairs, default={}, metavar="column=value", help="only rows with this value")
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
    _quiet_libraries(arguments.verbose)
    spec = BaseSpec(World(seed=arguments.seed))
    print(run_demo(spec, alignment, arguments.out, overwrite=arguments.overwrite, announce=_say))
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


def _probe(arguments: argparse.Namespace, rest: list[str]) -> int:
    from crosslign import config as configuration

    raw = configuration.override(configuration.read_recipe(arguments.recipe), rest)
    config = configuration.parse_config(raw, arguments.recipe)
    if arguments.queries < 1:
        raise CrosslignError(f"--queries: {arguments.queries} is less than 1.")
    from crosslign import build, probing
    from crosslign.probing.table import report_text

    _quiet_libraries(arguments.verbose)
    request = probing.ProbeRequest(
        arguments.queries,
        probing.judge_named(arguments.judge, "--judge", arguments.judge_url, tested=[config.model.path]),
        None if arguments.templates is None else probing.parse_templates(arguments.templates),
        arguments.out,
        arguments.overwrite,
    )
    report = probing.run_probe(build.prepare(config, check_folder=False), request, _say)
    print(report_text(report))
    if arguments.out is not None:
        _say(f"report and pairs: {arguments.out}")
    return 0


def _train(arguments: argparse.Namespace, rest: list[str]) -> int:
    from crosslign import config as configuration

    if arguments.help:
        print(arguments.parser.format_help())
        print(TRAIN_EPILOG)
        for key, default, text in configuration.describe():
            print(f"  {key:<36} {text}{' ' if text else ''}({default})")
        return 0
    if arguments.recipe is None or arguments.recipe.startswith("--"):
        raise CrosslignError("train needs a recipe file: crosslign train RECIPE.yaml (see recipes/, or train --help).")
    raw = configuration.override(configuration.read_recipe(arguments.recipe), rest)
    config = configuration.parse_config(raw, arguments.recipe)
    if arguments.print_config:
        print(configuration.dump(config), end="")
        return 0
    from crosslign import build, probing
    from crosslign.training import divergence_table, read_metrics

    _quiet_libraries(arguments.verbose)
    run = build.prepare(
        config, overwrite=arguments.overwrite, resume=arguments.resume, check_folder=not arguments.dry_run
    )
    probing.check_gate(run)
    _say(_plan(run))
    if arguments.dry_run:
        return 0
    run = probing.gate(run, resume=arguments.resume, announce=_say)
    record = build.train(run, overwrite=arguments.overwrite, resume=arguments.resume, announce=_say)
    if record:
        print(divergence_table(read_metrics(config.output_dir), record["probe"]))
        print(MEANING)
        if record.get("evaluations"):
            from crosslign.evaluation.course import evaluation_table

            print(evaluation_table(record))
        what = "Adapter" if config.model.finetuning == "lora" else "Model"
        print(f"{record['steps']} steps in {record['seconds']} s. {what}, metrics and rollouts: {config.output_dir}")
    return 0


def _plan(run: Any) -> str:
    from crosslign.build import languages_of

    config, arguments = run.config, run.arguments
    tables = ", ".join(f"{t.name} ({len(t.rows)} rows)" for t in run.tables)
    languages = " ".join(languages_of(config, run.tables))
    batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    length = f"{arguments.max_steps} steps" if arguments.max_steps > 0 else f"{arguments.num_train_epochs:g} epochs"
    return (
        f"model     {config.model.path} ({config.model.finetuning})\n"
        f"queries   {tables} in {languages}\n"
        f"strategy  {config.strategy.name}, {config.objective.divergence}, {config.objective.weighting} weights\n"
        f"teacher   {run.contexts.template.name} template, judgement {run.contexts.template.judgement}\n"
        f"{_evaluation(run.evaluation)}"
        f"{_gate(config.gate)}"
        f"{_warnings(run)}"
        f"length    {length} of {batch} queries -> {config.output_dir}"
    )


def _evaluation(plan: Any) -> str:
    if plan is None:
        return ""
    tasks = ", ".join(f"{task.name} ({task.rows} rows)" for task in plan.tasks)
    when = f"every {plan.every_steps} steps" if plan.every_steps else "at the end"
    return f"evaluate  {tasks} in {' '.join(plan.languages)} by {plan.judge.name}, {when}\n"


def _gate(gate: Any) -> str:
    if gate is None:
        return ""
    return (
        f"gate      flip rate of {gate.min_flip_rate:.0%} or more on {gate.queries} queries a language, {gate.judge}\n"
    )


def _warnings(run: Any) -> str:
    count = sum(len(t.warnings) for t in run.tables)
    return f"warnings  {count} about the tables; see crosslign validate\n" if count else ""


def _generate(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from crosslign.contexts import STUDENT_MESSAGES, ContextBuilder, RoleContext, load_teacher_template
    from crosslign.data.load import require_table
    from crosslign.generate import GenerateRequest, generate
    from crosslign.models import ModelSource
    from crosslign.rollouts import SamplingParameters

    _quiet_libraries(arguments.verbose)
    template = load_teacher_template(arguments.template)
    table = require_table(_table_spec(arguments, arguments.table), arguments.source_language, arguments.languages)
    options = {"enable_thinking": arguments.thinking}
    try:
        parameters = SamplingParameters(
            arguments.temperature, arguments.top_p, max_completion_length=arguments.max_completion_length
        )
    except ValueError as error:
        raise CrosslignError(str(error)) from error
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
        parameters,
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
    count = generate(request, [table], contexts, described, _say)
    _say(f"{count} completions in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
