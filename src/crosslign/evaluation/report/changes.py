"""What a before/after pair says: which way its rate moved, and whether by more than chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crosslign.evaluation.report.numbers import Numbers

Direction = Literal["fell", "rose", "stayed", "unknown"]
SIGNIFICANCE = 0.05


@dataclass(frozen=True, slots=True)
class Change:
    """One pair's change.

    Fields:
        path: pointer of the PAIR in results.json.
        direction: which way the rate moved; unknown where results.json gives no difference.
        beyond_chance: for a language, Holm's corrected p is below 0.05; for an average, which has no p, the 95 %
            interval of the difference excludes zero.
    """

    path: str
    direction: Direction
    beyond_chance: bool


def change_at(numbers: Numbers, pair: str) -> Change:
    """The change of the PAIR at the pointer `pair`."""
    difference = numbers.number(f"{pair}/change/difference")
    if difference is None:
        return Change(pair, "unknown", False)
    direction: Direction = "fell" if difference < 0 else "rose" if difference > 0 else "stayed"
    p = numbers.number(f"{pair}/change/p_holm")
    if p is not None:
        return Change(pair, direction, direction != "stayed" and p < SIGNIFICANCE)
    low, high = numbers.number(f"{pair}/change/low"), numbers.number(f"{pair}/change/high")
    excludes_zero = low is not None and high is not None and (high < 0 or low > 0)
    return Change(pair, direction, excludes_zero)
