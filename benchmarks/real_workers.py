"""Parts of `benchmarks.real` that no command has: a model in another context, and the likelihood of ordinary text."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.real_variants import folder_name
from crosslign.contexts import load_teacher_template
from crosslign.distillation.collector import write_judgements
from crosslign.evaluation.completions import SamplerCompleter
from crosslign.evaluation.stages import Evaluation, run
from crosslign.evaluation.tasks import get_task
from crosslign.models import ModelSource, load_model, load_tokenizer, load_with_adapter
from crosslign.rollouts import SamplingParameters
from crosslign.runs.build import assemble
from crosslign.runs.config import EvaluationConfig, JudgeConfig
from crosslign.runs.evaluate import checked_judges, checked_tasks, manifest
from crosslign.runs.prepare import PreparedRun, prepare
from crosslign.runs.recipe import parse_config, read_recipe
from crosslign.storage import write_atomically
from crosslign.types import Context, Query


def make_contexts(name: str, prepared: PreparedRun, teacher: Any) -> Callable[[Sequence[Query]], Sequence[Context]]:
    contexts = prepared.contexts

    def of_teacher(queries: Sequence[Query]) -> list[Context]:
        judgements = write_judgements(contexts, teacher, queries)
        return [contexts.teacher(query, judgement) for query, judgement in zip(queries, judgements, strict=True)]

    return of_teacher if name == "teacher" else lambda queries: [contexts.student(query) for query in queries]


def measure(name: str, recipe: str, out: Path, languages: Sequence[str], completion: int, batch: int) -> None:
    """An evaluation of the untrained model in the teacher's context, or with a system prompt."""
    from benchmarks.real import BENIGN, HELD_OUT

    raw = read_recipe(Path(recipe))
    if name == "system prompt":
        messages = load_teacher_template("system").messages
        raw["student"] = {"messages": [{"role": m.role, "content": m.content} for m in messages]}
    prepared = prepare(parse_config(raw), check_folder=False)
    tasks = [{"name": f"table:{out / HELD_OUT}"}, {"name": BENIGN}]
    config = EvaluationConfig.model_validate({"tasks": tasks, "max_completion_length": completion})
    made = assemble(prepared, load_model(prepared.source))
    model = {"model": prepared.source.path, "context": name, "dtype": "bfloat16"}
    evaluation = Evaluation(
        out / folder_name(name),
        checked_tasks(config, "", languages=languages, source_language="en"),
        checked_judges(JudgeConfig(), "", tested=[]),
        manifest(config, model, thinking=False),
        prepared.languages,
    )
    completer = SamplerCompleter(
        lambda: made.collector.student,  # with its adapter as it is made, which changes nothing
        prepared.contexts,
        SamplingParameters(0.0, max_completion_length=completion),
        model,
        batch_size=batch,
        make_context=make_contexts(name, prepared, made.collector.teacher),
    )
    run(evaluation, completer, print)


@torch.no_grad()
def measure_losses(model: str, adapter: str, out: Path, languages: Sequence[str]) -> None:
    """Mean negative log-likelihood a token, in nats, of each harmless held-out text, without a chat template."""
    from benchmarks.real import BENIGN

    source = ModelSource(model, dtype="bfloat16")
    tokenizer, loaded = load_tokenizer(source), load_with_adapter(source, adapter or None)
    found: dict[str, dict[str, float]] = {}
    for query in get_task(BENIGN).load(languages).queries:
        ids = torch.tensor([tokenizer(query.text)["input_ids"]])
        found.setdefault(query.language, {})[query.id] = round(loaded(ids, labels=ids).loss.item(), 4)
    write_atomically(out, json.dumps(found))


def main() -> int:
    name, recipe, *rest = sys.argv[1:]
    if name == "losses":
        adapter, out, languages = rest
        measure_losses(recipe, adapter, Path(out), languages.split(","))
    else:
        out, languages, completion, batch = rest
        measure(name, recipe, Path(out), languages.split(","), int(completion), int(batch))
    return 0


if __name__ == "__main__":
    sys.exit(main())
