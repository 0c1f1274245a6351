"""Progress of long work: a bar on a terminal, and elsewhere a line every half minute."""

from __future__ import annotations

import io
import sys
from typing import Any

from tqdm import tqdm

from crosslign.untrusted import shown

LINE_SECONDS = 30.0
_LINE = "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed} so far, about {remaining} left{postfix}"


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar on a terminal. What it counts may be named by untrusted text."""

    def __str__(self) -> str:
        return shown(super().__str__(), one_line=True)


class _Lines(_Bar):
    """A bar for a log file: each state that is shown is a line of its own."""

    _last: float = -1  # units done when a line was last written: at its end a bar is shown once more

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.n != self._last:
            print(self, file=sys.stderr, flush=True)  # noqa: T201
        self._last = self.n


def progress(total: int, what: str, unit: str, *, initial: int = 0, quiet: bool = False) -> tqdm[Any]:
    """A tqdm bar over `total` units of work; work that is done within a second shows nothing.

    Where standard error is no terminal, a line with done, total and time left is written every `LINE_SECONDS` instead,
    and shorter work shows nothing. `quiet` shows nothing at all: of several processes only the first one speaks.
    """
    if quiet or sys.stderr.isatty():
        return _Bar(total=total, initial=initial, desc=what, unit=unit, disable=quiet, delay=1, file=sys.stderr)
    return _Lines(
        total=total,
        initial=initial,
        desc=what,
        unit=unit,
        disable=False,  # also where the bars of libraries are switched off
        file=io.StringIO(),  # gets what moves the cursor
        bar_format=_LINE,
        delay=LINE_SECONDS,
        mininterval=LINE_SECONDS,
        miniters=1,
    )
