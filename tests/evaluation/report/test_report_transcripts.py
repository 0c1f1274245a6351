"""Transcripts inside the page: nothing in them can break out, and what does not fit is said."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_page import BLOCK, by_id, marked, parse, parse_without_style_and_script, text_of, unpacked
from report_synthetic import comparison, full_comparison

from crosslign.evaluation.report import Side, Transcript, render_report
from crosslign.evaluation.report.text import visible
from crosslign.evaluation.report.transcripts import LONGEST_NOTE, LONGEST_TEXT, SHORTEST_CUT, pack
from crosslign.types import CrosslignError

EMPTY = {"schema_version": 1, "kind": "comparison", "manifest": {}, "tasks": {}}
RESULTS, _ = comparison({"multijail": ("harmful", {"sw": (0.8, 0.3)}, 15)})
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    "]]> <![CDATA[",
    "\"'`><img src=x onerror=alert(1)>",
    "before\x00after\x1b[31m\x7f\x85",
    "lone \ud800 and \udfff",
    "right \u202eto left\u202c and \u2066isolated\u2069",
    "hidden \U000e0041\U000e007f tags and \ufdd0 \uffff",
    "Safety: Safe\nRefusal: Yes",
    "&lt;b&gt; &amp; &#0; {{ 7 * 7 }} {% raw %}",
    "",
    "\r\n line \r ends \n\t",
    "".join(map(chr, range(0x4E00, 0x4E96))),  # more letters than one byte can name
    "ক\u09cd\u200dষ مرحبا\u200f 👩\u200d👩\u200d👧 e\u0301",
]


def row(text: str, other: str = "fine", **changed: Any) -> Transcript:
    sides = (Side(text, "unsafe", text), Side(other, None, "unparsed", "other", True, "en"))
    fields = {"task": "multijail", "id": "q1", "language": "sw", "label": "harmful", "category": None}
    return Transcript(**{**fields, "query": text, "source_query": text, "sides": sides, **changed})


def shape(page: str) -> list[tuple[str, dict[str, str]]]:
    """The page's elements and attributes, without texts: what markup in a text would change."""
    return [(str(node.tag), dict(node.attrib)) for node in parse_without_style_and_script(page).iter()]


BARE = shape(render_report(RESULTS, [row("plain")], title="t"))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_arrive_as_text_and_change_no_markup(text: str) -> None:
    page = render_report(RESULTS, [row(text, text, id=text, category=text, source_language="en")], title="t")
    page.encode("utf-8")
    assert shape(page) == BARE
    [found] = unpacked(page)["rows"]
    assert found["completions"] == [(visible(text), None)] * 2
    assert found["query"] == (visible(text), None)
    assert found["source"] == (visible(text), len(text))
    assert found["id"] == visible(text)
    assert found["outcomes"] == ["unsafe", None]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text(max_size=60), min_size=1, max_size=12), st.text(max_size=20))
def test_no_text_whatever_breaks_out(texts: list[str], other: str) -> None:
    rows = [row(text, other, id=f"q{i:02}") for i, text in enumerate(texts)]
    page = render_report(EMPTY, rows, title="t")
    [(_, block, _)] = BLOCK.findall(page)
    assert page.count("<script") == page.count("</script") == 2
    plain = render_report(EMPTY, [row("plain", id=f"q{i:02}") for i in range(len(rows))], title="t")
    assert BLOCK.sub("", page) == BLOCK.sub("", plain), "whatever the texts, the rest of the page is the same"
    assert block
    found = unpacked(page)["rows"]
    assert [r["completions"] for r in found] == [[(visible(t), None), (visible(other), None)] for t in texts]


def page_with(words: str) -> str:
    results, _ = comparison({"multijail": ("harmful", {"sw": (0.8, 0.3)}, 4)})
    cell = results["tasks"]["multijail"]["languages"]["sw"]["before"]
    cell["asr"]["reason"] = words
    cell["abstained"] = {words: 3}
    results["tasks"] = {f"task {words}": {**results["tasks"]["multijail"], "judge": words, "groups": {}}}
    results["manifest"]["before"]["model"] = words
    return render_report(results, [], title=words)


PLAIN_TAGS = [node.tag for node in parse_without_style_and_script(page_with("plain words")).iter()]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(min_size=1, max_size=40))
def test_no_title_judge_reason_or_setting_breaks_out(text: str) -> None:
    """Judges' reasons and users' names stand in the page itself, so they are escaped there."""

    tree = parse_without_style_and_script(page_with(text))
    assert [node.tag for node in tree.iter()] == PLAIN_TAGS
    shown = {n.get("data-path"): "".join(n.itertext()) for n in marked(tree, "data-path")}
    [reason] = [value for path, value in shown.items() if path.endswith("languages/sw/before/asr/reason")]
    assert reason == shown["/manifest/before/model"] == visible(text)
    assert visible(text) in {"".join(n.itertext()) for n in marked(tree, "data-name")}


def test_what_hides_is_shown_and_what_belongs_to_writing_stays() -> None:
    assert visible("a\x00b\x1b\x7f") == "a␀b␛␡"
    assert visible("x\u202ey\u2069") == "x⟦U+202E⟧y⟦U+2069⟧"
    assert visible("\ud83d alone") == "⟦U+D83D⟧ alone"
    assert visible("\U000e0041") == "⟦U+E0041⟧"
    kept = "ক্\u200dষ مرحبا\u200f می\u200cخواهم 👩\u200d👧 \t\n"
    assert visible(kept) == kept
    assert visible("a\r\nb\rc") == "a\nb␍c"


