"""What the hub reads of a card: base model, licence, languages, and the rates as its `model-index`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import langcodes
from huggingface_hub import EvalResult, ModelCardData

from crosslign.evaluation.result_tables import NAMES
from crosslign.evaluation.tables import one_line
from crosslign.evaluation.training_log import tracker_names
from crosslign.evaluation.view import Part, View
from crosslign.runs.sharing.base import HUB_ID, BaseFacts
from crosslign.runs.sharing.finished import MOST, FinishedRun
from crosslign.types import excerpt

Form = Literal["adapter", "full", "merged"]
METRICS = {**NAMES, "invalid": "invalid answers", "fidelity": "answers in the language of the request"}
_TAGS = ("crosslign", "safety", "multilingual")


def is_hub_table(path: str) -> bool:
    """Whether a query table is a data set on the hub, by its name alone: it may not be there any more."""
    return HUB_ID.fullmatch(path) is not None and not Path(path).suffix


def title(base: BaseFacts) -> str:
    """The base model's name without its owner, in plain characters."""
    return re.sub(r"[^\w.+-]+", "_", one_line(base.name).rpartition("/")[2])[:MOST]


def metadata(run: FinishedRun, base: BaseFacts, view: View | None, form: Form) -> ModelCardData:
    """What the hub reads of a card."""
    codes = dict.fromkeys([run.config.data.source_language, *run.record["languages"]])
    languages = [langcodes.Language.get(code).language for code in codes if langcodes.tag_is_valid(code)]
    tables = [table.path for table in run.config.data.tables]
    results = list(_eval_results(view)) if view else []
    own = ["self-distillation"] if run.config.method.name == "msd" else []
    return ModelCardData(
        base_model=base.name if base.kind == "hub" else None,
        base_model_relation=("adapter" if form == "adapter" else "finetune") if base.kind == "hub" else None,
        datasets=[path for path in tables if is_hub_table(path)] or None,
        eval_results=results or None,
        language=list(dict.fromkeys(filter(None, languages))) or None,
        library_name="peft" if form == "adapter" else "transformers",
        license=base.license,
        license_name=base.license_name,
        license_link=base.license_link,
        model_name=f"{title(base)}, aligned by crosslign" if results else None,
        pipeline_tag="text-generation",
        tags=[*_TAGS, *own, *(["lora"] if form == "adapter" else [])],
    )


def _eval_results(view: View) -> Iterator[EvalResult]:
    """The rates of this model, one by one, those that are known."""
    slugs = tracker_names([*(task.name for task in view.tasks), *view.utility])
    for task in view.tasks:
        for row in (*task.languages, task.all):
            for metric in (task.metric, "invalid", "fidelity"):
                yield from _eval_result(slugs[task.name], task.title, row.key, metric, row.rates(metric)[-1])
    for name in view.utility:
        for row in view.utility_rows(name):
            cell = row.cells[-1]
            yield from _eval_result(slugs[name], name, row.key, one_line(cell["metric"]), cell)


def _eval_result(slug: str, title: str, where: str, metric: str, rate: Part) -> Iterator[EvalResult]:
    if rate["value"] is None:
        return
    ends = {f"{end}_95": round(rate[end], 2) for end in ("low", "high") if rate.get(end) is not None}
    yield EvalResult(
        task_type="text-generation",
        dataset_type=slug,
        dataset_name=excerpt(one_line(title), MOST),
        dataset_config=where,
        metric_type=metric,
        metric_name=f"{METRICS.get(metric, metric)}, %",
        metric_value=round(rate["value"], 2),
        metric_args={**ends, "rows": rate["n"]},
    )
