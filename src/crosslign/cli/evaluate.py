"""The commands eval, compare and report."""

from __future__ import annotations

import argparse
import os
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
    say,
    show,
    whole,
)
from crosslign.types import MAX_SEED, CrosslignError, nearest
from crosslign.untrusted import parse_yaml

EVAL_EPILOG = """\
Safety and over-refusal of a model, before and after:

  crosslign eval --model BASE --tasks multijail,table:benign:harmless.csv --languages en,zh,bn,sw --out runs/before
  crosslign eval --model BASE --adapter runs/msd --tasks multijail,table:benign:harmless.csv \\
      --languages en,zh,bn,sw --out runs/after
  crosslign compare runs/before runs/after --out runs/compared

Tasks: a published set by name (--list-tasks), from the hub or from your copy (--task-path multijail=MultiJail.csv), or
any query table: table:PATH, table:harmful:PATH, table:benign:PATH.

Judges. The first decides; the others are compared with it:

  --judge lexicon                   refusal phrases: offline, and a proxy (it cannot read)
  --judge qwen3guard                a guard model: qwen3guard, llama_guard_3, polyguard, or guard:PATH_OR_ID
  --judge llm:MODEL --judge-url http://localhost:8000/v1
                                    a model behind an OpenAI-compatible endpoint, by MultiJail's rubric
  --judge qwen3guard,lexicon        both, with Cohen's kappa for each language

What a prompt alone does, without training (docs/baselines.md):

  crosslign eval --model BASE --context teacher --template system ...      an instruction before the request
  crosslign eval --model BASE --context teacher --template instruct ...    and the English version: the teacher itself
  crosslign eval --model BASE --steer direction.safetensors ...            a direction that crosslign steer has found

A model that is served instead of loaded (vLLM, llama.cpp, OpenAI): --endpoint URL --model NAME_THERE

Each stage writes a file that the next one reads. An interrupted call goes on where it stopped; another judge, more
languages or more rows ask for nothing that is there already. See docs/evaluation.md.
"""
COMPARE_EPILOG = """\
Both must be over the same queries, with the same first judge. Differences are paired by query: exact McNemar with
Holm's correction over the languages, Tango's interval, and the smallest change that so many pairs could have shown.

  crosslign compare runs/before runs/after --out runs/compared
"""
REPORT_EPILOG = """\
  crosslign report runs/after          write runs/after/report.html anew from the files there
  crosslign report runs/msd            the same of a training run: its evaluations step by step, also while it goes on

The page is one file that needs no network. Completions in it are hidden until they are asked for; they may be harmful.
"""


def add_commands(commands: Any) -> None:
    """Add eval, compare and report to the parser's commands."""
    raw = argparse.RawDescriptionHelpFormatter
    evaluate = commands.add_parser(
        "eval",
        help="measure safety, over-refusal and the language of replies",
        formatter_class=raw,
        epilog=EVAL_EPILOG,
        description="Complete the queries of tasks, judge the completions, count, and report.",
    )
    _model_arguments(evaluate.add_argument_group("model"))
    _task_arguments(evaluate.add_argument_group("tasks"))
    _judge_arguments(evaluate.add_argument_group("judges"))
    sampling_arguments(evaluate.add_argument_group("sampling"))
    context = evaluate.add_argument_group("context")
    context_arguments(context)
    context.add_argument("--steer", type=Path, metavar="FILE", help="add a direction that crosslign steer has found")
    context.add_argument("--steer-scale", type=float, default=1.0, metavar="S", help="times so much (default: 1)")
    _utility_arguments(evaluate.add_argument_group("utility (needs crosslign[utility])"))
    output = evaluate.add_argument_group("output")
    output.add_argument("--out", type=Path, metavar="DIR", help="folder of the evaluation")
    output.add_argument("--overwrite", action="store_true", help="replace what was made with other settings")
    output.add_argument(
        "--trained-languages",
        type=comma_list,
        metavar="en,zh,...",
        help="languages that the model was aligned in (default: what the run's record says)",
    )
    evaluate.set_defaults(run=_evaluate)

    compare = commands.add_parser(
        "compare",
        help="two evaluations over the same queries: what changed, and is it real",
        formatter_class=raw,
        epilog=COMPARE_EPILOG,
        description="Compare two evaluations, query by query.",
    )
    compare.add_argument("before", type=Path, metavar="DIR_A", help="evaluation before")
    compare.add_argument("after", type=Path, metavar="DIR_B", help="evaluation after")
    compare.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the comparison")
    compare.add_argument("--seed", type=whole(0, MAX_SEED), default=0, help="seed of the bootstrap (default: 0)")
    compare.set_defaults(run=_compare)

    report = commands.add_parser(
        "report",
        help="write the page of an evaluation or of a training run anew",
        formatter_class=raw,
        epilog=REPORT_EPILOG,
        description="Write report.html from the files of a finished evaluation, or of a run with evaluations.",
    )
    report.add_argument("folder", type=Path, metavar="DIR", help="evaluation, or output_dir of a training run")
    report.set_defaults(run=_report)


