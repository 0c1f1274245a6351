"""Every command, named once: how it is called, and which kinds of input it takes. It then gets all hostile ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Inputs = Mapping[str, Path]  # by kind


@dataclass(frozen=True)
class Command:
    """`arguments` makes the command line from one good input of each kind in `takes`; what is of the kinds in `writes`
    it may change, though another input is hostile."""

    takes: tuple[str, ...]
    arguments: Callable[[Inputs], list[str]]
    writes: tuple[str, ...] = ()


def _recipe_flags(given: Inputs, **more: str) -> list[str]:
    flags = {"data.tables.0.path": "table", "model.path": "model", "cache_dir": "cache", **more}
    return [part for flag, kind in flags.items() for part in (f"--{flag}", str(given[kind]))]


def _train(given: Inputs, output: str, *flags: str) -> list[str]:
    return ["train", str(given["recipe"]), *_recipe_flags(given, output_dir=output), *flags]


def _complete(given: Inputs, command: str, *flags: str) -> list[str]:
    named = [("--model", given["model"]), ("--adapter", given["adapter"]), ("--out", given["output"])]
    short = ("--max-completion-length", "4", "--languages", "en,sw", "--overwrite")
    return [command, *(str(part) for pair in named for part in pair), *short, *flags]


def _compare(given: Inputs) -> list[str]:
    return ["compare", *[str(given["evaluation"])] * 2, "--out", str(given["output"])]


def _people(given: Inputs) -> Path:
    """Translations of the good table, for the translator `scripted`."""
    path = given["recipe"].with_name("people.csv")
    path.write_text("en,es\n" + "".join(f"q {n},p {n}\n" for n in range(8)))
    return path


def _enough(given: Inputs) -> Path:
    """Queries of which enough can be held out."""
    path = given["recipe"].with_name("enough.csv")
    path.write_text("en,sw\n" + "".join(f"query {n},swali {n}\n" for n in range(24)))
    return path


def _bench(given: Inputs) -> list[str]:
    """What the cells read is train's and eval's, so it is planned only."""
    file = given["recipe"].with_name("bench.yaml")
    raw = {"recipe": str(given["recipe"]), "models": {"tiny": str(given["model"])}, "methods": {"msd": {}}}
    more = {"tasks": [f"table:{given['table']}"], "trained": ["sw"], "out": str(given["output"])}
    file.write_text(json.dumps({**raw, **more}), encoding="utf-8")  # JSON is YAML
    return ["bench", str(file), "--plan"]


COMMANDS = {
    "validate": Command(("table",), lambda given: ["validate", str(given["table"])]),
    # Where it may write has tests of its own: its output is a file.
    "translate": Command(
        ("table",),
        lambda given: [
            *("translate", str(given["table"]), "--to", "es", "--translator", f"scripted:{_people(given)}"),
            *("--out", str(given["recipe"].with_name("translated.csv")), "--cache-dir", str(given["cache"])),
        ],
    ),
    # What follows the first measurement is train's and the others'.
    "align": Command(
        ("table", "model", "output"),
        lambda given: [
            *("align", str(given["model"]), "--languages", "sw", "--queries", str(_enough(given))),
            *("--benign", str(given["table"]), "--out", str(given["output"]), "--skip", "teacher,plan,train"),
            *(
                "--evaluation.limit",
                "10",
                "--evaluation.max_completion_length",
                "2",
                "--cache_dir",
                str(given["cache"]),
            ),
            *("--student.max_length", "4000", "--teacher.max_length", "8000"),
        ],
    ),
    "train": Command(("recipe", "table", "model", "cache", "output"), lambda given: _train(given, "output")),
    "dry run": Command(
        ("configuration",),
        lambda given: _train({**given, "model": given["configuration"]}, "output", "--dry-run"),
    ),
    "replace": Command(("output",), lambda given: _train(given, "output", "--overwrite")),
    "overwrite": Command(("run",), lambda given: _train(given, "run", "--overwrite")),
    "resume": Command(("run",), lambda given: _train(given, "run", "--resume")),
    "probe": Command(
        ("recipe", "table", "model", "cache", "output"),
        lambda given: [
            *("probe", str(given["recipe"]), *_recipe_flags(given), "--queries", "1"),
            *("--out", str(given["output"]), "--overwrite"),
        ],
    ),
    "serve-command": Command(
        ("recipe",),
        lambda given: [
            *("serve-command", str(given["recipe"]), *_recipe_flags(given)),
            *("--rollouts.backend", "vllm", "--rollouts.url", "http://localhost:8000"),
        ],
    ),
    "generate": Command(
        ("table", "model", "adapter", "output"),
        lambda given: _complete(given, "generate", "--table", str(given["table"])),
    ),
    "eval": Command(
        ("table", "model", "adapter", "output"),
        lambda given: _complete(given, "eval", "--tasks", f"table:{given['table']}"),
    ),
    "eval with steering": Command(
        ("direction",),
        lambda given: [
            *("eval", "--model", str(given["model"]), "--out", str(given["output"]), "--languages", "en,sw"),
            *("--tasks", f"table:{given['table']}", "--max-completion-length", "4", "--steer", str(given["direction"])),
        ],
    ),
    "bench": Command(("output",), _bench),
    "compare": Command(("evaluation", "output"), _compare),
    "report": Command(("evaluation",), lambda given: ["report", str(given["evaluation"])]),
    "report of a run": Command(("evaluated run",), lambda given: ["report", str(given["evaluated run"])]),
    "chat": Command(
        ("run to chat with",),
        lambda given: [
            *("chat", str(given["run to chat with"]), "--message", "s 1", "--english", "q 1"),
            *("--max-completion-length", "4"),
        ],
    ),
    "card": Command(("finished run",), lambda given: ["card", str(given["finished run"])]),
    "card of an evaluation": Command(
        ("evaluation",),
        lambda given: ["card", str(given["finished run"]), "--evaluation", str(given["evaluation"])],
        writes=("finished run",),
    ),
    "merge": Command(
        ("finished run", "base", "output"),
        lambda given: [
            *("merge", str(given["finished run"]), "--base", str(given["base"])),
            *("--out", str(given["output"]), "--overwrite"),
        ],
    ),
    "push": Command(("finished run",), lambda given: ["push", str(given["finished run"]), "me/it", "--dry-run"]),
    "train by templates": Command(
        ("chat template", "teacher template"),
        lambda given: [
            *_train(given, "output"),
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
