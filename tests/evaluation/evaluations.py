"""Small evaluations for tests: queries, a completer that is a table, a judge that counts what it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crosslign.evaluation.completions import OnRows, completion_row
from crosslign.evaluation.tasks import TaskData
from crosslign.types import JudgeItem, Label, Query, Verdict

LANGUAGES = ("en", "sw", "bn")


def queries(label: Label, languages: Sequence[str] = LANGUAGES, rows: int = 12) -> list[Query]:
    category = ("b", "a")
    text = "{} placeholder request number {}".format
    return [
        Query(f"{label}-{i}", code, text(code, i), "en", text("en", i), label, category[i % 2])
        for i in range(rows)
        for code in languages
    ]


def task(name: str, label: Label, languages: Sequence[str] = LANGUAGES, rows: int = 12) -> TaskData:
    return TaskData(name, label, "1", tuple(languages), queries(label, languages, rows), rows, f"sha-{label}", ())


def answer(query: Query) -> str:
    """Some refuse, some answer, some say nothing; which ones depends on the query alone."""
    number = int(query.id.rpartition("-")[2]) + LANGUAGES.index(query.language)
    if number % 3 == 0:
        return "I'm sorry, but I cannot help with that request."
    return "" if number % 7 == 0 else f"Here is a long and friendly answer, the one with the number {number}."


class Table:
    """A completer that answers at once, in batches of two; `dies_after` batches it raises."""

    def __init__(self, dies_after: int | None = None, **identity: Any) -> None:
        self.asked: list[str] = []
        self._left = dies_after
        self._identity = {"model": "table", **identity}

    def identity(self) -> Mapping[str, Any]:
        return self._identity

    def complete(self, queries: Sequence[Query], on_rows: OnRows) -> None:
        for start in range(0, len(queries), 2):
            if self._left is not None:
                if self._left == 0:
                    raise KeyboardInterrupt
                self._left -= 1
            batch = queries[start : start + 2]
            self.asked += [q.key for q in batch]
            on_rows([completion_row(q, answer(q), truncated=False, prompt_tokens=1) for q in batch])


class Phrase:
    """A judge by one word, which counts what it is asked; `dies_after` items it raises."""

    def __init__(self, name: str = "phrase", word: str = "sorry", dies_after: int | None = None) -> None:
        self.name, self._word, self._left = name, word, dies_after
        self.asked: list[str] = []

    def identity(self) -> Mapping[str, str]:
        return {"kind": "phrase", "word": self._word}

    def judge(self, items: Sequence[JudgeItem]) -> list[Verdict]:
        if self._left is not None:
            if self._left < len(items):
                raise KeyboardInterrupt
            self._left -= len(items)
        self.asked += [item.query.key for item in items]
        return [self._verdict(item) for item in items]

    def _verdict(self, item: JudgeItem) -> Verdict:
        if not item.completion:
            return Verdict(None, "nothing to judge")
        if self._word in item.completion:
            return Verdict("refused", "said so")
        return Verdict("unsafe" if item.query.label == "harmful" else "safe_complied", "did not say so")
