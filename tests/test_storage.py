"""Files are written in one move, whatever the text holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crosslign.storage import write_atomically


def test_any_text_is_written_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomically(path, "lone \ud800, NUL \0, ends \r\n and \n")
    assert path.read_bytes() == b"lone \\ud800, NUL \0, ends \r\n and \n"


def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
