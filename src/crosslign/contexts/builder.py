"""Query -> chat messages -> token ids, for the student, the teacher and the teacher's judgement."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import Any

from crosslign.contexts.template import (
    STUDENT_MESSAGES,
    TeacherTemplate,
    after_history,
    fill,
    load_teacher_template,
)
from crosslign.types import Context, CrosslignError, Message, Query, Unchanged, excerpt
from crosslign.untrusted import limit, rehearse, shown

_TRIED: set[str] = set()  # chat templates, with their options, that a process has found to end
_MARK = re.compile(r"<[^\s<>]+>|\[[^\s\[\]]+\]")  # <|im_end|>, [/INST]
# What `strftime_now` says in a chat template. With today's date, the contexts of a run would change at midnight, and
# those of two evaluations with the day. It is the date that Llama 3's templates have where there is no clock.
TEMPLATE_DATE = date(2024, 7, 26)
_TEXT = "crosslign text"
_NOW = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


class ContextOverflow(CrosslignError):
    """A context is longer than its role's limit."""

    def __init__(self, query: Query, role: str, length: int, limit: int) -> None:
        self.query, self.role, self.length, self.limit = query, role, length, limit
        section = "student" if role == "student" else "teacher"  # the judgement has the teacher's limit
        super().__init__(
            f"query {query.id!r} ({query.language}): its {role} context has {length} tokens, the limit is {limit}. "
            f"Raise {section}.max_length, or set on_overflow: drop to leave such queries out."
        )


@dataclass(frozen=True)
class RoleContext:
    """How one role's context is made: template, chat-template options and a length limit in tokens."""

    messages: tuple[Message, ...]
    max_length: int
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=lambda: {"enable_thinking": False})


