"""A stage's file: one JSON row a query, resumable, and never mixed with rows that were made otherwise."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crosslign.files import write_atomically
from crosslign.types import CrosslignError

Row = dict[str, Any]


def key_of(row: Mapping[str, Any]) -> str:
    return f"{row['id']}|{row['language']}"


def plain(text: str) -> str:
    """Text that UTF-8 can hold: lone surrogates, which a tokenizer or a file may give, are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def line_of(row: Mapping[str, Any]) -> str:
    """A row as a line that a person can read in any script; a lone surrogate stands as JSON's own escape."""
    return plain(json.dumps(row, ensure_ascii=False)) + "\n"


def digest(value: Any) -> str:
    """16 hexadecimal digits of anything that JSON can hold."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RowFile:
    """Rows of a stage under an identity: what the rows depend on.

    Rows are appended as they are made, so an interruption loses at most the one that was being written; `finish` puts
    them into order. The identity stands in a file beside them (`side`), with `notes` for a person, which are not
    compared.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        *,
        side: Path | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity, default=str))
        self.side = side or path.with_name(f"{path.name}.identity.json")
        self.notes = dict(notes or {})

    def differences(self) -> list[str] | None:
        """Names of what differs from the rows that are there; [] if nothing does; None if there are no rows."""
        if not self.path.exists():
            return None
        try:
            before = json.loads(self.side.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return ["unknown"]
        names = {*before, *self.identity} - {*self.notes}
        return sorted(k for k in names if before.get(k) != self.identity.get(k))

    def kept(self, *, replace: bool) -> dict[str, Row]:
        """Rows that `start` would keep, by key. Nothing is changed.

        Raises CrosslignError for rows of another identity unless `replace`.
        """
        different = self.differences()
        if different == ["unknown"] and not replace:
            raise CrosslignError(
                f"{self.path}: exists, and {self.side.name} does not say how it was made. Use --overwrite or another "
                "--out."
            )
        if different and not replace:
            raise CrosslignError(
                f"{self.path}: was made with other settings ({', '.join(different)} differ). Use --overwrite or "
                "another --out."
            )
        return {} if different else {key_of(row): row for row in self.read()}

    def start(self, *, replace: bool) -> dict[str, Row]:
        """Rows that are there already, by key, ready for more.

        Rows of another identity are thrown away if `replace`, else CrosslignError names what differs.
        """
        rows = self.kept(replace=replace)
        different = self.differences()
        if different:
            self.path.unlink()
        if different is None or different:
            content = {**self.identity, **self.notes}
            write_atomically(self.side, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        return rows

    def read(self) -> Iterator[Row]:
        """The rows in the file; a line that an interruption cut off is left out."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                try:
                    row = json.loads(line)
                    key_of(row)
                except (ValueError, KeyError, TypeError):
                    continue
                yield row

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A line that was cut off must not swallow the first new one.
        text = "".join(line_of(row) for row in rows)
        with self.path.open("a+b") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    text = "\n" + text
            file.write(text.encode("utf-8"))

    def finish(self, keys: Sequence[str], rows: Mapping[str, Mapping[str, Any]]) -> list[Row]:
        """Write the rows of `keys` in that order and return them.

        Rows of other queries, which an earlier call with more languages has made, stay behind them.
        """
        ordered = [dict(rows[key]) for key in keys]
        wanted = set(keys)
        others = {key_of(row): row for row in self.read() if key_of(row) not in wanted}
        write_atomically(self.path, "".join(line_of(row) for row in (*ordered, *others.values())))
        return ordered
