"""Every command, named once: how it is called, and which kinds of input it takes. It then gets all hostile ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Inputs = Mapping[str, Path]  # by kind


@dataclass(frozen=True)
class Command:
    """`arguments` makes the command line from one good input of each kind in `takes`."""

    takes: tuple[str, ...]
    arguments: Callable[[Inputs], list[str]]


def _recipe_flags(given: Inputs) -> list[str]:
    flags = {"data.tables.0.path": "table", "model.path": "model"}
    return [part for flag, kind in flags.items() for part in (f"--{flag}", str(given[kind]))]


COMMANDS = {
    "validate": Command(("table",), lambda given: ["validate", str(given["table"])]),
    "train": Command(
        ("recipe", "table", "model"), lambda given: ["train", str(given["recipe"]), *_recipe_flags(given)]
    ),
    "probe": Command(
        ("recipe", "table", "model"),
        lambda given: ["probe", str(given["recipe"]), *_recipe_flags(given), "--queries", "1"],
    ),
    "train by templates": Command(
        ("chat template", "teacher template"),
        lambda given: [
            *("train", str(given["recipe"]), *_recipe_flags(given)),
            *("--model.chat_template", str(given["chat template"])),
            *("--teacher.template", str(given["teacher template"])),
        ],
    ),
    "generate by templates": Command(
        ("chat template", "teacher template"),
        lambda given: [
            *("generate", "--model", str(given["model"]), "--table", str(given["table"]), "--context", "teacher"),
            *("--chat-template", str(given["chat template"]), "--template", str(given["teacher template"])),
            *("--max-completion-length", "2", "--out", str(given["recipe"].with_name("completions.jsonl"))),
        ],
    ),
}
