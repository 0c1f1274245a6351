"""`crosslign eval`: from plain settings to an evaluated folder. Everything is checked before weights are loaded."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import yaml

from crosslign.storage import versions
from crosslign.contexts import STUDENT_MESSAGES, ContextBuilder, RoleContext, load_teacher_template
from crosslign.evaluation.endpoint import Endpoint
from crosslign.evaluation.folder import check_folder, read_folder, report
from crosslign.evaluation.completions import (
    Completer,
    DeferredCompleter,
    EndpointCompleter,
    SamplerCompleter,
    check_contexts,
    pending,
    sampler_of,
)
from crosslign.evaluation.judges.base import Judge
from crosslign.evaluation.judges.specs import JudgeSettings, make_judges
from crosslign.storage import digest
from crosslign.evaluation.stages import (
    COMPLETIONS,
    Evaluation,
    complete_tasks,
    folder_name,
    judge_rows,
    write_results,
)
from crosslign.evaluation.tasks import TaskData, get_task
from crosslign.evaluation.utility import UtilityRequest, check_utility, utility_stage
from crosslign.languages import english_name
from crosslign.models import (
    ModelSource,
    adapter_sha256,
    check_adapter,
    check_source,
    load_tokenizer,
    load_with_adapter,
    weights_mark,
)
from crosslign.rollouts import SamplingParameters
from crosslign.storage import is_disk_full
from crosslign.types import CrosslignError, Query

Announce = Callable[[str], None]
GREEDY = SamplingParameters(temperature=0.0)


@dataclass(frozen=True)
class EndpointSettings:
    """Where the model under test is served; its name there is the request's `source.path`."""

    url: str
    api_key_env: str | None = "OPENAI_API_KEY"
    concurrency: int = 8


