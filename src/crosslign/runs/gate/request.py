"""What is to be probed: queries, judge, teacher templates and the output folder, checked before weights are loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crosslign.runs.config import RunConfig
from crosslign.contexts import BUILTIN_TEACHERS, load_teacher_template
from crosslign.data.schema import QueryTable
from crosslign.evaluation.judges.base import Judge
from crosslign.evaluation.judges.specs import JudgeSettings, make_judges
from crosslign.types import CrosslignError, Label, Query, nearest

REPORT, PAIRS = "probe.json", "pairs.jsonl"


@dataclass(frozen=True)
class ProbeRequest:
    """What `crosslign probe` was asked for.

    Fields:
        queries: at most this many harmful, and as many benign, queries a language.
        templates: name -> what `teacher.template` of a recipe may be; None for the recipe's own.
        out: folder for `probe.json` and `pairs.jsonl`; None to write nothing.
    """

    queries: int
    judge: Judge
    templates: Mapping[str, str] | None = None
    out: Path | None = None
    overwrite: bool = False


def judge_named(spec: str, where: str, url: str | None = None, *, tested: Sequence[str] = ()) -> Judge:
    """A judge by its spec (`evaluation.judges.specs`); `where` is the flag or key that a person wrote it to.

    `url`: of the endpoint of an `llm` judge. `tested`: the model that is probed, which does not judge itself.
    """
    if spec.startswith("llm:") and url is None:
        name = "--judge-url" if where.startswith("--") else f"{where}_url"
        raise CrosslignError(f"{where}: {spec} needs {name}, such as http://localhost:8000/v1.")
    try:
        (judge,) = make_judges([spec], JudgeSettings(url=url), tested=tested)
    except CrosslignError as error:
        raise CrosslignError(f"{where}: {error}") from error
    return judge


def parse_templates(text: str) -> dict[str, str]:
    """`--templates`: a folder of YAML files, or names and files separated by commas. Each is read and checked."""
    folder = Path(text)
    if text not in BUILTIN_TEACHERS and folder.is_dir():
        found = [str(p) for p in sorted(folder.iterdir()) if p.suffix in (".yaml", ".yml") and p.is_file()]
        if not found:
            raise CrosslignError(f"--templates: the folder {text} holds no .yaml file.")
    else:
        found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
        if not found:
            raise CrosslignError(
                f"--templates: names no template; give a folder, or some of {', '.join(BUILTIN_TEACHERS)}."
            )
    templates: dict[str, str] = {}
    for spec in found:
        if spec not in BUILTIN_TEACHERS and not Path(spec).is_file():
            raise CrosslignError(
                f"--templates: {spec!r} is neither a folder, a file nor a shipped template. "
                f"{nearest(spec, BUILTIN_TEACHERS)}"
            )
        load_teacher_template(spec)
        # A file's name is enough, unless it is another template's too.
        name = Path(spec).stem
        templates[spec if name in templates or (name != spec and name in found) else name] = spec
    return templates


def with_template(config: RunConfig, spec: str) -> RunConfig:
    """The recipe with another teacher template, which itself says whether a judgement is written."""
    teacher = config.teacher.model_copy(update={"template": spec, "judgement": None})
    return config.model_copy(update={"teacher": teacher})


def select(
    tables: Sequence[QueryTable], languages: Sequence[str], count: int, label: Label, seed: int
) -> dict[str, list[Query]]:
    """At most `count` queries of a label for each language: the same rows in all languages, as far as they have texts.

    The order is a hash of seed and row id, so more queries are the same ones and others. Tables of weight 0 are not
    trained on and not probed.
    """
    chosen: dict[str, list[Query]] = {}
    trained = [table for table in tables if table.weight > 0]
    for language in languages:
        found = [q for t in trained if language in t.languages for q in t.queries([language]) if q.label == label]
        chosen[language] = sorted(found, key=lambda q: _draw(seed, q.id))[:count]
    return chosen


def _draw(seed: int, row: str) -> bytes:
    return hashlib.sha256(f"probe|{seed}|{row}".encode("utf-8", "surrogatepass")).digest()


def require_harmful(harmful: Mapping[str, Sequence[Query]]) -> None:
    if not any(harmful.values()):
        raise CrosslignError(
            "the recipe's tables have no harmful query in its languages, so there is nothing to probe. Mark such rows "
            "in a column 'label', or whole tables with `label: harmful` in data.tables."
        )


def too_few_rows(
    harmful: Mapping[str, Sequence[Query]], benign: Mapping[str, Sequence[Query]], count: int
) -> list[str]:
    """Notes on languages that have fewer queries than were asked for."""
    notes = []
    for label, chosen in (("harmful", harmful), ("benign", benign)):
        short = [f"{code} {len(queries)}" for code, queries in chosen.items() if len(queries) < count]
        if short and any(chosen.values()):
            notes.append(
                f"{count} {label} queries a language were asked for; the tables have only: {', '.join(short)}."
            )
    if not any(benign.values()):
        notes.append("The tables have no benign query: whether the teacher over-refuses is not known.")
    return notes


def check_out(out: Path | None, overwrite: bool) -> None:
    """Raises CrosslignError if the folder cannot be written or holds a probe already; makes it otherwise."""
    if out is None:
        return
    present = [name for name in (REPORT, PAIRS) if (out / name).exists()]
    if present and not overwrite:
        raise CrosslignError(
            f"--out: {out} holds {' and '.join(present)} already. Use another folder, or replace it with --overwrite."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CrosslignError(f"--out: {out} cannot be made: {error.strerror}.") from error