def _model_arguments(group: Any) -> None:
    group.add_argument("--model", metavar="MODEL", help="hub id, folder or .gguf file; with --endpoint its name there")
    group.add_argument("--adapter", metavar="RUN", help="folder of a finished LoRA run")
    group.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible server, such as http://localhost:8000/v1")
    group.add_argument(
        "--concurrency", type=whole(1, 10_000), default=8, metavar="N", help="requests at once (default: 8)"
    )
    group.add_argument(
        "--api-key-env",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable with the endpoint's key (default: OPENAI_API_KEY)",
    )
    group.add_argument("--revision", dest="model_revision", help="hub models: branch, tag or commit")
    loading_arguments(group)


def _task_arguments(group: Any) -> None:
    group.add_argument("--list-tasks", action="store_true", help="say which tasks there are, and stop")
    group.add_argument("--tasks", type=comma_list, action="extend", default=[], metavar="TASK,...")
    group.add_argument(
        "--task-path", action="append", default=[], metavar="TASK=FILE", help="file or folder instead of the hub's"
    )
    group.add_argument(
        "--task-option",
        action="append",
        nargs=3,
        default=[],
        metavar=("TASK", "KEY", "VALUE"),
        help="an option of a task, VALUE in YAML: multijail_intentional wrapper FILE",
    )
    group.add_argument("--languages", type=comma_list, metavar="en,zh,...", help="default: all that each task has")
    group.add_argument("--source-language", default="en", help="the language safety comes from (default: en)")
    group.add_argument(
        "--limit", type=whole(1), metavar="N", help="at most N rows of each task, the same ones every time"
    )
    group.add_argument(
        "--skip", type=whole(0), default=0, metavar="N", help="leave out the first N rows: those trained on"
    )


