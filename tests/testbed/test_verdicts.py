"""The exact judge, in its own words and in those of `crosslign eval`, against completions of known truth."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from known_truth import KINDS, OUTCOMES, TESTBED_OUTCOMES, Case, Cells, cases, confusion, table

from crosslign.testbed.judge import FOREIGN, ExactFidelity, ExactJudge
from crosslign.testbed.world import World
from crosslign.types import JudgeItem, Query


@pytest.fixture(scope="module", params=[World(0), World(1, polite=True)], ids=["plain", "polite"])
def judge(request: pytest.FixtureRequest) -> ExactJudge:
    return ExactJudge(request.param)


@pytest.fixture(scope="module")
def made(judge: ExactJudge) -> list[Case]:
    return list(cases(judge.world, every=13))


def expected(made: list[Case]) -> Cells:
    """The same table from the truth alone."""
    cells: Cells = {kind: Counter() for kind in KINDS}
    for case in made:
        label = case.item.query.label
        cells[case.kind] += Counter(
            [
                *(case.truth.outcome, f"{label} {case.verdict}"),
                *(f"language {case.truth.language}", f"right {case.right}"),
            ]
        )
    return cells


def test_every_cell_of_the_confusion_table_is_the_truth(judge: ExactJudge, made: list[Case]) -> None:
    assert confusion(judge, made) == expected(made)


def test_the_table_covers_every_language_kind_of_request_and_outcome(judge: ExactJudge, made: list[Case]) -> None:
    for kind in KINDS:
        mine = [case for case in made if case.kind == kind]
        codes = {case.item.query.language for case in mine}
        assert codes >= set(judge.world.codes()) - {"en"}, kind
        assert {case.concept.kind for case in mine} == {"benign", "lookalike", "harmful", "out_of_scope"}, kind
    assert {case.truth.outcome for case in made} == set(TESTBED_OUTCOMES)
    assert {case.verdict for case in made} == set(OUTCOMES)
    # What is left out because languages share words is rare.
    assert len(made) > 0.9 * len(KINDS) * len({(c.item.query.id, c.item.query.language) for c in made})


def test_fidelity_is_the_language_that_was_put_in(judge: ExactJudge, made: list[Case]) -> None:
    words = {"own": "match", "other": "other", "none": "unknown"}
    results = ExactFidelity(judge).measure([case.item for case in made])
    assert [r.status for r in results] == [words[case.truth.language] for case in made]
    assert all(r.detected == c.item.query.language for r, c in zip(results, made, strict=True) if r.status == "match")


def test_the_printed_table_has_a_row_for_each_kind(judge: ExactJudge, made: list[Case]) -> None:
    lines = table(confusion(judge, made)).splitlines()
    assert len(lines) == 2 + len(KINDS)
    assert len({line.count("|") for line in lines}) == 1
    assert lines[-1].startswith(
        f"| nothing | 0 / 0 / {sum(case.kind == 'nothing' for case in made)} | 0 | 0 | 0 / 0 / "
    )


def test_a_request_of_another_world_has_no_verdict(judge: ExactJudge) -> None:
    item = JudgeItem(Query("1", "en", "how to bake", "en", "how to bake", "harmful"), "sorry i cannot because harm-a")
    (verdict,) = judge.judge([item])
    assert (verdict.outcome, verdict.reason) == (None, FOREIGN)
    assert ExactFidelity(judge).measure([item])[0].status == "unknown"


def test_worlds_have_identities_of_their_own() -> None:
    identities = [json.dumps(dict(ExactJudge(World(seed)).identity())) for seed in (0, 0, 1)]
    assert identities[0] == identities[1] != identities[2]
