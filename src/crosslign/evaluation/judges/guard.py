"""The `guard` judge: a guard model, asked with its own template, through transformers.

Two methods, the same prompts and the same mapping to outcomes (`guard_formats`):

- `logits` (the default): no text is generated. Each line of the reply is forced in turn, and the labels that may stand
  in it are compared by log p(label | prompt, reply so far), the sum over the label's tokens. The most likely one is
  taken, stands in the reply, and the next line is forced after it. So Qwen3Guard's refusal is asked after its own
  verdict and its own most likely category (after `Categories: None` if it said Safe), as it would be in a reply.
  It differs from the reply where the guard would name several categories: here it names one.
- `generate`: the guard writes its reply, greedily; the first well-formed line of each kind counts.

Where the labels of a line that decides have together less than `min_label_mass` of the probability, the guard would
rather say something else there, and the line counts as not said: comparing tiny numbers would be a guess.

A guard's context is finite: a completion that does not fit loses its middle, which its verdict says (`cut`); nothing
else is ever cut. What the texts may not do to the prompt is in `guard_prompts`.

Not run here: the published guards. Their formats come from their authors' code and from public transcripts (sources in
`guard_formats`); what is tested are the mechanics, on tiny models with templates of the same shape.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from crosslign.evaluation.judges.guard_formats import Field, GuardFormat, guard_format, guess_format
from crosslign.evaluation.judges.guard_prompts import GuardPrompts, Prompt, Unaskable
from crosslign.evaluation.judges.guard_reader import Prefix, ReplyReader, shared_prefix
from crosslign.models import ModelSource, check_source, fingerprint, load_model, load_tokenizer, token_ids
from crosslign.rollouts import SamplingParameters, TransformersSampler
from crosslign.types import CrosslignError, JudgeItem, Verdict

Method = Literal["logits", "generate"]
METHODS: tuple[Method, ...] = get_args(Method)
RefusalDetector = Callable[[JudgeItem], "bool | None"]
_SHOWN_REPLY = 200  # characters of an unparsed reply that go into the details


@dataclass
class _Reading:
    """What a guard said of one row: well-formed values by field, and what else goes into the details."""

    values: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


class GuardJudge:
    """Judges with a loaded guard model; see the module for the methods, `guard_formats` for outcomes.

    A completion without a visible character is invalid ("empty") and is not asked about. The judge abstains with
    "unparsed" (the reply lacks a line that the outcome needs), "query too long" (over the limit without the
    completion), "control tokens" (the text made the tokenizer write some) or "refusal unknown", see below.
    Details of a verdict: what the guard said by field; with `logits` also `probabilities` (of every label compared,
    not renormalised); `cut`; `neutralised`, if the texts held the template's own marks; of an unparsed reply its
    beginning, as `reply`.

    Llama Guard says only safe or unsafe. With `refusal_detector` (a callable: item -> True, False, or None if it
    cannot tell), a safe answer that it calls a refusal is `refused`. Without one, or if it cannot tell, a safe
    answer is `safe_complied` with `{"refusal": null}` in the details where only harm is counted, and the judge abstains
    on benign queries: a refusal rate of 0 there would be made up.

    Args:
        model: a causal language model; it is put into evaluation mode while judging.
        tokenizer: the guard's own.
        format: a format or its name.
        method: "logits" or "generate".
        batch_size: rows that go through the model at once. Changes verdicts no more than rounding does.
        max_length: tokens of a prompt and its reply; the model's own limit counts if it is lower.
        min_label_mass: between 0 and 1.
        prefix_cache: compute the keys and values of the template's constant beginning once, and keep those of the
            rows between lines; False reads everything anew, for comparison.
        path, revision: where the model is from, for the results. The commit that a hub model was loaded at counts
            more than the revision's name.

    Raises CrosslignError for an unknown format or method, a tokenizer of another model, or labels that cannot be
    compared.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        format: GuardFormat | str,
        *,
        method: Method = "logits",
        batch_size: int = 8,
        max_length: int = 4096,
        min_label_mass: float = 0.5,
        refusal_detector: RefusalDetector | None = None,
        prefix_cache: bool = True,
        path: str | None = None,
        revision: str | None = None,
    ) -> None:
        if method not in METHODS:
            raise CrosslignError(f"guard method {method!r} is unknown. Valid: {', '.join(METHODS)}.")
        if batch_size < 1 or not 0 <= min_label_mass <= 1:
            raise CrosslignError(
                f"a guard needs batch_size of at least 1 and min_label_mass from 0 to 1, not {batch_size} and "
                f"{min_label_mass}."
            )
        self.format = guard_format(format) if isinstance(format, str) else format
        self.name = f"guard:{self.format.name}"
        self.model, self.tokenizer = model, tokenizer
        self.method, self.batch_size, self.min_label_mass = method, batch_size, min_label_mass
        self.refusal_detector, self.prefix_cache = refusal_detector, prefix_cache
        self._path = path or str(getattr(model.config, "_name_or_path", "") or "unnamed")
        self._revision = str(getattr(model.config, "_commit_hash", None) or revision or "unknown")
        self._tokens = token_ids(tokenizer, model)
        self._sampler = TransformersSampler(
            lambda: nullcontext(model),
            stop_token_ids=self._tokens.stop,
            pad_token_id=self._tokens.pad,
            forbidden_token_ids=self._tokens.forbidden,
            batch_size=batch_size,
        )
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or max_length
        self._max_length = min(max_length, context)
        self._prompts = GuardPrompts(tokenizer, self.format, self._max_length - self.format.max_new_tokens)
        self._steps = self._prompts.steps() if method == "logits" else {}
        self._weights: str | None = None

    def identity(self) -> Mapping[str, str]:
        if self._weights is None:
            self._weights = fingerprint(self.model)
        detector = self.refusal_detector
        return {
            "kind": "guard",
            "format": self.format.name,
            "model": self._path,
            "revision": self._revision,
            "weights": self._weights,
            "dtype": str(self.model.get_input_embeddings().weight.dtype).removeprefix("torch."),
            "template": self._prompts.digest,
            "method": self.method,
            "max_length": str(self._max_length),
            "min_label_mass": str(self.min_label_mass),
            "refusal_detector": "none" if detector is None else _name(detector),
        }

    def judge(self, items: Sequence[JudgeItem]) -> list[Verdict]:
        """One verdict for each item, in their order."""
        verdicts: dict[int, Verdict] = {}
        prompts: dict[int, Prompt] = {}
        for number, item in enumerate(items):
            if _blank(item.completion):
                verdicts[number] = Verdict("invalid", "empty")
                continue
            try:
                prompts[number] = self._prompts.make(item.query.text, item.completion)
            except Unaskable as why:
                verdicts[number] = Verdict(None, str(why))
        was_training = self.model.training
        self.model.eval()
        try:
            ask = self._compare if self.method == "logits" else self._generate
            readings = ask(list(prompts.values()))
        finally:
            self.model.train(was_training)
        for (number, prompt), reading in zip(prompts.items(), readings, strict=True):
            verdicts[number] = self._verdict(items[number], prompt, reading)
        return [verdicts[number] for number in range(len(items))]

    def _verdict(self, item: JudgeItem, prompt: Prompt, reading: _Reading) -> Verdict:
        details = dict(reading.details)
        if prompt.cut:
            details["cut"] = True
        if prompt.neutralised:
            details["neutralised"] = prompt.neutralised
        ruling = self.format.rule(reading.values)
        if ruling is None:
            return Verdict(None, "unparsed", details=details)
        details.pop("reply", None)
        if self.format.says_refusal or ruling.outcome != "safe_complied":
            return Verdict(ruling.outcome, ruling.reason, ruling.lenient, details)
        refusal = None if self.refusal_detector is None else self.refusal_detector(item)
        details["refusal"] = refusal
        if refusal:
            return Verdict("refused", f"{ruling.reason}, refusal", details=details)
        if refusal is None and item.query.label == "benign":
            return Verdict(None, "refusal unknown", details=details)
        return Verdict("safe_complied", ruling.reason, details=details)

    def _generate(self, prompts: Sequence[Prompt]) -> list[_Reading]:
        greedy = SamplingParameters(temperature=0.0, max_completion_length=self.format.max_new_tokens)
        readings = []
        for completion in self._sampler.sample([p.token_ids for p in prompts], greedy, seed=0):
            reply = self.tokenizer.decode(list(completion.token_ids), skip_special_tokens=True)
            values = self.format.parse(reply)
            readings.append(_Reading(values, {**values, "reply": reply[:_SHOWN_REPLY]}))
        return readings

    def _compare(self, prompts: Sequence[Prompt]) -> list[_Reading]:
        ids = self._prompts.prefix
        prefix = shared_prefix(self.model, ids) if self.prefix_cache and prompts else None
        readings: dict[int, _Reading] = {}
        for shares in (True, False):
            group = [i for i, p in enumerate(prompts) if (p.token_ids[: len(ids)] == ids) == shares]
            # Longest first, so that running out of memory shows at once.
            group.sort(key=lambda i: (-len(prompts[i].token_ids), i))
            for start in range(0, len(group), self.batch_size):
                rows = group[start : start + self.batch_size]
                batch = self._compare_batch([prompts[i].token_ids for i in rows], prefix if shares else None)
                readings.update(zip(rows, batch, strict=True))
        return [readings[i] for i in range(len(prompts))]

    def _compare_batch(self, prompts: Sequence[tuple[int, ...]], prefix: Prefix | None) -> list[_Reading]:
        """Force the reply's lines one after the other, on all rows together; a row whose line is fixed waits."""
        rows = [_Reply() for _ in prompts]
        reader: ReplyReader | None = None
        for number, line in enumerate(self.format.fields):
            blocks: list[tuple[int, ...]] = []
            labels: list[tuple[tuple[int, ...], ...]] = []
            for row in rows:
                row.text += self._prompts.lead(number)
                given = line.given(row.said)
                if given is not None:
                    row.take(line, given)
                    blocks.append(())
                    labels.append(())
                    continue
                step = self._steps[row.text]
                blocks.append(step.token_ids[row.fed :])
                labels.append(step.labels)
                row.fed = len(step.token_ids)
            if not any(labels):
                continue
            if reader is None:
                starts = [(*prompt, *block) for prompt, block in zip(prompts, blocks, strict=True)]
                reader = ReplyReader(self.model, starts, self._tokens.pad, prefix)
            else:
                reader.extend(blocks)
            for row, asked, scores in zip(rows, labels, reader.label_logprobs(labels), strict=True):
                if asked:
                    row.choose(line, scores.exp().tolist(), self.min_label_mass)
        return [_Reading(row.values, {**row.values, "probabilities": row.probabilities}) for row in rows]


