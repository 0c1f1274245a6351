"""From a query and an untrusted completion to a guard's prompt.

The texts that are judged must not speak for the guard's template. In them,

- the tokenizer's control tokens (special ones, and added ones written like markup, such as `<think>`) get a blank after
  their first character, so that they are read as letters: `<|im_end|>` becomes `< |im_end|>`. After tokenization the
  prompt must hold exactly the control tokens that the template writes, or the row is not judged;
- `<BEGIN ...>` and `<END ...>` get the same blank, and the template's own turn marks at the start of a line, `USER:`,
  get one before the colon, whatever ends the line before;
- lone surrogates, which no tokenizer takes, become U+FFFD.

What remains, such as a completion that says `Safety: Safe`, is text for the guard to judge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crosslign.contexts import dated_template
from crosslign.evaluation.judges.guard_formats import GuardFormat
from crosslign.storage import digest
from crosslign.types import CrosslignError

CUT_MARK = " [...] "  # stands where the middle of a completion was
_LINE_ENDS = "\n\r\v\f\x1c-\x1e\x85\u2028\u2029"  # in a regular expression's brackets
_QUERY, _COMPLETION = "crosslign query", "crosslign completion"


class Unaskable(Exception):
    """This row cannot be put to the guard; the message is the reason of the verdict."""


@dataclass(frozen=True)
class Prompt:
    """One conversation as the guard reads it.

    Fields:
        token_ids: up to where the guard's reply begins.
        cut: the middle of the completion was left out, see `CUT_MARK`.
    """

    token_ids: tuple[int, ...]
    cut: bool


class GuardPrompts:
    """Renders conversations with a guard's own chat template; see the module for what happens to the texts.

    Args:
        tokenizer: with a chat template.
        format: the guard's format.
        limit: tokens that a prompt may have.

    Attributes:
        digest: hash of what is constant about asking: chat template, fixed messages, how a reply is read.

    Raises CrosslignError if the chat template refuses or loses the messages, or is not of this format.
    """

    def __init__(self, tokenizer: Any, format: GuardFormat, limit: int) -> None:
        self.tokenizer, self.format, self.limit = tokenizer, format, limit
        self._control = _control_tokens(tokenizer)
        self._breakable = _breakable(list(self._control.values()), format.turns)
        self._as_parts = False
        self._template = dated_template(tokenizer, {})  # else a verdict would change with the day
        rendered = self._first_rendering()
        self._own_control = self._control_ids(self._encode(rendered))
        self.digest = digest(f"{rendered}\0{format.lines}\0{format.max_new_tokens}")
        length = len(self._encode(self._render("", CUT_MARK)))
        if length >= limit:
            raise CrosslignError(
                f"guard format {format.name}: its prompt alone has {length} tokens, the limit is {limit}. "
                "Take a guard with a longer context."
            )

    def make(self, query: str, completion: str) -> Prompt:
        """The prompt that asks about `completion`, cut in its middle if the prompt would be over the limit.

        Raises Unaskable if even without the completion it is too long, or if control tokens got through.
        """
        query, completion = self._neutralise(query), self._neutralise(completion)
        token_ids = self._encode(self._render(query, completion))
        cut = len(token_ids) > self.limit
        if cut:
            token_ids = self._shorten(query, completion, len(token_ids))
        if self._control_ids(token_ids) != self._own_control:
            raise Unaskable("control tokens")
        return Prompt(tuple(token_ids), cut)

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
                chat,
                tokenize=False,
                add_generation_prompt=self.format.generation_prompt,
                chat_template=self._template,
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

    def _neutralise(self, text: str) -> str:
        text = re.sub("[\ud800-\udfff]", "\ufffd", text)
        for pattern in self._breakable:
            text = pattern.sub(r"\1 \2", text)
        return text


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
        re.compile(rf"((?:\A|(?<=[{_LINE_ENDS}]))[ \t]*(?:{'|'.join(map(re.escape, turns))}))(:)"),
    ]
    long = sorted((t for t in tokens if len(t) > 1), key=len, reverse=True)
    if long:
        alternatives = "|".join(f"(?={re.escape(t)}){re.escape(t[0])}" for t in long)
        patterns.append(re.compile(f"({alternatives})(.)", re.DOTALL))
    return patterns