@dataclass(frozen=True)
class TaskRequest:
    """A task by name, with the file to read instead of the hub's and the options of its factory."""

    name: str
    path: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate, on what, judged by whom, and where it goes.

    Fields:
        source: the model; with `endpoint`, `source.path` is its name there and nothing else of it counts.
        languages: codes; None: all that each task has.
        judges: specs (`evaluation.judges.specs`); the first one decides, the others give agreement.
        limit, skip: rows of each task.
        thinking: let a thinking model think.
        overwrite: throw away completions that were made with other settings.
        trained: languages that the model was aligned in; None: what the run's config.yaml says, if there is one.
    """

    source: ModelSource
    tasks: Sequence[TaskRequest]
    out: Path
    adapter: str | None = None
    endpoint: EndpointSettings | None = None
    languages: Sequence[str] | None = None
    source_language: str = "en"
    judges: Sequence[str] = ("lexicon",)
    judge_settings: JudgeSettings = field(default_factory=JudgeSettings)
    allow_self_judge: bool = False
    parameters: SamplingParameters = GREEDY
    limit: int | None = None
    skip: int = 0
    batch_size: int = 16
    max_length: int = 2048
    thinking: bool = False
    seed: int = 0
    overwrite: bool = False
    trained: Sequence[str] | None = None
    utility: UtilityRequest | None = None


@dataclass(frozen=True)
class Prepared:
    """A checked evaluation, before weights."""

    request: EvaluationRequest
    evaluation: Evaluation
    completer: Completer
    model: _Model | None


def evaluate(request: EvaluationRequest, announce: Announce = lambda text: None) -> dict[str, Any]:
    """All stages, into `request.out`. Returns what `results.json` holds.

    Raises CrosslignError for whatever the user can mend; what was made by then stays, and the same request goes on
    from there.
    """
    prepared = prepare(request, announce)
    try:
        return _run(prepared, announce)
    except KeyboardInterrupt:
        raise CrosslignError(
            "interrupted. What was made so far is kept; the same command goes on from there."
        ) from None
    except OSError as error:
        if is_disk_full(error):
            raise CrosslignError(
                f"the disk is full: {error}. Free some space; the same command goes on from there."
            ) from error
        raise


def prepare(request: EvaluationRequest, announce: Announce = lambda text: None) -> Prepared:
    """Check everything that can be checked without weights.

    Raises CrosslignError for a task, language, file, judge, model, adapter or output folder that is wrong, for
    completions that were made with other settings, and for queries that are too long for `max_length`.
    """
    if request.batch_size < 1 or request.max_length < 1:
        raise CrosslignError(
            f"--batch-size ({request.batch_size}) and --max-length ({request.max_length}) must be at least 1."
        )
    check_folder(request.out, "evaluation")
    _check_model(request)
    tasks = load_tasks(request)
    judges = make_judges(
        request.judges,
        request.judge_settings,
        tested=[name for name in (request.source.path, request.adapter) if name],
        allow_self=request.allow_self_judge,
    )
    model = None if request.endpoint else _Model(request, announce)
    completer: Completer
    if model is not None:
        completer = DeferredCompleter(model.identity, lambda queries: model.completer())
    elif request.endpoint is not None:
        e = request.endpoint
        endpoint = Endpoint(e.url, request.source.path, api_key_env=e.api_key_env, concurrency=e.concurrency)
        completer = EndpointCompleter(endpoint, request.parameters, seed=request.seed)
    missing = [
        query
        for data in tasks
        for query in pending(
            data.queries,
            completer.identity(),
            request.out / folder_name(data.name) / COMPLETIONS,
            overwrite=request.overwrite,
        )
    ]
    if model is not None and missing:
        model.check(missing)
    if request.utility is not None:
        if model is None:
            raise CrosslignError("--utility needs a model in memory: lm-eval measures it, not an endpoint.")
        languages = list(dict.fromkeys(code for data in tasks for code in data.languages))
        check_utility(request.utility, languages)
    return Prepared(request, _evaluation(request, tasks, judges, completer, announce), completer, model)


def load_tasks(request: EvaluationRequest) -> list[TaskData]:
    """The queries of all tasks. Raises CrosslignError for an unknown task or language, or one that is there twice."""
    names = [task.name for task in request.tasks]
    if not names:
        raise CrosslignError("no task: name one, for example multijail or table:queries.csv (--list-tasks).")
    for name in names:
        if names.count(name) > 1:
            raise CrosslignError(f"the task {name!r} is there twice.")
    for code in (request.source_language, *(request.languages or ()), *(request.trained or ())):
        english_name(code)
    tasks = []
    for task in request.tasks:
        loaded = get_task(task.name, task.options).load(
            request.languages,
            path=task.path,
            limit=request.limit,
            skip=request.skip,
            source_language=request.source_language,
        )
        tasks.append(loaded)
    return tasks


def trained_languages(*folders: str | None) -> list[str] | None:
    """`data.languages` of the first folder that has a run's config.yaml which names them."""
    for folder in folders:
        if folder is None:
            continue
        try:
            config = yaml.safe_load((Path(folder) / "config.yaml").read_text(encoding="utf-8"))
            languages = config["data"]["languages"]
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            continue
        if isinstance(languages, list) and all(isinstance(code, str) for code in languages):
            return languages
    return None


