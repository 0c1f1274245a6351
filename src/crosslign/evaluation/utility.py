"""Utility: what a model can still do, by lm-eval's benchmarks, with the model in memory.

The value of a benchmark in a language is the share of right answers in %, with the Wilson interval of 95 %.

lm-eval is an optional dependency (`pip install 'crosslign[utility]'`) and is imported when something is measured.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import GenerationConfig

from crosslign.contexts import dated_template
from crosslign.evaluation.stages import ANSWERS
from crosslign.evaluation.stats import wilson
from crosslign.evaluation.utility_tasks import DIGITS_FILTER, GeneratedTask, ascii_numbers, tasks_folder, write_tasks
from crosslign.models import causal_lm, evaluating, token_ids
from crosslign.storage import append_rows, digest, write_atomically
from crosslign.types import Announce, CrosslignError, cause, nearest, silent
from crosslign.untrusted import read_json

MAX_NEW_TOKENS = 512  # lm-eval's own limit of 256 cuts worked solutions off in scripts with many tokens a word
FILE = "utility.json"

Cell = dict[str, Any]


@dataclass(frozen=True)
class UtilityRequest:
    """Which benchmarks of lm-eval to run.

    Fields:
        tasks: benchmarks by name (`utility_tasks.BENCHMARKS`).
        paths: benchmark to a local parallel table (id, answer, en, zh, ...) that is read instead of the hub's data.
        languages: codes; None: the evaluation's.
        limit: rows in each language, evenly spaced, so that parallel data give the same rows in every language and a
            benchmark sorted by subject keeps its subjects; None: all.
        max_new_tokens: of answers in free text.
    """

    tasks: Sequence[str]
    paths: Mapping[str, str] = field(default_factory=dict)
    languages: Sequence[str] | None = None
    limit: int | None = None
    batch_size: int = 8
    max_new_tokens: int = MAX_NEW_TOKENS

    def write(self, languages: Sequence[str], folder: Path) -> list[GeneratedTask]:
        """The task files for lm-eval; `languages` are the evaluation's."""
        return write_tasks(
            self.tasks, self.languages or languages, self.paths, folder, max_new_tokens=self.max_new_tokens
        )


def check_utility(request: UtilityRequest, languages: Sequence[str], *, data: bool = False) -> None:
    """Raise CrosslignError if lm-eval is missing, or a benchmark, a language or a local file; with `data` also if the
    benchmarks' data cannot be loaded, which may take a while."""
    for name in request.paths:
        if name not in request.tasks:
            raise CrosslignError(f"--utility-path: {name!r} is not in --utility. {nearest(name, request.tasks)}")
    if request.limit is not None and request.limit < 1:
        raise CrosslignError(f"--utility-limit: {request.limit}; it is a number of rows, at least 1.")
    if request.max_new_tokens < 1:
        raise CrosslignError(f"--utility-max-tokens: {request.max_new_tokens}; it is a number of tokens, at least 1.")
    with TemporaryDirectory() as folder, _quiet():
        generated = request.write(languages, Path(folder))
        if data:
            _load(generated, folder)


def kept_utility(
    request: UtilityRequest, languages: Sequence[str], identity: Mapping[str, Any], out: Path
) -> tuple[str, dict[str, Any] | None]:
    """A mark of all that the numbers depend on, and what was measured into `out` under it and not edited since."""
    with TemporaryDirectory() as folder:
        generated = request.write(languages, Path(folder))
        local = {file.name: file.read_text(encoding="utf-8") for file in sorted(Path(folder).glob("*.jsonl"))}
    settings = [request.limit, request.max_new_tokens, version("lm-eval")]
    mark = digest([identity, [(task.benchmark, task.language) for task in generated], local, settings])
    with contextlib.suppress(CrosslignError):  # none, or a damaged one
        before = read_json(out / FILE)
        if before.get("identity") == mark and before.get("sha256") == digest(before.get("utility")):
            return mark, dict(before["utility"])
    return mark, None


