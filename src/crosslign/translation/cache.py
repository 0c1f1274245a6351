"""Translations that need not be made twice, in an append-only JSONL file: also what a killed call goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosslign.ownership import check_cache_file
from crosslign.storage import append_rows, digest, locked, read_rows
from crosslign.translation.base import Translation, Translator
from crosslign.untrusted import is_blank

LOCK_SECONDS = 60.0  # an entry is written in far less


class TranslationCache:
    """The translations of one translator, by text and languages; the file's name has its identity.

    Errors and blank translations are not kept: the next call tries them again. Raises CrosslignError if
    the file is a link, or something else wrote it.
    """

    def __init__(self, folder: Path, translator: Translator) -> None:
        identity = translator.identity()
        self.path = folder / f"translations-{translator.name}-{digest(identity)}.jsonl"
        check_cache_file(self.path, flag="--cache-dir")
        self._lock = self.path.with_name(f"{self.path.name}.lock")
        self._entries = {row["key"]: Translation(row["text"], row["truncated"]) for row in read_rows(self.path)
                         if _is_entry(row)}  # fmt: skip

    def get(self, text: str, source: str, target: str) -> Translation | None:
        return self._entries.get(_key(text, source, target))

    def put(self, text: str, source: str, target: str, translation: Translation) -> None:
        if translation.error or is_blank(translation.text):
            return
        key = _key(text, source, target)
        self._entries[key] = translation
        row = {"key": key, "source": source, "target": target, "text": translation.text}
        with locked(self._lock, LOCK_SECONDS):
            append_rows(self.path, [{**row, "truncated": translation.truncated}])


def _key(text: str, source: str, target: str) -> str:
    return digest([source, target, text])


def _is_entry(row: Mapping[str, Any]) -> bool:
    return (
        isinstance(row.get("key"), str) and isinstance(row.get("text"), str) and row.get("truncated") in (True, False)
    )