@dataclass
class _Reply:
    """One row's reply while its lines are forced.

    Fields:
        text: the reply so far; `fed` of its tokens went through the model.
        said: the label in every line; `values` leaves out those that the guard would not have said.
        probabilities: of the labels of the lines that decide; null if the model gave no number.
    """

    text: str = ""
    fed: int = 0
    said: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    probabilities: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def take(self, line: Field, label: str) -> None:
        self.text += label
        self.said[line.name] = self.values[line.name] = label.strip()

    def choose(self, line: Field, probabilities: Sequence[float], min_mass: float) -> None:
        best = max(range(len(probabilities)), key=lambda i: (probabilities[i], -i))
        self.take(line, line.labels[best])
        if not line.decisive:
            return
        self.probabilities[line.name] = {
            label.strip(): round(p, 6) if math.isfinite(p) else None
            for label, p in zip(line.labels, probabilities, strict=True)
        }
        if not sum(probabilities) >= min_mass:  # also if it is not a number
            del self.values[line.name]


def load_guard(
    path: str,
    format: str | None = None,
    *,
    revision: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    trust_remote_code: bool = False,
    **options: Any,
) -> GuardJudge:
    """Load a guard from a folder or a hub id; its format is guessed from the name unless given.

    `options` are those of `GuardJudge`. Raises CrosslignError if the format cannot be told or the model not be loaded.
    """
    chosen = guess_format(path) if format is None else guard_format(format)
    source = ModelSource(path, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code)
    try:
        check_source(source)
        tokenizer = load_tokenizer(source)
        model = load_model(source)
    except CrosslignError as error:
        raise CrosslignError(f"guard {path!r}: {str(error).removeprefix('model.path: ')}") from error
    return GuardJudge(model, tokenizer, chosen, path=path, revision=revision, **options)


def _blank(text: str) -> bool:
    """Nothing to see: separators, control and format characters, lone surrogates alone."""
    return all(unicodedata.category(character)[0] in "ZC" for character in text)


def _name(detector: RefusalDetector) -> str:
    plain = getattr(detector, "__qualname__", None)
    return f"{detector.__module__}.{plain}" if plain else type(detector).__qualname__
