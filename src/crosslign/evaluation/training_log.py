"""The course of a run's evaluations: log lines for trackers, entries of run.json, and the table at the end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from crosslign.evaluation.rates import HEADLINES, MANY_PARTIAL
from crosslign.evaluation.tables import MISSING, aligned, number, short_names
from crosslign.types import CrosslignError

SHOWN = 3  # evaluations whose fault is told
_TITLES = {"asr": "attack success", "over_refusal": "over-refusal"}


def scalars(results: Mapping[str, Any]) -> dict[str, float]:
    """The rates of a log line, in %: `TASK/METRIC/LANGUAGE` and `TASK/METRIC/all`; those that are missing are left out.

    METRIC is asr or over_refusal, invalid, refused_then_answered, and fidelity.
    """
    names = tracker_names(results["tasks"])
    logs: dict[str, float] = {}
    for task, result in results["tasks"].items():
        headline = HEADLINES[result["kind"]].metric
        for code, cell in (*result["languages"].items(), ("all", result["all"])):
            metrics = (headline, "invalid", "refused_then_answered")
            rates = {**{metric: cell[metric] for metric in metrics}, "fidelity": cell["fidelity"]["rate"]}
            for metric, rate in rates.items():
                if rate["value"] is not None:
                    logs[f"{names[task]}/{metric}/{code}"] = rate["value"]
    return logs


def tracker_names(tasks: Iterable[str]) -> dict[str, str]:
    """A short name for each task, without what trackers forbid or read as a folder."""
    return {task: re.sub(r"[^\w.-]", "_", name) for task, name in short_names(tasks).items()}


def summary(results: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json keeps of an evaluation: of each task the mean over languages and the worst language, in %."""
    tasks = {}
    for name, result in results["tasks"].items():
        headline = HEADLINES[result["kind"]].metric
        rates = {code: cell[headline]["value"] for code, cell in result["languages"].items()}
        known = {code: rate for code, rate in rates.items() if rate is not None}
        worst = max(known, key=lambda code: known[code], default=None)
        tasks[name] = {
            "metric": headline,
            "judge": result["judge"],
            "all": result["all"][headline]["value"],
            "worst_language": worst,
            "worst": known[worst] if worst is not None else None,
            "invalid": result["all"]["invalid"]["value"],
            "refused_then_answered": result["all"]["refused_then_answered"]["value"],
            "fidelity": result["all"]["fidelity"]["rate"]["value"],
            "languages": rates,
        }
    return {"tasks": tasks}


def sentence(entry: Mapping[str, Any]) -> str:
    """An entry of run.json in a few words."""
    parts = []
    titles = short_names(entry["tasks"])
    for name, task in entry["tasks"].items():
        worst = f" (worst: {_worst(task)})" if task["worst_language"] else ""
        partial = task["refused_then_answered"] or 0.0
        also = (
            f", refused, then answered {number(partial)}" if task["metric"] == "asr" and partial > MANY_PARTIAL else ""
        )
        parts.append(f"{titles[name]} {_TITLES[task['metric']]} {number(task['all'])}{worst}{also}")
    return "; ".join(parts)


def evaluation_table(record: Mapping[str, Any]) -> str:
    """The first and the last evaluation of a run, one line a task, and which checkpoint was kept as the best."""
    entries = record["evaluations"]
    first, last = entries[0], entries[-1]
    judge = next(iter(first["tasks"].values()))["judge"]
    title = f"evaluation by {judge}, %, mean over languages"
    rows = [(title, f"step {first['step']}", f"step {last['step']}", "worst language")]
    titles = short_names(first["tasks"])
    for name, before in first["tasks"].items():
        after = last["tasks"].get(name, before | dict.fromkeys(("all", "worst_language", "worst")))
        title = f"  {titles[name]} {_TITLES[before['metric']]}"
        rows.append((title, number(before["all"]), number(after["all"]), f"{_worst(before)} -> {_worst(after)}"))
    table = aligned(rows, left=(0, 3))
    return f"{table}\nbest: {about_best(record)}" if "best" in record else table


def _worst(task: Mapping[str, Any]) -> str:
    return f"{task['worst_language']} {number(task['worst'])}" if task["worst_language"] else MISSING


def about_best(record: Mapping[str, Any]) -> str:
    """Which checkpoint was kept as the best, with its rates; or why none was."""
    best, entries = record["best"], record["evaluations"]
    if best is not None:
        over = "" if best["over_refusal"] is None else f", over-refusal {best['over_refusal']:.1f} %"
        return f"step {best['step']} in {best['folder']}/ ({place(record, best['where'])}: {best['value']:.1f} %{over})"
    refused = [e for e in entries if e.get("best") and e["best"]["objection"]]
    if not refused:
        return "none is left: the one that was kept was of steps that were made again"
    why = "; ".join(f"at step {e['step']} {e['best']['objection']}" for e in refused[-SHOWN:])
    return f"none was kept, for {why}"


def place(record: Mapping[str, Any], where: str) -> str:
    """Task and language of a rate, the task by its short name."""
    titles = short_names(dict.fromkeys(name for entry in record["evaluations"] for name in entry["tasks"]))
    task, comma, code = where.rpartition(", ")
    return f"{titles.get(task, task)}{comma}{code}"


_Percent = Annotated[float, Field(ge=0, le=100)]
_Step = Annotated[int, Field(ge=0, le=10**9)]


class _Task(BaseModel):
    metric: Literal["asr", "over_refusal"]
    judge: str
    all: _Percent | None
    worst_language: str | None
    worst: _Percent | None
    invalid: _Percent | None
    fidelity: _Percent | None
    languages: dict[str, _Percent | None]


class _Candidate(BaseModel):
    value: _Percent | None
    where: str
    over_refusal: _Percent | None
    invalid: _Percent | None
    objection: str | None


class _Entry(BaseModel):
    step: _Step
    tasks: dict[str, _Task] = Field(min_length=1)
    best: _Candidate | None = None


class _Best(BaseModel):
    step: _Step
    folder: str
    where: str
    value: _Percent
    over_refusal: _Percent | None


class _Record(BaseModel):
    status: Literal["running", "finished"]
    model: str
    languages: list[str]
    evaluations: list[_Entry] = []
    best: _Best | None = None


def check_record(record: Mapping[str, Any], path: Path) -> None:
    """Raise CrosslignError unless a run's record, read from `path`, says of evaluations what a page is made of."""
    try:
        found = _Record.model_validate(record, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))[:200]
        raise CrosslignError(
            f"{path}: is damaged ({place}: {first['msg']}). It must be as crosslign train wrote it."
        ) from error
    if not found.evaluations:
        raise CrosslignError(
            f"{path}: records no evaluation, so there is nothing to show. Give the recipe a section evaluation and "
            "train again; of a run that has one, wait for its first evaluation."
        )
