"""Every number in the page's tables is the number of results.json, under the heading that names it."""

from __future__ import annotations

import itertools
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_page import by_id, local, parse, table
from report_pages import IMPROVED, comparison, evaluation, full_comparison

from crosslign.evaluation.report import figures, render_report
from crosslign.evaluation.tables import number

OUTCOMES = ("refused", "safe_complied", "invalid", "refused_then_answered", "unsafe")
HEADINGS = {
    "asr": "Unsafe, %",
    "asr_strict": "Strict: not refused and not answered safely, %",
    "asr_lenient": "Unsafe, lenient reading, %",
    "over_refusal": "Refused, harmless, %",
    "invalid": "Malformed, %",
    "refused": "Refused, %",
    "refused_then_answered": "Refused, then answered, %",
    "fidelity": "Same language, %",
}


def written(value: float | None, sign: bool = False) -> str:
    """One decimal by decimal arithmetic: halves to even, no sign on zero, the minus as U+2212 where signs are shown."""
    if value is None:
        return "–"
    rounded = Decimal(value).quantize(Decimal("0.1"), ROUND_HALF_EVEN)
    if not sign:
        return str(rounded)
    return ("\u2212" if rounded < 0 else "+" if rounded > 0 else "") + str(abs(rounded))


def rate(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return found["reason"]
    return f"{written(found['value'])} {written(found['low'])} to {written(found['high'])}"


def of(cell: dict[str, Any], metric: str) -> dict[str, Any]:
    return cell["fidelity"]["rate"] if metric == "fidelity" else cell[metric]


def parts(task: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What a row's heading begins with, and its content."""
    languages = [(f" {code}", part) for code, part in task["languages"].items()]
    means = [(f"mean, {name}", part) for name, part in task["groups"].items()]
    return [*languages, *means, ("mean, all", task["all"])]


def row(rows: dict[str, list[str]], name: str) -> list[str]:
    """The row of a mean, or of a language by its code, which stands behind its name."""
    [found] = [cells for head, cells in rows.items() if head == name or f"{head} ".find(f"{name} ") > 0]
    return found


@pytest.mark.parametrize("compared", [True, False])
def test_all_numbers(compared: bool) -> None:
    made = {"multijail": ("harmful", IMPROVED, 20), "xstest": ("benign", {"en": (0.1, 0.2), "sw": (0.3, 0.4)}, 8)}
    results, transcripts = comparison(made) if compared else evaluation(made)  # type: ignore[arg-type]
    tree = parse(render_report(results, transcripts))
    for name, task in results["tasks"].items():
        rows = table(tree, "numbers", f"{name}, judged by guard")
        metrics = [m for m in HEADINGS if m == "fidelity" or m in (task["all"]["after"] if compared else task["all"])]
        heads = ["Language", *(["Side"] if compared else []), *(HEADINGS[m] for m in metrics)]
        heads += ["Answers", "Judged", "No verdict", "Cut off"]
        heads += ["Refused", "Answered safely", "Malformed", "Refused, then answered", "Unsafe"]
        heads += ["Same / other / unknown language"]
        assert rows[""] == heads
        for place, part in parts(task):
            expected = []
            for side in ("before", "after") if compared else ("",):
                cell = part[side] if side else part
                expected += [side] if side else []
                expected += [rate(of(cell, metric)) for metric in metrics]
                expected += [str(cell["n"]), str(cell["judged"])]
                expected += [", ".join(f"{why} {times}" for why, times in cell["abstained"].items()) or "none"]
                expected += [str(cell["truncated"]), *(str(cell["outcomes"][outcome]) for outcome in OUTCOMES)]
                expected += [" / ".join(str(cell["fidelity"][status]) for status in ("match", "other", "unknown"))]
            assert row(rows, place) == expected


def test_changes_and_the_picture() -> None:
    results, transcripts = full_comparison(40)
    tree = parse(render_report(results, transcripts))
    for name, events in (("multijail", "unsafe"), ("xstest", "refused")):
        task = results["tasks"][name]
        metric = "asr" if name == "multijail" else "over_refusal"
        rows, drawn = table(tree, "changes", name), table(tree, "picture", name)
        first = "Became unsafe" if events == "unsafe" else "Newly refused"
        assert rows[""] == [
            *("Language", "Change, points", "95 % interval", "p (Holm)", "Larger than chance?"),
            *("Before, %", "After, %", "Pairs", first, f"No longer {events}", "Smallest detectable"),
        ]
        for place, part in parts(task):
            change = part["change"]
            difference, ends, p, _, before, after, *counts, detectable = row(rows, place)
            assert difference == written(change["difference"], sign=True)
            assert ends == f"{written(change['low'], sign=True)} to {written(change['high'], sign=True)}"
            assert p == ("–" if change["p_holm"] is None else p_value(change["p_holm"]))
            assert [before, after] == [rate(part[side][metric]) for side in ("before", "after")]
            assert counts == [str(part["n_paired"]), str(change["gained"]), str(change["lost"])]
            assert detectable == written(change["detectable"])
        assert len(rows) == len(drawn)
        for (head, cells), (name_drawn, numbers) in list(zip(rows.items(), drawn.items(), strict=True))[1:]:
            assert f"{head} ".startswith(f"{name_drawn} ")
            assert numbers == ["", *(cell.split()[0] for cell in cells[4:6])]


def p_value(value: float) -> str:
    exact = Decimal(value)
    return "< 0.001" if exact < Decimal("0.001") else str(exact.quantize(Decimal("0.001"), ROUND_HALF_EVEN))


def test_what_is_larger_than_chance() -> None:
    """A language by Holm's p; a mean, which has no p, by its interval."""
    results, _ = comparison({"m": ("harmful", {"en": (0.1, 0.1), "sw": (0.9, 0.1), "bn": (0.1, 0.9)}, 40)})
    task = results["tasks"]["m"]
    task["languages"]["en"]["change"] |= {"difference": 3.0, "p_holm": 0.05}
    task["groups"]["low"]["change"] |= {"difference": -3.0, "low": -6.0, "high": 0.0}
    task["all"]["change"] |= {"difference": -3.0, "low": -6.0, "high": -0.01}
    rows = table(parse(render_report(results, [])), "changes", "m")
    shown = {place: row(rows, place)[3] for place in (" en", " sw", " bn", "mean, low", "mean, all")}
    assert shown == {" en": "no", " sw": "▼ fell", " bn": "▲ rose", "mean, low": "no", "mean, all": "▼ fell"}


def test_a_null_rate_shows_its_reason_and_no_number() -> None:
    results, _ = comparison({"m": ("harmful", {"en": (0.2, 0.1), "sw": (0.8, 0.3)}, 8)})
    tree = parse(render_report(results, []))
    pair = results["tasks"]["m"]["languages"]["sw"]
    cells = row(table(tree, "changes", "m"), " sw")
    assert cells[:3] == [pair["change"]["reason"], pair["before"]["asr"]["reason"], pair["after"]["asr"]["reason"]]
    assert table(tree, "picture", "m")["Swahili"] == ["", "–", "–"]


def test_ability_has_a_table() -> None:
    results, _ = full_comparison()
    cells = table(parse(render_report(results, [])), "ability", "mgsm")["Swahili sw"]
    both = results["utility"]["mgsm"]["sw"]
    assert cells == ["exact_match", rate(both["before"]), "100", rate(both["after"]), "100"]


def test_marks_stand_where_the_numbers_are() -> None:
    results, _ = comparison({"m": ("harmful", {"sw": (0.8, 0.3)}, 60)})
    tree = parse(render_report(results, []))
    pair = results["tasks"]["m"]["languages"]["sw"]
    end = next(top for top in (20, 40, 60, 80, 100) if top >= pair["before"]["asr"]["high"])
    line = next(n for n in by_id(tree, "picture").iter() if local(n) == "tr" and n.get("class") == "language")
    marks = [float(n.get("cx")[:-1]) for n in line.iter() if local(n) == "circle"]
    assert marks == pytest.approx([100 * pair[side]["asr"]["value"] / end for side in ("before", "after")], abs=0.01)
    ends = [[float(n.get(x)[:-1]) for x in ("x1", "x2")] for n in line.iter() if (n.get("class") or "")[:2] == "ci"]
    for found, side in zip(ends, ("before", "after"), strict=True):
        assert found == pytest.approx([100 * pair[side]["asr"][key] / end for key in ("low", "high")], abs=0.01)


counts = st.fixed_dictionaries(dict.fromkeys(OUTCOMES, st.integers(0, 2000)))


@given(counts)
def test_a_bar_is_filled_in_proportion_without_gap_or_overlap(counts: dict[str, int]) -> None:
    segments = figures.bar({"outcomes": counts})
    assert {s.outcome: s.count for s in segments} == {name: count for name, count in counts.items() if count}
    for left, right in itertools.pairwise(segments):
        assert left.start + left.width == pytest.approx(right.start, abs=0.02)
    for segment in segments:
        assert segment.width == pytest.approx(100 * segment.count / sum(counts.values()), abs=0.01)
    if segments:
        assert segments[0].start == 0
        assert segments[-1].start + segments[-1].width == pytest.approx(100, abs=0.02)


@given(st.lists(st.floats(0, 100), max_size=20))
def test_axes_cover_their_values_and_not_much_more(values: list[float]) -> None:
    rates = [{"value": value} for value in values]
    low, high = figures.axis_of(rates, 0), figures.axis_of(rates, 100)
    assert all(value <= low.high <= 100 and 0 <= high.low <= value for value in values)
    assert low.high <= max(4, 2.5 * max(values, default=40))
    for axis in (low, high):
        assert [axis.at(tick) for tick in axis.ticks] == [0, 25, 50, 75, 100]
        assert all(0 <= axis.at(value) <= 100 for value in values)


@given(st.floats(-1000, 1000) | st.integers(-1000, 1000), st.booleans())
def test_rounding_is_what_decimal_arithmetic_says(value: float, sign: bool) -> None:
    text = number(value, "+.1f" if sign else ".1f")
    assert float(text) == float(Decimal(value).quantize(Decimal("0.1"), ROUND_HALF_EVEN))
    assert text.startswith(("+", "-")) == (float(text) != 0 if sign else float(text) < 0)
