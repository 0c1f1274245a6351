"""Progress of long work: a bar on a terminal, and elsewhere a line every half minute."""

from __future__ import annotations

import io
import sys
from typing import Any

from tqdm.auto import tqdm

LINE_SECONDS = 30.0
_LINE = "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed} so far, about {remaining} left{postfix}"


class _Lines(io.TextIOBase):
    """Standard error for a log file: each state of a bar on a line of its own."""

    def write(self, text: str) -> int:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)
        return len(text)


def progress(
    total: int, what: str, unit: str, *, initial: int = 0, quiet: bool = False, seconds: float = LINE_SECONDS
) -> tqdm[Any]:
    """A tqdm bar over `total` units of work; work that is done within a second (in a log: `seconds`) shows nothing.

    Where standard error is no terminal, a line with done, total and time left is written every `seconds`. `quiet` shows
    nothing at all: of several processes only the first one speaks.
    """
    if quiet or sys.stderr.isatty():
        return tqdm(total=total, initial=initial, desc=what, unit=unit, disable=quiet, delay=1, file=sys.stderr)
    return tqdm(
        total=total,
        initial=initial,
        desc=what,
        unit=unit,
        disable=False,  # also where the bars of libraries are switched off
        file=_Lines(),
        bar_format=_LINE,
        delay=seconds,
        mininterval=seconds,
        maxinterval=max(seconds, 1),
        miniters=1,
    )