def utility_stage(
    request: UtilityRequest,
    languages: Sequence[str],
    load: Callable[[], tuple[Any, Any]],
    identity: Mapping[str, Any],
    chat_template_kwargs: Mapping[str, Any],
    out: Path,
    announce: Announce,
) -> dict[str, Any]:
    """Utility by task and language; read from `out` if it was measured there under the same settings and not edited.

    `load` gives model and tokenizer and is called only if something has to be measured.
    """
    mark, before = kept_utility(request, languages, identity, out)
    if before is not None:
        return before
    model, tokenizer = load()
    (out / FILE).unlink(missing_ok=True)  # its answers are about to be replaced
    measured = utility(
        model,
        tokenizer,
        request,
        languages,
        chat_template_kwargs=chat_template_kwargs,
        answers=out / ANSWERS,
        announce=announce,
    )
    write_atomically(
        out / FILE, json.dumps({"identity": mark, "sha256": digest(measured), "utility": measured}, indent=1) + "\n"
    )
    return measured


def utility(
    model: Any,
    tokenizer: Any,
    request: UtilityRequest,
    languages: Sequence[str],
    *,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    answers: Path | None = None,
    announce: Announce = silent,
) -> dict[str, dict[str, Cell]]:
    """Measure a causal language model, greedily and through its chat template.

    Model and tokenizer are as before afterwards, also the model's training mode and generation settings. The prompt is
    the rendered template and nothing else: a begin-of-sequence token is there once if the template writes it.

    Args:
        model: a `transformers` model, also with a PEFT adapter, on its device.
        chat_template_kwargs: passed to the chat template, for example `enable_thinking`.
        answers: a JSONL file to write: task, language, index, completion, extracted, target and correct of each answer.
        announce: told what is being measured.

    Returns task to language to `{"metric", "value", "n", "low", "high"}`; rates in %.

    Raises CrosslignError if lm-eval is missing, a task or its data are, or a prompt does not fit into the model.
    """
    if not tokenizer.chat_template:
        raise CrosslignError(
            "utility: the tokenizer has no chat template; give one, or use an instruction-tuned model."
        )
    with _undisturbed(model, tokenizer):
        own, options = copy.deepcopy(tokenizer), dict(chat_template_kwargs or {})
        own.chat_template = dated_template(own, options) or own.chat_template
        lm = _language_model(model, own, request.batch_size, options)
        if request.max_new_tokens >= lm.max_length:
            raise CrosslignError(
                f"utility: max_new_tokens is {request.max_new_tokens}, but the model takes {lm.max_length} tokens in "
                "all."
            )
        return measure(lm, request, languages, answers=answers, announce=announce)


