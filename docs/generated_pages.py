"""What the site's reference takes from the code: keys of a recipe, commands, docstrings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

from crosslign.cli.main import command_parser
from crosslign.runs.arguments import RANGES, RESERVED, TRAINING_DEFAULTS
from crosslign.runs.bench.config import BenchConfig
from crosslign.runs.config import RunConfig
from crosslign.runs.recipe import describe


def configuration() -> str:
    """Every key of a recipe, a heading and a table for each section, in the configuration's own words."""
    sections = RunConfig.model_fields
    parts = []
    for top, keys in groupby(describe(), key=lambda row: row[0].split(".")[0]):
        rows = list(keys)
        section = sections[top].annotation
        docstring = (getattr(section, "__doc__", None) or "") if hasattr(section, "model_fields") else ""
        parts += [f"## `{top}`", docstring, _table(("key", "default", "what it does"), map(_key_row, rows))]
    ranges = {key: f"{low:g} to {high:g}" for key, (low, high) in RANGES.items()}
    defaults = ((f"`{key}`", f"`{value}`", ranges.get(key, "")) for key, value in TRAINING_DEFAULTS.items())
    return "\n\n".join(
        (
            *parts,
            "### Fields of `training` with a default of their own",
            _table(("field", "default", "range"), defaults),
            f"Other numbers may lie in {ranges.pop('')}, these in a range of their own:",
            _table(("field", "range"), ((f"`{k}`", r) for k, r in ranges.items() if k not in TRAINING_DEFAULTS)),
            "### Fields of `training` that cannot be set there",
            _table(("field", "instead"), ((f"`{key}`", why) for key, why in RESERVED.items())),
        )
    )


def commands() -> str:
    """The help of every command."""
    os.environ["COLUMNS"] = "100"  # argparse fills lines of the terminal's width
    parser = command_parser()
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    parts = []
    for name, command in action.choices.items():
        parts += [f"## {name}", f"```text\n{command.format_help()}```"]
    return "\n\n".join(parts)


def bench() -> str:
    """Every key of a bench file."""
    rows = map(_key_row, describe(BenchConfig))
    return "## All keys of a bench file\n\n" + _table(("key", "default", "what it does"), rows)


PAGES: dict[str, Callable[[], str]] = {
    "docs/configuration": configuration,
    "docs/commands": commands,
    "docs/bench": bench,
}


def formulas_as_they_stand(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Indented paragraphs of a docstring are formulas or code: shown as they are."""
    made: list[str] = []
    inside = False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not inside and made and not made[-1].strip():
            made += [".. code-block:: text", ""]
            inside = True
        inside = inside and (indented or not line.strip())
        made.append(line)
    lines[:] = made


def _key_row(row: tuple[str, str, str]) -> tuple[str, ...]:
    key, default, text = row
    return f"`{key}`", default if default == "required" else f"`{default}`", text


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
