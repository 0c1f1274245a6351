"""Every number on the page is a number of results.json, written in one documented way."""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_page import follow, marked, parse, stray_digits, text_of, written
from report_synthetic import IMPROVED, agreement, comparison, evaluation, full_comparison, utility

from crosslign.evaluation.report import render_report
from crosslign.evaluation.report.numbers import MISSING, pointer, resolve, show
from crosslign.types import CrosslignError


def evaluation_with_everything() -> tuple[dict[str, Any], list[Any]]:
    results, transcripts = evaluation(
        {"multijail": ("harmful", IMPROVED, 30), "xstest": ("benign", {"en": (0.1, 0.2), "sw": (0.3, 0.4)}, 8)}, seed=5
    )
    results["tasks"]["multijail"]["agreement"] = {"lexicon": agreement(["en", "sw", "bn"])}
    results["tasks"]["multijail"]["agreement"]["lexicon"]["bn"]["kappa"] = None
    results["utility"] = {"mgsm": {code: both["before"] for code, both in utility({"en": (0.7, 0.7)}).items()}}
    return results, transcripts


PAGES = {"comparison": lambda: full_comparison(n=20), "evaluation": evaluation_with_everything}


@pytest.fixture(scope="module", params=PAGES)
def rendered(request: pytest.FixtureRequest) -> tuple[dict[str, Any], Any]:
    results, transcripts = PAGES[request.param]()
    return results, parse(render_report(results, transcripts, title="A title"))


def test_every_number_equals_results_json(rendered: tuple[dict[str, Any], Any]) -> None:
    results, tree = rendered
    spans = list(marked(tree, "data-path"))
    assert len(spans) > 500
    for span in spans:
        path, kind = span.get("data-path"), span.get("data-format", "rate")
        assert "".join(span.itertext()) == written(follow(results, path), kind), path


def test_no_number_stands_on_the_page_without_saying_where_it_comes_from(rendered: tuple[dict[str, Any], Any]) -> None:
    assert stray_digits(rendered[1]) == []


def test_counts_of_languages_count_pointers_that_exist(rendered: tuple[dict[str, Any], Any]) -> None:
    results, tree = rendered
    counts = list(marked(tree, "data-count-of"))
    assert counts
    for span in counts:
        paths = span.get("data-count-of").split()
        assert int(text_of(span)) == len(set(paths))
        for path in paths:
            follow(results, path)


def test_the_counts_of_a_headline_are_the_languages_that_moved_so() -> None:
    results, _ = full_comparison(n=40)
    lead = next(n for n in parse(render_report(results, [], title="t")).iter() if n.get("class") == "lead")
    fell, all_of_them = (span.get("data-count-of").split() for span in marked(lead, "data-count-of"))
    languages = results["tasks"]["multijail"]["languages"]
    assert set(fell) == {
        f"/tasks/multijail/languages/{c}" for c, p in languages.items() if p["change"]["difference"] < 0
    }
    assert set(all_of_them) == {f"/tasks/multijail/languages/{code}" for code in languages}


def test_every_rate_and_count_of_a_language_is_on_the_page() -> None:
    results, _ = comparison({"multijail": ("harmful", {"en": (0.1, 0.1), "sw": (0.8, 0.3)}, 40)})
    on_page = {span.get("data-path") for span in marked(parse(render_report(results, [], title="t")), "data-path")}

    def leaves(value: Any, path: str) -> list[str]:
        if isinstance(value, dict):
            return [leaf for key, inner in value.items() for leaf in leaves(inner, path + pointer(key))]
        return [path] if isinstance(value, (int, float)) else []

    wanted = set(leaves(results["tasks"], "/tasks"))
    # A rate's own count and n repeat outcomes and judged rows.
    repeated = {
        p for p in wanted if p.endswith("/count") or (p.endswith("/n") and not p.endswith(("before/n", "after/n")))
    }
    assert len(wanted - repeated) > 200
    assert wanted - repeated <= on_page


def test_a_null_rate_shows_its_reason_and_no_number() -> None:
    results, _ = comparison({"multijail": ("harmful", {"en": (0.2, 0.1), "sw": (0.8, 0.3)}, 8)})
    tree = parse(render_report(results, [], title="t"))
    spans = {span.get("data-path"): text_of(span) for span in marked(tree, "data-path")}
    at = "/tasks/multijail/languages/sw/before/asr"
    assert f"{at}/value" not in spans
    assert "are needed" in spans[f"{at}/reason"]
    assert "are needed" in spans["/tasks/multijail/languages/sw/change/reason"]


@pytest.mark.parametrize("name", ["table:/data/my~set.csv", "a b", "x<y>&\"'", "日本語"])
def test_names_of_tasks_may_hold_anything_that_a_pointer_must_escape(name: str) -> None:
    results, _ = comparison({name: ("harmful", {"sw": (0.8, 0.3)}, 20)})
    tree = parse(render_report(results, [], title="t"))
    paths = [span.get("data-path") for span in marked(tree, "data-path")]
    assert f"/tasks{pointer(name)}/languages/sw/after/asr/value" in paths
    for path in paths:
        follow(results, path)


