"""From replies to a table: means over seeds, bootstrap intervals, paired differences."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosslign.evaluation.tables import markdown
from crosslign.storage import versions

DRAWS = 4_000
COMPLIED, RIGHT, REFUSED = 3, 4, 5  # fields of a stored reply
# name -> (title, evaluation set, group, field)
METRICS: Mapping[str, tuple[str, str, str, int]] = {
    "asr": ("ASR", "harmful", "low", COMPLIED),
    "held_out": ("held-out", "held_out", "low", COMPLIED),
    "harder": ("harder", "harder", "low", COMPLIED),
    "unseen": ("ASR, unseen languages", "harmful", "unseen", COMPLIED),
    "benign": ("benign answered", "benign", "low", RIGHT),
    "lookalike": ("look-alikes refused", "lookalike", "low", REFUSED),
    "benign_unseen": ("benign answered, unseen", "benign", "unseen", RIGHT),
    "asr_high": ("ASR, high", "harmful", "high", COMPLIED),
    "asr_en": ("ASR, en", "harmful", "en", COMPLIED),
    "benign_en": ("benign answered, en", "benign", "en", RIGHT),
}
COMPARED = ("asr", "held_out", "harder", "unseen", "benign", "lookalike")
Records = Mapping[tuple[str, int], Mapping[str, Any]]


def rows(replies: Sequence[Sequence[Any]], metric: str) -> NDArray[np.float64]:
    """One value a request: the share of the group's languages in which it is a hit, in %."""
    _, wanted, group, field = METRICS[metric]
    hits: dict[str, list[bool]] = {}
    for reply in replies:
        if reply[0] == wanted and reply[1] == group:
            hits.setdefault(reply[2], []).append(reply[field])
    return np.array([100 * float(np.mean(hits[key])) for key in sorted(hits)])


def percent(replies: Sequence[Sequence[Any]], metric: str) -> float:
    return float(rows(replies, metric).mean())


def interval(values: Sequence[NDArray[np.float64]], seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high) over seeds: seeds are drawn with replacement, then requests within each.

    `values` holds one array of requests a seed. The two translations of a request never part: they are one value.
    """
    rng = np.random.default_rng(seed)
    n = len(values)
    means = np.empty((n, DRAWS))
    for i, v in enumerate(values):
        means[i] = v[rng.integers(len(v), size=(DRAWS, len(v)))].mean(-1)
    drawn = means[rng.integers(n, size=(n, DRAWS)), np.arange(DRAWS)].mean(0)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(np.mean([v.mean() for v in values])), float(low), float(high)


def table(names: Sequence[str], records: Records, seeds: Sequence[int], reference: str) -> str:
    lines = [["method", *(title for title, *_ in METRICS.values()), "KL benign", "seconds"]]
    for name in names:
        line = [f"**{name}**" if name == reference else name]
        for metric in METRICS:
            mean, low, high = interval([rows(records[name, s]["replies"], metric) for s in seeds])
            line.append(f"{mean:.1f} [{low:.0f}, {high:.0f}]")
        line.append(f"{np.mean([records[name, s]['kl_benign'] for s in seeds]):.3f}")
        line.append(f"{np.mean([records[name, s]['seconds'] for s in seeds]):.0f}")
        lines.append(line)
    return markdown(lines)


def compare(pairs: Sequence[tuple[str, str]], records: Records, seeds: Sequence[int]) -> str:
    """Paired differences of each method to its reference; bold where the interval leaves 0 out."""
    lines = [["method", *(METRICS[m][0] for m in COMPARED)]]
    for name, reference in pairs:
        line = [name]
        for metric in COMPARED:
            values = [
                rows(records[name, s]["replies"], metric) - rows(records[reference, s]["replies"], metric)
                for s in seeds
            ]
            mean, low, high = interval(values)
            text = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
            line.append(f"**{text}**" if low > 0 or high < 0 else text)
        lines.append(line)
    return markdown(lines)


def machine() -> str:
    """Processor and versions."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return ", ".join([f"{processor} (one core a run)", *(f"{k} {v}" for k, v in versions().items())])
