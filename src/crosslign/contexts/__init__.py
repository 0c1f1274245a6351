"""Query -> chat messages -> token ids."""

from crosslign.contexts.builder import (
    ContextBuilder,
    ContextOverflow,
    RoleContext,
    chat_token_ids,
    check_chat_template,
    check_same_opening,
    dated_template,
    plain_contexts,
)
from crosslign.contexts.template import (
    BUILTIN_TEACHERS,
    FIELDS,
    HARMLESS,
    SHIPPED,
    STUDENT_MESSAGES,
    TeacherTemplate,
    fill,
    load_teacher_template,
    parse_messages,
    student_messages,
    template_fields,
)

__all__ = [
    "BUILTIN_TEACHERS",
    "FIELDS",
    "HARMLESS",
    "SHIPPED",
    "STUDENT_MESSAGES",
    "ContextBuilder",
    "ContextOverflow",
    "RoleContext",
    "TeacherTemplate",
    "chat_token_ids",
    "check_chat_template",
    "check_same_opening",
    "dated_template",
    "fill",
    "load_teacher_template",
    "parse_messages",
    "plain_contexts",
    "student_messages",
    "template_fields",
]
