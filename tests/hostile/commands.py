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


def _eval(given: Inputs) -> list[str]:
    flags = ("--max-completion-length", "4", "--languages", "en,sw", "--out", str(given["table"].parent / "evaluated"))
    return ["eval", "--tasks", f"table:{given['table']}", "--model", str(given["model"]), *flags]


def _compare(given: Inputs) -> list[str]:
    return ["compare", *[str(given["evaluation"])] * 2, "--out", str(given["table"].parent / "compared")]


COMMANDS = {
    "validate": Command(("table",), lambda given: ["validate", str(given["table"])]),
    "train": Command(
        ("recipe", "table", "model"), lambda given: ["train", str(given["recipe"]), *_recipe_flags(given)]
    ),
    "probe": Command(
        ("recipe", "table", "model"),
        lambda given: ["probe", str(given["recipe"]), *_recipe_flags(given), "--queries", "1"],
    ),
    "eval": Command(("table", "model"), _eval),
    "compare": Command(("evaluation",), _compare),
    "report": Command(("evaluation",), lambda given: ["report", str(given["evaluation"])]),
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
