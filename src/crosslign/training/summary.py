"""What a run's metrics say, in a few lines for a person."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosslign.languages import english_name
from crosslign.training.run_folder import METRICS

_BARS = "▁▂▃▄▅▆▇█"


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, in order of steps."""
    with (Path(folder) / METRICS).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


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


def divergence_table(metrics: Sequence[dict[str, Any]]) -> str:
    """Divergence from the teacher by language: means of the first and last quarter of the steps, and the course."""
    languages = sorted({k.partition("/")[2] for row in metrics for k in row if k.startswith("divergence/")})
    lines = [f"{'divergence from the teacher (nats/token)':<42}{'first':>8}{'last':>8}{'change':>9}   course"]
    for key, name in [("divergence", "all"), *((f"divergence/{c}", f"{c} ({english_name(c)})") for c in languages)]:
        values = [row[key] for row in metrics if key in row]
        if not values:
            continue
        quarter = max(1, len(values) // 4)
        first, last = sum(values[:quarter]) / quarter, sum(values[-quarter:]) / quarter
        change = f"{100 * (last / first - 1):+.0f} %" if first > 0 else ""
        lines.append(f"  {name:<40}{first:>8.3f}{last:>8.3f}{change:>9}   {sparkline(values)}")
    return "\n".join(lines)
