"""What a run's metrics say, in a few lines for a person, and the page of its course."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosslign.evaluation.best import Criterion
from crosslign.evaluation.report import Course, write_course
from crosslign.evaluation.stages import REPORT
from crosslign.evaluation.tables import aligned
from crosslign.evaluation.training_log import check_record
from crosslign.languages import english_name
from crosslign.runs.config import BestConfig
from crosslign.runs.folder import CONFIG, METRICS, RECORD
from crosslign.runs.recipe import parse_section, read_recipe
from crosslign.storage import read_rows
from crosslign.untrusted import read_json

_BARS = "▁▂▃▄▅▆▇█"


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, in order of steps; what is no number is left out."""
    rows = read_rows(Path(folder) / METRICS)
    return [{k: v for k, v in row.items() if isinstance(v, (int, float)) and abs(v) < 1e30} for row in rows]


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """A line of block characters, from the smallest value (low) to the largest (high), averaged to `width` points."""
    if not values:
        return ""
    points = [sum(part) / len(part) for part in _parts(values, width)]
    low, high = min(points), max(points)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((p - low) * scale)] for p in points)


def _parts(values: Sequence[Any], most: int) -> list[Sequence[Any]]:
    """The values in their order, in as many parts of about the same length as there may be."""
    size = min(most, len(values))
    edges = [round(i * len(values) / size) for i in range(size + 1)]
    return [values[a:b] for a, b in itertools.pairwise(edges)]


def write_page(folder: Path) -> Path:
    """Write report.html of a training run from its record, log and configuration; returns its path.

    Raises CrosslignError if one of these cannot be read, or there is no evaluation.
    """
    record = read_json(folder / RECORD, "FILE_MB")
    check_record(record, folder / RECORD)
    return write_course(folder / REPORT, Course(record, _by_step(read_metrics(folder)), _criterion(folder / CONFIG)))


def _criterion(path: Path) -> Criterion | None:
    """What a run's configuration says of its best checkpoint; the rest of it may be another version's."""
    section = read_recipe(path).get("evaluation")
    best = section.get("best") if isinstance(section, dict) else None
    if best is None:
        return None
    return Criterion(**parse_section(BestConfig, best, f"{path}, evaluation.best").model_dump())


def _by_step(metrics: Sequence[dict[str, Any]], most: int = 60) -> list[dict[str, Any]]:
    """Means of the divergences over steps that follow each other, each with the last of its steps."""
    rows = [row for row in metrics if "divergence" in row and isinstance(row.get("step"), int)]
    means = []
    for part in _parts(rows, most) if rows else ():
        names = dict.fromkeys(key for row in part for key in row if key.partition("/")[0] == "divergence")
        known = {key: [row[key] for row in part if key in row] for key in names}
        means.append({"step": part[-1]["step"], **{key: sum(found) / len(found) for key, found in known.items()}})
    return means


def divergence_table(metrics: Sequence[dict[str, Any]], probe: dict[str, dict[str, float]]) -> str:
    """Divergence by language: before and after on the probe's fixed completions, and the course of the run's own."""
    before, after = probe.get("before", {}), probe.get("after", {})
    languages = sorted({k.partition("/")[2] for row in metrics for k in row if k.startswith("divergence/")})
    rows = [("divergence from the teacher, nats/token", "before", "after", "change", "each step")]
    for key, name in [("all", "all"), *((c, f"{c} ({english_name(c)})") for c in languages)]:
        column = "divergence" if key == "all" else f"divergence/{key}"
        cells = ("-", "-", "")
        if key in before and key in after:
            # Of benign queries that are left unchanged it is 0 before, up to rounding: no change in percent.
            first, last = (max(0.0, round(probed[key], 3)) for probed in (before, after))
            change = f"{100 * (after[key] / before[key] - 1):+.0f} %" if first else ""
            cells = (f"{first:.3f}", f"{last:.3f}", change)
        rows.append((f"  {name}", *cells, sparkline([row[column] for row in metrics if column in row])))
    return aligned(rows, left=(0, 4))
