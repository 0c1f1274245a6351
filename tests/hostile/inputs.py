"""What a hostile input is, and all of them by kind. Each kind has a module that makes its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Hostile:
    """One hostile input.

    Fields:
        name: what is wrong with it, in the test's name.
        make: gets the path of a good input of the kind, a copy that it may spoil, and returns what the command is
            given instead: the same path or another one beside it.
        says: each of these texts is in the command's error.
        handled: the command finishes in spite of it (a warning, a row that is made anew); `says` is in what it prints.
        only: the commands that are tried, by name; () for all that take the kind.
    """

    name: str
    make: Callable[[Path], Path]
    says: tuple[str, ...] = ()
    handled: bool = False
    only: tuple[str, ...] = ()


def written(content: str | bytes) -> Callable[[Path], Path]:
    """Makes an input that is one file with this content."""

    def make(path: Path) -> Path:
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path

    return make
