"""`crosslign probe`: the teacher contexts of one or several templates, tried on a recipe's queries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crosslign.contexts import BUILTIN_TEACHERS, load_teacher_template
from crosslign.models import load_model
from crosslign.ownership import check_output_folder, read_mark
from crosslign.runs.build import assemble
from crosslign.runs.config import JudgeConfig, RunConfig
from crosslign.runs.contexts import context_builder
from crosslign.runs.evaluate import checked_judges
from crosslign.runs.gate.measure import measure
from crosslign.runs.gate.queries import queries_to_probe
from crosslign.runs.gate.report import make_report, pair_row
from crosslign.runs.prepare import prepare
from crosslign.storage import line_of, write_atomically
from crosslign.types import Announce, CrosslignError, nearest, silent

REPORT, PAIRS = "probe.json", "pairs.jsonl"


@dataclass(frozen=True)
class ProbeRequest:
    """What `crosslign probe` was asked for.

    Fields:
        queries: at most this many harmful, and as many benign, queries a language.
        templates: name -> what `teacher.template` of a recipe may be; None for the recipe's own.
        out: folder for `probe.json` and `pairs.jsonl`; None to write nothing.
        divergence: also measure it, and DPSW's weights, on the student's answers.
    """

    queries: int = 20
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    templates: Mapping[str, str] | None = None
    out: Path | None = None
    overwrite: bool = False
    divergence: bool = False


def probe(config: RunConfig, request: ProbeRequest, announce: Announce = silent) -> dict[str, Any]:
    """Answer, judge and compare; write the files, and return what `probe.json` holds (`report.report_text` shows it).

    Everything is checked before weights are loaded; see `rates` for what the numbers are.
    """
    if request.queries < 1:
        raise CrosslignError(f"--queries: {request.queries} is less than 1.")
    (judge,) = checked_judges(request.judge, "--judge", tested=[config.model.path], only=1)
    run = prepare(config.model_copy(update={"gate": None, "evaluation": None}), check_folder=False)
    queries, notes = queries_to_probe(run.tables, run.languages, request.queries, config.seed)
    builders = {run.contexts.template.name: run.contexts}
    if request.templates is not None:
        builders = {
            name: context_builder(with_template(config, spec), run.tokenizer, run.tables)
            for name, spec in request.templates.items()
        }
    check_out(request.out, request.overwrite)
    announce(f"loading {run.source.path}")
    made = assemble(run, load_model(run.source, device=run.arguments.device.type))
    pairs = measure(run, made, builders, queries, judge, divergence=request.divergence)
    report = make_report(run, request.queries, judge, pairs, notes)
    if request.out is not None:
        rows = [pair_row(name, pair) for name, found in pairs.items() for pair in found]
        write_atomically(request.out / PAIRS, "".join(map(line_of, rows)))
        write_atomically(request.out / REPORT, json.dumps(report, indent=1) + "\n")
    return report


def parse_templates(text: str) -> dict[str, str]:
    """`--templates`: a folder of YAML files, or names and files separated by commas. Each is read and checked."""
    folder = Path(text)
    if text not in BUILTIN_TEACHERS and folder.is_dir():
        found = [str(p) for p in sorted(folder.iterdir()) if p.suffix in (".yaml", ".yml") and p.is_file()]
        if not found:
            raise CrosslignError(f"--templates: the folder {text} holds no .yaml file.")
    else:
        found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
        if not found:
            raise CrosslignError(
                f"--templates: names no template; give a folder, or some of {', '.join(BUILTIN_TEACHERS)}."
            )
    templates: dict[str, str] = {}
    for spec in found:
        if spec not in BUILTIN_TEACHERS and not Path(spec).is_file():
            raise CrosslignError(
                f"--templates: {spec!r} is neither a folder, a file nor a shipped template. "
                f"{nearest(spec, BUILTIN_TEACHERS)}"
            )
        load_teacher_template(spec)
        # A file's name is enough, unless it is another template's too.
        name = Path(spec).stem
        templates[spec if name in templates or (name != spec and name in found) else name] = spec
    return templates


def with_template(config: RunConfig, spec: str) -> RunConfig:
    """The recipe with another teacher template, which itself says whether a judgement is written."""
    teacher = config.teacher.model_copy(update={"template": spec, "judgement": None})
    return config.model_copy(update={"teacher": teacher})


def check_out(out: Path | None, overwrite: bool) -> None:
    """Raises CrosslignError if the folder cannot be written, holds something else, or holds a probe already."""
    if out is None:
        return
    check_output_folder(out, "probe", read_mark(out / REPORT).get("kind") == "probe")
    present = [name for name in (REPORT, PAIRS) if (out / name).exists()]
    if present and not overwrite:
        raise CrosslignError(
            f"--out: {out} holds {' and '.join(present)} already. Use another folder, or replace it with --overwrite."
        )
