"""Transcripts inside the page: nothing in them can break out, and what does not fit is said."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_page import by_id, local, parse, text_of, transcripts
from report_pages import SMALL, comparison

from crosslign.evaluation.rates import JudgedRow
from crosslign.evaluation.report import Transcript, render_report
from crosslign.evaluation.report.transcripts import LIMITS, LONGEST_NOTE, visible
from crosslign.types import Query, Verdict

RESULTS, _ = comparison(SMALL)
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    "]]> <![CDATA[",
    "\"'`><img src=x onerror=alert(1)>",
    "before\x00after\x1b[31m\x7f\x85",
    "lone \ud800 and \udfff",
    "right \u202eto left\u202c and \u2066isolated\u2069",
    "hidden \U000e0041\U000e007f tags and \ufdd0 \uffff",
    "&lt;b&gt; &amp; &#0; {{ 7 * 7 }} {% raw %} \\u003c \u2028",
    "",
    "\r\n line \r ends \n\t",
    "ক\u09cd\u200dষ مرحبا\u200f 👩\u200d👩\u200d👧 e\u0301",
]


def row(text: str, other: str = "fine", verdicts: Any = None, **changed: Any) -> Transcript:
    query = replace(Query("q1", "sw", text, "en", "tea?", "harmful"), **changed)
    first, second = verdicts or (Verdict("unsafe", text), Verdict(None, "unparsed"))
    sides = (JudgedRow(query, first, completion=text), JudgedRow(query, second, True, "other", other, "en"))
    return Transcript("multijail", sides)


def test_every_field_arrives() -> None:
    [found] = transcripts(render_report(RESULTS, [row("hello", category="garden")]))
    side = {"answer": "hello", "outcome": "unsafe", "reason": "hello", "fidelity": None, "truncated": False}
    other = {"answer": "fine", "outcome": "none", "reason": "unparsed", "fidelity": "other", "truncated": True}
    about = {"task": "multijail", "id": "q1", "language": "sw", "label": "harmful", "category": "garden"}
    texts = {"query": "hello", "source": "tea?", "sourceLanguage": "en"}
    assert found == {**about, **texts, "sides": [{**side, "detected": ""}, {**other, "detected": "en"}]}


@given(st.lists(st.text(max_size=60) | st.sampled_from(HOSTILE), min_size=1, max_size=12))
def test_no_text_whatever_breaks_out(texts: list[str]) -> None:
    rows = [row(text, text, id=f"q{i:02} {text}"[:60], category=text) for i, text in enumerate(texts)]
    page = render_report(RESULTS, rows)
    page.encode("utf-8")
    assert page.count("<script") == page.count("</script") == 2
    plain = render_report(RESULTS, [row("plain")] * len(rows))
    shell, bare = ([line for line in p.split("\n") if not line.startswith('{"task"')] for p in (page, plain))
    assert shell == bare, "whatever the texts, the rest of the page is the same"
    found = transcripts(page)
    assert [[side["answer"] for side in r["sides"]] for r in found] == [[visible(text)] * 2 for text in texts]


def page_with(words: str) -> Element:
    results = json.loads(json.dumps(RESULTS))
    task = results["tasks"].pop("multijail")
    cell = task["languages"]["sw"]["before"]
    cell["asr"] = {"value": None, "reason": words, "n": 3}
    cell["abstained"] = {words: 3}
    results["tasks"][f"task {words}"] = {**task, "judge": words}
    results["manifest"]["before"]["model"] = f"org {words}"
    return parse(render_report(results, []))


PLAIN = [node.tag for node in page_with("plain").iter()]


@given(st.text(min_size=1, max_size=40) | st.sampled_from(HOSTILE))
def test_no_title_judge_reason_or_setting_breaks_out(text: str) -> None:
    """Judges' reasons and users' names stand in the page itself, so they are escaped there."""
    words = text.replace("/", " ").replace("\\", " ")  # which would make a path of a name
    tree = page_with(words)
    assert [node.tag for node in tree.iter()] == PLAIN
    shown = " ".join(visible(words).split())
    assert shown in text_of(next(n for n in tree.iter() if local(n) == "h1"))
    assert shown in text_of(by_id(tree, "numbers"))


def test_what_hides_is_shown_and_what_belongs_to_writing_stays() -> None:
    assert visible("a\x00b\x1b\x7f") == "a⟦U+0000⟧b⟦U+001B⟧⟦U+007F⟧"
    assert visible("x\u202ey\u2069\ud83d\U000e0041") == "x⟦U+202E⟧y⟦U+2069⟧⟦U+D83D⟧⟦U+E0041⟧"
    assert visible("a\r\nb\rc") == "a\nb⟦U+000D⟧c"
    kept = "ক্\u200dষ مرحبا\u200f می\u200cخواهم 👩\u200d👧 \t\n"
    assert visible(kept) == kept


def test_long_texts_and_notes_are_cut_and_say_so() -> None:
    page = render_report(RESULTS, [row("y" * 100_000, id="i" * 5_000)])
    [found] = transcripts(page)
    assert found["sides"][0]["answer"] == "y" * LIMITS[0] + f" … [cut: {LIMITS[0]:,} of 100,000 characters]"
    assert found["id"] == "i" * LONGEST_NOTE + "…"
    assert f"cut after {LIMITS[0]:,} characters" in text_of(by_id(parse(page), "packing"))
    assert "cut after" not in text_of(by_id(parse(render_report(RESULTS, [row("short")])), "packing"))


@pytest.mark.parametrize("outcome", ["unsafe", "refused"])
def test_what_does_not_fit_is_cut_shorter_then_drawn_by_whole_requests(outcome: Any) -> None:
    rows = [
        row("z" * 3_000, "z" * 3_000, verdicts=(Verdict(outcome),) * 2, id=f"q{i}", language=code)
        for i in range(60)
        for code in ("en", "sw")
    ]
    page = render_report(RESULTS, rows, most_bytes=480_000)
    assert len(transcripts(page)) == 120
    assert "All 120 rows" in text_of(by_id(parse(page), "packing"))
    assert {len(r["query"]) > LIMITS[1] for r in transcripts(page)} == {True}
    bare = len(render_report(RESULTS, rows[:1]).encode())
    page = render_report(RESULTS, rows, most_bytes=200_000)
    assert bare < len(page.encode()) < bare + 200_000
    found = transcripts(page)
    drawn = {r["id"] for r in found}
    assert len(found) == 2 * len(drawn), "a request stays with all its languages"
    assert 20 < len(drawn) < 40
    assert f"A sample: {len(found)} of 120 rows" in text_of(by_id(parse(page), "packing"))
    others = [row("short" if outcome == "unsafe" else "z" * 3_000, id=f"q{i}", language="sw") for i in range(60)]
    again = {r["id"] for r in transcripts(render_report(RESULTS, others, most_bytes=20_000))}
    assert again <= drawn or drawn <= again, "the same requests come first, whatever was answered"


def test_no_transcripts_and_no_room_are_both_said() -> None:
    assert "No transcripts were given" in text_of(by_id(parse(render_report(RESULTS, [])), "transcripts"))
    page = render_report(RESULTS, [row("x")], most_bytes=10)
    assert "A sample: 0 of 1 rows" in text_of(by_id(parse(page), "packing"))


def test_transcripts_are_hidden_behind_a_warning() -> None:
    tree = parse(render_report(RESULTS, [row("some answer")]))
    assert by_id(tree, "viewer").get("hidden") is not None
    assert "Content warning" in text_of(by_id(tree, "ask"))
    assert by_id(tree, "show").get("aria-expanded") == "false"
    assert "some answer" not in text_of(tree)
