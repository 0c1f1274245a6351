"""Every file of JSON lines that an interruption has cut off: its reader goes on, and so does its writer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import cached

from crosslign.evaluation.completions import completion_row, is_completion
from crosslign.evaluation.stages import is_fidelity, is_verdict
from crosslign.rollouts.cache import CompletionCache
from crosslign.runs.folder import METRICS, ROLLOUTS, RunFolder
from crosslign.runs.summary import read_metrics
from crosslign.storage import RowFile, append_rows, read_rows
from crosslign.types import Query

TEXT = "swali, প্রশ্ন, 😀 \u2028"  # characters of one to four bytes
Rows = list[dict[str, Any]]


def rows_of(**more: Any) -> Rows:
    return [{"id": f"row-{i}", "language": "bn", **more} for i in range(4)]


def completions() -> Rows:
    queries = [Query(f"row-{i}", "bn", TEXT, "en", "question", "harmful") for i in range(4)]
    return [completion_row(query, TEXT, False) for query in queries]


def after_resuming(name: str) -> Callable[[Path], Rows]:
    """What a resumed run keeps of a log."""

    def read(path: Path) -> Rows:
        RunFolder(path.parent).forget_after(100)
        return list(read_rows(path.parent / name))

    return read


def in_cache(path: Path) -> Rows:
    cache = CompletionCache(path)
    return [row for row in read_rows(path) if cached(cache, row["key"]) is not None]


STEPS: Rows = [{"step": i, "divergence": 0.5, "text": TEXT} for i in range(4)]
ENTRIES: Rows = [{"key": f"k{i}", "query": TEXT, "truncated": False, "token_ids": [1, 2]} for i in range(4)]
VERDICT = {"outcome": None, "reason": TEXT, "lenient": None, "details": {}}
KINDS: dict[str, tuple[str, Rows, Callable[[Path], Rows]]] = {
    "metrics": (METRICS, STEPS, lambda path: [{**row, "text": TEXT} for row in read_metrics(path.parent)]),
    "metrics of a resumed run": (METRICS, STEPS, after_resuming(METRICS)),
    "rollouts of a resumed run": (ROLLOUTS, STEPS, after_resuming(ROLLOUTS)),
    "cache": ("cache.jsonl", ENTRIES, in_cache),
    "completions": ("c.jsonl", completions(), lambda path: list(RowFile(path, {}, valid=is_completion).read())),
    "verdicts": ("v.jsonl", rows_of(**VERDICT), lambda path: list(RowFile(path, {}, valid=is_verdict).read())),
    "fidelity": (
        "f.jsonl",
        rows_of(detected=None, status="unknown", note=TEXT),
        lambda path: list(RowFile(path, {}, valid=is_fidelity).read()),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_that_was_cut_off_is_left_out_and_swallows_no_other(tmp_path: Path, kind: str) -> None:
    name, rows, read = KINDS[kind]
    path = tmp_path / name
    append_rows(path, rows[:3])
    data = path.read_bytes()
    start = len(b"".join(data.splitlines(keepends=True)[:2]))
    inside = [i for i in range(start, len(data)) if 0x80 <= data[i] < 0xC0]  # within a character
    assert len(inside) > 10
    for end in (*range(start, start + 9), *inside, len(data) - 2, len(data) - 1, len(data)):
        whole = rows[:3] if end >= len(data) - 1 else rows[:2]
        path.write_bytes(data[:end])
        assert read(path) == whole, end
        path.write_bytes(data[:end])
        append_rows(path, rows[3:])
        assert read(path) == [*whole, rows[3]], end