def measure(
    lm: Any,
    request: UtilityRequest,
    languages: Sequence[str],
    *,
    answers: Path | None = None,
    announce: Announce = silent,
) -> dict[str, dict[str, Cell]]:
    """`utility` for any `lm_eval.api.model.LM` that has a chat template."""
    tasks_folder()
    from lm_eval import evaluator

    results: dict[str, dict[str, Cell]] = {name: {} for name in request.tasks}
    if answers is not None:
        answers.unlink(missing_ok=True)
    with TemporaryDirectory() as folder, _quiet():
        generated = request.write(languages, Path(folder))
        loaded = _load(generated, folder)
        for task in generated:
            rows = len(loaded[task.name].eval_docs)
            count = rows if request.limit is None else min(request.limit, rows)
            announce(f"{task.benchmark}, {task.language}: {count} of {rows} rows of {task.source}")
            output = evaluator.evaluate(
                lm,
                {task.name: loaded[task.name]},
                samples={task.name: [i * rows // count for i in range(count)]},
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=True,
            )
            samples = [s for s in output["samples"][task.name] if s["filter"] == task.stock.extraction]
            results[task.benchmark][task.language] = _cell(task, samples)
            if answers is not None:
                append_rows(answers, (_answer(task, sample) for sample in samples))
    return results


def _cell(task: GeneratedTask, samples: Sequence[Mapping[str, Any]]) -> Cell:
    rate = wilson(sum(_correct(task, sample) for sample in samples), len(samples))
    return {"metric": task.stock.metric, **rate.percent(), "n": len(samples)}


def _correct(task: GeneratedTask, sample: Mapping[str, Any]) -> bool:
    return round(float(sample[task.stock.metric])) == 1


def _answer(task: GeneratedTask, sample: Mapping[str, Any]) -> dict[str, Any]:
    response, extracted = sample["resps"][0][0], sample["filtered_resps"][0]
    return {
        "task": task.benchmark,
        "language": task.language,
        "index": sample["doc_id"],
        "completion": response if isinstance(response, str) else None,  # options are scored, not written
        "extracted": extracted if isinstance(extracted, str) else None,
        "target": str(sample["target"]),
        "correct": _correct(task, sample),
    }


def _load(generated: Sequence[GeneratedTask], folder: str) -> dict[str, Any]:
    """The tasks with their data, all before the first is measured, so that what is missing shows at once."""
    from lm_eval.tasks import TaskManager

    _register_digits_filter()
    # Indexing the defaults takes ten seconds.
    manager = TaskManager(include_path=folder, include_defaults=False)
    loaded: dict[str, Any] = {}
    for task in generated:
        try:
            loaded |= manager.load([task.name])["tasks"]
        except Exception as error:  # the data set library raises many kinds; the cause decides what the user can do
            raise CrosslignError(
                f"utility task {task.benchmark!r}, {task.language}: {task.source} could not be loaded "
                f"({cause(error)}). Stock data need a network or the local hub cache, and for a gated set `hf auth "
                "login`; otherwise give a local table."
            ) from error
    return loaded


def _register_digits_filter() -> None:
    from lm_eval.api.filter import Filter
    from lm_eval.api.registry import FILTER_REGISTRY, register_filter

    if DIGITS_FILTER in FILTER_REGISTRY:
        return

    @register_filter(DIGITS_FILTER)
    class DigitsFilter(Filter):
        """Native digits to ASCII in every response; stands before what reads the answer."""

        def apply(self, resps: Any, docs: Any) -> Any:
            return [[ascii_numbers(response) for response in responses] for responses in resps]


def _language_model(model: Any, tokenizer: Any, batch_size: int, chat_template_kwargs: dict[str, Any]) -> Any:
    """lm-eval's view of the model, which raises where the original cuts the beginning of a prompt off."""
    from lm_eval.models.huggingface import HFLM

    class InMemory(HFLM):
        def tok_batch_encode(
            self,
            strings: list[str],
            padding_side: str = "left",
            left_truncate_len: int | None = None,
            truncation: bool = False,
        ) -> Any:
            ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
            if left_truncate_len is not None and ids.shape[1] > left_truncate_len:
                self._refuse(ids.shape[1], ids.shape[1] - left_truncate_len)
            return ids, mask

        def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> Any:
            for _, context, continuation in requests:
                excess = len(context) + len(continuation) - self.max_length
                if excess > 0:
                    self._refuse(len(context), excess)
            return super()._loglikelihood_tokens(requests, *args, **kwargs)

        def _refuse(self, tokens: int, excess: int) -> None:
            raise CrosslignError(
                f"utility: a prompt has {tokens} tokens; with the answer's that is {excess} more than the "
                f"{self.max_length} that the model takes. Nothing is cut silently: lower max_new_tokens or leave the "
                "row out."
            )

    with _quiet():
        return InMemory(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=batch_size,
            add_bos_token=False,  # the template writes it, or the model has none
            chat_template_args=chat_template_kwargs,
        )


@contextlib.contextmanager
def _undisturbed(model: Any, tokenizer: Any) -> Iterator[None]:
    """The model in evaluation mode with neutral generation settings, and afterwards as before.

    Models bring settings of their own (Qwen2.5 a repetition penalty, which also greedy decoding heeds and which
    punishes arithmetic).
    """
    inner = causal_lm(model)
    ids = token_ids(tokenizer, model)
    before = inner.generation_config
    inner.generation_config = GenerationConfig(
        eos_token_id=list(ids.stop), pad_token_id=ids.pad, suppress_tokens=list(ids.forbidden) or None
    )
    try:
        with evaluating(model), torch.no_grad():
            yield
    finally:
        inner.generation_config = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's warnings, which are about how its command line is used."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