@settings(deadline=None, max_examples=60)
@given(st.text())
def test_visible_text_can_be_encoded_and_is_stable(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert visible(shown) == shown


def test_a_text_of_a_hundred_thousand_characters_is_cut_and_says_so() -> None:
    page = render_report(RESULTS, [row("y" * 100_000)], title="t")
    [found] = unpacked(page)["rows"]
    assert found["completions"][0] == ("y" * LONGEST_TEXT, 100_000)
    said = {n.get("data-transcripts"): text_of(n) for n in marked(parse(page), "data-transcripts")}
    assert said == {"total": "1", "limit": f"{LONGEST_TEXT:,}", "cut": "3", "texts": "4"}


def test_notes_that_quote_a_long_text_are_cut_too() -> None:
    page = render_report(RESULTS, [row("y" * 100_000, id="i" * 5_000)], title="t")
    assert unpacked(page)["rows"][0]["id"] == "i" * LONGEST_NOTE + "…"
    assert len(page) < len(render_report(RESULTS, [row("plain")], title="t")) + 3_000


def test_three_thousand_rows_of_long_answers_stay_below_two_megabytes_and_the_page_says_what_was_cut() -> None:
    results, transcripts = full_comparison(n=150, length=600)
    assert len(transcripts) == 3000
    size = sum(len(side.completion.encode()) for t in transcripts for side in t.sides if side)
    assert size > 6_000_000, "the raw texts alone would not fit"
    page = render_report(results, transcripts, title="t")
    assert 1_800_000 < len(page.encode("utf-8")) <= 2_000_000, "the room there is is used"
    document = unpacked(page)
    assert len(document["rows"]) == 3000
    texts = [t for r in document["rows"] for t in (r["query"], *r["completions"])]
    limit = document["limit"]
    assert SHORTEST_CUT <= limit < LONGEST_TEXT
    assert all((whole is None) == (len(text) < limit or whole is None) and len(text) <= limit for text, whole in texts)
    said = {n.get("data-transcripts"): text_of(n).replace(",", "") for n in marked(parse(page), "data-transcripts")}
    cut = sum(whole is not None for _, whole in texts)
    assert said == {"total": "3000", "limit": str(limit), "cut": str(cut), "texts": "12000"}


def test_where_cutting_is_not_enough_whole_requests_are_drawn_whatever_their_answers() -> None:
    chance = random.Random(0)
    letters = "".join(map(chr, range(0x4E00, 0x5E00)))

    def rows(outcome: Any) -> list[Transcript]:
        return [
            Transcript(
                *("multijail", f"q{i}", language, "harmful", None, "q", "q"),
                (Side("".join(chance.choices(letters, k=500)), outcome), None),
            )
            for i in range(60)
            for language in ("sw", "bn")
        ]

    packed = pack(rows("unsafe"), 60_000)
    assert len(packed.block) <= 60_000
    assert (packed.limit, packed.total, packed.queries_total) == (SHORTEST_CUT, 120, 60)
    assert 0 < packed.shown < 120
    assert packed.shown == 2 * packed.queries_shown, "a request stays with all its languages"
    results, _ = comparison({"multijail": ("harmful", {"sw": (0.8, 0.3)}, 15)})
    bare = len(render_report(results, [row("x")], title="t").encode())
    drawn = []
    for outcome in ("unsafe", "refused"):
        page = render_report(results, rows(outcome), title="t", max_bytes=bare + 60_000)
        drawn.append({r["id"] for r in unpacked(page)["rows"]})
        said = {n.get("data-transcripts"): text_of(n) for n in marked(parse(page), "data-transcripts")}
        assert said["total"] == "120"
        assert said["shown"] == str(len(unpacked(page)["rows"]))
        assert said["queries_shown"] == str(len(drawn[-1]))
        assert "A sample" in text_of(by_id(parse(page), "packing"))
    fewer, more = sorted(drawn, key=len)
    assert fewer <= more, "the same requests come first, whatever was answered"


@given(st.integers(0, 3000))
@settings(max_examples=30, deadline=None)
def test_packing_never_exceeds_its_budget(budget: int) -> None:
    rows = [row("abc " * 30 * i, id=f"q{i}") for i in range(8)]
    packed = pack(rows, budget)
    assert len(packed.block) <= budget
    assert packed.total == 8
    assert bool(packed.block) == bool(packed.shown)


def test_no_transcripts_and_no_room_are_both_said() -> None:
    results, _ = comparison({"multijail": ("harmful", {"sw": (0.8, 0.3)}, 15)})
    assert "No transcripts were given" in text_of(by_id(parse(render_report(results, [], title="t")), "transcripts"))
    full = len(render_report(results, [row("x")], title="t").encode())
    page = ""
    for limit in range(full - 2_000, full + 2_000, 100):  # the smallest page that can be made at all
        with contextlib.suppress(CrosslignError):
            page = render_report(results, [row("x")], title="t", max_bytes=limit)
            assert len(page.encode()) <= limit
            break
    tree = parse(page)
    assert "None of the 1 rows are in this page" in text_of(by_id(tree, "packing"))
    assert not [n for n in tree.iter() if n.get("id") in ("show", "data")]
