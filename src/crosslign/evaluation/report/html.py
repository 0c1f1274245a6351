"""The report: results.json and transcripts in, one self-contained HTML page out.

The page loads nothing: style, script and transcripts are inside it, and its content security policy forbids all else
(`default-src 'none'`, style and script by their SHA-256, no string ever becomes mark-up in the script). Model texts
reach the page in one way only: as base64 of compressed JSON, which the script sets as text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import crosslign
from crosslign.evaluation.report import figures, layout, manifest
from crosslign.evaluation.report.cautions import cautions
from crosslign.evaluation.report.charts import tick_label
from crosslign.evaluation.report.headline import findings
from crosslign.evaluation.report.numbers import Numbers, pointer
from crosslign.evaluation.report.sentences import plain
from crosslign.evaluation.report.text import visible
from crosslign.evaluation.report.transcripts import Packed, Transcript, pack
from crosslign.storage import write_atomically
from crosslign.types import CrosslignError

SCHEMA_VERSION = 1
_SLACK = 1_000  # bytes kept free for the counts of the transcripts, which are known only once they are packed


def render_report(
    results: Mapping[str, Any], transcripts: Sequence[Transcript], *, title: str, max_bytes: int = 2_000_000
) -> str:
    """The page as text whose UTF-8 form has at most `max_bytes` bytes; the same input gives the same page.

    `results` is what results.json holds (schema version 1, kind "evaluation" or "comparison"). A number that the file
    gives as null is shown as its reason. Transcripts that do not fit are cut, then sampled, as `transcripts.pack` says
    and as the page says. Raises CrosslignError if `results` is of another schema, if a number in it is none, if a
    transcript has not one side for each side of the results, or if the page does not fit even without transcripts.
    """
    _check(results, transcripts)
    page = _Page(results, title)
    bare = len(page.render(_unpacked(len(transcripts))).encode("utf-8"))
    budget = max_bytes - bare - _SLACK
    if budget < 0:
        raise CrosslignError(
            f"report: the page has {bare:,} bytes without any transcript, and the limit is {max_bytes:,}. Raise the "
            "limit, or report fewer tasks or languages at once."
        )
    order = {code: i for i, code in enumerate(layout.language_order(page.numbers))}
    tasks = {task.name: i for i, task in enumerate(page.tasks)}
    rows = sorted(
        transcripts,
        key=lambda t: (tasks.get(t.task, len(tasks)), t.task, order.get(t.language, len(order)), t.language, t.id),
    )
    return page.render(pack(rows, budget))


def _unpacked(rows: int) -> Packed:
    """What the page looks like but for the block itself, with everything that it may have to say."""
    if not rows:
        return pack([], 0)
    return Packed("", total=rows + 1, shown=rows, limit=1, texts=rows, cut=rows, queries_total=rows, queries_shown=rows)


def write_report(
    path: str | Path,
    results: Mapping[str, Any],
    transcripts: Sequence[Transcript],
    *,
    title: str,
    max_bytes: int = 2_000_000,
) -> Path:
    """Write `render_report`'s page to `path` so that a reader sees the old or the new page, never a part of one."""
    target = Path(path)
    write_atomically(target, render_report(results, transcripts, title=title, max_bytes=max_bytes))
    return target


def _check(results: Mapping[str, Any], transcripts: Sequence[Transcript]) -> None:
    version, kind = results.get("schema_version"), results.get("kind")
    if version != SCHEMA_VERSION:
        raise CrosslignError(
            f"results.json: schema_version: this crosslign reports version {SCHEMA_VERSION}, found {version!r}. Make "
            "the results again with this version."
        )
    if kind not in layout.SIDES:
        raise CrosslignError(f"results.json: kind: expected 'evaluation' or 'comparison', found {kind!r}.")
    wanted = len(layout.SIDES[kind])
    for row in transcripts:
        if len(row.sides) != wanted:
            raise CrosslignError(
                f"transcript {row.task} / {row.id} / {row.language}: sides: expected {wanted} for results of kind "
                f"{kind!r}, found {len(row.sides)}."
            )


class _Page:
    """All of the page but its transcripts, computed once."""

    def __init__(self, results: Mapping[str, Any], title: str) -> None:
        self.numbers = Numbers(results)
        self.tasks = layout.tasks(self.numbers)
        told = findings(self.numbers, self.tasks)
        style, script = _part("style.css"), _part("script.js")
        self._fixed = {
            "title": title,
            "summary": " ".join(plain(finding.lead, self.numbers) for finding in told),
            "version": crosslign.__version__,
            "policy": _policy(style, script),
            "style": Markup(style),  # noqa: S704  both are this package's own files
            "script": Markup(script),  # noqa: S704
            "kind": results["kind"],
            "sides": layout.sides(self.numbers),
            "tasks": self.tasks,
            "findings": told,
            "cautions": cautions(self.numbers, self.tasks),
            "trades": figures.trades(self.numbers, self.tasks),
            "utility": figures.utility_rows(self.numbers),
            "settings": manifest.settings(self.numbers),
            "numbers": self.numbers,
            "rate_plot": figures.rate_plot,
            "fidelity_plot": figures.fidelity_plot,
            "outcome_bars": figures.outcome_bars,
            "judged_twice": [(task, found) for task in self.tasks if (found := figures.agreements(self.numbers, task))],
            "pointer": pointer,
            "tick_label": tick_label,
        }

    def render(self, packed: Packed) -> str:
        return _environment().get_template("page.html.j2").render(packed=packed, **self._fixed)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    """Templates that escape whatever they print and know no undefined name."""
    return Environment(
        loader=PackageLoader("crosslign.evaluation.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _printable(value: Any) -> Any:
    """Strings as `visible` shows them, before they are escaped; mark-up, made of such strings, as it is."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@lru_cache(maxsize=8)
def _part(name: str) -> str:
    """A file of this package, with line feeds as line ends, as an HTML parser will hand it on."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _policy(style: str, script: str) -> str:
    """The content security policy: nothing from anywhere but this very style and script."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"

    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {source(style)}",
            f"script-src {source(script)}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
