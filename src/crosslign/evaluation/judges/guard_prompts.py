"""From a query and an untrusted completion to a guard's prompt, and from reply texts to token ids.

The texts that are judged must not speak for the guard's template. In them,

- the tokenizer's control tokens (special ones, and added ones written like markup, such as `<think>`) get a blank after
  their first character, so that they are read as letters: `<|im_end|>` becomes `< |im_end|>`. After tokenization the
  prompt must hold exactly the control tokens that the template writes, or the row is not judged;
- `<BEGIN ...>` and `<END ...>` get the same blank, and the template's own turn marks at the start of a line, `USER:`,
  get one before the colon;
- lone surrogates, which no tokenizer takes, become U+FFFD.

What remains, such as a completion that says `Safety: Safe`, is text for the guard to judge.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crosslign.evaluation.judges.guard_formats import GuardFormat
from crosslign.types import CrosslignError

CUT_MARK = " [...] "  # stands where the middle of a completion was
_QUERY, _COMPLETION = "crosslign query", "crosslign completion"
# Beginnings of several kinds: what the prompts of all of them share is what the prompt of any text begins with.
_PROBES = (("a", "b"), ("7 days", "(one)"), ("প্রশ্ন", "উত্তর"), ("\n\nz", "\n"), ('"q"', "答"))


class Unaskable(Exception):
    """This row cannot be put to the guard; the message is the reason of the verdict."""


@dataclass(frozen=True)
class Prompt:
    """One conversation as the guard reads it.

    Fields:
        token_ids: up to where the guard's reply begins.
        cut: the middle of the completion was left out, see `CUT_MARK`.
        neutralised: number of places where control tokens or marks of the template were broken up.
    """

    token_ids: tuple[int, ...]
    cut: bool
    neutralised: int


@dataclass(frozen=True)
class Step:
    """A place in a reply where labels are compared: token ids of the reply up to there, and of each label."""

    token_ids: tuple[int, ...]
    labels: tuple[tuple[int, ...], ...]


class GuardPrompts:
    """Renders conversations with a guard's own chat template; see the module for what happens to the texts.

    Args:
        tokenizer: with a chat template.
        format: the guard's format.
        limit: tokens that a prompt may have.

    Attributes:
        prefix: token ids that the prompts of all texts begin with (the guard's policy), as far as that can be told
            from a few probes; a prompt that begins otherwise is possible and must be looked for.
        digest: hash of everything constant about the prompts: chat template, fixed messages, fields.

    Raises CrosslignError if the chat template refuses or loses the messages, or is not of this format.
    """

    def __init__(self, tokenizer: Any, format: GuardFormat, limit: int) -> None:
        self.tokenizer, self.format, self.limit = tokenizer, format, limit
        self._control = _control_tokens(tokenizer)
        self._breakable = _breakable(list(self._control.values()), format.turns)
        self._as_parts = False
        rendered = self._first_rendering()
        self._tail = rendered.rpartition(_COMPLETION)[2]
        self._own_control = self._control_ids(self._encode(rendered))
        self.prefix = _shared([self._encode(self._render(*probe)) for probe in _PROBES])
        self.digest = hashlib.sha256(f"{rendered}\0{format.opening}\0{format.fields}".encode()).hexdigest()[:16]
        length = len(self._encode(self._render("", CUT_MARK)))
        if length >= limit:
            raise CrosslignError(
                f"guard format {format.name}: its prompt alone has {length} tokens, the limit is {limit}. "
                "Raise max_length, or take a guard with a longer context."
            )

    def make(self, query: str, completion: str) -> Prompt:
        """The prompt that asks about `completion`, cut in its middle if the prompt would be over the limit.

        Raises Unaskable if even without the completion it is too long, or if control tokens got through.
        """
        query, breaks = self._neutralise(query)
        completion, more = self._neutralise(completion)
        token_ids = self._encode(self._render(query, completion))
        cut = len(token_ids) > self.limit
        if cut:
            token_ids = self._shorten(query, completion, len(token_ids))
        if self._control_ids(token_ids) != self._own_control:
            raise Unaskable("control tokens")
        return Prompt(tuple(token_ids), cut, breaks + more)

    def _shorten(self, query: str, completion: str, length: int) -> list[int]:
        """Leave out as much of the completion's middle as is needed, or a little more."""
        kept = len(completion)
        token_ids = self._encode(self._render(query, CUT_MARK))
        without = len(token_ids)
        if without > self.limit:
            raise Unaskable("query too long")
        while length > self.limit:
            kept = min(kept - 1, kept * (self.limit - without) // (length - without))
            short = completion[: kept - kept // 2] + CUT_MARK + completion[len(completion) - kept // 2 :]
            token_ids = self._encode(self._render(query, short))
            length = len(token_ids)
        return token_ids

    def steps(self) -> dict[str, Step]:
        """For every beginning of a reply after which labels are compared: its token ids, and those of the labels.

        The ids are those that the tokenizer gives the reply as a whole. Raises CrosslignError if they cannot be had
        piece by piece (what follows changes the tokens before it) or one label's ids begin another's: then labels
        cannot be compared.
        """
        found: dict[str, Step] = {}
        self._walk(found, 0, "", (), {})
        return found

    def _walk(
        self, found: dict[str, Step], number: int, reply: str, ids: tuple[int, ...], values: dict[str, str]
    ) -> None:
        if number == len(self.format.fields):
            return
        field, reply = self.format.fields[number], reply + self.lead(number)
        given = field.given(values)
        if given is not None:
            self._walk(found, number + 1, reply + given, ids, {**values, field.name: given.strip()})
            return
        ids += self._continuation(ids, reply)
        labels = tuple(self._continuation(ids, reply + label) for label in field.labels)
        for label, one in zip(field.labels, labels, strict=True):
            if sum(other[: len(one)] == one for other in labels) > 1:
                raise self._unfit(f"the tokens of {label!r} begin those of another label")
        found[reply] = Step(ids, labels)
        for label, one in zip(field.labels, labels, strict=True):
            self._walk(found, number + 1, reply + label, ids + one, {**values, field.name: label.strip()})

    def lead(self, number: int) -> str:
        """What the reply holds between one label and the next field's."""
        field = self.format.fields[number]
        opening = self.format.opening if number == 0 and not self._tail.endswith("\n") else ""
        return opening + field.lead

    def _continuation(self, ids: tuple[int, ...], reply: str) -> tuple[int, ...]:
        """What the ids of `reply` have after `ids`."""
        whole = self._reply_ids(reply)
        if whole[: len(ids)] != ids:
            raise self._unfit(f"the tokens of {reply[-60:]!r} do not continue those of its beginning")
        return whole[len(ids) :]

    def _reply_ids(self, reply: str) -> tuple[int, ...]:
        """Ids of a reply that follows the prompt's own ids, as if it were generated: nothing joins across its start.

        It is tokenized after a control token, which nothing joins with either; at the start of a text, tokenizers of
        the SentencePiece kind would put a blank before it.
        """
        anchor = self._control[self._own_control[-1]] if self._own_control else ""
        return tuple(self._encode(anchor + reply)[1 if anchor else 0 :])

    def _unfit(self, why: str) -> CrosslignError:
        return CrosslignError(
            f"guard format {self.format.name}: labels cannot be compared with this tokenizer: {why}. "
            "Let the guard write its reply: method generate."
        )

    def _first_rendering(self) -> str:
        """Find out how the chat template takes messages, and check that it is this format's."""
        why = ""
        for self._as_parts in (False, True):
            try:
                rendered = self._render(_QUERY, _COMPLETION)
            except CrosslignError as error:
                why = str(error)
                continue
            if rendered.count(_QUERY) == rendered.count(_COMPLETION) == 1:
                missing = [text for text in self.format.mentions if text not in rendered]
                if missing:
                    raise CrosslignError(
                        f"the tokenizer's chat template is not that of {self.format.name}: its prompt does not hold "
                        f"{missing[0]!r}. Take the guard's own tokenizer ({self.format.hub_ids[0]})."
                    )
                return rendered
            why = why or "it leaves out, or repeats, the query or the completion"
        raise CrosslignError(f"guard format {self.format.name}: the tokenizer's chat template does not fit: {why}.")

    def _render(self, query: str, completion: str) -> str:
        if self.format.user is None:
            messages = [{"role": "user", "content": query}, {"role": "assistant", "content": completion}]
        else:
            system = [{"role": "system", "content": self.format.system}] if self.format.system else []
            filled = self.format.user.format_map({"query": query, "completion": completion})
            messages = [*system, {"role": "user", "content": filled}]
        chat: list[dict[str, Any]] = [dict(m) for m in messages]
        if self._as_parts:
            chat = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=self.format.generation_prompt
            )
        except Exception as error:  # jinja errors of many kinds, raised by the template itself
            raise CrosslignError(f"the tokenizer's chat template refused the messages: {error}") from error
        return text

    def _encode(self, text: str) -> list[int]:
        """Ids of a rendered text, whose template has written every special token already."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _control_ids(self, token_ids: Sequence[int]) -> list[int]:
        return [token for token in token_ids if token in self._control]

    def _neutralise(self, text: str) -> tuple[str, int]:
        text = re.sub("[\ud800-\udfff]", "\ufffd", text)
        breaks = 0
        for pattern in self._breakable:
            text, count = pattern.subn(r"\1 \2", text)
            breaks += count
        return text, breaks


def _control_tokens(tokenizer: Any) -> dict[int, str]:
    """Ids and texts of what must not come out of the judged text; the token for unknown characters may."""
    found = {}
    for token_id, token in tokenizer.added_tokens_decoder.items():
        text = str(token)
        markup = text.startswith("<") and text.endswith(">")
        if (token.special or markup) and text.strip() and token_id != tokenizer.unk_token_id:
            found[int(token_id)] = text
    return found


def _breakable(tokens: Sequence[str], turns: Sequence[str]) -> list[re.Pattern[str]]:
    """Patterns of two groups; between them goes a blank."""
    patterns = [
        re.compile(r"(<)((?:BEGIN|END) [A-Z ]+>)"),
        re.compile(rf"(?m)^([ \t]*(?:{'|'.join(map(re.escape, turns))}))(:)"),
    ]
    long = sorted((t for t in tokens if len(t) > 1), key=len, reverse=True)
    if long:
        alternatives = "|".join(f"(?={re.escape(t)}){re.escape(t[0])}" for t in long)
        patterns.append(re.compile(f"({alternatives})(.)", re.DOTALL))
    return patterns


def _shared(sequences: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The beginning that all sequences have in common."""
    shared = []
    for column in zip(*sequences, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return tuple(shared)
