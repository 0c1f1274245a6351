"""Templates of the contexts: what student and teacher see around a query.

Templates are data: lists of messages with the placeholders of `FIELDS`. Values are inserted once and never parsed
again, so a query that holds braces stays as it is.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from crosslign.languages import english_name
from crosslign.types import CrosslignError, Message, Query, excerpt, nearest
from crosslign.untrusted import parse_yaml, read_text

FIELDS = ("query", "source_query", "language", "source_language", "judgement")
JudgementMode = Literal["none", "generated"]
BUILTIN_TEACHERS = ("instruct", "judged", "dialogue")
PROMPTS = ("system",)  # ship too, to compare with; without the source query they are no teachers
HARMLESS = ("harmless",)  # tells the teacher that the query is harmless: for tables of such queries alone
SHIPPED = (*BUILTIN_TEACHERS, *PROMPTS, *HARMLESS)
STUDENT_MESSAGES = (Message("user", "{query}"),)


def template_fields(messages: Sequence[Message], where: str) -> set[str]:
    """The placeholders used in a template; an unknown one raises CrosslignError naming the valid ones."""
    used: set[str] = set()
    for number, message in enumerate(messages, start=1):
        try:
            parts = list(string.Formatter().parse(message.content))
        except ValueError as error:
            raise CrosslignError(
                f"{where}, message {number}: {error}. Write a literal brace as {{{{ or }}}}."
            ) from error
        for _, name, spec, conversion in parts:
            if name is None:
                continue
            if name not in FIELDS or spec or conversion:
                near = difflib.get_close_matches(name[:100], FIELDS, n=1)
                name = excerpt(name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else ""), 100)
                hint = f" Did you mean {{{near[0]}}}?" if near else ""
                raise CrosslignError(
                    f"{where}, message {number}: unknown field {{{name}}}.{hint} "
                    f"Valid fields: {', '.join('{' + f + '}' for f in FIELDS)}."
                )
            used.add(name)
    return used


def _require(used: set[str], needed: str, where: str) -> None:
    if needed not in used:
        raise CrosslignError(
            f"{where}: the field {{{needed}}} is missing. Valid fields: {', '.join('{' + f + '}' for f in FIELDS)}."
        )


def parse_messages(raw: Any, where: str) -> tuple[Message, ...]:
    """A YAML list of `{role, content}` mappings as messages; anything else raises CrosslignError."""
    if not isinstance(raw, list) or not raw:
        raise CrosslignError(f"{where}: expected a list of messages, each with 'role' and 'content'.")
    messages = []
    for number, item in enumerate(raw, start=1):
        if not isinstance(item, Mapping) or set(item) != {"role", "content"}:
            raise CrosslignError(f"{where}, message {number}: expected exactly the keys 'role' and 'content'.")
        if item["role"] not in ("system", "user", "assistant"):
            role = excerpt(repr(item["role"]), 100)
            raise CrosslignError(f"{where}, message {number}: role {role} is not one of system, user, assistant.")
        if not isinstance(item["content"], str):
            found = excerpt(repr(item["content"]), 100)
            raise CrosslignError(f"{where}, message {number}: content must be text, not {found}.")
        messages.append(Message(item["role"], item["content"]))
    if messages[-1].role != "user":
        raise CrosslignError(f"{where}: the last message must have the role 'user'; the completion follows it.")
    return tuple(messages)


@dataclass(frozen=True)
class TeacherTemplate:
    """The teacher's messages and, where a judgement is generated, the messages that it is generated from."""

    messages: tuple[Message, ...]
    judgement: JudgementMode = "none"
    judgement_messages: tuple[Message, ...] = ()
    name: str = "custom"

    def __post_init__(self) -> None:
        where = f"teacher template {self.name!r}"
        used = template_fields(self.messages, where)
        _require(used, "query", where)
        if self.judgement == "generated":
            _require(used, "judgement", f"{where} (judgement: generated)")
            if not self.judgement_messages:
                raise CrosslignError(f"{where}: judgement: generated needs judgement_messages.")
            inner = template_fields(self.judgement_messages, f"{where}, judgement_messages")
            if "judgement" in inner:
                raise CrosslignError(f"{where}: judgement_messages cannot use {{judgement}}; it is what they produce.")
            if not inner & {"query", "source_query"}:
                _require(inner, "source_query", f"{where}, judgement_messages")
        elif "judgement" in used:
            raise CrosslignError(f"{where}: {{judgement}} is used, but judgement is 'none'. Set judgement: generated.")