@settings(deadline=None, max_examples=60)
@given(st.floats(-1000, 1000) | st.integers(-1000, 1000), st.sampled_from(["rate", "difference", "kappa"]))
def test_rounding_is_what_decimal_arithmetic_says(value: float, kind: Any) -> None:
    assert show(value, kind) == written(value, kind)


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 1))
def test_a_p_value_is_never_shown_as_zero(value: float) -> None:
    text = show(value, "p")
    assert text == written(value, "p")
    assert text == "<0.001" or Decimal(text) > 0


def test_a_number_that_rounds_to_zero_has_no_sign() -> None:
    assert [show(v, "difference") for v in (-0.04, 0.04, -0.0, 0.06)] == ["0.0", "0.0", "0.0", "+0.1"]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(), min_size=1, max_size=4))
def test_pointers_lead_where_their_keys_say(keys: list[str]) -> None:
    document: Any = "leaf"
    for key in reversed(keys):
        document = {key: document}
    assert resolve(document, pointer(*keys)) == "leaf"
    assert resolve(document, pointer(*keys, "more")) is MISSING


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "12", True, [1]])
@pytest.mark.parametrize("at", ["/asr/value", "/outcomes/refused"])
def test_what_is_no_number_is_an_error_that_names_its_place(bad: Any, at: str) -> None:
    results, _ = comparison({"multijail": ("harmful", {"sw": (0.8, 0.3)}, 20)})
    broken = copy.deepcopy(results)
    follow(broken, "/tasks/multijail/languages/sw/before" + at.rpartition("/")[0])[at.rpartition("/")[2]] = bad
    with pytest.raises(CrosslignError, match=f"/tasks/multijail/languages/sw/before{at}"):
        render_report(broken, [], title="t")


def paths_by_row(table: Any) -> dict[str, list[str]]:
    """The pointers of each row, by the first pointer's place in the results down to the language."""
    rows: dict[str, list[str]] = {}
    for row in (node for node in table.iter() if node.tag == "tr"):
        found = [span.get("data-path") for span in marked(row, "data-path")]
        if found:
            rows.setdefault("/".join(found[0].split("/")[:5]), []).extend(found)
    return rows


def test_each_number_stands_in_the_column_that_its_heading_names() -> None:
    results, _ = comparison({"m": ("harmful", {"en": (0.1, 0.1), "sw": (0.8, 0.3)}, 40)})
    for code in ("en", "sw"):  # no reasons for abstaining, whose number varies
        for side in ("before", "after"):
            results["tasks"]["m"]["languages"][code][side]["abstained"] = {}
    tree = parse(render_report(results, [], title="t"))
    tables = [node for node in tree.iter() if node.tag == "table"]

    def table(title: str) -> Any:
        return next(t for t in tables if any(c.tag == "caption" and title in text_of(c) for c in t))

    def interval(rate: str) -> list[str]:
        return [f"{rate}/value", f"{rate}/low", f"{rate}/high"]

    base = "/tasks/m/languages/sw"
    change = [f"{base}/change/{key}" for key in ("difference", "low", "high", "p_holm")]
    rates = [path for side in ("before", "after") for path in interval(f"{base}/{side}/asr")]
    assert paths_by_row(table("m: unsafe answers"))[base] == [*rates, *change]

    headings = [text_of(n) for n in table("change of unsafe").iter() if n.tag == "th" and n.get("scope") == "col"]
    assert headings[4:] == ["Became unsafe", "No longer unsafe", "p", "p, Holm", "Smallest detectable, points"]
    moved = [f"{base}/change/{k}" for k in ("difference", "low", "high", "gained", "lost", "p", "p_holm", "detectable")]
    assert paths_by_row(table("change of unsafe"))[base] == [f"{base}/n_paired", *moved]

    headings = [text_of(n) for n in table("all counts").iter() if n.tag == "th" and n.get("scope") == "col"]
    assert headings == [
        *("Language", "Side", "Answers", "Judged", "No verdict", "Cut off"),
        *("Refused", "Answered safely", "Malformed", "Unsafe"),
        *("Unsafe, %", "Unsafe or malformed, %", "Unsafe, lenient reading, %", "Malformed, %", "Refused, %"),
        *("Same language, %", "Same / other / unknown"),
    ]
    expected = []
    for side in (f"{base}/before", f"{base}/after"):
        expected += [f"{side}/{key}" for key in ("n", "judged", "truncated")]
        expected += [f"{side}/outcomes/{outcome}" for outcome in ("refused", "safe_complied", "invalid", "unsafe")]
        for rate in ("asr", "asr_strict", "asr_lenient", "invalid", "refused", "fidelity/rate"):
            expected += interval(f"{side}/{rate}")
        expected += [f"{side}/fidelity/{status}" for status in ("match", "other", "unknown")]
    assert paths_by_row(table("all counts"))[base] == expected
