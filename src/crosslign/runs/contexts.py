"""The contexts that a recipe asks for: both roles' templates, limits and options, and what tables have of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from crosslign.contexts import (
    HARMLESS,
    ContextBuilder,
    RoleContext,
    TeacherTemplate,
    check_chat_template,
    check_same_opening,
    load_teacher_template,
    student_messages,
)
from crosslign.data.schema import QueryTable
from crosslign.runs.config import RunConfig
from crosslign.types import CrosslignError, Query


def check_templates(config: RunConfig) -> None:
    """Raise CrosslignError for a template that cannot be read, or that would call every query harmless."""
    if config.teacher.template in HARMLESS:
        raise CrosslignError(
            f"teacher.template: {config.teacher.template} tells the teacher that each query is harmless. It is for a "
            "table of harmless queries: data.tables.0.teacher."
        )
    load_teacher_template(config.teacher.template)


def context_builder(config: RunConfig, tokenizer: Any, tables: Sequence[QueryTable] = ()) -> ContextBuilder:
    """`tables` are the run's, or none where no query of theirs is asked."""
    template = load_teacher_template(config.teacher.template)
    if config.teacher.judgement is not None:
        template = dataclasses.replace(template, judgement=config.teacher.judgement)
    student, teacher = config.student, config.teacher
    options = (student.chat_template_kwargs, teacher.chat_template_kwargs)
    check_chat_template(tokenizer, options, "chat_template_kwargs: with them the chat template")
    roles = (
        RoleContext(student_messages(student.messages), student.max_length, student.chat_template_kwargs),
        RoleContext(template.messages, teacher.max_length, teacher.chat_template_kwargs),
    )
    check_same_opening(tokenizer, *roles)
    return ContextBuilder(
        tokenizer,
        *roles,
        template,
        teacher.max_judgement_length,
        teacher.unchanged,
        _own_templates(config, tables),
    )


def _own_templates(config: RunConfig, tables: Sequence[QueryTable]) -> dict[Query, TeacherTemplate]:
    """Of queries whose table has a teacher's template. Raises CrosslignError for a row that is not benign."""
    found: dict[Query, TeacherTemplate] = {}
    for number, (entry, table) in enumerate(zip(config.data.tables, tables, strict=False)):  # there may be none
        if entry.teacher is None:
            continue
        key = f"data.tables.{number}.teacher"
        template = load_teacher_template(entry.teacher, key, HARMLESS)
        for row in table.rows:
            if row.label != "benign":
                raise CrosslignError(
                    f"{key}: {table.name}, row {row.number}: the label is {row.label}. A table with a teacher "
                    "of its own must hold benign queries alone. Give it label: benign, leave such rows out with where, "
                    "or leave teacher out."
                )
        found |= dict.fromkeys(table.queries(), template)
    return found
