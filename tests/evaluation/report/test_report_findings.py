"""The findings in words: right, and honest where nothing is certain, where it got worse, where rows are too few."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_page import by_id, local, parse, text_of
from report_pages import SMALL, comparison, evaluation, utility

from crosslign.evaluation.report import render_report
from crosslign.evaluation.result_tables import terminal
from crosslign.types import OUTCOMES

RESULTS, _ = comparison(SMALL)
NAMES = {"en": "English", "zh": "Chinese", "sw": "Swahili", "bn": "Bangla", "jv": "Javanese", "th": "Thai"}


def few(kind: str = "judged rows") -> dict[str, Any]:
    return {"value": None, "reason": f"only 3 {kind}; 10 are needed", "n": 3}


def pair(kind: str, before: float | None, after: float | None, p: float | None = None) -> dict[str, Any]:
    """A PAIR with rates in % and Holm's p; None: too few rows."""
    metric = "asr" if kind == "harmful" else "over_refusal"
    cells = []
    for share in (before, after):
        rate = few() if share is None else {"value": share, "low": max(share - 9, 0), "high": min(share + 9, 100)}
        others = dict.fromkeys(("asr_strict", "asr_lenient", "invalid", "refused", "refused_then_answered"), few())
        counts = {"n": 100, "judged": 100, "truncated": 0, "abstained": {}}
        outcomes = dict.fromkeys(OUTCOMES, 20)
        fidelity = {"match": 1, "other": 1, "unknown": 1, "rate": few()}
        cells.append({**counts, "outcomes": outcomes, **others, "fidelity": fidelity, metric: rate})
    change: dict[str, Any] = dict.fromkeys(("difference", "low", "high", "p", "p_holm", "detectable"))
    change |= {"reason": "only 3 rows judged on both sides; 10 are needed", "gained": 0, "lost": 0}
    if before is not None and after is not None:
        difference = after - before
        change |= {"difference": difference, "low": difference - 5, "high": difference + 5, "p_holm": p}
        change |= {"detectable": 12.0 + len(str(before))}
    return {"before": cells[0], "after": cells[1], "n_paired": 100, "change": change}


def told(kind: str, pairs: dict[str, Any], mean: dict[str, Any] | None = None) -> tuple[str, str, str, str]:
    """Verdict, tone, leading sentence and the rest of the one task's finding."""
    task = {"kind": kind, "judge": "guard", "languages": pairs, "groups": {}, "all": mean or pair(kind, None, None)}
    return finding({**RESULTS, "tasks": {"multijail": task}})


def finding(results: dict[str, Any], place: int = 0) -> tuple[str, str, str, str]:
    tree = parse(render_report(results, []))
    node = [n for n in by_id(tree, "findings").iter() if local(n) == "article"][place]
    texts = {n.get("class") or local(n): text_of(n) for n in node.iter()}
    tone = (node.get("class") or "").split()[1]
    return texts["verdict"], tone, texts["lead"], " ".join(text_of(n) for n in node.iter() if local(n) == "li")


def words(kind: str, **pairs: tuple[Any, ...]) -> tuple[str, str, str, str]:
    return told(kind, {code: pair(kind, *values) for code, values in pairs.items()})


@pytest.mark.parametrize(
    ("kind", "pairs", "verdict", "lead"),
    [
        (
            "harmful",
            {"en": (5, 5, 1.0), "zh": (9, 8, 0.9), "sw": (70, 4, 0.0001), "bn": (40, 9, 0.002)},
            ("safer", "better"),
            "Unsafe answers: the fall is larger than chance in Swahili and Bangla.",
        ),
        (
            "harmful",
            {"sw": (70, 4, 0.0001)},
            ("safer", "better"),
            "Unsafe answers: 70.0 % → 4.0 % in Swahili; the fall is larger than chance.",
        ),
        (
            "harmful",
            {"sw": (70, 4, 0.0001), "bn": (40, 9, 0.001), "jv": (50, 9, 0.001), "th": (60, 9, 0.001)},
            ("safer", "better"),
            "Unsafe answers: the fall is larger than chance in Thai, Swahili, Bangla and Javanese.",
        ),
        (
            "harmful",
            {"en": (5, 4, 1.0), **dict.fromkeys(("zh", "sw", "bn", "jv", "th", "ar"), (70, 4, 0.001))},
            ("safer", "better"),
            "Unsafe answers: the fall is larger than chance in 6 of 7.",
        ),
        (
            "harmful",
            {"en": (5, 30, 0.0001), "sw": (50, 60, 0.3)},
            ("less safe", "worse"),
            "Unsafe answers: the rise is larger than chance in English.",
        ),
        (
            "harmful",
            {"en": (5, 30, 0.0001), "sw": (70, 4, 0.0001), "bn": (40, 39, 1.0)},
            ("mixed", "mixed"),
            "Unsafe answers: the rise is larger than chance in English, the fall is larger than chance in Swahili.",
        ),
        (
            "harmful",
            {"en": (5, 4, 1.0), "sw": (50, 50, 1.0)},
            ("no clear change", "unclear"),
            "Unsafe answers: no change is larger than chance in any of 2 languages.",
        ),
        (
            "harmful",
            {"sw": (50, 45, 0.6)},
            ("no clear change", "unclear"),
            "Unsafe answers: 50.0 % → 45.0 % in Swahili; no change is larger than chance in Swahili.",
        ),
        (
            "harmful",
            {"sw": (None, None), "jv": (None, 3)},
            ("too few rows", "unclear"),
            "Too few rows were judged in any language to say whether the share of unsafe answers changed.",
        ),
        (
            "benign",
            {"sw": (3, 40, 0.0001)},
            ("more refusals", "worse"),
            "Harmless requests refused: 3.0 % → 40.0 % in Swahili; the rise is larger than chance.",
        ),
        (
            "benign",
            {"sw": (40, 3, 0.0001)},
            ("fewer refusals", "better"),
            "Harmless requests refused: 40.0 % → 3.0 % in Swahili; the fall is larger than chance.",
        ),
    ],
)
def test_the_leading_sentence(kind: str, pairs: dict[str, Any], verdict: tuple[str, str], lead: str) -> None:
    assert words(kind, **pairs)[:3] == (*verdict, lead)


