"""The report in a real browser: no error, nothing from outside, usable by keyboard, on a phone and in the dark."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_synthetic import comparison, evaluation, full_comparison
from test_report_transcripts import HOSTILE, row

from crosslign.evaluation.report import Side, render_report, write_report
from crosslign.evaluation.report.text import visible

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on PATH (apt-get install chromium), and none in $CHROMIUM"
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results, transcripts = full_comparison(n=12)
    return write_report(tmp_path_factory.mktemp("report") / "report.html", results, transcripts, title="A report")


class Opened:
    """A page with what it asked for and complained of."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def show(self) -> None:
        self.page.click("#show")
        self.page.locator(".card").first.wait_for()

    def found(self) -> str:
        return str(self.page.inner_text("#found"))

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def test_it_opens_without_an_error_and_asks_for_nothing_but_itself(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        opened.show()
        assert opened.complaints == []
        assert opened.requests == [report.as_uri()]
        assert opened.page.title() == "A report"


def test_transcripts_are_not_even_decoded_before_they_are_asked_for(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        page = opened.page
        assert not page.is_visible("#viewer")
        assert page.locator(".card").count() == 0
        opened.show()
        assert page.get_attribute("#show", "aria-expanded") == "true"
        assert page.locator(".card").count() == 20
        assert opened.found() == "240 of 240 rows"
        page.click("#show")
        assert not page.is_visible("#viewer")


def test_filters_narrow_the_rows_and_can_be_cleared(browser: Any, report: Path) -> None:
    _, transcripts = full_comparison(n=12)

    def count(keep: Any) -> str:
        return f"{sum(map(keep, transcripts))} of 240 rows"

    with Opened(browser, report) as opened:
        page = opened.page
        opened.show()
        page.select_option("#f-task", "xstest")
        assert opened.found() == count(lambda t: t.task == "xstest")
        page.select_option("#f-task", "")
        page.select_option("#f-language", "sw")
        assert opened.found() == count(lambda t: t.language == "sw")
        assert "Swahili (sw)" in page.inner_text("#f-language")
        page.select_option("#f-before", "unsafe")
        page.select_option("#f-after", "refused")
        assert opened.found() == count(
            lambda t: t.language == "sw" and (t.sides[0].outcome, t.sides[1].outcome) == ("unsafe", "refused")
        )
        page.click("button[type=reset]")
        api.expect(page.locator("#found")).to_have_text("240 of 240 rows")
        page.check("#f-changed")
        assert opened.found() == count(lambda t: t.sides[0].outcome != t.sides[1].outcome)
        page.uncheck("#f-changed")
        needle = transcripts[100].sides[0].completion[:25]
        page.fill("#f-text", needle.upper())
        api.expect(page.locator("#found")).to_have_text(
            count(lambda t: any(needle in text for text in (t.query, t.source_query, *(s.completion for s in t.sides))))
        )
        page.fill("#f-text", "nothing holds this")
        api.expect(page.locator("#found")).to_have_text("0 of 240 rows")
        assert page.locator(".card").count() == 0


def test_the_moves_count_pairs_and_set_the_filters(browser: Any, report: Path) -> None:
    _, transcripts = full_comparison(n=12)
    pairs = [(t.sides[0].outcome, t.sides[1].outcome) for t in transcripts]
    with Opened(browser, report) as opened:
        page = opened.page
        opened.show()
        page.click(".moves summary")
        button = page.get_by_role("button", name="from unsafe to refused", exact=False)
        assert int(button.inner_text()) == pairs.count(("unsafe", "refused"))
        button.click()
        assert opened.found() == f"{pairs.count(('unsafe', 'refused'))} of 240 rows"
        assert page.input_value("#f-before") == "unsafe"


def test_pages_turn_and_stop_at_their_ends(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        page = opened.page
        opened.show()
        assert page.is_disabled("#previous")
        first = page.locator(".card").first.inner_text()
        for _ in range(11):
            page.click("#next")
        assert page.inner_text("#page") == "Page 12 of 12"
        assert page.is_disabled("#next")
        assert page.locator(".card").first.inner_text() != first


def test_texts_carry_their_language_and_direction(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        page = opened.page
        opened.show()
        page.select_option("#f-language", "ar")
        request = page.locator(".requests .text").first
        assert (request.get_attribute("lang"), request.get_attribute("dir")) == ("ar", "auto")
        assert page.locator(".requests .text").nth(1).get_attribute("lang") == "en"
        assert request.evaluate("node => getComputedStyle(node).direction") == "rtl"
        languages = page.locator(".answers .text").evaluate_all("nodes => nodes.map(node => node.lang)")
        assert set(languages) <= {"ar", "en", ""}
        assert "ar" in languages


def test_hostile_texts_are_shown_as_they_are_and_do_nothing(browser: Any, tmp_path: Path) -> None:
    results, _ = comparison({"multijail": ("harmful", {"sw": (0.8, 0.3)}, 15)})
    results["manifest"]["before"]["model"] = "</script><script>alert(1)</script>"
    long = "z" * 100_000
    rows = [row(text, text, id=f"q{i:02}", category=text) for i, text in enumerate([*HOSTILE, long])]
    path = write_report(tmp_path / "hostile.html", results, rows, title="<script>alert(2)</script>")
    with Opened(browser, path) as opened:
        page = opened.page
        page.on("dialog", lambda dialog: pytest.fail(f"a text was run: {dialog.message}"))
        opened.show()
        assert page.title() == "<script>alert(2)</script>"
        shown = page.locator(".answers .answer:first-child .text").evaluate_all(
            "nodes => nodes.map(n => n.textContent)"
        )
        assert shown == [visible(text) or "(nothing)" for text in HOSTILE] + [long[:4000]]
        assert "Cut: 4,000 of 100,000 characters are shown." in page.inner_text("#cards")
        inside = page.locator("#cards").evaluate(
            "node => [...new Set([...node.querySelectorAll('*')].map(n => n.tagName))]"
        )
        assert set(inside) <= {"LI", "H4", "BDI", "SPAN", "DIV", "P", "EM"}
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
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.locator(".skip").bounding_box()["x"] >= 0, "the skip link shows itself when focused"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        seen = []
        for _ in range(60):
            page.keyboard.press("Tab")
            node = page.evaluate(
                "() => { const n = document.activeElement; const s = getComputedStyle(n);"
                " return [n.id || n.className || n.tagName, s.outlineStyle, parseFloat(s.outlineWidth)]; }"
            )
            seen.append(node[0])
            assert node[1] != "none", f"{node[0]} shows no focus"
            assert node[2] >= 2, f"{node[0]} shows no focus"
            if node[0] == "show":
                break
        assert "scroll" in seen, "boxes that scroll can be reached"
        page.keyboard.press("Enter")
        page.locator(".card").first.wait_for()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "f-task"
        page.focus("#next")
        page.keyboard.press("Enter")
        assert page.inner_text("#page").startswith("Page 2 ")
        assert page.evaluate("document.activeElement.id") == "found", "the reader is taken to the new page's top"


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_the_page_never_scrolls_sideways_and_charts_keep_their_size(browser: Any, report: Path, width: int) -> None:
    with Opened(browser, report, viewport={"width": width, "height": 800}) as opened:
        page = opened.page
        opened.show()
        page.locator(".moves summary").click()
        page.locator(".trade summary").first.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sizes = page.locator(".marks").evaluate_all("nodes => nodes.map(n => n.getBoundingClientRect().width)")
        assert min(sizes) >= 180
        text = page.locator("svg text").evaluate_all("nodes => nodes.map(n => n.getBoundingClientRect().height)")
        assert min(text) >= 9, "text in charts stays legible"
        outside = page.locator(".plot, .trade svg, .bar").evaluate_all(
            f"nodes => nodes.filter(n => n.getBoundingClientRect().right > {width} + 1).length"
        )
        assert outside == 0


@pytest.mark.parametrize(("kind", "scheme"), [("comparison", "light"), ("comparison", "dark"), ("evaluation", "light")])
def test_no_accessibility_rule_is_broken(browser: Any, tmp_path: Path, kind: str, scheme: str) -> None:
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("axe-playwright-python is not installed")
    axe = Path(next(iter(spec.submodule_search_locations)), "axe.min.js").read_text(encoding="utf-8")
    make = {"comparison": comparison, "evaluation": evaluation}[kind]
    results, transcripts = make(
        {"m": ("harmful", {"en": (0.1, 0.1), "ar": (0.8, 0.3)}, 15), "x": ("benign", {"en": (0.1, 0.3)}, 4)}
    )
    path = write_report(tmp_path / "report.html", results, transcripts, title="t")
    with Opened(browser, path, color_scheme=scheme) as opened:
        opened.show()
        opened.page.evaluate(axe)
        report = opened.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        broken = [(v["id"], [n["html"][:120] for n in v["nodes"]][:3]) for v in report["violations"]]
        assert broken == []


def test_it_prints_without_unopened_transcripts_and_with_its_charts(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        page = opened.page
        page.emulate_media(media="print")
        assert not page.is_visible("#transcripts")
        assert not page.is_visible("body > nav")
        assert page.is_visible(".marks")
        page.emulate_media(media="screen")
        opened.show()
        page.emulate_media(media="print")
        assert page.is_visible(".card")
        assert not page.is_visible("#filters")
        assert page.pdf().startswith(b"%PDF")


def test_without_script_all_but_the_transcripts_is_there(browser: Any, report: Path) -> None:
    with Opened(browser, report, java_script_enabled=False) as opened:
        assert opened.page.is_visible(".lead")
        assert opened.page.is_visible(".marks")
        assert opened.page.is_visible("noscript p")
        assert not opened.page.is_visible("#viewer")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("delete window.DecompressionStream", "This browser cannot unpack the transcripts"),
        ("window.atob = () => 'broken'", "The transcripts in this file are damaged"),
    ],
)
def test_what_cannot_be_unpacked_is_said(browser: Any, report: Path, spoil: str, words: str) -> None:
    with Opened(browser, report) as opened:
        opened.page.evaluate(spoil)
        opened.page.click("#show")
        api.expect(opened.page.locator("#state")).to_contain_text(words)
        assert not opened.page.is_visible("#viewer")


def test_three_thousand_rows_are_fluent(browser: Any, tmp_path: Path) -> None:
    results, transcripts = comparison({"m": ("harmful", {"en": (0.1, 0.1), "ar": (0.8, 0.3), "sw": (0.8, 0.3)}, 20)})
    many = [
        row(side.completion, side.completion, id=f"q{i:04}", language=t.language)
        for i, t in enumerate(transcripts * 50)
        if isinstance(side := t.sides[0], Side)
    ]
    assert len(many) == 3000
    path = tmp_path / "many.html"
    path.write_bytes(render_report(results, many, title="t").encode())
    with Opened(browser, path) as opened:
        page = opened.page
        opened.show()
        assert opened.found() == "3,000 of 3,000 rows"
        assert page.locator(".card").count() == 20, "only one page of rows is laid out"
        slowest = page.evaluate(
            """() => Math.max(...['ar', 'sw', ''].map(code => {
                 const started = performance.now();
                 const select = document.getElementById('f-language');
                 select.value = code;
                 select.dispatchEvent(new Event('change', {bubbles: true}));
                 document.body.getBoundingClientRect();
                 return performance.now() - started; }))"""
        )
        assert slowest < 1000, f"a filter took {slowest:.0f} ms"
