"""The report: results.json and paired transcripts in, one self-contained HTML page out; and that of a training run.

`findings` puts what `evaluation.view` gives into words, `figures` into charts, `transcripts` packs the answers;
templates/page.html.j2 is the page. `course` draws a training run, whose page is templates/course.html.j2;
`render_tables` makes a page of tables. A page loads nothing: style, script and transcripts are inside it, and its
content security policy forbids all else. Whatever comes from a model, a judge or a file name is escaped by the
templates, and the script sets it as text, never as mark-up.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from crosslign.evaluation.report import figures
from crosslign.evaluation.report.course import Course
from crosslign.evaluation.report.findings import cautions, findings, points
from crosslign.evaluation.report.transcripts import Transcript, block, visible
from crosslign.evaluation.results import SCHEMA_VERSION
from crosslign.evaluation.tables import Table, number, p_value, short_names
from crosslign.evaluation.training_log import about_best, place
from crosslign.evaluation.view import View, settings
from crosslign.storage import write_atomically
from crosslign.types import CrosslignError

__all__ = ["Course", "Transcript", "render_course", "render_report", "render_tables", "write_course", "write_report"]

MOST_BYTES = 8_000_000  # of transcripts: a browser opens such a page at once


def write_report(
    path: str | Path, results: Mapping[str, Any], transcripts: Sequence[Transcript], most_bytes: int = MOST_BYTES
) -> Path:
    """Write `render_report`'s page to `path` so that a reader sees the old or the new page, never a part of one."""
    write_atomically(Path(path), render_report(results, transcripts, most_bytes))
    return Path(path)


def render_report(results: Mapping[str, Any], transcripts: Sequence[Transcript], most_bytes: int = MOST_BYTES) -> str:
    """The page; the same input gives the same page.

    `results` is what results.json holds (`evaluation.results`). A rate that is null is shown as its reason.
    Transcripts that take more than `most_bytes` are cut, then sampled, as `transcripts.block` says and as the page
    says. Raises CrosslignError if `results` is of another schema.
    """
    version, kind = results.get("schema_version"), results.get("kind")
    if version != SCHEMA_VERSION or kind not in ("evaluation", "comparison"):
        raise CrosslignError(
            f"results.json: expected schema_version {SCHEMA_VERSION} and kind 'evaluation' or 'comparison', found "
            f"{version!r} and {kind!r}. Run crosslign eval or compare into the folder again; completions are kept."
        )
    view = View(results)
    titles = {task.name: task.title for task in view.tasks}
    tasks, languages = ({name: i for i, name in enumerate(names)} for names in (titles, view.names))
    rows = sorted(transcripts, key=lambda row: (tasks[row.task], languages[row.query.language]))
    return _page(
        "page.html.j2",
        title=" → ".join(view.models),
        view=view,
        overview=figures.overview(view),
        fidelity=figures.fidelity(view),
        bar=figures.bar,
        outcomes=figures.OUTCOMES,
        findings=findings(view),
        cautions=cautions(view),
        settings=settings(view),
        transcripts=block(rows, view.names, titles, most_bytes),
    )


def write_course(path: str | Path, course: Course) -> Path:
    """Write `render_course`'s page to `path` as `write_report` does."""
    write_atomically(Path(path), render_course(course))
    return Path(path)


def render_course(course: Course) -> str:
    """The page of a training run: its evaluations and its divergence, step by step."""
    return _page(
        "course.html.j2",
        title=next(iter(short_names([course.record["model"]]).values())),
        course=course,
        about_best=about_best,
        place=place,
        worst=course.worst(),
        evaluated=course.evaluated(),
        trained=course.trained(),
    )


def render_tables(
    title: str, facts: Mapping[str, str], tables: Sequence[Table], charts: Sequence[figures.Ranges] = ()
) -> str:
    """A page of tables; `facts` and the charts stand above them."""
    return _page("tables.html.j2", title=title, facts=facts, tables=tables, charts=charts)


def _page(template: str, **given: Any) -> str:
    style, script = _part("style.css"), _part("script.js")
    return (
        _environment()
        .get_template(template)
        .render(
            version=metadata.version("crosslign"),
            policy=_policy(style, script),
            style=Markup(style),  # noqa: S704  both are this package's own files
            script=Markup(script),  # noqa: S704
            **given,
        )
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    """Templates that escape whatever they print and know no undefined name."""
    environment = Environment(
        loader=PackageLoader("crosslign.evaluation.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "points": points, "p_value": p_value, "count": "{:,}".format}
    return environment


def _part(name: str) -> str:
    """A file of this package, with line feeds as line ends, as an HTML parser will hand it on."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _policy(style: str, script: str) -> str:
    """The content security policy: nothing from anywhere but this very style and script."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {source(style)}; script-src {source(script)}; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
