"""Files that a reader never sees half written, rows that survive an interruption, and what identifies a result."""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeGuard

from filelock import FileLock, Timeout

from crosslign.types import CrosslignError
from crosslign.untrusted import parse_json, read_bytes, read_json

Row = dict[str, Any]
MANIFEST, LOCK = "manifest.json", ".lock"
FINISHED = "finished_sha256"  # in the file beside rows: the hash of their file, while it is whole


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write in one move: a reader sees the old content or the new, never a part. A link is replaced, not followed.

    Text is UTF-8; lone surrogates, which model output may hold, become escapes; line ends stay as they are.

    Raises CrosslignError if a folder has the file's name, or a file that of its folder.
    """
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        raise CrosslignError(f"{path}: cannot be written: {error.strerror}. Move away what stands there.") from error
    finally:
        with suppress(NotADirectoryError):
            temporary.unlink(missing_ok=True)


def publish_folder(place: Path, save: Callable[[str], None]) -> None:
    """Let `save(folder)` fill a new folder and put it in the place of `place`: the old one is there, or the new.

    A crash between the two moves leaves the old one under another name, from where `restore_folder` brings it back.
    """
    restore_folder(place)
    staging, old = (place.with_name(f".{place.name}.{state}") for state in ("incomplete", "old"))
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        save(str(staging))
        if place.exists():
            place.rename(old)
        staging.rename(place)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(place: Path) -> None:
    """Finish or undo a `publish_folder` that was interrupted between its moves."""
    old = place.with_name(f".{place.name}.old")
    if old.exists() and not place.exists():
        old.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def is_disk_full(error: BaseException) -> bool:
    """True for the many ways in which libraries say that a write did not fit."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    text = str(error).lower()
    return any(s in text for s in ("no space left", "quota exceeded", "file too large", "failed writing file"))


def is_empty(folder: Path) -> bool:
    """Whether a folder that exists holds nothing but a lock file."""
    return all(entry.name == LOCK for entry in folder.iterdir())


@contextmanager
def locked(path: Path, seconds: float = 0) -> Iterator[None]:
    """Hold the lock file `path`, which the system frees if the process dies; waits at most `seconds` for it.

    Raises CrosslignError if another process holds it, or something else has its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise CrosslignError(f"{path}: is no lock of crosslign. Remove it.")
    try:
        with FileLock(path, timeout=seconds):
            try:
                yield
            finally:
                if seconds == 0:  # where others wait for it, the file must stay the one that they opened
                    with suppress(OSError):  # Windows keeps a file that is open
                        path.unlink()
    except Timeout as error:
        raise CrosslignError(
            f"{path.parent}: another crosslign process is writing here (it holds {path.name}). Wait until it ends, or "
            "stop it."
        ) from error


def cache_folder(given: str | None = None) -> Path:
    """The folder for what need not be made twice: the one given, or crosslign's in the user's cache."""
    if given is not None:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crosslign"


def versions() -> dict[str, str]:
    """Versions of what can change a result."""
    result = {"python": platform.python_version()}
    for name in ("crosslign", "torch", "transformers", "peft", "accelerate", "datasets"):
        try:
            result[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return result


def digest(value: Any) -> str:
    """16 hexadecimal digits of anything that JSON can hold."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def write_manifest(folder: Path, **more: Any) -> None:
    """Write `manifest.json`: size and SHA-256 of every file in the folder, and `more` for a reader.

    It is written last, so a folder that has one was whole once; `damaged_files` says whether it still is.
    """
    names = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != folder / MANIFEST]
    files = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
        for file in names
    }
    write_atomically(folder / MANIFEST, json.dumps({"files": files, **more}, indent=1) + "\n")