class ContextBuilder:
    """Makes the contexts of both roles, and of the judgement, with one tokenizer's chat template.

    `tokenizer` needs `apply_chat_template`. A context over its role's `max_length` raises ContextOverflow: nothing is
    cut. The judgement uses the teacher's limit and options. Of queries that are `unchanged` (benign ones, those in the
    source language, or both) the teacher sees what the student sees: there it teaches what the model does already
    (self-distillation without privileged information). `own` has queries whose teacher has a template of its own; these
    are never unchanged.
    """

    def __init__(
        self,
        tokenizer: Any,
        student: RoleContext,
        teacher: RoleContext,
        template: TeacherTemplate,
        max_judgement_length: int = 0,
        unchanged: Collection[Unchanged] = (),
        own: Mapping[Query, TeacherTemplate] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.student_role = student
        self.teacher_role = teacher
        self.template = template
        self.own = own or {}
        generated = any(t.judgement == "generated" for t in (template, *self.own.values()))
        self.max_judgement_length = max_judgement_length if generated else 0
        self.unchanged = frozenset(unchanged)

    @cached_property
    def _marks(self) -> list[str]:
        """What marks turns: the tokenizer's special tokens, and what its chat template writes around a turn as plain
        text, such as Llama 2's [/INST]."""
        special = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        turn = chat_text(
            self.tokenizer, [Message("user", _TEXT)], self.student_role.chat_template_kwargs, generation_prompt=False
        )
        return sorted(mark for mark in special | set(_MARK.findall(turn)) if mark.strip())

    def settings(self) -> dict[str, Any]:
        """What contexts depend on that neither the model's files nor the messages tell."""
        return {"date": TEMPLATE_DATE.isoformat()} if _asks_for_the_date(self.tokenizer) else {}

    def template_of(self, query: Query) -> TeacherTemplate:
        return self.own.get(query, self.template)

    def is_unchanged(self, query: Query) -> bool:
        """Whether the teacher sees what the student sees."""
        kinds = {"benign": query.label == "benign", "source": query.language == query.source_language}
        return query not in self.own and any(kinds[kind] for kind in self.unchanged)

    def needs_judgement(self, query: Query) -> bool:
        return self.template_of(query).judgement == "generated" and not self.is_unchanged(query)

    def student(self, query: Query, history: Sequence[Message] = ()) -> Context:
        """The student's context; `history`: the turns before it."""
        messages = after_history(fill(self.student_role.messages, query), history)
        return self._make(query, "student", messages, self.student_role)

    def teacher(self, query: Query, judgement: str | None = None, history: Sequence[Message] = ()) -> Context:
        """The teacher's context; `judgement` is required exactly when the query needs one."""
        if self.needs_judgement(query) != (judgement is not None):
            raise ValueError("a judgement is needed if, and only if, the template generates one for this query")
        if self.is_unchanged(query):
            return replace(self.student(query, history), role="teacher")
        messages = after_history(fill(self.template_of(query).messages, query, judgement), history)
        return self._make(query, "teacher", messages, self.teacher_role)

    def judgement(self, query: Query) -> Context:
        """The context from which the frozen teacher writes its judgement."""
        return self._make(
            query, "judgement", fill(self.template_of(query).judgement_messages, query), self.teacher_role
        )

    def check(self, query: Query) -> int:
        """Raise ContextOverflow if any context of the query can exceed its limit, before a weight is loaded; else the
        tokens of the longest that is answered.

        The generated judgement is not known yet: it is counted with its full length limit. Raises CrosslignError for a
        text that holds one of the marks of turns: it would end its turn and speak for another role.
        """
        longest = self.check_student(query)
        if self.is_unchanged(query):
            return longest
        if self.needs_judgement(query):
            self.judgement(query)
        context = self._make(query, "teacher", fill(self.template_of(query).messages, query, ""), self.teacher_role)
        length = len(context.token_ids) + (self.max_judgement_length if self.needs_judgement(query) else 0)
        if length > self.teacher_role.max_length:
            raise ContextOverflow(query, "teacher", length, self.teacher_role.max_length)
        return max(longest, length)

    def check_student(self, query: Query) -> int:
        """`check` for the student's context alone."""
        for text in (query.text, query.source_text):
            for mark in self._marks:
                if mark in text:
                    raise CrosslignError(
                        f"query {query.id!r} ({query.language}): the text holds the control token {mark!r} of this "
                        "model's chat template. Remove it."
                    )
        return len(self.student(query).token_ids)

    def judgement_text(self, token_ids: Sequence[int]) -> str:
        """A judgement as the teacher's context may hold it."""
        return self.without_marks(self.tokenizer.decode(list(token_ids), skip_special_tokens=True)).strip()

    def without_marks(self, text: str) -> str:
        """A model's text as a later context may hold it: no mark of turns is left in it."""
        for mark in self._marks:
            text = text.replace(mark, " ")  # not "", which could make a new one of what stood around it
        return text

    def _make(self, query: Query, role: str, messages: tuple[Message, ...], settings: RoleContext) -> Context:
        token_ids = chat_token_ids(self.tokenizer, messages, settings.chat_template_kwargs)
        if len(token_ids) > settings.max_length:
            raise ContextOverflow(query, role, len(token_ids), settings.max_length)
        return Context(query, role, messages, token_ids)


def plain_contexts(
    tokenizer: Any, *, max_length: int, thinking: bool = False, teacher: str = "instruct", max_judgement_length: int = 0
) -> ContextBuilder:
    """Contexts outside a training run: the student's is one user turn; both roles have the same limit and options."""
    template, options = load_teacher_template(teacher), {"enable_thinking": thinking}
    return ContextBuilder(
        tokenizer,
        RoleContext(STUDENT_MESSAGES, max_length, options),
        RoleContext(template.messages, max_length, options),
        template,
        max_judgement_length,
    )


def check_chat_template(tokenizer: Any, options: Sequence[Mapping[str, Any]], what: str) -> None:
    """Raise CrosslignError, which begins with `what`, for a chat template that does not end, or grows, on a short
    conversation with one of these options. It comes with a model: untrusted."""
    tried = f"{tokenizer.chat_template} {options}"
    if tried in _TRIED:
        return
    asked, answered = {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}

    def render() -> None:
        for chosen in options:
            for chat in ([asked], [asked, answered]):
                try:
                    text = tokenizer.apply_chat_template(
                        chat, tokenize=False, add_generation_prompt=chat == [asked], **chosen
                    )
                except MemoryError:
                    raise
                except Exception:  # noqa: S112  # it may refuse, which is told where it does so for a query
                    continue
                if len(text) > limit("CONFIG_KB") * 1000:
                    raise MemoryError

    rehearse(render, what)
    _TRIED.add(tried)


def check_same_opening(tokenizer: Any, student: RoleContext, teacher: RoleContext) -> None:
    """Raise CrosslignError if the roles' options let their prompts end otherwise, as thinking on for one alone does:
    student and teacher would then be compared where they are not at the same place."""
    if student.chat_template_kwargs == teacher.chat_template_kwargs:
        return
    ends = []
    for role in (student, teacher):
        messages = [*role.messages[:-1], Message("user", _TEXT)]
        ends.append(chat_text(tokenizer, messages, role.chat_template_kwargs).rpartition(_TEXT)[2])
    if ends[0] != ends[1]:
        raise CrosslignError(
            f"chat_template_kwargs: with the student's its prompt ends with {excerpt(repr(ends[0]), 200)}, with the "
            f"teacher's with {excerpt(repr(ends[1]), 200)}, so their next tokens cannot be compared. Set "
            "student.chat_template_kwargs and teacher.chat_template_kwargs alike."
        )


def chat_token_ids(
    tokenizer: Any, messages: Sequence[Message], chat_template_kwargs: Mapping[str, Any]
) -> tuple[int, ...]:
    """Token ids of a chat with the generation prompt, special tokens exactly as the template writes them.

    The template's text holds the begin-of-sequence token already, so none is added a second time.
    """
    text = chat_text(tokenizer, messages, chat_template_kwargs)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def chat_text(
    tokenizer: Any,
    messages: Sequence[Message],
    chat_template_kwargs: Mapping[str, Any],
    *,
    generation_prompt: bool = True,
) -> str:
    """A chat as the tokenizer's template writes it. Raises CrosslignError if the template refuses it."""
    try:
        text: str = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages],
            tokenize=False,
            add_generation_prompt=generation_prompt,
            **_dated(tokenizer, chat_template_kwargs),
        )
    except Exception as error:  # jinja errors of many kinds, raised by the template itself
        roles = ", ".join(m.role for m in messages)
        said = excerpt(shown(str(error), one_line=True))
        raise CrosslignError(f"the tokenizer's chat template refused the messages ({roles}): {said}") from error
    return text


def _asks_for_the_date(tokenizer: Any) -> bool:
    return "strftime_now" in str(getattr(tokenizer, "chat_template", None))


def dated_template(tokenizer: Any, options: Mapping[str, Any]) -> str | None:
    """A copy of the chat template that has a fixed date where the tokenizer's asks for today's; None if it does not."""
    if not _asks_for_the_date(tokenizer):
        return None
    own = tokenizer.get_chat_template(options.get("chat_template"), options.get("tools"))
    return _NOW.sub(lambda found: f"{found[1]}{TEMPLATE_DATE.strftime(found[2])}{found[1]}", own)


def _dated(tokenizer: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
    fixed = dated_template(tokenizer, options)
    return options if fixed is None else {**options, "chat_template": fixed}