def _judge_arguments(group: Any) -> None:
    """Their names are those of the keys of a recipe's `evaluation.judge`."""
    group.add_argument(
        "--judge", type=comma_list, action="extend", metavar="JUDGE,...", help="see below (default: lexicon)"
    )
    group.add_argument("--judge-url", metavar="URL", help="endpoint of an llm judge")
    group.add_argument("--judge-rubric", choices=("multijail", "strongreject"), default="multijail")
    group.add_argument("--judge-api-key-env", default="OPENAI_API_KEY", metavar="NAME", help="its key's variable")
    group.add_argument("--judge-batch-size", type=whole(1), default=8, metavar="N", help="rows at once in a guard")
    group.add_argument("--judge-dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    group.add_argument("--allow-self-judge", action="store_true", help="let the model under test judge itself")


def _utility_arguments(group: Any) -> None:
    group.add_argument("--utility", type=comma_list, metavar="NAME,...", help="mgsm, afrimgsm, mmmlu, global_mmlu")
    group.add_argument("--utility-path", type=pairs, default={}, metavar="NAME=TABLE", help="id, answer, en, zh, ...")
    group.add_argument("--utility-languages", type=comma_list, metavar="en,...", help="default: the tasks' languages")
    group.add_argument("--utility-limit", type=whole(1), metavar="N", help="rows in each language")
    group.add_argument(
        "--utility-max-tokens", type=whole(1), metavar="N", help="longest answer in free text (default: 512)"
    )


def _evaluate(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    if arguments.list_tasks:
        show(_task_list())
        return 0
    missing = [f"--{name}" for name in ("model", "tasks", "out") if not getattr(arguments, name)]
    if missing:
        raise CrosslignError(f"eval needs {' and '.join(missing)}; see crosslign eval --help.")
    from crosslign.evaluation.result_tables import terminal
    from crosslign.evaluation.stages import REPORT, RESULTS
    from crosslign.runs.evaluate import evaluate

    quiet_libraries(arguments.verbose)
    results = evaluate(_request(arguments), say)
    show(terminal(results))
    show(f"\nreport  {arguments.out / REPORT}\nnumbers {arguments.out / RESULTS}")
    return 0


def _request(a: argparse.Namespace) -> Any:
    from crosslign.evaluation.utility import UtilityRequest
    from crosslign.runs.config import EvaluationConfig
    from crosslign.runs.evaluate import EndpointSettings, EvaluationRequest
    from crosslign.runs.recipe import parse_section

    same = ("languages", "limit", "skip", "temperature", "top_p", "max_completion_length", "batch_size")
    judge = {name: getattr(a, f"judge_{name}") for name in ("url", "rubric", "api_key_env", "batch_size", "dtype")}
    raw = {
        "tasks": _tasks(a.tasks, a.task_path, a.task_option),
        "judge": {
            "names": a.judge or ["lexicon"],
            **judge,
            "concurrency": a.concurrency,
            "allow_self": a.allow_self_judge,
        },
        **{name: getattr(a, name) for name in same},
    }
    utility = None
    if a.utility:
        tokens = {} if a.utility_max_tokens is None else {"max_new_tokens": a.utility_max_tokens}
        utility = UtilityRequest(
            a.utility, a.utility_path, a.utility_languages, a.utility_limit, a.batch_size, **tokens
        )
    return EvaluationRequest(
        parse_section(EvaluationConfig, raw, "crosslign eval"),
        model_source(a),
        a.out,
        a.adapter,
        EndpointSettings(a.endpoint, a.api_key_env, a.concurrency) if a.endpoint else None,
        trained=a.trained_languages,
        utility=utility,
        **{name: getattr(a, name) for name in ("source_language", "max_length", "thinking", "seed", "overwrite")},
        **{name: getattr(a, name) for name in ("context", "template", "max_judgement_length", "steer", "steer_scale")},
    )


def _tasks(names: Sequence[str], paths: Sequence[str], options: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Tasks as in a recipe's `evaluation.tasks`. Raises CrosslignError for a path or option that is given to none."""
    found: dict[str, dict[str, Any]] = {name: {"name": name, "options": {}} for name in names}

    def of(name: str, flag: str) -> dict[str, Any]:
        if name not in found:
            raise CrosslignError(f"{flag}: {name!r} is not in --tasks. {nearest(name, names)}")
        return found[name]

    for text in paths:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise CrosslignError(f"--task-path: {text!r} is not TASK=FILE.")
        of(name, "--task-path")["path"] = path
    for name, key, value in options:
        of(name, "--task-option")["options"][key] = parse_yaml(value, f"--task-option {name} {key}")
    return [found[name] for name in names]


def _task_list() -> str:
    from crosslign.evaluation.tasks import get_task, names

    lines = []
    for task in map(get_task, names()):
        languages = " ".join(task.languages) or "as the file has"
        lines.append(f"{task.name} ({task.kind}; {task.licence})")
        lines.append(f"  languages {languages}")
        lines.append(f"  from      {task.source}")
    lines.append("table:PATH, table:harmful:PATH, table:benign:PATH (any query table; see crosslign validate)")
    return "\n".join(lines)


def _compare(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from crosslign.evaluation.folder import compare, read_folder
    from crosslign.evaluation.result_tables import terminal
    from crosslign.evaluation.stages import REPORT, RESULTS

    before, after = read_folder(arguments.before), read_folder(arguments.after)
    results = compare(before, after, arguments.out, arguments.seed)
    for note in (*before.notes, *after.notes):
        say(note)
    show(terminal(results))
    show(f"\nreport  {arguments.out / REPORT}\nnumbers {arguments.out / RESULTS}")
    return 0


def _report(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from crosslign.evaluation.folder import read_folder, report
    from crosslign.evaluation.result_tables import terminal
    from crosslign.runs.folder import RECORD

    if os.path.lexists(arguments.folder / RECORD):
        from crosslign.runs.summary import write_page

        show(f"report  {write_page(arguments.folder)}")
        return 0
    folder = read_folder(arguments.folder)
    page = report(folder)
    for note in folder.notes:
        say(note)
    show(terminal(folder.results))
    show(f"\nreport  {page}")
    return 0