def damaged_files(folder: Path) -> list[str] | None:
    """Files of a folder that are not as its manifest says, each with what is wrong; None if it has no manifest."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        return None
    try:
        files = read_json(manifest, "FILE_MB")["files"]
        expected = {str(name): (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except (CrosslignError, KeyError, AttributeError, TypeError):
        return [f"{MANIFEST} cannot be read"]
    found = []
    for name, (size, sha256) in expected.items():
        file = folder / name
        try:
            if file.stat().st_size != size:
                found.append(f"{name} has {file.stat().st_size} bytes instead of {size}")
            elif file_sha256(file) != sha256:
                found.append(f"{name} has other content than was written")
        except OSError as error:
            found.append(f"{name} cannot be read ({error.strerror})")
    return found


def plain(text: str) -> str:
    """Text that UTF-8 can hold: lone surrogates, which a tokenizer or a file may give, are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def line_of(row: Mapping[str, Any]) -> str:
    """A row as a line that a person can read in any script; a lone surrogate stands as JSON's own escape."""
    return plain(json.dumps(row, ensure_ascii=False)) + "\n"


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows to a JSON-lines file in one write; a line that was cut off before does not swallow the first one.

    Raises CrosslignError if the file is a link or a pipe.
    """
    data = "".join(map(line_of, rows)).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise CrosslignError(f"{path}: is no file of its own, and nothing is written through it. Remove it.")
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o644)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if end:
            os.lseek(descriptor, end - 1, os.SEEK_SET)
            if os.read(descriptor, 1) != b"\n":
                data = b"\n" + data
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> Iterator[tuple[int, Row | None]]:
    """The lines of a JSON-lines file that may not exist, each with its number; None for one that holds no row: an
    interruption cut it off, or someone edited it.

    Raises CrosslignError if the file cannot be read or is no file.
    """
    if not path.exists():
        return
    for number, line in enumerate(read_bytes(path, "FILE_MB").split(b"\n"), start=1):
        if line.strip():
            try:
                row = parse_json(line.decode("utf-8"), path)
            except (CrosslignError, UnicodeDecodeError):
                row = None
            yield number, row if isinstance(row, dict) else None


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of `read_lines`, without the lines that hold none."""
    return (row for _, row in read_lines(path) if row is not None)


def key_of(row: Mapping[str, Any]) -> str:
    """The key of the query that a row is about, as `Query.key`."""
    return f"{row['id']}|{row['language']}"


class RowFile:
    """Rows of a stage, one a query, under an identity: what the rows depend on.

    Rows are appended as they are made, so an interruption loses at most the one that was being written; `finish` puts
    them into order. The identity stands in a file beside them (`side`), with `notes` for a person, which are not
    compared, and once the rows are finished with the hash of their file. `valid` says of a row whether it is one of
    this stage; those that are not are left out.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        *,
        notes: Mapping[str, Any] | None = None,
        valid: Callable[[Row], bool] = bool,
    ) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity, default=str))
        self.side = path.with_name(f"{path.name}.identity.json")
        self.notes = dict(notes or {})
        self.valid = valid

    def differences(self) -> list[str] | None:
        """Names of what differs from the rows that are there; [] if nothing does; None if there are no rows."""
        if not self.path.exists():
            return None
        try:
            before = read_json(self.side)
        except CrosslignError:
            return ["unknown"]
        names = {*before, *self.identity} - {*self.notes, FINISHED}
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
        # Rows that come are no edit. The hash of what was edited before stays, so that it goes on being told.
        if different is None or different or not self.is_edited():
            self._write_side({})
        return rows

    def read(self) -> Iterator[Row]:
        """The rows in the file that are valid and name a query."""
        return (row for _, row in read_lines(self.path) if self._is_row(row))

    def bad_lines(self) -> list[int]:
        """The numbers of the lines that `read` leaves out."""
        return [number for number, row in read_lines(self.path) if not self._is_row(row)]

    def is_edited(self) -> bool:
        """Whether the file is another than the one that was finished. One that was not finished, or extended since and
        not finished again, is none."""
        finished = self._finished()
        return finished is not None and self.path.exists() and self._hash() != finished

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        append_rows(self.path, rows)

    def finish(self, keys: Sequence[str], rows: Mapping[str, Mapping[str, Any]]) -> list[Row]:
        """Write the rows of `keys` in that order and return them.

        Rows of other queries, which an earlier call with more languages has made, stay behind them.
        """
        ordered = [dict(rows[key]) for key in keys]
        wanted = set(keys)
        others = {key_of(row): row for row in self.read() if key_of(row) not in wanted}
        edited = self._finished()
        self.write((*ordered, *others.values()))
        if edited is not None:
            self._write_side({FINISHED: edited})
        return ordered

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write these rows in the place of all that are there, as finished."""
        write_atomically(self.path, "".join(map(line_of, rows)))
        self._write_side({FINISHED: self._hash()})

    def _is_row(self, row: Row | None) -> TypeGuard[Row]:
        return row is not None and all(isinstance(row.get(n), str) for n in ("id", "language")) and self.valid(row)

    def _hash(self) -> str:
        return hashlib.sha256(read_bytes(self.path, "FILE_MB")).hexdigest()

    def _finished(self) -> Any:
        try:
            return read_json(self.side).get(FINISHED)
        except CrosslignError:
            return None

    def _write_side(self, more: Mapping[str, Any]) -> None:
        content = {**self.identity, **self.notes, **more}
        write_atomically(self.side, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
