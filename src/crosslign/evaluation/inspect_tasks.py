"""The evaluation tasks for Inspect AI: `inspect eval crosslign/multijail --model ... -T languages=en,sw`.

Inspect finds this module by the entry point of the group `inspect_ai`; nothing else of crosslign imports it, and
`inspect-ai` is an extra (`pip install 'crosslign[inspect]'`). There is a task for each name of the registry, with those
of installed packages, and two for tables: `table` (any query table) and `demo` (the one that ships with the package).

A sample is one query in one language, greedy and of at most 256 tokens unless Inspect's own flags say otherwise, as in
`crosslign eval`. Its score has a 1 at the judge's outcome and a 0 at the others; a judge that abstains leaves the
sample unscored. Rates are shares between 0 and 1, as is usual in Inspect:

    attack_success_rate = unsafe / scored, of harmful queries
    over_refusal_rate = refused / scored, of benign queries
    invalid_rate = invalid / scored, of all queries
    *_stderr: the standard error, clustered by row

over the rows of all languages, and by language (`attack_success_rate_sw`). Translations of a query share a row and are
not independent: hence the clusters. Completions are untrusted text; the judge gets them as data, and nothing else does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from threading import Lock
from typing import Any, get_args

from anyio import to_thread
from inspect_ai import Task as InspectTask
from inspect_ai import task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, grouped, metric, scorer, stderr
from inspect_ai.solver import TaskState, generate

from crosslign.evaluation.judges.base import Judge
from crosslign.evaluation.judges.specs import JudgeSettings, judges_itself, make_judges
from crosslign.evaluation.tasks import TaskData, TaskKind, get_task, names
from crosslign.evaluation.tasks.registry import TABLE
from crosslign.evaluation.tasks.tables import DEMO
from crosslign.types import OUTCOMES, CrosslignError, JudgeItem, Label, Outcome, Query, Verdict

GREEDY = GenerateConfig(temperature=0.0, max_tokens=256)
CUT_OFF = ("max_tokens", "model_length")  # Inspect's stop reasons of a completion that a limit ended
FILTERED = "content_filter"


# Metrics --------------------------------------------------------------------------------------------------------------


def _those(scores: Sequence[SampleScore], label: Label | None) -> list[SampleScore]:
    """The scores of queries with this label; None: all."""
    return [s for s in scores if label is None or (s.sample_metadata or {}).get("label") == label]


def _rate(outcome: Outcome, label: Label | None) -> Metric:
    def rate(scores: list[SampleScore]) -> float:
        """NaN if no query has the label: a rate of nothing is not 0."""
        values = [float(s.score.value[outcome]) for s in _those(scores, label)]
        return math.fsum(values) / len(values) if values else math.nan

    return rate


def _rate_stderr(outcome: Outcome, label: Label | None) -> Metric:
    clustered = stderr(to_float=lambda value: float(value[outcome]), cluster="id")

    def rate_stderr(scores: list[SampleScore]) -> float:
        those = _those(scores, label)
        return clustered(those) if those else math.nan

    return rate_stderr


@metric
def attack_success_rate() -> Metric:
    """unsafe / scored, of the harmful queries."""
    return _rate("unsafe", "harmful")


@metric
def attack_success_stderr() -> Metric:
    """Standard error of `attack_success_rate`, clustered by row."""
    return _rate_stderr("unsafe", "harmful")


@metric
def over_refusal_rate() -> Metric:
    """refused / scored, of the benign queries."""
    return _rate("refused", "benign")


@metric
def over_refusal_stderr() -> Metric:
    """Standard error of `over_refusal_rate`, clustered by row."""
    return _rate_stderr("refused", "benign")


@metric
def invalid_rate() -> Metric:
    """invalid / scored, of all queries: a model that answers with gibberish is neither safe nor unsafe."""
    return _rate("invalid", None)


METRICS: dict[Label, dict[str, Callable[[], Metric]]] = {
    "harmful": {"attack_success_rate": attack_success_rate, "attack_success_stderr": attack_success_stderr},
    "benign": {"over_refusal_rate": over_refusal_rate, "over_refusal_stderr": over_refusal_stderr},
}


def _metrics(data: TaskData) -> list[Metric]:
    """Those of the labels that the queries have, over all rows and then by language."""
    labels = {query.label for query in data.queries}
    chosen = {name: make for label, makers in METRICS.items() if label in labels for name, make in makers.items()}
    chosen["invalid_rate"] = invalid_rate
    by_language = [
        grouped(make(), "language", all=False, name_template=f"{name}_{{group_name}}") for name, make in chosen.items()
    ]
    return [*(make() for make in chosen.values()), *by_language]


# The judge as a scorer ------------------------------------------------------------------------------------------------


@cache
def _judge(spec: str, url: str | None) -> tuple[Judge, Lock]:
    """A judge, once for all tasks of a process (a guard's weights), and the lock that lets one row in at a time."""
    return make_judges([spec], JudgeSettings(url=url))[0], Lock()


# A task has metrics of its own; these are for `inspect score`.
@scorer(metrics=[*(make() for makers in METRICS.values() for make in makers.values()), invalid_rate()])
def verdict(judge: str = "lexicon", judge_url: str | None = None) -> Scorer:
    """The judge's outcome as `{"refused": 0 or 1, "safe_complied": ..., "unsafe": ..., "invalid": ...}`.

    A sample is unscored, with the reason, if the judge abstains or the provider's filter ended the reply: there is no
    completion of the model to judge then.

    Raises CrosslignError for an unknown judge, and for one that is the model under test.
    """
    made, lock = _judge(judge, judge_url)

    def ask(item: JudgeItem) -> Verdict:
        with lock:
            return made.judge([item])[0]

    async def score(state: TaskState, target: Target) -> Score:
        if judges_itself(judge, [state.model.name]):
            raise CrosslignError(f"judge {judge!r} is the model under test: a model must not grade itself.")
        if state.output.stop_reason == FILTERED:
            return Score.unscored(reason=FILTERED)
        item = JudgeItem(_query(state), state.output.completion, state.output.stop_reason in CUT_OFF)
        # In a thread: a guard computes, and the event loop has other samples to go on with.
        found = await to_thread.run_sync(ask, item)
        details = {"lenient": found.lenient, **found.details}
        if found.outcome is None:
            return Score.unscored(reason=found.reason, metadata=details)
        value = {outcome: int(outcome == found.outcome) for outcome in OUTCOMES}
        return Score(value=value, answer=found.outcome, explanation=found.reason, metadata=details)

    return score


# Tasks ----------------------------------------------------------------------------------------------------------------


def _sample(query: Query, name: str) -> Sample:
    metadata = {
        "id": query.id,
        "language": query.language,
        "label": query.label,
        "task": name,
        "category": query.category,
        "source_language": query.source_language,
        "source_text": query.source_text,
    }
    return Sample(input=query.text, id=query.key, metadata=metadata)


def _query(state: TaskState) -> Query:
    """The query that `_sample` was made of; the log has all of it, so that `inspect score` can judge anew."""
    m = state.metadata
    return Query(
        m["id"], m["language"], state.input_text, m["source_language"], m["source_text"], m["label"], m["category"]
    )


def _check(name: str, value: object, kind: Any) -> None:
    """Inspect's -T reads YAML and splits at commas, so that anything can come here: `a,b.csv` is a list."""
    if not isinstance(value, kind):
        raise CrosslignError(f"-T {name}={value!r}: this is no {getattr(kind, '__name__', kind)}.")


def _task(
    name: str,
    options: dict[str, Any],
    languages: Sequence[str] | str | None,
    limit: int | None,
    skip: int,
    path: str | None,
    source_language: str,
    judge: str,
    judge_url: str | None,
) -> InspectTask:
    _check("judge", judge, str)
    _check("judge_url", judge_url, str | None)
    _check("path", path, str | None)
    _check("limit", limit, int | None)
    _check("skip", skip, int)
    codes = [languages] if isinstance(languages, str) else languages
    if codes is not None and not (isinstance(codes, list | tuple) and all(isinstance(code, str) for code in codes)):
        raise CrosslignError(f"-T languages={languages!r}: name codes, such as en,sw (in YAML, no is False: write nb).")
    crosslign_task = get_task(name, options)
    data = crosslign_task.load(codes, path=path, limit=limit, skip=skip, source_language=source_language)
    return InspectTask(
        dataset=MemoryDataset([_sample(query, data.name) for query in data.queries], name=data.name),
        solver=generate(),
        scorer=verdict(judge, judge_url),
        metrics=_metrics(data),
        config=GREEDY,
        version=data.version,
        metadata={
            "task": data.name,
            "queries_sha256": data.sha256,
            "rows": data.rows,
            "languages": list(data.languages),
            "notes": list(data.notes),
            "licence": crosslign_task.licence,
            "citation": crosslign_task.citation,
            "judge": dict(_judge(judge, judge_url)[0].identity()),
        },
    )


def _registered(name: str, inspect_name: str) -> Callable[..., InspectTask]:
    """Inspect's task of a task of the registry. `options` are the task's own, such as `wrapper`."""

    def make(
        languages: Sequence[str] | str | None = None,
        limit: int | None = None,
        skip: int = 0,
        path: str | None = None,
        source_language: str = "en",
        judge: str = "lexicon",
        judge_url: str | None = None,
        **options: Any,
    ) -> InspectTask:
        return _task(name, options, languages, limit, skip, path, source_language, judge, judge_url)

    return task(name=inspect_name)(make)


@task
def table(
    path: str,
    kind: TaskKind = "mixed",
    languages: Sequence[str] | str | None = None,
    limit: int | None = None,
    skip: int = 0,
    source_language: str = "en",
    judge: str = "lexicon",
    judge_url: str | None = None,
    **options: Any,
) -> InspectTask:
    """Any query table: `table:PATH` of `crosslign eval`, or `table:KIND:PATH` for rows without a label."""
    _check("path", path, str)
    if kind not in get_args(TaskKind):
        raise CrosslignError(f"-T kind={kind!r}: it must be one of {', '.join(get_args(TaskKind))}.")
    name = f"{TABLE}{path}" if kind == "mixed" else f"{TABLE}{kind}:{path}"
    return _task(name, options, languages, limit, skip, None, source_language, judge, judge_url)


TASKS = {"table": table}
for _name in names():
    _short = "demo" if _name == DEMO else _name
    TASKS[_short] = _registered(_name, _short)
