"""The report in a real browser: no error, nothing from outside, usable by keyboard, on a phone and in the dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import axe_playwright_python
import playwright.sync_api as api
import pytest
from browser import Opened as Page
from browser import needs_browser
from report_pages import comparison, evaluation, full_comparison
from test_report_course import METRICS, entry, record
from test_report_transcripts import HOSTILE, RESULTS, row

from crosslign.evaluation.best import Criterion
from crosslign.evaluation.report import Course, write_course, write_report
from crosslign.evaluation.report.transcripts import visible

pytestmark = [needs_browser, pytest.mark.processes]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("report") / "report.html", *full_comparison())


class Opened(Page):
    """A report, opened."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        super().__init__(browser, path.as_uri(), **options)


def test_transcripts_are_shown_when_asked_for_and_filters_narrow_them(browser: Any, report: Path) -> None:
    _, rows = full_comparison()

    def found(keep: Any) -> None:
        assert page.inner_text("#found") == f"{sum(map(keep, rows))} of 240 rows"

    with Opened(browser, report) as opened:
        page = opened.page
        assert not page.is_visible("#viewer")
        assert page.locator(".card").count() == 0
        page.click("#show")
        assert page.get_attribute("#show", "aria-expanded") == "true"
        assert page.locator(".card").count() == 20
        page.select_option("[name=task]", "xstest")
        found(lambda t: t.task == "xstest")
        page.select_option("[name=task]", "")
        page.select_option("[name=language]", label="Swahili (sw)")
        found(lambda t: t.query.language == "sw")
        page.select_option("[name=before]", "unsafe")
        page.select_option("[name=after]", "refused")
        found(lambda t: t.query.language == "sw" and [s.verdict.outcome for s in t.sides] == ["unsafe", "refused"])
        page.click("button[type=reset]")
        api.expect(page.locator("#found")).to_have_text("240 of 240 rows")
        page.check("[name=changed]")
        found(lambda t: t.sides[0].verdict.outcome != t.sides[1].verdict.outcome)
        page.uncheck("[name=changed]")
        page.fill("[name=text]", "BIRIKA multijail 3 1")
        found(lambda t: (t.task, t.query.key) == ("multijail", "q0003|sw"))
        page.fill("[name=text]", "nothing holds this")
        assert page.locator(".card").count() == 0
        page.fill("[name=text]", "")
        for _ in range(11):
            page.click("#more")
        assert page.locator(".card").count() == 240
        assert not page.is_visible("#more")
        page.click("#show")
        assert not page.is_visible("#viewer")
        assert opened.complaints == []
        assert opened.requests == [report.as_uri()]