def load_teacher_template(
    spec: str | Mapping[str, Any], key: str = "teacher.template", meant: Sequence[str] = BUILTIN_TEACHERS
) -> TeacherTemplate:
    """A shipped template's name, a YAML file's path, or the mapping itself, as a TeacherTemplate.

    `key` of the recipe and the shipped ones that are `meant` for it stand in the CrosslignError for a name that is
    neither.
    """
    if isinstance(spec, Mapping):
        return _parse_teacher(spec, "custom")
    if spec in SHIPPED:
        text = resources.files("crosslign.contexts").joinpath("templates", f"{spec}.yaml").read_text(encoding="utf-8")
        return _parse_teacher(parse_yaml(text), spec)
    path = Path(spec)
    if not path.exists():
        raise CrosslignError(f"{key}: {spec!r} is neither a shipped template ({', '.join(meant)}) nor a file.")
    return _parse_teacher(parse_yaml(read_text(path), path), str(path))


def _parse_teacher(raw: Any, name: str) -> TeacherTemplate:
    where = f"teacher template {name!r}"
    known = ("description", "judgement", "judgement_messages", "messages")
    if not isinstance(raw, Mapping) or "messages" not in raw:
        raise CrosslignError(f"{where}: expected a mapping with 'messages'. Valid keys: {', '.join(known)}.")
    for key in raw:
        if key not in known:
            raise CrosslignError(f"{where}: unknown key {excerpt(repr(key), 100)}. {nearest(str(key)[:100], known)}")
    mode = raw.get("judgement", "none")
    if mode not in ("none", "generated"):
        raise CrosslignError(f"{where}: judgement is {excerpt(repr(mode), 100)}; valid: none, generated.")
    inner = raw.get("judgement_messages")
    return TeacherTemplate(
        messages=parse_messages(raw["messages"], where),
        judgement=mode,
        judgement_messages=parse_messages(inner, f"{where}, judgement_messages") if inner else (),
        name=name,
    )


def student_messages(raw: Any | None) -> tuple[Message, ...]:
    """The student's template: by default one user turn that holds the query."""
    if raw is None:
        return STUDENT_MESSAGES
    messages = parse_messages(raw, "student.messages")
    used = template_fields(messages, "student.messages")
    _require(used, "query", "student.messages")
    secret = used & {"source_query", "judgement"}
    if secret:
        raise CrosslignError(
            f"student.messages: {{{sorted(secret)[0]}}} belongs to the teacher; the student sees what a user will send."
        )
    return messages


def fill(messages: Sequence[Message], query: Query, judgement: str | None = None) -> tuple[Message, ...]:
    """Insert a query's values into a template."""
    values = {
        "query": query.text,
        "source_query": query.source_text,
        "language": english_name(query.language),
        "source_language": english_name(query.source_language),
        "judgement": judgement or "",
    }
    return tuple(Message(m.role, m.content.format_map(values)) for m in messages)


def after_history(messages: Sequence[Message], history: Sequence[Message]) -> tuple[Message, ...]:
    """A filled template in a conversation that has begun: its system messages, `history`, then the rest of it."""
    first = next((n for n, m in enumerate(messages) if m.role != "system"), len(messages))
    return (*messages[:first], *history, *messages[first:])
