"""Files are written in one move, whatever the text holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crosslign.storage import append_rows, locked, read_rows, write_atomically
from crosslign.types import CrosslignError


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


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    precious, link = tmp_path / "precious", tmp_path / "link"
    for write in (lambda: append_rows(link, [{"a": 1}]), lambda: locked(link).__enter__()):
        for target in (precious, tmp_path / "nowhere"):
            precious.write_text("mine")
            link.unlink(missing_ok=True)
            link.symlink_to(target)
            with pytest.raises(CrosslignError, match="Remove it"):
                write()
            assert precious.read_text() == "mine"
            assert not (tmp_path / "nowhere").exists()
    write_atomically(link, "new")
    assert not link.is_symlink()
    temporary = tmp_path / f".new.{os.getpid()}.tmp"
    temporary.symlink_to(precious)
    write_atomically(tmp_path / "new", "new")
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("line", ["[" * 100_000, "9" * 10_000, "\0\0", '{"a": 1'])
def test_a_line_that_is_no_row_is_left_out(line: str, tmp_path: Path) -> None:
    (tmp_path / "rows").write_text(f'{{"a": 1}}\n{line}\n{{"b": 2}}\n')
    assert list(read_rows(tmp_path / "rows")) == [{"a": 1}, {"b": 2}]