def test_texts_carry_their_language_and_direction(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        page = opened.page
        page.click("#show")
        page.select_option("[name=language]", "ar")
        request = page.locator(".requests .text").first
        assert (request.get_attribute("lang"), request.get_attribute("dir")) == ("ar", "auto")
        assert page.locator(".requests .text").nth(1).get_attribute("lang") == "en"
        assert request.evaluate("node => getComputedStyle(node).direction") == "rtl"
        languages = page.locator(".answers .text").evaluate_all("nodes => nodes.map(node => node.lang)")
        assert "ar" in languages
        assert set(languages) <= {"ar", "en", ""}


def test_hostile_texts_are_shown_as_they_are_and_do_nothing(browser: Any, tmp_path: Path) -> None:
    results = {**RESULTS, "manifest": {**RESULTS["manifest"], "before": {"model": "<script>alert(1)<script>"}}}
    rows = [row(text, text, id=f"q{i:02}", category=text) for i, text in enumerate(HOSTILE)]
    path = write_report(tmp_path / "hostile.html", results, rows)
    with Opened(browser, path) as opened:
        page = opened.page
        page.on("dialog", lambda dialog: pytest.fail(f"a text was run: {dialog.message}"))
        page.click("#show")
        shown = page.locator(".answer:first-child .text").evaluate_all("nodes => nodes.map(n => n.textContent)")
        assert shown == [visible(text) or "(nothing)" for text in HOSTILE]
        inside = page.locator("#cards").evaluate("node => [...node.querySelectorAll('*')].map(n => n.tagName)")
        assert set(inside) <= {"LI", "H4", "BDI", "SPAN", "DIV", "P", "EM"}
        assert page.title().startswith("<script>alert(1)<script> →")
        assert opened.complaints == []
        assert opened.requests == [path.as_uri()]


def test_the_policy_blocks_markup_and_foreign_scripts(browser: Any, report: Path) -> None:
    """The second wall: even a script that tried could neither write mark-up nor load anything."""
    with Opened(browser, report) as opened:
        refused = opened.page.evaluate(
            "() => { try { document.body.innerHTML = '<b>x</b>'; return false; }"
            " catch (error) { return error instanceof TypeError; } }"
        )
        assert refused
        loaded = opened.page.evaluate(
            "() => new Promise(done => { const i = new Image();"
            " i.onload = () => done(true); i.onerror = () => done(false);"
            " i.src = 'data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA='; })"
        )
        assert not loaded


def test_everything_can_be_done_with_the_keyboard(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        page = opened.page
        page.keyboard.press("Tab")
        assert page.locator(".skip").bounding_box()["x"] >= 0, "the skip link shows itself when focused"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        seen: list[str] = []
        while "show" not in seen:
            page.keyboard.press("Tab")
            name, style, width = page.evaluate(
                "() => { const n = document.activeElement; const s = getComputedStyle(n);"
                " return [n.id || n.className || n.tagName, s.outlineStyle, parseFloat(s.outlineWidth)]; }"
            )
            assert name != "BODY", "the tab order ends before the button"
            assert style != "none", f"{name} shows no focus"
            assert width >= 2, f"{name} shows no focus"
            seen.append(name)
        assert "scroll" in seen, "boxes that scroll can be reached"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.name") == "task"
        page.focus("#more")
        page.keyboard.press("Enter")
        assert page.locator(".card").nth(20).evaluate("node => node === document.activeElement")


# Texts that overlap, or stand on one line of a table with less than a gap of 3 px between them.
TOUCHING = """() => [...document.querySelectorAll('table')].flatMap(table => {
  const boxes = [];
  const walker = document.createTreeWalker(table, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.data.trim() || node.parentElement.closest('.unseen')) continue;
    const range = document.createRange();
    range.setStart(node, node.data.length - node.data.trimStart().length);
    range.setEnd(node, node.data.trimEnd().length);
    for (const box of range.getClientRects()) if (box.width > 1) boxes.push([box, node.data.trim()]);
  }
  return boxes.flatMap(([a, x], i) => boxes.slice(i + 1)
    .filter(([b]) => a.left < b.right + 3 && b.left < a.right + 3 && a.top + 4 < b.bottom && b.top + 4 < a.bottom)
    .map(([b, y]) => `${x} | ${y}`));
})"""


@pytest.mark.parametrize("width", [320, 768, 1280])
def test_the_page_fits_every_screen_and_no_numbers_touch(browser: Any, tmp_path: Path, width: int) -> None:
    shares = {"en": (0.0, 0.0), "art-x-low1": (1.0, 0.0), "art-x-unseen1": (1.0, 0.1), "sw": (0.0, 1.0)}
    results, rows = comparison({"harmful": ("harmful", shares, 40), "lookalike": ("benign", shares, 40)})
    path = write_report(tmp_path / "report.html", results, rows)
    with Opened(browser, path, viewport={"width": width, "height": 800}) as opened:
        page = opened.page
        page.click("#show")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(TOUCHING) == []
        assert "−100.0" in page.inner_text("#changes").split(), "also where it is copied"
        sizes = page.locator(".marks").evaluate_all("nodes => nodes.map(n => n.getBoundingClientRect().width)")
        assert min(sizes) >= 80
        heights = page.locator("svg text:visible").evaluate_all("nodes => nodes.map(n => n.getBBox().height)")
        assert min(heights) >= 9, "text in charts stays legible"


@pytest.mark.parametrize(("kind", "scheme"), [("comparison", "light"), ("comparison", "dark"), ("evaluation", "light")])
def test_no_accessibility_rule_is_broken(browser: Any, tmp_path: Path, kind: str, scheme: str) -> None:
    axe = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    tasks: Any = {"m": ("harmful", {"en": (0.1, 0.1), "ar": (0.8, 0.1)}, 25), "x": ("benign", {"en": (0.1, 0.3)}, 4)}
    made = comparison(tasks) if kind == "comparison" else evaluation(tasks, other_judge=True)
    with Opened(browser, write_report(tmp_path / "report.html", *made), color_scheme=scheme) as opened:
        opened.page.click("#show")
        opened.page.evaluate(axe)
        report = opened.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        assert [(v["id"], [n["html"][:120] for n in v["nodes"]][:3]) for v in report["violations"]] == []


def test_it_prints_without_unopened_transcripts_and_with_its_charts(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        page = opened.page
        page.emulate_media(media="print")
        assert not page.is_visible("#transcripts")
        assert not page.is_visible("body > nav")
        assert page.locator(".marks").first.is_visible()
        page.emulate_media(media="screen")
        page.click("#show")
        page.emulate_media(media="print")
        assert page.locator(".card").first.is_visible()
        assert not page.is_visible("#filters")
        assert page.pdf().startswith(b"%PDF")


def test_without_script_all_but_the_transcripts_is_there(browser: Any, report: Path) -> None:
    with Opened(browser, report, java_script_enabled=False) as opened:
        assert opened.page.locator(".lead").first.is_visible()
        assert opened.page.locator(".marks").first.is_visible()
        assert opened.page.is_visible("noscript p")
        assert not opened.page.is_visible("#viewer")


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (1280, "dark")])
def test_the_page_of_a_run_fits_and_breaks_no_rule(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    axe = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    rates = {"sw": 100.0, "art-x-a-very-long-code": 100.0, "en": 99.0, "bn": None}
    made = record(entry(0, rates, rates), entry(20, rates, {"sw": 1.0}), best=20)
    made["evaluations"][1]["tasks"]["table:a-table-of-a-very-long-name.csv harmful"] = made["evaluations"][0][
        "tasks"
    ].popitem()[1]
    path = write_course(tmp_path / "report.html", Course(made, METRICS, Criterion()))
    with Opened(browser, path, viewport={"width": width, "height": 800}, color_scheme=scheme) as opened:
        page = opened.page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(TOUCHING) == []
        names = page.locator(".steps .name").evaluate_all("nodes => nodes.map(n => n.getBoundingClientRect())")
        assert len(names) >= 10
        assert max(name["right"] for name in names) <= width
        assert all(a["bottom"] <= b["top"] + 3 or b["bottom"] <= a["top"] + 3 or a["right"] < b["left"]
                   or b["right"] < a["left"] for i, a in enumerate(names) for b in names[i + 1 :])  # fmt: skip
        sizes = page.locator(".steps").evaluate_all("nodes => nodes.map(n => n.getBoundingClientRect().width)")
        assert min(sizes) >= 80
        assert opened.complaints == []
        assert opened.requests == [path.as_uri()]
        page.evaluate(axe)
        report = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        assert [(v["id"], [n["html"][:120] for n in v["nodes"]][:3]) for v in report["violations"]] == []