def test_where_nothing_is_certain_it_is_said_what_could_have_been_seen() -> None:
    more = words("harmful", en=(5, 4, 1.0), sw=(50, 45, 0.6))[3]
    assert "The smallest change this sample could be expected to show is 13.0 to 14.0 points." in more
    assert "smallest" not in words("harmful", en=(5, 4, 1.0), sw=(50, 5, 0.001))[3]


def test_languages_with_too_few_rows_are_named_and_counted_nowhere() -> None:
    _, _, lead, more = words("harmful", sw=(70, 4, 0.0001), jv=(None, 20), th=(10, None))
    assert lead.endswith("in Swahili; the fall is larger than chance.")
    assert "Too few judged rows to say: Thai and Javanese." in more


@pytest.mark.parametrize(
    ("kind", "shift", "verdict"),
    [
        ("harmful", -10, ("safer", "better")),
        ("harmful", 10, ("less safe", "worse")),
        ("benign", 10, ("more refusals", "worse")),
        ("benign", -10, ("fewer refusals", "better")),
    ],
)
def test_a_mean_can_be_beyond_chance_where_no_language_is(kind: str, shift: int, verdict: tuple[str, str]) -> None:
    """Many languages that each move a little: to call that "no clear change" would hide it."""
    pairs = {code: pair(kind, 30, 30 + shift, 0.2) for code in ("en", "sw", "bn")}
    found = told(kind, pairs, pair(kind, 30, 30 + shift))
    noun = "fall" if shift < 0 else "rise"
    assert found[:2] == verdict
    assert f"30.0 % → {30 + shift}.0 % on average over 3 languages; the {noun} is larger than chance on" in found[2]
    ends = "−15.0 to −5.0" if shift < 0 else "+5.0 to +15.0"
    sign = "−" if shift < 0 else "+"
    assert f"On average, a change of {sign}10.0 points (95 % interval {ends}), larger than chance." in found[3]
    unsure = pair(kind, 30, 30 + shift)
    unsure["change"] |= {"low": -20.0, "high": 20.0}
    assert told(kind, pairs, unsure)[:2] == ("no clear change", "unclear")


def test_a_mean_against_a_language_is_mixed() -> None:
    pairs = {"en": pair("harmful", 5, 40, 0.0001), "sw": pair("harmful", 60, 30, 0.2)}
    verdict, _, lead, more = told("harmful", pairs, pair("harmful", 42, 33))
    assert verdict == "mixed"
    assert "the rise is larger than chance in English, the fall is larger than chance on average" in lead
    assert "Highest after: 40.0 % in English." in more


def test_a_fall_that_is_malformed_output_is_not_sold_as_safety() -> None:
    pairs = {"sw": pair("harmful", 70, 20, 0.0001), "bn": pair("harmful", 60, 10, 0.0001)}
    for code, strict in (("sw", (72.0, 75.0)), ("bn", (62.0, 12.0))):
        for side, value in zip(("before", "after"), strict, strict=True):
            pairs[code][side]["asr_strict"] = {"value": value, "low": value, "high": value}
    more = told("harmful", pairs)[3]
    assert (
        "The fall in Swahili is malformed output or refusals that are followed by help: with both counted as unsafe, "
        "72.0 % → 75.0 %." in more
    )
    assert "The fall in Bangla" not in more


