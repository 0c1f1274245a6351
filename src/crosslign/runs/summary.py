"""What a run's metrics say, in a few lines for a person."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosslign.evaluation.tables import aligned
from crosslign.languages import english_name
from crosslign.runs.folder import METRICS
from crosslign.storage import read_rows

_BARS = "▁▂▃▄▅▆▇█"


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, in order of steps; what is no number is left out."""
    rows = read_rows(Path(folder) / METRICS)
    return [{k: v for k, v in row.items() if isinstance(v, (int, float)) and abs(v) < 1e30} for row in rows]


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """A line of block characters, from the smallest value (low) to the largest (high), averaged to `width` points."""
    if not values:
        return ""
    size = min(width, len(values))
    edges = [round(i * len(values) / size) for i in range(size + 1)]
    points = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(points), max(points)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((p - low) * scale)] for p in points)


def divergence_table(metrics: Sequence[dict[str, Any]], probe: dict[str, dict[str, float]]) -> str:
    """Divergence by language: before and after on the probe's fixed completions, and the course of the run's own."""
    before, after = probe.get("before", {}), probe.get("after", {})
    languages = sorted({k.partition("/")[2] for row in metrics for k in row if k.startswith("divergence/")})
    rows = [("divergence from the teacher, nats/token", "before", "after", "change", "each step")]
    for key, name in [("all", "all"), *((c, f"{c} ({english_name(c)})") for c in languages)]:
        column = "divergence" if key == "all" else f"divergence/{key}"
        cells = ("-", "-", "")
        if key in before and key in after:
            change = f"{100 * (after[key] / before[key] - 1):+.0f} %" if before[key] > 0 else ""
            cells = (f"{before[key]:.3f}", f"{after[key]:.3f}", change)
        rows.append((f"  {name}", *cells, sparkline([row[column] for row in metrics if column in row])))
    return aligned(rows, left=(0, 4))
