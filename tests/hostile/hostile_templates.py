"""Hostile templates: Jinja that loops, grows or refuses, and teacher's templates that are none."""

from __future__ import annotations

import os
from pathlib import Path

from inputs import Hostile, written


def _pipe(path: Path) -> Path:
    path.unlink()
    os.mkfifo(path)
    return path


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% if i > 99998 %}x{% endif %}{% endfor %}{% endfor %}"
DOUBLING = "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}"
# Only with the option that all recipes give by default.
WITH_OPTION = "{% if enable_thinking is false %}{{ 'x' * 4000000000 }}{% endif %}"
SLOW, LARGE = "takes more than 2 seconds", "takes more than a gigabyte of memory, or makes far too long a text"

CHAT_TEMPLATES = [
    Hostile("loop", written(LOOP), ("chat.jinja: the chat template", SLOW, "CROSSLIGN_MAX_SECONDS")),
    Hostile("four gigabytes", written("{{ 'x' * 4000000000 }}"), ("chat.jinja: the chat template", LARGE)),
    Hostile("doubling", written(DOUBLING), (LARGE,)),
    Hostile("padding", written("{{ 'x' | center(4000000000) }}"), (LARGE,)),
    Hostile("format", written("{{ '%4000000000d' % 1 }}"), (LARGE,)),
    Hostile("long text", written("{{ 'x' * 5000000 }}"), (LARGE,)),
    Hostile("with an option", written(WITH_OPTION), (LARGE,)),
    Hostile("no jinja", written("{% for"), ("refused the messages",)),
    Hostile("endless macro", written("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), ("refused the messages",)),
    Hostile("python", written("{{ messages.__class__.__mro__ }}"), ("refused the messages", "unsafe")),
    Hostile("refusal with escapes", written("{{ raise_exception('\x1b[2J' * 99999) }}"), ("refused the messages",)),
    Hostile("no UTF-8", written(b"\xff\xfe"), ("UTF-8",)),
    Hostile("two megabytes", written("x" * 2_000_000), ("CROSSLIGN_MAX_CONFIG_KB",)),
    Hostile("pipe", _pipe, ("chat.jinja",)),
    Hostile("empty", written(""), ("no chat template",)),
]


def _message(content: str) -> str:
    return f"messages:\n- role: user\n  content: {content}\n"


TEACHER_TEMPLATES = [
    Hostile("padding", written(_message("'{query:>999999999}'")), ("unknown field {query:>999999999}",)),
    Hostile("conversion", written(_message("'{query!r}'")), ("unknown field {query!r}",)),
    Hostile("attribute", written(_message("'{query.__class__}'")), ("unknown field {query.__class__}",)),
    Hostile("index", written(_message("'{0}{}'")), ("unknown field",)),
    Hostile("long field", written(_message("'{" + "x" * 500_000 + "}'")), ("unknown field {xxx", " ...")),
    Hostile("open brace", written(_message("'{query} {'")), ("literal brace",)),
    Hostile("huge content", written(_message("[" + "1, " * 90_000 + "1]")), ("content must be text",)),
    Hostile("huge role", written(f"messages:\n- {{role: {'x' * 500_000}, content: a}}\n"), ("role 'xxx",)),
    Hostile("huge key", written(f"{'x' * 900}: 1\nmessages: []\n"), ("unknown key 'xxx",)),
    Hostile("deep", written("messages: " + "[" * 5000), ("deep",)),
    Hostile("contains itself", written("messages: &m\n- *m\n"), ("contains itself",)),
    Hostile("no mapping", written("- a\n"), ("expected a mapping",)),
    Hostile("two megabytes", written(_message("'" + "x" * 2_000_000 + "'")), ("CROSSLIGN_MAX_CONFIG_KB",)),
    Hostile("pipe", _pipe, ("a pipe",)),
    Hostile("long name", lambda path: Path("x" * 5000), ("File name too long",)),
]
