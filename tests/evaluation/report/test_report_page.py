"""The page as a whole: complete in itself, safe by its policy, accessible in its structure, written atomically."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_page import by_id, local, marked, parse, text_of
from report_synthetic import GROUPS, IMPROVED, agreement, comparison, evaluation, full_comparison

import crosslign
import crosslign.evaluation.report as report
from crosslign.evaluation.report import Transcript, render_report, write_report
from crosslign.types import CrosslignError

SMALL = {"multijail": ("harmful", {"en": (0.1, 0.05), "sw": (0.8, 0.3)}, 15)}


@pytest.fixture(scope="module")
def page() -> str:
    results, transcripts = full_comparison(n=12)
    return render_report(results, transcripts, title="Before and after <one> & two")


@pytest.fixture(scope="module")
def tree(page: str) -> Any:
    return parse(page)


def test_the_page_loads_nothing_and_links_only_to_itself(tree: Any) -> None:
    fetching = ("src", "srcset", "data", "action", "formaction", "poster", "background", "ping", "cite", "manifest")
    for node in tree.iter():
        assert local(node) not in ("link", "img", "iframe", "object", "embed", "base", "foreignObject", "video")
        for key, value in node.attrib.items():
            name = str(key).rpartition("}")[2]
            assert name not in fetching
            assert not name.startswith("on"), "no script in attributes"
            assert name != "style", "the policy forbids styles in attributes"
            if name == "href":
                assert value.startswith("#")


def test_no_address_and_no_url_function_but_of_the_page_itself(page: str) -> None:
    assert not re.search(r"https?:|//[a-z]+\.[a-z]", page.replace("http-equiv", ""))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "@import" not in page


def test_the_policy_allows_this_style_and_this_script_alone(tree: Any) -> None:
    [policy] = [n.get("content") for n in tree.iter() if n.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))

    def digest(tag: str) -> str:
        [node] = [n for n in tree.iter() if local(n) == tag and n.get("type") is None]
        return f"'sha256-{base64.b64encode(hashlib.sha256(node.text.encode()).digest()).decode()}'"

    assert rules.pop("default-src") == "'none'"
    assert rules.pop("style-src") == digest("style")
    assert rules.pop("script-src") == digest("script")
    assert rules == {
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


def test_the_script_never_makes_markup_of_strings() -> None:
    script = Path(report.__file__).with_name("script.js").read_text(encoding="utf-8")
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "DOMParser"):
        assert sink not in script
    assert not re.search(r"</script|<!--", script, re.IGNORECASE)


def test_the_reading_order_of_the_sections(tree: Any) -> None:
    order = [n.get("id") for n in by_id(tree, "main") if local(n) == "section"]
    assert order == ["findings", "rates", "outcomes", "cost", "fidelity", "numbers", "transcripts", "run", "reading"]


def test_landmarks_language_title_and_skip_link(tree: Any) -> None:
    assert [n.get("lang") for n in tree.iter() if local(n) == "html"] == ["en"]
    assert [text_of(n) for n in tree.iter() if local(n) in ("title", "h1")][:1] == ["Before and after <one> & two"]
    for landmark in ("header", "main", "footer", "h1"):
        assert sum(local(n) == landmark for n in tree.iter()) == 1
    skip = next(n for n in tree.iter() if local(n) == "a")
    assert skip.get("href") == "#main"
    for node in tree.iter():
        if local(node) == "nav":
            assert node.get("aria-label")


def test_ids_are_unique_and_every_reference_is_met(tree: Any) -> None:
    ids = [n.get("id") for n in tree.iter() if n.get("id")]
    assert len(ids) == len(set(ids))
    for node in tree.iter():
        for key in ("aria-labelledby", "aria-controls"):
            assert set((node.get(key) or "").split()) <= set(ids)
        if (node.get("href") or "").startswith("#"):
            assert node.get("href")[1:] in ids


def test_headings_descend_without_a_gap(tree: Any) -> None:
    levels = [int(local(n)[1]) for n in tree.iter() if re.fullmatch(r"h[1-6]", local(n))]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_every_drawing_is_described_or_hidden(tree: Any) -> None:
    drawings = [n for n in tree.iter() if local(n) == "svg"]
    assert len(drawings) > 50
    for node in drawings:
        if node.get("aria-hidden") != "true":
            assert node.get("role") == "img"
            assert [local(child) for child in node][:2] == ["title", "desc"]
            assert all(text_of(child) for child in list(node)[:2])


def test_tables_have_captions_and_headings_with_a_scope(tree: Any) -> None:
    for node in (n for n in tree.iter() if local(n) == "table"):
        assert any(local(n) == "caption" and text_of(n) for n in node)
        for cell in (n for n in node.iter() if local(n) == "th"):
            assert cell.get("scope") in ("row", "col")
        assert any(local(n) == "th" and n.get("scope") == "row" for n in node.iter())


def test_boxes_that_scroll_can_be_reached_and_have_a_name(tree: Any) -> None:
    boxes = [n for n in tree.iter() if n.get("class") == "scroll"]
    assert len(boxes) >= 4
    for box in boxes:
        assert (box.get("tabindex"), box.get("role")) == ("0", "region")
        assert box.get("aria-label")


def test_controls_have_labels(tree: Any) -> None:
    labelled = {child for n in tree.iter() if local(n) == "label" and text_of(n) for child in n.iter()}
    for node in tree.iter():
        if local(node) in ("select", "input"):
            assert node in labelled
        if local(node) == "button":
            assert text_of(node)


def test_transcripts_are_hidden_behind_a_warning(page: str, tree: Any) -> None:
    assert by_id(tree, "viewer").get("hidden") is not None
    assert "Content warning" in text_of(by_id(tree, "ask"))
    assert by_id(tree, "show").get("aria-expanded") == "false"
    _, transcripts = full_comparison(n=12)
    for row in transcripts[::40]:
        for side in row.sides:
            assert side is not None
            assert side.completion not in page


def test_charts_stand_where_the_numbers_are() -> None:
    results, _ = comparison({"multijail": ("harmful", {"sw": (0.8, 0.3)}, 60)})
    tree = parse(render_report(results, [], title="t"))
    pair = results["tasks"]["multijail"]["languages"]["sw"]
    top = max(pair[side]["asr"]["high"] for side in ("before", "after"))
    end = next(t for t in (4, 10, 20, 40, 60, 80, 100) if t >= top)
    table = next(n for n in tree.iter() if n.get("class") == "plot dots")
    row = next(n for n in table.iter() if n.get("class") == "language")
    marks = {n.get("class"): float(n.get("cx")[:-1]) for n in row.iter() if local(n) == "circle"}
    for side in ("before", "after"):
        assert marks[f"dot {side}"] == pytest.approx(100 * pair[side]["asr"]["value"] / end, abs=0.001)
    widths = [
        float(n.get("width")[:-1]) for n in by_id(tree, "outcomes").iter() if (n.get("class") or "") == "segment unsafe"
    ]
    counts = pair["before"]["outcomes"]
    assert pytest.approx(100 * counts["unsafe"] / sum(counts.values()), abs=0.002) in widths


def test_languages_stand_by_group_and_within_it_by_rate(tree: Any) -> None:
    table = next(n for n in tree.iter() if n.get("class") == "plot dots")
    rows = [(n.get("class"), text_of(next(iter(n)))) for n in table.iter() if n.get("role") == "row"][1:]
    names = [name for kind, name in rows if kind == "language"]
    codes = [name.split()[1] for name in names]
    assert [g for c in codes for g in ("high", "medium", "low") if c in GROUPS[g]] == ["high"] * 4 + ["medium"] * 3 + [
        "low"
    ] * 3
    results, _ = full_comparison(n=12)
    languages = results["tasks"]["multijail"]["languages"]
    for group in ("high", "medium", "low"):
        rates = [languages[c]["before"]["asr"]["value"] for c in codes if c in GROUPS[group]]
        assert rates == sorted(rates, reverse=True)
    assert [name for kind, name in rows if kind != "language"] == [
        *(f"{group}-resource mean" for group in ("high", "medium", "low")),
        *("all languages mean", "trained on mean", "not trained on mean"),
    ]
    assert "unseen" in names[codes.index("sw")]
    assert "trained" in names[codes.index("bn")]


def test_the_run_marks_what_differs(tree: Any) -> None:
    rows = [n for n in by_id(tree, "run").iter() if n.get("class") == "differs"]
    assert ["".join(text_of(cell) for cell in n) for n in rows] == ["≠ adapternoneruns/on-policy/adapter"]
    assert "example-org/guard-4b" in text_of(by_id(tree, "run"))


def test_an_evaluation_has_one_side_and_its_judges_agreement() -> None:
    results, transcripts = evaluation({"multijail": ("harmful", IMPROVED, 20)}, seed=2)
    results["tasks"]["multijail"]["agreement"] = {"lexicon": agreement(["en", "sw"])}
    tree = parse(render_report(results, transcripts, title="t"))
    assert not [n for n in tree.iter() if n.get("id") in ("f-before", "f-changed", "moves")]
    tables = [n for n in by_id(tree, "judges").iter() if local(n) == "table"]
    assert len(tables) == 2
    assert sum(local(n) == "td" and "n" in (n.get("class") or "").split() for n in tables[0].iter()) == 16
    assert "kappa" in text_of(next(n for n in tables[0] if local(n) == "caption"))


def test_cautions_say_what_stands_against_the_numbers() -> None:
    results, transcripts = comparison(SMALL)
    results["manifest"]["after"]["judges"] = {"lexicon": {"kind": "lexicon", "phrases_sha256": "12"}}
    results["manifest"]["after"]["sampling"] = {"temperature": 1.0}
    results["tasks"]["multijail"]["all"]["after"] |= {"judged": 20, "truncated": 4}
    tree = parse(render_report(results, transcripts, title="t"))
    said = text_of(next(n for n in tree.iter() if n.get("class") == "cautions"))
    assert "not judged by the same judges" in said
    assert "different settings" in said
    assert "lexicon is a list of phrases" in said
    assert "20 of 30 after; the others count nowhere" in said
    assert "4 of 30 after" in said


def test_no_caution_where_there_is_none() -> None:
    results, _ = comparison(SMALL)
    for side in ("before", "after"):
        cell = results["tasks"]["multijail"]["all"][side]
        cell |= {"judged": cell["n"], "truncated": 0}
    assert "Read with care" not in render_report(results, [], title="t")


def test_unknown_codes_and_absent_parts_are_no_error() -> None:
    results, _ = comparison({"multijail": ("harmful", {"art-x-low1": (0.8, 0.3), "en": (0.1, 0.1)}, 15)})
    task = results["tasks"]["multijail"]
    del task["groups"], task["all"], task["languages"]["en"]["after"]["fidelity"]
    del results["manifest"]["before"]["groups"], results["manifest"]["after"]["groups"]
    tree = parse(render_report(results, [], title="t"))
    assert "art-x-low1" in text_of(by_id(tree, "rates"))
    assert "not recorded" in text_of(by_id(tree, "fidelity"))


def test_results_without_a_task_make_a_page_that_says_so() -> None:
    results = {"schema_version": 1, "kind": "evaluation", "manifest": {}, "tasks": {}}
    assert "no task" in text_of(parse(render_report(results, [], title="t")))


def test_the_same_input_gives_the_same_page() -> None:
    results, transcripts = comparison(SMALL)
    again = json.loads(json.dumps(results))
    assert render_report(results, transcripts, title="t") == render_report(again, transcripts[::-1], title="t")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 2}, "schema_version.*version 1, found 2"),
        ({"kind": "sweep"}, "kind: expected 'evaluation' or 'comparison', found 'sweep'"),
    ],
)
def test_results_of_another_schema_are_refused_in_words(change: dict[str, Any], words: str) -> None:
    results, _ = comparison(SMALL)
    with pytest.raises(CrosslignError, match=words):
        render_report({**results, **change}, [], title="t")


def test_an_unknown_kind_of_task_is_refused() -> None:
    results, _ = comparison(SMALL)
    results["tasks"]["multijail"]["kind"] = "odd"
    with pytest.raises(CrosslignError, match="/tasks/multijail/kind: expected 'harmful' or 'benign', found 'odd'"):
        render_report(results, [], title="t")


def test_transcripts_of_another_kind_are_refused() -> None:
    results, _ = comparison(SMALL)
    row = Transcript("multijail", "q1", "sw", "harmful", None, "a", "b", (None,))
    with pytest.raises(CrosslignError, match=r"multijail / q1 / sw: sides: expected 2 .* found 1"):
        render_report(results, [row], title="t")


def test_a_limit_that_the_bare_page_exceeds_is_an_error_and_not_a_broken_page() -> None:
    results, transcripts = comparison(SMALL)
    with pytest.raises(CrosslignError, match="without any transcript, and the limit is 10,000"):
        render_report(results, transcripts, title="t", max_bytes=10_000)


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    results, transcripts = comparison(SMALL)
    target = tmp_path / "new" / "report.html"
    assert write_report(target, results, transcripts, title="one") == target
    first = target.read_bytes()
    assert first.decode("utf-8") == render_report(results, transcripts, title="one")
    with pytest.raises(CrosslignError):
        write_report(target, results, transcripts, title="two", max_bytes=10)
    assert target.read_bytes() == first
    write_report(target, results, transcripts, title="two")
    assert b"<title>two</title>" in target.read_bytes()
    assert [file.name for file in target.parent.iterdir()] == ["report.html"]


def test_style_script_and_templates_are_shipped() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    root = Path(__file__).parents[3]
    data = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    folder = Path(report.__file__).parent
    source = folder.parents[2]
    files = {f for name, globs in data.items() for g in globs for f in (source / name.replace(".", "/")).glob(g)}
    shipped = {file for file in files if folder in file.parents}
    there = {f for f in folder.rglob("*") if f.is_file() and f.suffix != ".py" and "__pycache__" not in f.parts}
    assert shipped == there
    assert len(there) >= 5


def test_the_axis_tells_its_ends(tree: Any) -> None:
    axes = [n for n in tree.iter() if n.get("class") == "axis"]
    for axis in axes:
        ticks = [text_of(n) for n in axis.iter() if local(n) == "text"]
        assert len(ticks) == 5
        assert ticks[-1].endswith("%")


def test_no_number_hides_behind_a_name(tree: Any) -> None:
    # `data-name` frees a text from the check of numbers, so it may hold names only; the package's version is one.
    texts = {text_of(node) for node in marked(tree, "data-name")} - {crosslign.__version__}
    assert len(texts) > 20
    assert not [text for text in texts if re.fullmatch(r"[\d.,%\s−+]+", text)]
