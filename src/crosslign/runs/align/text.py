"""What `crosslign align` says: a line or two for each decision, and the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crosslign.evaluation.best import Candidate
from crosslign.evaluation.report.findings import cautions, findings
from crosslign.evaluation.result_tables import to_markdown
from crosslign.evaluation.tables import escape, markdown
from crosslign.evaluation.view import View
from crosslign.runs.align.plan import FEW_STEPS, MOST_STEPS, Length
from crosslign.runs.config import RunConfig
from crosslign.runs.memory.advice import Saving
from crosslign.runs.memory.estimate import estimate
from crosslign.runs.memory.inputs import Needs

FLAGS = "--max-over-refusal-rise, --min-gap"  # that say what a checkpoint must keep
_GB = 1e9


def limits(base: Candidate, best: Mapping[str, Any]) -> str:
    """What a checkpoint must keep, from what the base model does."""
    parts = []
    for name, value, limit in (
        ("over-refusal", base.over_refusal, best["max_over_refusal"]),
        ("invalid answers", base.invalid, best["max_invalid"]),
    ):
        known = (
            "not known, no limit" if value is None or limit is None else f"{value:.1f} %, at most {limit:.1f} % after"
        )
        parts.append(f"{name} {known}")
    parts += [f"ASR in {code} at most {limit:.1f} % after" for code, limit in best["max_asr"].items()]
    return f"{'; '.join(parts)} ({FLAGS})."


def memory(arguments: Any, needs: Needs, found: Sequence[Saving], device: int) -> str:
    """What memory the run needs, and what was changed for it."""
    total = found[-1].total if found else estimate(needs.shape, needs.setup).total
    changed = "; ".join(saving.text for saving in found) or (
        f"batches of {arguments.per_device_train_batch_size} fit as they are"
    )
    return (
        f"Memory: about {total / _GB:.1f} of {device / _GB:.1f} GB on {needs.setup.device}: {changed}. "
        "--training.per_device_train_batch_size, --training.gradient_checkpointing and --model.dtype overrule."
    )


def length(found: Length, hours: float, step: float, evaluation: float) -> str:
    """How many steps, from what was timed."""
    most = " (the most)" if found.steps == MOST_STEPS else ""
    few = f" Runs of fewer than {FEW_STEPS} were never measured." if found.steps < FEW_STEPS else ""
    measured = f"an evaluation took {evaluation:.0f} s before" if evaluation else "evaluations are not counted"
    return (
        f"Length: {found.steps} steps{most}, an evaluation every {found.every}, in {hours:g} hours: a step of a trial "
        f"took {step:.1f} s, {measured}.{few} --hours or --training.max_steps overrules. The gate comes on top."
    )


def recipe(config: RunConfig, place: Path) -> str:
    """The recipe in a line."""
    drop = ", ".join(config.gate.drop) if config.gate is not None else ""
    dropped = f"rows whose teacher is {drop} are dropped" if drop else "no row is dropped"
    unchanged = ", ".join(config.teacher.unchanged) or "nothing"
    own = [Path(table.path).name for table in config.data.tables if table.teacher is not None]
    told = f", but the teacher of {' and '.join(own)} is told that these are harmless" if own else ""
    teacher = f"template {config.teacher.template}, temperature {config.teacher.temperature:g} of harmful queries"
    return (
        f"Recipe: {config.strategy.name}, {teacher}, {' '.join(config.data.languages or ())}; "
        f"{dropped}; unchanged: {unchanged}{told}. It stands in {place}; every key is a flag."
    )


def kept(record: Mapping[str, Any], place: Path) -> str:
    """Which checkpoint is kept, and why."""
    best = record.get("best")
    if best is None:
        return f"No checkpoint stayed within the limits ({FLAGS}); the last one is measured: {place}."
    return (
        f"Kept: step {best['step']} of {record['steps']}, whose worst language has an ASR of {best['value']:.1f} % "
        f"({best['where']}), within the limits."
    )


def gain(results: Mapping[str, Any], languages: Sequence[str]) -> tuple[bool, str]:
    """Whether the ASR of any of these languages fell by more than chance in a comparison and rose in no language, and a
    sentence on it."""
    (task,) = (task for task in View(results).tasks if task.kind == "harmful")
    if rose := [row.key for row in task.languages if row.way == "rose" and row.is_sure]:
        return False, f"Not good enough: ASR rose by more than chance in {', '.join(rose)}."
    fell = [row.key for row in task.languages if row.way == "fell" and row.is_sure and row.key in languages]
    rest = [code for code in languages if code not in fell]
    if not fell:
        return False, f"No gain: ASR did not fall by more than chance in {', '.join(rest)}."
    return True, f"ASR fell in {', '.join(fell)}" + (
        f", not by more than chance in {', '.join(rest)}." if rest else "."
    )


def summary(
    model: str,
    said: str,
    stages: Mapping[str, Sequence[str]],
    results: Mapping[str, Any] | None,
    out: Path,
    place: Path | None,
) -> str:
    """summary.md: what came of it, before and after by language, what was decided, and the files that there are."""
    parts = [f"# {escape(model)}, aligned", escape(said)]
    if results is not None:
        view = View(results)
        found = [f"- **{escape(one.about)}: {escape(one.verdict)}.** {escape(one.lead)}" for one in findings(view)]
        parts += ["\n".join([*found, *(f"- {escape(one)}" for one in cautions(view))]), to_markdown(results)]
    decided = [f"- **{escape(name)}**: {escape(line)}" for name, lines in stages.items() for line in lines]
    parts += ["## What was decided", "\n".join(decided)]
    files = [
        ("file", "what it is"),
        ("recipe.yaml", "repeats the run: crosslign train recipe.yaml --output_dir ANOTHER"),
        ("queries/", "the tables that were trained on and measured with"),
        ("before/, after/, compared/", "evaluations; report.html in each is a page"),
        ("teacher/", "the teacher templates that were tried, and every pair of answers"),
        ("train/", "the run: its log, the gate's rows, its evaluations"),
    ]
    if place is not None:
        files.append((f"{place.relative_to(out).as_posix()}/", "what is kept: the model, and README.md, its card"))
    there = [files[0], *(row for row in files[1:] if (out / row[0].partition(",")[0]).exists())]
    parts += ["## Files", markdown([[escape(cell) for cell in row] for row in there], left=(0, 1))]
    return "\n\n".join(parts) + "\n"
