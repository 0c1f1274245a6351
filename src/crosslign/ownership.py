"""Where a command may write: crosslign replaces and appends to only what it wrote, which a mark of its own proves.

A mark is a JSON file that crosslign writes first or keeps beside what it marks: a run's record, an evaluation's
results, the identity of a file of rows. A link in place of a file is nobody's: nothing is written through it. A folder
that the user named may be one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from crosslign.storage import is_empty
from crosslign.types import CrosslignError
from crosslign.untrusted import read_json


def read_mark(path: Path) -> dict[str, Any]:
    """The object in a mark; {} if it is not there, is a link, or holds something else."""
    try:
        return {} if path.is_symlink() else read_json(path, "FILE_MB")
    except (CrosslignError, OSError):
        return {}


def check_output_folder(folder: Path, what: str, ours: bool, flag: str = "--out") -> None:
    """Raise CrosslignError unless this folder is ours, empty, or can be made. Changes nothing."""
    check_can_be_made(folder, flag)
    if folder.is_dir() and not is_empty(folder) and not ours:
        raise CrosslignError(
            f"{folder}: is not empty and holds no {what} of crosslign. Choose another {flag}; nothing in it is "
            "overwritten, also not with --overwrite."
        )


def check_output_file(file: Path, ours: bool, flag: str = "--out") -> None:
    """Raise CrosslignError unless this file is ours or can be made. Changes nothing."""
    check_no_link(file)
    check_can_be_made(file.parent, flag)
    if os.path.lexists(file) and not file.is_file():
        raise CrosslignError(f"{file}: is no file. Choose another {flag}.")
    if not ours and os.path.lexists(file):
        raise CrosslignError(
            f"{file}: exists, and nothing beside it says that crosslign made it. Choose another {flag}; it is not "
            "overwritten, also not with --overwrite."
        )


def check_cache_file(file: Path, flag: str) -> None:
    """Raise CrosslignError unless this file is one of rows that begin with their `key`, or can be made.

    What an interruption left of such a row counts as one.
    """
    check_output_file(file, ours=file.is_file() and _begins_with_key(file), flag=flag)


def _begins_with_key(path: Path) -> bool:
    """Whether a row, or the beginning of one, stands at the beginning of one of the first lines."""
    begin = b'{"key": '
    try:
        with path.open("rb") as file:
            head = file.read(65536)
    except OSError:
        return False
    return not head or any(begin.startswith(line[: len(begin)]) for line in head.split(b"\n") if line)


def check_no_link(*paths: Path) -> None:
    """Raise CrosslignError if one of these is a link, which crosslign does not make."""
    for path in paths:
        if path.is_symlink():
            raise CrosslignError(f"{path}: is a link, and nothing is written through it. Remove it.")


def check_can_be_made(folder: Path, flag: str) -> None:
    """Raise CrosslignError unless this is a folder that can be written, or can become one."""
    place = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if place == folder and not folder.is_dir():
        raise CrosslignError(f"{flag}: {folder} is a file, not a folder. Choose another {flag}.")
    if not place.is_dir():
        raise CrosslignError(f"{flag}: {folder} cannot be made: {place} is a file. Choose another {flag}.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise CrosslignError(f"{flag}: {folder} cannot be written: no permission in {place}.")
