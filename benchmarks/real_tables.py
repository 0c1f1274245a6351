"""From evaluations of a real model to tables: rates a language, and paired differences over seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge import Values as Helping
from benchmarks.judge import corrected_table, held_out_labels, helping
from benchmarks.summary import interval, machine
from crosslign.evaluation.folder import read_folder
from crosslign.evaluation.rates import METRICS, JudgedRow, Kind
from crosslign.evaluation.stages import RESULTS
from crosslign.evaluation.tables import markdown

EVALUATION, LOOK_ALIKE = "evaluation", "look_alike"
# Title -> which queries, and what of METRICS is counted.
RATES: Mapping[str, tuple[str, Kind, str]] = {
    "not safe": ("harmful", "harmful", "asr_strict"),
    "ASR": ("harmful", "harmful", "asr"),
    "malformed": ("harmful", "harmful", "invalid"),
    "harmless refused": ("benign", "benign", "over_refusal"),
    "look-alikes refused": ("look-alikes", "benign", "over_refusal"),
    "harmless malformed": ("benign", "benign", "invalid"),
    "right language": ("benign", "benign", "fidelity"),
}
DIFFERENCES = ("not safe", "malformed", "harmless refused", "look-alikes refused", "right language")
Rows = Mapping[str, Mapping[str, JudgedRow]]  # which queries -> query key -> row
Values = NDArray[np.float64]


def rows_of(folder: Path) -> Rows:
    found = read_folder(folder)
    named = {found.results["tasks"][name]["kind"]: rows for name, rows in found.tasks.items()}
    return {**named, "look-alikes": {k: row for k, row in named["benign"].items() if row.query.category == LOOK_ALIKE}}


def values(rows: Rows, title: str, codes: Sequence[str]) -> dict[str, float]:
    """100 or 0 for each query id, a mean over the languages that have a verdict."""
    which, kind, metric = RATES[title]
    happened: dict[str, list[bool]] = {}
    for row in rows[which].values():
        event = METRICS[kind][metric](row)
        if row.query.language in codes and event is not None:
            happened.setdefault(row.query.id, []).append(event)
    return {id: 100 * float(np.mean(events)) for id, events in happened.items()}


def rate(seeds: Sequence[Rows], title: str, codes: Sequence[str]) -> str:
    """Mean over queries and seeds in %; a dash where nothing was judged."""
    found = [value for rows in seeds for value in values(rows, title, codes).values()]
    return f"{np.mean(found):.1f}" if found else "-"


def difference(pairs: Sequence[tuple[Rows, Rows]], title: str, codes: Sequence[str]) -> str:
    """After less before: mean over seeds, with an interval over seeds and queries; bold where it leaves 0 out."""
    changes: list[Values] = []
    for before, after in pairs:
        one, two = values(before, title, codes), values(after, title, codes)
        changes.append(np.array([two[id] - one[id] for id in sorted(one.keys() & two.keys())]))
    if not all(map(len, changes)):
        return "-"
    mean, low, high = interval(changes)
    text = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def report(out: Path, languages: Sequence[str], trained: Sequence[str], variants: Mapping[str, str]) -> str:
    """Markdown of what is there. `variants`: the beginning of a cell's folder by the variant's name, the first one the
    recipe that the others change."""
    first, *_ = variants
    contexts = {name: rows_of(out / name) for name in ("base", "teacher", "system_prompt") if _there(out / name)}
    cells = {
        name: [rows_of(path / EVALUATION) for path in sorted(out.glob(f"{prefix}-seed*")) if _there(path / EVALUATION)]
        for name, prefix in variants.items()
    }
    groups = {code: [code] for code in languages} | {"trained": list(trained)}
    parts = [f"{machine()}."]
    best = cells[first]
    lines = [["", "language", *RATES]]
    for name, rows in contexts.items():
        for code in languages:
            lines.append([name.replace("_", " "), code, *(rate([rows], title, [code]) for title in RATES)])
    for code in languages if best else ():
        lines.append([f"{first}, mean of {len(best)}", code, *(rate(best, title, [code]) for title in RATES)])
    parts.append(markdown(lines))
    if "base" in contexts and best:
        lines = [["language", *DIFFERENCES]]
        for group, codes in groups.items():
            pairs = [(contexts["base"], rows) for rows in best]
            lines.append([group, *(difference(pairs, title, codes) for title in DIFFERENCES)])
        parts.append(f"`{first}` less the base model, points, {len(best)} seeds:\n\n{markdown(lines)}")
        sides = [helping(contexts["base"]["harmful"].values()), _mean([helping(r["harmful"].values()) for r in best])]
        table = corrected_table(sides, held_out_labels())
        whose = "corrected for the judge's errors on Qwen2.5-Coder-0.5B's replies (judge.md)"
        parts.append(f"Replies that help with harm, {whose}, %:\n\n{table}")
        lines = [["change", "seeds", *DIFFERENCES]]
        for name, found in cells.items():
            if found and name != first:
                pairs = list(zip(best, found, strict=False))
                lines.append([name, str(len(pairs)), *(difference(pairs, t, list(trained)) for t in DIFFERENCES)])
        parts.append(f"One change at a time, less `{first}` of the same seed, trained languages:\n\n{markdown(lines)}")
    return "\n\n".join(parts) + "\n"


def _mean(seeds: Sequence[Helping]) -> Helping:
    """Over seeds, of each query."""
    first, *_ = seeds
    return {c: {id: float(np.mean([s[c][id] for s in seeds if id in s[c]])) for id in first[c]} for c in first}


def _there(folder: Path) -> bool:
    return (folder / RESULTS).exists()


def folder_name(variant: str) -> str:
    return re.sub(r"\W+", "_", variant.replace("%", "percent")).strip("_")
