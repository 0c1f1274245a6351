"""An evaluation from its configuration: tasks and judges, checked; the model under test; and all stages.

`crosslign eval`, the evaluations of a training run (`checkpoint_evaluation`) and the gate share what is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from crosslign.contexts import plain_contexts
from crosslign.evaluation.completions import Completer, EndpointCompleter, SamplerCompleter, check_contexts
from crosslign.evaluation.endpoint import Endpoint
from crosslign.evaluation.folder import check_folder, read_folder, report
from crosslign.evaluation.judges.base import Judge
from crosslign.evaluation.judges.registry import JudgeSettings, make_judges
from crosslign.evaluation.stages import Evaluation, complete_tasks, judge_rows, write_results
from crosslign.evaluation.tasks import TaskData, get_task
from crosslign.evaluation.utility import UtilityRequest, check_utility, kept_utility, utility_stage
from crosslign.languages import english_name
from crosslign.models import (
    ModelSource,
    adapter_sha256,
    check_adapter,
    check_source,
    evaluation_source,
    fingerprint,
    free_memory,
    load_tokenizer,
    load_with_adapter,
    sampling_mark,
    weights_mark,
)
from crosslign.models.steering import Steering, steer
from crosslign.rollouts import CachedSampler, CompletionCache, SamplingParameters, sampler_of
from crosslign.runs.config import EvaluationConfig, JudgeConfig
from crosslign.runs.folder import RunFolder, run_of
from crosslign.runs.prompts import teacher_contexts, template_settings
from crosslign.storage import LOCK, digest, file_sha256, is_disk_full, locked, versions
from crosslign.types import Announce, CrosslignError, Interrupted, Query, Role, silent

MOST_STEERING = 1000  # times the way from harmless to harmful queries
JUDGEMENTS = ".judgements.jsonl"  # while an evaluation goes on


@dataclass(frozen=True)
class EndpointSettings:
    """Where the model under test is served; its name there is the request's `source.path`."""

    url: str
    api_key_env: str | None = "OPENAI_API_KEY"
    concurrency: int = 8


@dataclass(frozen=True)
class EvaluationRequest:
    """A model to evaluate, how, and where the results go.

    Fields:
        config: tasks, judge and sampling.
        source: the model; with `endpoint`, `source.path` is its name there and nothing else of it counts.
        max_length: longest context in tokens.
        thinking: let a thinking model think.
        overwrite: throw away completions that were made with other settings.
        context: "student", what a user sends, or "teacher": the prompt `template` around it, whose judgement, if it
            wants one, is at most `max_judgement_length` tokens long.
        steer: a direction (`crosslign steer`) that is added while the model answers, times `steer_scale`.
        trained: languages that the model was aligned in; None: what the run's record says, if there is one.
    """

    config: EvaluationConfig
    source: ModelSource
    out: Path
    adapter: str | None = None
    endpoint: EndpointSettings | None = None
    source_language: str = "en"
    max_length: int = 2048
    thinking: bool = False
    seed: int = 0
    overwrite: bool = False
    trained: Sequence[str] | None = None
    utility: UtilityRequest | None = None
    context: Role = "student"
    template: str = "instruct"
    max_judgement_length: int = 128
    steer: Path | None = None
    steer_scale: float = 1.0

    @cached_property
    def steering(self) -> Steering | None:
        return None if self.steer is None else Steering.load(self.steer)


def checked_judges(config: JudgeConfig, where: str, *, tested: Sequence[str], only: int | None = None) -> list[Judge]:
    """The judges of a configuration; `where` names the key or flag in errors. No weights are loaded.

    `tested`: names of the model whose completions are judged; it does not judge itself unless the configuration says
    so. `only`: how many judges there may be.
    """
    if only is not None and len(config.names) > only:
        raise CrosslignError(f"{where}: names {len(config.names)} judges; here {only} decides.")
    settings = JudgeSettings(**config.model_dump(exclude={"names", "allow_self"}))
    try:
        return make_judges(config.names, settings, tested=tested, allow_self=config.allow_self)
    except CrosslignError as error:
        raise CrosslignError(f"{where}: {error}") from error


def checked_tasks(
    config: EvaluationConfig, where: str, *, languages: Sequence[str] | None, source_language: str
) -> list[TaskData]:
    """The queries of a configuration's tasks. Raises CrosslignError for an unknown task or language."""
    for code in (source_language, *(languages or ())):
        english_name(code)
    loaded = []
    for task in config.tasks:
        try:
            loaded.append(
                get_task(task.name, task.options).load(
                    languages, path=task.path, limit=config.limit, skip=config.skip, source_language=source_language
                )
            )
        except CrosslignError as error:
            raise CrosslignError(f"{where}: {error}" if where else str(error)) from error
    return loaded


