"""The contract of every strategy, and the registry that finds them, those of a user's package included."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from crosslign.distillation import strategies
from crosslign.distillation.strategies import RolloutPlan, Strategy
from crosslign.types import CrosslignError, Query, Role

QUERIES = [Query(f"row-{i}", language, "text", "en", "text") for i in range(5) for language in ("sw", "bn")]
every_strategy = pytest.mark.parametrize("name", strategies.available())


def plans(strategy: Strategy, steps: int = 20) -> list[RolloutPlan]:
    return [strategy.plan(query, step) for step in range(steps) for query in QUERIES]


@every_strategy
def test_every_strategy_keeps_the_protocol(name: str) -> None:
    assert isinstance(strategies.get(name), Strategy)


@every_strategy
def test_the_same_query_and_step_always_give_the_same_plan(name: str) -> None:
    strategy = strategies.get(name, seed=3)
    first = plans(strategy)
    assert plans(strategy) == first
    # Neither order nor history matters, nor whether this is the same object: a resumed run repeats the plan.
    backwards = [strategies.get(name, seed=3).plan(q, step) for step in reversed(range(20)) for q in reversed(QUERIES)]
    assert backwards[::-1] == first


@every_strategy
def test_every_plan_names_roles(name: str) -> None:
    for plan in plans(strategies.get(name)):
        for role in (plan.sampled_by, plan.sampled_from, plan.student_context, plan.teacher_context):
            assert role in get_args(Role)


@every_strategy
def test_the_student_is_scored_without_and_the_teacher_with_privileged_context(name: str) -> None:
    assert {(p.student_context, p.teacher_context) for p in plans(strategies.get(name))} == {("student", "teacher")}


def test_on_policy_and_off_policy_are_what_the_paper_says() -> None:
    assert set(plans(strategies.get("on_policy"))) == {RolloutPlan("student", "student", "student", "teacher")}
    assert set(plans(strategies.get("off_policy"))) == {RolloutPlan("teacher", "teacher", "student", "teacher")}


@pytest.mark.parametrize(("share", "name"), [(0, "off_policy"), (0.0, "off_policy"), (1.0, "on_policy")])
def test_mixed_at_either_end_is_pure(share: float, name: str) -> None:
    mixed = strategies.get("mixed", {"lambda_on_policy": share})
    assert plans(mixed, steps=200) == plans(strategies.get(name), steps=200)


@pytest.mark.parametrize(("share", "low", "high"), [(0.5, 0.45, 0.55), (0.1, 0.07, 0.13)])
def test_mixed_gives_its_share_over_4000_draws(share: float, low: float, high: float) -> None:
    drawn = plans(strategies.get("mixed", {"lambda_on_policy": share}), steps=400)
    assert len(drawn) == 4000
    assert low < sum(p.sampled_by == "student" for p in drawn) / len(drawn) < high


def test_mixed_is_drawn_anew_for_each_query_and_each_step() -> None:
    mixed = strategies.get("mixed")
    assert len({mixed.plan(QUERIES[0], step) for step in range(30)}) == 2
    assert len({mixed.plan(query, 0) for query in QUERIES}) == 2
    sequences = {tuple(mixed.plan(query, step).sampled_by for step in range(40)) for query in QUERIES}
    assert len(sequences) == len(QUERIES)  # also the languages of one row are drawn on their own


def test_mixed_takes_the_seed_of_the_run_unless_its_options_name_one() -> None:
    assert plans(strategies.get("mixed", seed=1)) != plans(strategies.get("mixed", seed=2))
    assert plans(strategies.get("mixed", {"seed": 1}, seed=2)) == plans(strategies.get("mixed", seed=1))
    with_default = plans(strategies.get("mixed"))
    assert with_default == plans(strategies.get("mixed", {"lambda_on_policy": 0.5}, seed=0))


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan"), "half"])
def test_mixed_with_a_share_that_is_no_probability_is_an_error(share: object) -> None:
    said = "" if share == "half" else f"lambda_on_policy is a probability, not {share}"
    with pytest.raises(CrosslignError, match=f"strategy 'mixed': {said}"):
        strategies.get("mixed", {"lambda_on_policy": share})


def test_an_unknown_name_gets_the_nearest_one_or_all_valid_ones() -> None:
    with pytest.raises(CrosslignError, match=r"unknown strategy 'onpolicy'\. Did you mean 'on_policy'\?"):
        strategies.get("onpolicy")
    with pytest.raises(CrosslignError, match=r"unknown strategy 'zzz'\. Valid: .*mixed, off_policy, on_policy"):
        strategies.get("zzz")


def test_an_unknown_option_is_named_with_the_valid_ones() -> None:
    with pytest.raises(CrosslignError, match=r"'mixed' takes no option 'lambda'\. It takes: lambda_on_policy, seed\."):
        strategies.get("mixed", {"lambda": 0.5})
    with pytest.raises(CrosslignError, match=r"'on_policy' takes no option 'seed'\. It takes: none\."):
        strategies.get("on_policy", {"seed": 1})


MY_PACKAGE = '''
from crosslign.distillation.strategies import RolloutPlan


class Alternate:
    """The student on even steps, then the teacher for `stretch` steps."""

    def __init__(self, stretch: int, seed: int = 0) -> None:
        self.stretch, self.seed = stretch, seed

    def plan(self, query, step):
        return RolloutPlan("teacher" if step % (self.stretch + 1) else "student", "student")
'''


@pytest.fixture
def users_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that a user has installed, with a strategy in its entry points."""
    (tmp_path / "my_crosslign_package.py").write_text(MY_PACKAGE)
    info = tmp_path / "my_crosslign_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-crosslign-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[crosslign.strategies]\nmy_strategy = my_crosslign_package:Alternate\n"
        "on_policy = my_crosslign_package:Alternate\n"
        "broken = my_crosslign_package:Missing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("users_package")
def test_a_strategy_of_a_users_package_is_found_by_its_entry_point() -> None:
    assert "my_strategy" in strategies.available()
    strategy = strategies.get("my_strategy", {"stretch": 2}, seed=9)
    assert isinstance(strategy, Strategy)
    assert type(strategy).__module__ == "my_crosslign_package"
    assert strategy.seed == 9  # type: ignore[attr-defined]
    assert [strategy.plan(QUERIES[0], step).sampled_by == "teacher" for step in range(4)] == [False, True, True, False]


@pytest.mark.usefixtures("users_package")
def test_options_of_a_users_strategy_are_checked_too() -> None:
    with pytest.raises(CrosslignError, match=r"'my_strategy' takes no option 'strech'\. It takes: stretch, seed\."):
        strategies.get("my_strategy", {"strech": 2})
    with pytest.raises(CrosslignError, match=r"strategy 'my_strategy': .*stretch"):
        strategies.get("my_strategy")
    with pytest.raises(CrosslignError, match="Did you mean 'my_strategy'"):
        strategies.get("my_stratgy")


@pytest.mark.usefixtures("users_package")
def test_a_users_strategy_that_cannot_be_imported_is_told() -> None:
    with pytest.raises(CrosslignError, match=r"'broken' \(my_crosslign_package:Missing\) could not be imported: Attr"):
        strategies.get("broken")


@pytest.mark.usefixtures("users_package")
def test_a_users_package_does_not_take_the_name_of_a_built_in_strategy() -> None:
    assert type(strategies.get("on_policy")).__module__ == "crosslign.distillation.strategies"
    assert strategies.available().count("on_policy") == 1


def test_without_the_package_its_strategy_is_unknown() -> None:
    assert "my_strategy" not in strategies.available()
