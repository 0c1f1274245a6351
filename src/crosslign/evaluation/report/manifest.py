"""The manifest of the run, or of both runs side by side, as rows of settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crosslign.evaluation.report.layout import manifests
from crosslign.evaluation.report.numbers import MISSING, Numbers, pointer


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Fields:
        keys: its place in the manifest, outermost first.
        values: for each manifest the pointers of its values: one, or one for each member of a list; none if absent.
        differs: the manifests do not say the same here.
    """

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    differs: bool


def settings(numbers: Numbers) -> list[Setting]:
    """All settings of all manifests, in the order in which they first occur."""
    roots = manifests(numbers)
    places: dict[tuple[str, ...], None] = {}
    for root in roots:
        for keys in _leaves(numbers.at(root)):
            places.setdefault(keys)
    found = []
    for keys in places:
        at = [root + pointer(*keys) for root in roots]
        values = [numbers.at(path) for path in at]
        shown = tuple(_pointers(path, value) for path, value in zip(at, values, strict=True))
        found.append(Setting(keys, shown, any(value != values[0] for value in values[1:])))
    return found


def _leaves(value: Any, keys: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where the scalars and lists of a nested mapping stand; an empty mapping is a leaf, so that it is not lost."""
    if isinstance(value, Mapping) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, (*keys, str(key)))]
    return [keys] if keys else []


def _pointers(path: str, value: Any) -> tuple[str, ...]:
    if value is MISSING:
        return ()
    if isinstance(value, list) and value:
        return tuple(f"{path}/{i}" for i in range(len(value)))
    return (path,)