class _Model:
    """The model under test: what identifies it, and the loaded weights once something is missing."""

    def __init__(self, request: EvaluationRequest, announce: Announce) -> None:
        self._request, self._announce = request, announce
        self._loaded: tuple[Any, Any] | None = None
        source, parameters = request.source, request.parameters
        template = source.chat_template
        self.identity: dict[str, Any] = {
            "model": asdict(source),
            "weights": weights_mark(source),
            "adapter": request.adapter,
            "adapter_sha256": adapter_sha256(request.adapter),
            "chat_template": None if template is None else digest(Path(template).read_text(encoding="utf-8")),
            "thinking": request.thinking,
            "sampling": asdict(parameters),
        }
        if parameters.temperature > 0:  # greedy completions depend on neither
            self.identity |= {"seed": request.seed, "batch_size": request.batch_size}

    @property
    def chat_options(self) -> dict[str, Any]:
        return {"enable_thinking": self._request.thinking}

    def check(self, queries: Sequence[Query]) -> None:
        """Raises CrosslignError for a query that does not fit; only the tokenizer is loaded."""
        check_contexts(queries, self._contexts(load_tokenizer(self._request.source)))

    def load(self) -> tuple[Any, Any]:
        """Model and tokenizer."""
        if self._loaded is None:
            r = self._request
            self._announce(f"loading {r.source.path}" + (f" with {r.adapter}" if r.adapter else ""))
            self._loaded = load_with_adapter(r.source, r.adapter), load_tokenizer(r.source)
        return self._loaded

    def completer(self) -> SamplerCompleter:
        model, tokenizer = self.load()
        r = self._request
        return SamplerCompleter(
            sampler_of(model, tokenizer, r.batch_size),
            self._contexts(tokenizer),
            r.parameters,
            self.identity,
            batch_size=r.batch_size,
            seed=r.seed,
        )

    def release(self) -> None:
        self._loaded = None

    def _contexts(self, tokenizer: Any) -> ContextBuilder:
        # The teacher's context is never made here; the builder wants one all the same.
        template = load_teacher_template("instruct")
        limit = self._request.max_length
        return ContextBuilder(
            tokenizer,
            RoleContext(STUDENT_MESSAGES, limit, self.chat_options),
            RoleContext(template.messages, limit, self.chat_options),
            template,
        )


def _check_model(request: EvaluationRequest) -> None:
    if request.endpoint is None:
        check_source(request.source)
        check_adapter(request.adapter)
        return
    if request.adapter is not None:
        raise CrosslignError("--adapter: an endpoint serves its own adapters; name the served one as --model.")
    if request.source != ModelSource(request.source.path, dtype=request.source.dtype) or request.thinking:
        raise CrosslignError(
            "--endpoint: revision, chat template, thinking and remote code are settings of the server; leave them out."
        )


def _evaluation(
    request: EvaluationRequest,
    tasks: Sequence[TaskData],
    judges: Sequence[Judge],
    completer: Completer,
    announce: Announce,
) -> Evaluation:
    trained = request.trained
    if trained is None:
        trained = trained_languages(request.adapter, request.source.path)
        if trained is None and request.adapter is not None:
            announce(
                f"{request.adapter}: no config.yaml says which languages were trained; --trained-languages does, and "
                "the results then tell trained from unseen ones."
            )
    identity = completer.identity()
    manifest: dict[str, Any] = {"model": request.source.path, "adapter": request.adapter}
    if request.endpoint is not None:
        manifest["endpoint"] = request.endpoint.url
    else:
        manifest["revision"] = request.source.revision
        manifest |= {key: identity[key] for key in ("weights", "adapter_sha256")}
        manifest["dtype"] = request.source.dtype
    # What before and after must have in common, and nothing else: the report compares it.
    manifest["sampling"] = {**asdict(request.parameters), "thinking": request.thinking}
    if request.parameters.temperature > 0:
        manifest["sampling"] |= {"seed": request.seed}
    manifest |= {
        "versions": versions(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "limit": request.limit,
        "skip": request.skip,
    }
    return Evaluation(
        request.out,
        tasks,
        judges,
        manifest,
        trained or (),
        request.source_language,
        request.seed,
        request.overwrite,
    )


def _run(prepared: Prepared, announce: Announce) -> dict[str, Any]:
    request, evaluation, model = prepared.request, prepared.evaluation, prepared.model
    rows = complete_tasks(evaluation, prepared.completer, announce)
    measured: Mapping[str, Any] = {}
    if request.utility is not None and model is not None:
        languages = list(dict.fromkeys(code for data in evaluation.tasks for code in data.languages))
        measured = utility_stage(
            request.utility, languages, model.load, model.identity, model.chat_options, request.out, announce
        )
    if model is not None:
        # A guard may need the memory.
        if isinstance(prepared.completer, DeferredCompleter):
            prepared.completer.release()
        model.release()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    results = judge_rows(evaluation, rows, evaluation.manifest["sampling"], announce)
    if measured:
        results["utility"] = measured
        write_results(request.out, results)
    report(read_folder(request.out))
    return results