def sampling_parameters(config: EvaluationConfig) -> SamplingParameters:
    return SamplingParameters(config.temperature, config.top_p, max_completion_length=config.max_completion_length)


def manifest(
    config: EvaluationConfig, model: Mapping[str, Any], *, thinking: bool | None, seed: int = 0
) -> dict[str, Any]:
    """What results state about a model and how it was asked: of two evaluations, what they must have in common.

    `thinking` is None where a server decides it.
    """
    sampling = {**asdict(sampling_parameters(config)), "thinking": thinking}
    if config.temperature > 0:
        sampling["seed"] = seed
    return {
        **model,
        "sampling": sampling,
        "versions": versions(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "limit": config.limit,
        "skip": config.skip,
    }


def evaluate(request: EvaluationRequest, announce: Announce = silent) -> dict[str, Any]:
    """All stages, into `request.out`. Returns what `results.json` holds.

    Everything is checked before weights are loaded. Raises CrosslignError for whatever the user can mend; what was made
    by then stays, and the same request goes on from there.
    """
    check_folder(request.out, "evaluation")
    try:
        return _evaluate(request, announce)
    except KeyboardInterrupt:
        raise Interrupted("interrupted. What was made so far is kept; the same command goes on from there.") from None
    except OSError as error:
        if is_disk_full(error):
            raise CrosslignError(
                f"the disk is full: {error}. Free some space; the same command goes on from there."
            ) from error
        raise


def _evaluate(request: EvaluationRequest, announce: Announce) -> dict[str, Any]:
    config, model = request.config, _ModelUnderTest(request, announce)
    model.check()
    tasks = checked_tasks(config, "", languages=config.languages, source_language=request.source_language)
    tested = [name for name in (request.source.path, request.adapter) if name]
    judges = checked_judges(config.judge, "--judge", tested=tested)
    completer = model.completer([query for data in tasks for query in data.queries])
    identity = completer.identity()
    languages = list(dict.fromkeys(code for data in tasks for code in data.languages))
    if request.utility is not None:
        if request.context == "teacher":
            raise CrosslignError(
                "--utility: lm-eval asks the model without the template, so these would be the plain model's numbers. "
                "Leave it out, or --context teacher."
            )
        if request.endpoint is not None:
            raise CrosslignError("--utility needs a model in memory: lm-eval measures it, not an endpoint.")
        _, before = kept_utility(request.utility, languages, identity, request.out)
        check_utility(request.utility, languages, data=before is None)
    thinking = request.thinking if request.endpoint is None else None
    evaluation = Evaluation(
        request.out,
        tasks,
        judges,
        manifest(config, model.described(identity), thinking=thinking, seed=request.seed),
        _trained(request, announce),
        request.source_language,
        request.seed,
        request.overwrite,
    )
    with locked(request.out / LOCK):
        if request.overwrite:
            CompletionCache(request.out / JUDGEMENTS).remove()
        rows = complete_tasks(evaluation, completer, announce)
        measured: Mapping[str, Any] = {}
        if request.utility is not None:
            options = {"enable_thinking": request.thinking}
            measured = utility_stage(request.utility, languages, model.load, identity, options, request.out, announce)
        model.release()
        if request.context == "teacher":
            model.judgements.remove()
        results = judge_rows(evaluation, rows, evaluation.manifest["sampling"], announce)
        if measured:
            results["utility"] = measured
            write_results(request.out, results)
        finished = read_folder(request.out)
        report(finished)
        for note in finished.notes:
            announce(note)
    return results


class _ModelUnderTest:
    """What identifies the model, and its weights once something is missing."""

    def __init__(self, request: EvaluationRequest, announce: Announce) -> None:
        self.request, self.announce = request, announce
        self._loaded: tuple[Any, Any] | None = None

    @cached_property
    def judgements(self) -> CompletionCache:
        return CompletionCache(self.request.out / JUDGEMENTS)

    def check(self) -> None:
        """Raises CrosslignError for a model or adapter that cannot be what it should be; the source gets its type."""
        r = self.request
        if r.endpoint is None:
            check_source(r.source)
            check_adapter(r.adapter, source=r.source)
            if not abs(r.steer_scale) <= MOST_STEERING:
                raise CrosslignError(f"--steer-scale: {r.steer_scale} is no number from -{MOST_STEERING} to as much.")
            if r.steering is not None and r.steering.base != weights_mark(r.source):
                raise CrosslignError(
                    f"--steer: {r.steer} was found in another model. Find one in this model with crosslign steer."
                )
            self.request = replace(r, source=evaluation_source(r.source))
        elif r.adapter is not None:
            raise CrosslignError("--adapter: an endpoint serves its own adapters; name the served one as --model.")
        elif r.context == "teacher":
            raise CrosslignError("--context teacher: needs a model in memory, not an endpoint.")
        elif r.steer is not None:
            raise CrosslignError("--steer: needs a model in memory, not an endpoint.")
        elif r.source != ModelSource(r.source.path, dtype=r.source.dtype) or r.thinking:
            raise CrosslignError(
                "--endpoint: revision, chat template, thinking and remote code are settings of the server; leave them "
                "out."
            )

    def completer(self, queries: Iterable[Query]) -> Completer:
        """Raises CrosslignError for one of the `queries` that does not fit; loads weights when it has to complete."""
        r, parameters = self.request, sampling_parameters(self.request.config)
        if r.endpoint is not None:
            e = r.endpoint
            endpoint = Endpoint(e.url, r.source.path, api_key_env=e.api_key_env, concurrency=e.concurrency)
            return EndpointCompleter(endpoint, parameters, seed=r.seed)
        template = r.source.chat_template
        identity: dict[str, Any] = {
            "model": asdict(r.source),
            "weights": weights_mark(r.source),
            "adapter": r.adapter,
            "adapter_sha256": adapter_sha256(r.adapter),
            "chat_template": None if template is None else digest(Path(template).read_text(encoding="utf-8")),
            "thinking": r.thinking,
            "sampling": asdict(parameters),
        }
        batch_size = r.config.batch_size
        if parameters.temperature > 0:  # greedy completions depend on neither
            identity |= {"seed": r.seed, "batch_size": batch_size}
        if r.steer is not None:
            identity["steering"] = [file_sha256(r.steer), r.steer_scale]
        teacher = r.context == "teacher"
        if teacher:
            identity |= {"context": r.context, **template_settings(r.template, r.max_judgement_length)}
        contexts = plain_contexts(
            load_tokenizer(r.source),
            max_length=r.max_length,
            thinking=r.thinking,
            teacher=r.template,
            max_judgement_length=r.max_judgement_length,
        )
        identity |= contexts.settings()
        check_contexts(queries, contexts.check if teacher else contexts.check_student)
        return SamplerCompleter(
            lambda: sampler_of(*self.load(), batch_size),
            contexts,
            parameters,
            identity,
            batch_size=batch_size,
            seed=r.seed,
            make_context=teacher_contexts(contexts, lambda: self._judging) if teacher else None,
        )

    @cached_property
    def _judging(self) -> CachedSampler:
        """Writes the judgements of a teacher's context; kept while the evaluation goes on."""
        r, (model, tokenizer) = self.request, self.load()
        mark = sampling_mark(f"{fingerprint(model)}|{adapter_sha256(r.adapter)}", model, tokenizer)
        sampler = sampler_of(model, tokenizer, r.config.batch_size)
        return CachedSampler(sampler, self.judgements, mark, seed=r.seed, vocabulary=len(tokenizer))

    def described(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """For the results' manifest."""
        r = self.request
        known = {"model": r.source.path, "adapter": r.adapter}
        if r.endpoint is not None:
            return {**known, "endpoint": r.endpoint.url}
        marks = {key: identity[key] for key in ("weights", "adapter_sha256")}
        found = {**known, "revision": r.source.revision, **marks, "dtype": r.source.dtype}
        if r.steering is not None:
            found["steering"] = {"layer": r.steering.layer, "scale": r.steer_scale}
        if r.context == "teacher":
            found["context"] = Path(r.template).stem
        return found | ({"quantization": r.source.quantization} if r.source.quantization else {})

    def load(self) -> tuple[Any, Any]:
        """Model and tokenizer."""
        if self._loaded is None:
            r = self.request
            adapter = f" with {r.adapter}" if r.adapter else ""
            self.announce(f"loading {r.source.path}{adapter}, dtype {r.source.dtype}")
            model = load_with_adapter(r.source, r.adapter)
            if r.steering is not None:
                steer(model, r.steering, r.steer_scale)
            self._loaded = model, load_tokenizer(r.source)
        return self._loaded

    def release(self) -> None:
        """Give the memory back: a guard may need it."""
        self._loaded = None
        self.__dict__.pop("_judging", None)
        free_memory()


def _trained(request: EvaluationRequest, announce: Announce) -> Sequence[str]:
    if request.trained is not None:
        for code in request.trained:
            english_name(code)
        return request.trained
    found = trained_languages(request.adapter, request.source.path)
    if found is None and request.adapter is not None:
        announce(
            f"{request.adapter}: it has no run.json, which names the languages that were trained. Name them with "
            "--trained-languages, and the results tell trained from unseen ones."
        )
    return found or ()


def trained_languages(*folders: str | None) -> list[str] | None:
    """The languages of the first of the folders that holds a run's record, or is the `best/` of one that does."""
    found = (RunFolder(run_of(Path(folder))).record().get("languages") for folder in folders if folder is not None)
    return next((f for f in found if isinstance(f, list) and all(isinstance(code, str) for code in f)), None)