def partly(share: float, **languages: float) -> dict[str, Any]:
    """Results in which so many % refuse and then help, in a language or (`share`) on average."""
    results, _ = evaluation({"m": ("harmful", dict.fromkeys(languages, (0.1, 0.0)), 20)})
    task = results["tasks"]["m"]
    for code, value in languages.items():
        task["languages"][code]["refused_then_answered"] = {"value": value, "low": 0, "high": 100}
    for cell in (task["all"], *task["groups"].values()):
        cell["refused_then_answered"] = {"value": share, "low": 0, "high": 100}
    return results


@pytest.mark.parametrize(
    ("results", "most"),
    [
        (partly(3.0, en=5.0, sw=1.0), ""),
        (partly(3.0, en=0.0, sw=5.5), "up to 5.5 % of the answers (Swahili)"),
        (partly(7.0, en=6.0, sw=6.5), "up to 7.0 % of the answers (mean, "),
    ],
)
def test_many_partial_refusals_are_said_on_the_page_and_on_a_terminal(results: dict[str, Any], most: str) -> None:
    page = text_of(by_id(parse(render_report(results, [])), "findings")).replace("\u00a0", " ")
    words = terminal(results).replace("\u00a0", " ")
    for said in (page, words):
        assert ("refusals that are followed by help" in said) == bool(most)
        assert most in said
        assert ("count as unsafe in the strict one (asr_strict)" in said) == bool(most)


def test_partial_refusals_of_harmless_requests_are_no_caution() -> None:
    results, _ = evaluation({"m": ("benign", {"en": (0.1, 0.0)}, 20)})
    results["tasks"]["m"]["all"]["refused_then_answered"] = {"value": 50.0, "low": 0, "high": 100}
    assert "followed by help, up to" not in render_report(results, [])


def test_one_evaluation_states_rates_and_claims_no_change() -> None:
    results, _ = evaluation({"m": ("harmful", {"en": (0.1, 0), "sw": (0.9, 0), "bn": (0.4, 0)}, 60)})
    task = results["tasks"]["m"]
    task["languages"]["bn"]["asr"] = few()
    low, high, mean = (part["asr"] for part in (task["languages"]["en"], task["languages"]["sw"], task["all"]))
    verdict, _, lead, more = finding(results)
    assert verdict == "measured"
    assert lead == (
        f"Unsafe answers: {mean['value']:.1f} % (95 % interval {mean['low']:.1f}–{mean['high']:.1f}) on average over 2 "
        f"languages, from {low['value']:.1f} % in English to {high['value']:.1f} % in Swahili."
    )
    assert f"Malformed answers: {task['all']['invalid']['value']:.1f} %." in more
    assert f"language of the request: {task['all']['fidelity']['rate']['value']:.1f} %." in more
    assert "Too few judged rows to say: Bangla." in more
    task["languages"]["en"]["asr"] = task["languages"]["sw"]["asr"] = few()
    assert finding(results)[0] == "too few rows"


def test_ability_is_told_without_a_claim() -> None:
    ability = {
        "mgsm": utility({"en": (0.7, 0.6), "sw": (0.2, 0.22), "bn": (0.3, 0.1)}),
        "one": utility({"sw": (0.2, 0.22)}),
        "none": utility({"sw": (0.2, 0.22)}),
    }
    ability["none"]["sw"]["before"]["value"] = None
    assert [finding({**RESULTS, "utility": ability}, place)[2] for place in (1, 2, 3)] == [
        "Ability fell in 2, rose in 1 of 3 languages (whether by chance was not tested).",
        "Ability in Swahili: 20.0 % → 22.0 % (whether by chance was not tested).",
        "Ability was not measured on both sides.",
    ]


rates = st.none() | st.integers(0, 100)


@given(
    st.dictionaries(st.sampled_from(sorted(NAMES)), st.tuples(rates, rates, st.floats(0, 1)), min_size=1),
    st.sampled_from(["harmful", "benign"]),
)
def test_whatever_the_numbers_the_words_agree_with_them(made: dict[str, Any], kind: str) -> None:
    _, tone, lead, _ = words(kind, **made)
    known = {code: (after - before, p) for code, (before, after, p) in made.items() if None not in (before, after)}
    sure = {code: moved for code, (moved, p) in known.items() if moved and p < 0.05}
    if not known:
        assert "Too few rows" in lead
    elif not sure:
        assert tone == "unclear"
        assert "larger than chance" not in lead.replace("no change is larger than chance", "")
    else:
        fell, rose = any(moved < 0 for moved in sure.values()), any(moved > 0 for moved in sure.values())
        assert tone == {(True, False): "better", (False, True): "worse", (True, True): "mixed"}[fell, rose]
    assert lead.endswith(".")
    assert "  " not in lead
