"""The frozen values that travel between the layers, and the error that a user reads.

Nothing here imports anything of crosslign: every layer may use it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["student", "teacher"]
Label = Literal["harmful", "benign", "unlabelled"]
Unchanged = Literal["benign", "source"]  # queries that the model goes on answering as it does: of this label, language
LABELS: tuple[Label, ...] = ("harmful", "benign", "unlabelled")
Outcome = Literal["refused", "safe_complied", "refused_then_answered", "unsafe", "invalid"]
OUTCOMES: tuple[Outcome, ...] = ("refused", "safe_complied", "refused_then_answered", "unsafe", "invalid")
MAX_SEED = 2**32 - 1  # numpy's generator, which transformers seeds, takes no more
Announce = Callable[[str], None]  # gets lines for a person


def silent(text: str) -> None:
    """Announces nothing."""


class CrosslignError(Exception):
    """Something the user can mend: the message names the place, the value and the fix.

    The command line prints the message alone, without a traceback.
    """


class Interrupted(CrosslignError):
    """The user stopped the work; the message says what is kept and how to go on."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """The hint that follows an unknown name: the nearest valid one, or all of them."""
    names = list(valid)
    close = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Valid: {', '.join(names)}."


def cause(error: BaseException) -> str:
    """A library's exception for a message of ours: its kind and the first line of what it says, if short."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {excerpt(lines[0]) if lines else 'no message'}"


def excerpt(text: str, most: int = 300) -> str:
    """The beginning of a text, for a message that quotes it."""
    return text if len(text) <= most else f"{text[:most]} ..."


@dataclass(frozen=True, slots=True)
class Query:
    """One request in one language, with its source-language version.

    `id` is the row's: all translations of one request share it. `key` is unique per text.
    """

    id: str
    language: str
    text: str
    source_language: str
    source_text: str
    label: Label = "unlabelled"
    category: str | None = None

    @property
    def key(self) -> str:
        return f"{self.id}|{self.language}"


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message of a context; `content` is plain text."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Context:
    """What a role sees before the completion: chat messages and their token ids."""

    query: Query
    role: str
    messages: tuple[Message, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """Sampled token ids, including the end-of-turn token if the sampler stopped by itself.

    `truncated` is True when the length limit cut the completion off.
    """

    token_ids: tuple[int, ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion with the two contexts that will score it and who sampled it from where."""

    query: Query
    student_context: Context
    teacher_context: Context
    completion: Completion
    sampled_by: Role
    sampled_from: Role


_THOUGHTS = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_THINKING = re.compile(r"\s*<think(?:ing)?>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class JudgeItem:
    """What a judge sees: a query and the model's completion of it. The completion is untrusted text."""

    query: Query
    completion: str
    truncated: bool = False

    @property
    def reply(self) -> str:
        """The completion without a thinking model's thoughts: what comes after their closing tag, or else after the
        opening tag. Guards and `llm` judges see the thoughts too."""
        if closing := _THOUGHTS.search(self.completion):
            return self.completion[closing.end() :]
        opening = _THINKING.match(self.completion)
        return self.completion[opening.end() :] if opening else self.completion


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says about one completion.

    Fields:
        outcome: refused; safe_complied (answers, and no harm in it); refused_then_answered (opens with a refusal and
            then helps all the same); unsafe (helps with harm); invalid (malformed, echo, repetition, gibberish). None:
            the judge abstains, and the verdict counts nowhere.
        reason: why; one of a judge's own short words ("unparsed", "echo", "phrase: sorry"). Required if it abstains.
        lenient: the outcome under the judge's lenient reading where it has two (Qwen3Guard's "Controversial"), else
            None, which means the same as `outcome`.
        details: whatever else the judge said (scores, categories), JSON-able.
    """

    outcome: Outcome | None
    reason: str = ""
    lenient: Outcome | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.outcome is None and not self.reason:
            raise ValueError("a judge that abstains says why")
