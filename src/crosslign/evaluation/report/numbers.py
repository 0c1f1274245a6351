"""Numbers of results.json on the page: where each stands, how it is rounded, and the mark-up that says so.

Every number on the page is a `<span data-path="/tasks/…" data-format="count">`: its text is the value at that JSON
pointer (RFC 6901), written in that format; without data-format it is a rate. So anyone, and a test, can check the
page against the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from markupsafe import Markup

from crosslign.evaluation.report.text import visible
from crosslign.types import CrosslignError

Format = Literal["rate", "difference", "count", "p", "kappa", "text"]
_MINUS = "\u2212"
_SMALLEST_P = 0.001
_SPAN = Markup('<span data-path="{}" data-format="{}">{}</span>')
_RATE = Markup('<span data-path="{}">{}</span>')


class Missing:
    """What stands at a pointer that leads nowhere. Not None: a null in the file is a statement."""

    def __bool__(self) -> bool:
        return False


MISSING = Missing()


def pointer(*keys: str | int) -> str:
    """The JSON pointer of the keys: `pointer("tasks", "a/b") == "/tasks/a~1b"`."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def resolve(document: Any, path: str) -> Any:
    """The value at a JSON pointer, or MISSING."""
    for key in path.split("/")[1:]:
        name = key.replace("~1", "/").replace("~0", "~")
        if isinstance(document, Mapping) and name in document:
            document = document[name]
        elif (
            isinstance(document, Sequence)
            and not isinstance(document, str)
            and name.isdigit()
            and int(name) < len(document)
        ):
            document = document[int(name)]
        else:
            return MISSING
    return document


def show(value: Any, kind: Format) -> str:
    """One value in the page's one way of writing it.

    rate (in %, or in points for a smallest detectable difference): one decimal. difference (points): one decimal and
    its sign. count: whole, thousands apart by a comma. p: three decimals, below 0.001 as "<0.001". kappa: two
    decimals. text: as it is; null as "none", anything else as JSON. Halves round to even, the minus is U+2212, and a
    number that rounds to zero has no sign.
    """
    if kind == "text":
        if value is None:
            return "none"
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"expected a finite number, found {value!r}")
    if kind == "count":
        if value != int(value):
            raise ValueError(f"expected a whole number, found {value!r}")
        return f"{int(value):,}"
    if kind == "p":
        return f"<{_SMALLEST_P}" if value < _SMALLEST_P else f"{value:.3f}"
    text = f"{abs(value):.{2 if kind == 'kappa' else 1}f}"
    is_zero = not text.strip("0.")
    if value < 0 and not is_zero:
        return _MINUS + text
    return f"+{text}" if kind == "difference" and not is_zero else text


class Numbers:
    """Reads results.json by pointers and writes its values as checkable spans."""

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.results = results

    def at(self, path: str) -> Any:
        return resolve(self.results, path)

    def has(self, path: str) -> bool:
        """True if a value other than null stands there."""
        value = self.at(path)
        return value is not MISSING and value is not None

    def number(self, path: str) -> float | None:
        """The number at `path`; None for null or nothing there. Anything else there is an error of the file."""
        value = self.at(path)
        if value is MISSING or value is None:
            return None
        try:
            show(value, "rate")
        except ValueError as error:
            raise CrosslignError(f"results.json: {path}: {error}. Make the results again.") from error
        return float(value)

    def keys(self, path: str) -> list[str]:
        """The keys of the mapping at `path`, in the file's order; none if no mapping stands there."""
        value = self.at(path)
        return [str(key) for key in value] if isinstance(value, Mapping) else []

    def text(self, path: str, kind: Format) -> str:
        """The value at `path` as the page writes it; "not recorded" where there is none."""
        value = self.at(path)
        if value is MISSING or (value is None and kind != "text"):
            return "not recorded"
        try:
            return visible(show(value, kind))
        except ValueError as error:
            raise CrosslignError(f"results.json: {path}: {error}. Make the results again.") from error

    def span(self, path: str, kind: Format) -> Markup:
        """The value at `path` with its pointer and format; without them where nothing stands there."""
        if self.at(path) is MISSING or (kind != "text" and not self.has(path)):
            return Markup('<span class="missing">not recorded</span>')
        text = self.text(path, kind)
        return _RATE.format(visible(path), text) if kind == "rate" else _SPAN.format(visible(path), kind, text)
