"""Utility as a stage of an evaluation: measured once, kept in `utility.json`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crosslign.evaluation.utility import MAX_NEW_TOKENS, utility
from crosslign.evaluation.utility_tasks import UtilityTask, question_files, tasks_folder, write_tasks
from crosslign.storage import digest, write_atomically
from crosslign.types import CrosslignError, nearest

FILE, ANSWERS = "utility.json", "utility-answers.jsonl"


@dataclass(frozen=True)
class UtilityRequest:
    """Which benchmarks of lm-eval to run.

    Fields:
        tasks: benchmarks by name (`utility_tasks.BENCHMARKS`).
        paths: benchmark to a local parallel table (id, answer, en, zh, ...) that is read instead of the hub's data.
        languages: codes; None: the evaluation's.
        limit: rows in each language.
        max_new_tokens: of answers in free text.
    """

    tasks: Sequence[str]
    paths: Mapping[str, str] = field(default_factory=dict)
    languages: Sequence[str] | None = None
    limit: int | None = None
    batch_size: int = 8
    max_new_tokens: int = MAX_NEW_TOKENS


def check_utility(request: UtilityRequest, languages: Sequence[str]) -> None:
    """Raise CrosslignError if lm-eval is missing, or a benchmark, a language or a local file."""
    for name in request.paths:
        if name not in request.tasks:
            raise CrosslignError(f"--utility-path: {name!r} is not in --utility. {nearest(name, request.tasks)}")
    if request.limit is not None and request.limit < 1:
        raise CrosslignError(f"--utility-limit: {request.limit}; it is a number of rows, at least 1.")
    if request.max_new_tokens < 1:
        raise CrosslignError(f"--utility-max-tokens: {request.max_new_tokens}; it is a number of tokens, at least 1.")
    tasks_folder()
    with tempfile.TemporaryDirectory(prefix="crosslign-utility-") as folder:
        write_tasks(_tasks(request, languages, Path(folder)), Path(folder), max_new_tokens=request.max_new_tokens)


def utility_stage(
    request: UtilityRequest,
    languages: Sequence[str],
    load: Callable[[], tuple[Any, Any]],
    identity: Mapping[str, Any],
    chat_template_kwargs: Mapping[str, Any],
    out: Path,
    announce: Callable[[str], None],
) -> dict[str, Any]:
    """Utility by task and language; read from `out` if it was measured there under the same settings.

    `load` gives model and tokenizer and is called only if something has to be measured.
    """
    with tempfile.TemporaryDirectory(prefix="crosslign-utility-") as folder:
        tasks = _tasks(request, languages, Path(folder))
        mark = digest(
            [
                identity,
                [
                    [t.name, list(t.languages), {c: Path(f).read_text("utf-8") for c, f in t.files.items()}]
                    for t in tasks
                ],
                request.limit,
                request.max_new_tokens,
            ]
        )
        try:
            before = json.loads((out / FILE).read_text(encoding="utf-8"))
            if before["identity"] == mark:
                return dict(before["utility"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        model, tokenizer = load()
        measured = utility(
            model,
            tokenizer,
            tasks,
            limit=request.limit,
            batch_size=request.batch_size,
            max_new_tokens=request.max_new_tokens,
            chat_template_kwargs=chat_template_kwargs,
            answers=out / ANSWERS,
            announce=announce,
        )
    write_atomically(out / FILE, json.dumps({"identity": mark, "utility": measured}, indent=1) + "\n")
    return measured


def _tasks(request: UtilityRequest, languages: Sequence[str], folder: Path) -> list[UtilityTask]:
    wanted = list(request.languages or languages)
    made = []
    for name in request.tasks:
        files: Mapping[str, Path] = {}
        if name in request.paths:
            place = folder / name
            place.mkdir()
            files = question_files(request.paths[name], place, wanted)
        made.append(UtilityTask(name, wanted, files))
    return made
