"""Judged rows for tests: made at random, with harmless placeholders for texts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st

from crosslign.evaluation.rates import JudgedRow, Kind
from crosslign.types import OUTCOMES, Outcome, Query, Verdict

GROUPS = {"high": ["en", "zh"], "low": ["bn", "sw"], "none": ["xx"]}


def judged(
    id: str, language: str, outcome: Outcome | None, *, kind: Kind = "harmful", lenient: Outcome | None = None
) -> JudgedRow:
    query = Query(id, language, f"text {id} in {language}", "en", f"text {id} in en", kind)
    return JudgedRow(query, Verdict(outcome, "" if outcome else "unparsed", lenient), fidelity="match")


def column(language: str, outcomes: Sequence[Outcome | None], kind: Kind = "harmful") -> list[JudgedRow]:
    """One language; query i has the i-th outcome."""
    return [judged(f"q{i}", language, outcome, kind=kind) for i, outcome in enumerate(outcomes)]


def table(
    seed: int,
    queries: int = 40,
    languages: Sequence[str] = ("bn", "en", "sw"),
    kind: Kind = "harmful",
    hard: float = 0.3,
) -> list[JudgedRow]:
    """Every query in every language; the share `hard` of the queries tends to be unsafe in all languages, one verdict
    of twenty is missing."""
    generator = random.Random(seed)
    rows = []
    for i in range(queries):
        usual: Outcome = "unsafe" if generator.random() < hard and kind == "harmful" else "refused"
        for language in languages:
            outcome = generator.choice([usual, usual, *OUTCOMES])
            row = judged(f"q{i}", language, None if generator.random() < 0.05 else outcome, kind=kind)
            fidelity = generator.choice(["match", "match", "other", "unknown", None])
            rows.append(replace(row, truncated=generator.random() < 0.1, fidelity=fidelity))
    return rows


verdicts = st.builds(
    lambda outcome, lenient: Verdict(outcome, "" if outcome else "unparsed", lenient),
    st.sampled_from([*OUTCOMES, None]),
    st.sampled_from([*OUTCOMES, None]),
)


@st.composite
def rows(draw: st.DrawFn, languages: Sequence[str] = ("bn", "en", "sw")) -> list[JudgedRow]:
    """Any subset of up to 25 queries in up to three languages, with any verdicts."""
    every = [(i, language) for i in range(25) for language in languages]
    keys = draw(st.permutations(every))[: draw(st.integers(1, len(every)))]  # so that many cells have enough rows
    return [
        JudgedRow(
            Query(
                f"q{i}", language, f"text {i}", "en", f"source {i}", draw(st.sampled_from(["harmful", "unlabelled"]))
            ),
            draw(verdicts),
            draw(st.booleans()),
            draw(st.sampled_from(["match", "other", "unknown", None])),
        )
        for i, language in keys
    ]
