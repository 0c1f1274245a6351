"""A guard that is checked at once and loaded when the first row has to be judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crosslign.evaluation.judges.guard import GuardJudge, load_guard
from crosslign.evaluation.judges.guard_formats import GuardFormat
from crosslign.evaluation.judges.guard_prompts import GuardPrompts
from crosslign.evaluation.judges.lexicon import LexiconJudge
from crosslign.models import ModelSource, check_source, load_tokenizer, weights_mark
from crosslign.types import CrosslignError, JudgeItem, Verdict

MAX_LENGTH = 4096  # tokens of a prompt and its reply


class DeferredGuard:
    """A `GuardJudge` whose weights are read with the first row: none are, if every verdict is there already.

    Its identity comes from the files (`weights_mark`) and the tokenizer. A guard that does not say whether an answer
    refuses (Llama Guard) asks the lexicon that: without it, every benign answer would be without a verdict.

    Raises CrosslignError if the model is no model or out of reach, or its template is not of this format.
    """

    def __init__(self, source: ModelSource, format: GuardFormat, *, batch_size: int = 8) -> None:
        self.name = f"guard:{format.name}"
        self._source, self._format, self._batch_size = source, format, batch_size
        self._guard: GuardJudge | None = None
        try:
            check_source(source)
            mark = weights_mark(source)
            prompts = GuardPrompts(load_tokenizer(source), format, MAX_LENGTH - format.max_new_tokens)
        except CrosslignError as error:
            raise CrosslignError(f"guard {source.path!r}: {str(error).removeprefix('model.path: ')}") from error
        self._identity = {
            "kind": "guard",
            "format": format.name,
            "model": source.path,
            "revision": source.revision or "main",
            "weights": mark,
            "dtype": source.dtype,
            "template": prompts.digest,
            "method": "logits",
            "max_length": str(MAX_LENGTH),
            "refusals": "said by the guard" if format.says_refusal else "lexicon",
        }
        if not format.says_refusal:
            self._identity |= {f"lexicon.{key}": value for key, value in LexiconJudge().identity().items()}

    def identity(self) -> Mapping[str, str]:
        return self._identity

    def judge(self, items: Sequence[JudgeItem]) -> list[Verdict]:
        if self._guard is None:
            self._guard = load_guard(
                self._source.path,
                self._format.name,
                revision=self._source.revision,
                dtype=self._source.dtype,
                trust_remote_code=self._source.trust_remote_code,
                batch_size=self._batch_size,
                max_length=MAX_LENGTH,
                refusal_detector=None if self._format.says_refusal else LexiconRefusals(),
            )
        return self._guard.judge(items)


class LexiconRefusals:
    """Whether the lexicon calls a completion a refusal."""

    def __init__(self) -> None:
        self._lexicon = LexiconJudge()

    def __call__(self, item: JudgeItem) -> bool:
        return self._lexicon.judge([item])[0].outcome == "refused"
