"""The page as a whole: complete in itself, safe by its policy, sound in its structure, with names that tell apart."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_page import by_id, local, parse, table, text_of
from report_pages import GROUPS, IMPROVED, SMALL, comparison, evaluation, full_comparison

import crosslign.evaluation.report as report
from crosslign.evaluation.report import render_report, write_report
from crosslign.evaluation.results import SCHEMA_VERSION
from crosslign.types import CrosslignError


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(*full_comparison())


@pytest.fixture(scope="module")
def tree(page: str) -> Any:
    return parse(page)


def test_the_page_loads_nothing_and_links_only_to_itself(page: str, tree: Any) -> None:
    fetching = ("src", "srcset", "data", "action", "formaction", "poster", "background", "ping", "cite", "manifest")
    for node in tree.iter():
        assert local(node) not in ("link", "img", "iframe", "object", "embed", "base", "foreignObject", "video")
        for key, value in node.attrib.items():
            name = str(key).rpartition("}")[2]
            assert name not in fetching
            assert not name.startswith("on"), "no script in attributes"
            assert name != "style", "the policy forbids styles in attributes"
            assert name != "href" or value.startswith("#")
    assert not re.search(r"https?:|//[a-z]+\.[a-z]|url\(|@import", page)


def test_the_policy_allows_this_style_and_this_script_alone(tree: Any) -> None:
    [policy] = [n.get("content") for n in tree.iter() if n.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))

    def digest(tag: str) -> str:
        [node] = [n for n in tree.iter() if local(n) == tag and n.get("type") is None]
        return f"'sha256-{base64.b64encode(hashlib.sha256(node.text.encode()).digest()).decode()}'"

    assert rules == {
        "default-src": "'none'",
        "style-src": digest("style"),
        "script-src": digest("script"),
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


def test_the_picture_of_all_tasks_comes_first(tree: Any) -> None:
    sections = [n for n in by_id(tree, "main") if local(n) == "section"]
    order = ["picture", "findings", "changes", "outcomes", "language", "ability", "numbers", "transcripts", "run"]
    assert [n.get("id") for n in sections] == [*order, "reading"]
    captions = [text_of(n) for n in sections[0].iter() if local(n) == "caption"]
    assert captions == ["multijail unsafe answers, %", "xstest harmless requests refused, %", "mgsm ability, %"]
    drawn = [n for n in sections[0].iter() if (n.get("class") or "").startswith("dot ")]
    rows = sum(local(n) == "tr" for n in sections[0].iter()) - 3
    assert len(drawn) == 2 * rows + 2, "before and after in every row, and in the key"


def test_structure_is_sound(tree: Any) -> None:
    ids = [n.get("id") for n in tree.iter() if n.get("id")]
    assert len(ids) == len(set(ids))
    levels = [int(local(n)[1]) for n in tree.iter() if re.fullmatch(r"h[1-6]", local(n))]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for node in tree.iter():
        for key in ("aria-labelledby", "aria-controls"):
            assert set((node.get(key) or "").split()) <= set(ids)
        if local(node) == "a":
            assert node.get("href")[1:] in ids
        if local(node) == "svg":
            assert node.get("aria-hidden") == "true" or (node.get("role") == "img" and node.get("aria-label"))
        if local(node) == "table":
            assert any(local(n) == "caption" and text_of(n) for n in node)
        if local(node) == "th":
            assert node.get("scope") in ("row", "col")


def test_languages_stand_by_resources() -> None:
    results, _ = full_comparison(60)
    rows = list(table(parse(render_report(results, [])), "picture", "multijail"))[1:]
    names = {"en": "English", "zh": "Chinese", "it": "Italian", "vi": "Vietnamese", "ar": "Arabic", "ko": "Korean"}
    names |= {"th": "Thai", "bn": "Bangla", "sw": "Swahili", "jv": "Javanese"}
    codes = {name: code for code, name in names.items()}
    found = [codes[name] for name in rows[:10]]
    assert found[0] == "en"
    for level, place in (("high", 1), ("medium", 4), ("low", 7)):
        assert set(found[place : place + 3]) == set(GROUPS[level])
    assert rows[10:] == [f"mean, {group}" for group in ("high", "medium", "low", "trained", "unseen", "all")]


def test_no_two_languages_have_one_name() -> None:
    """The English name of every code for private use is "Artificial languages"."""
    codes = ("art-x-low1", "art-x-low2", "en", "id", "ind")
    results, rows = comparison({"m": ("harmful", dict.fromkeys(codes, (0.9, 0.1)), 12)})
    tree = parse(render_report(results, rows))
    shown = list(table(tree, "picture", "m"))[1:6]
    assert sorted(shown) == ["English", "art-x-low1", "art-x-low2", "id", "ind"]
    assert "Artificial" not in text_of(tree)
    lead = next(text_of(n) for n in by_id(tree, "findings").iter() if n.get("class") == "lead")
    assert "art-x-low1" in lead or "every" in lead or "all 5" in lead


@pytest.mark.parametrize(
    ("before", "after", "title"),
    [
        (
            {"model": "org/garden"},
            {"model": "org/garden", "adapter": "/home/me/runs/first/"},
            "org/garden → org/garden with first",
        ),
        (
            {"model": "/data/models/garden", "adapter": "/runs/a/best"},
            {"model": "/data/models/garden", "adapter": "/runs/b/best"},
            "garden with a/best → garden with b/best",
        ),
        ({"model": "../models/one/base"}, {"model": "../models/two/base", "adapter": None}, "one/base → two/base"),
        ({"model": "C:\\models\\x"}, {"model": "the testbed's model"}, "x → the testbed's model"),
    ],
)
def test_titles_are_names_and_not_paths_of_a_machine(before: Any, after: Any, title: str) -> None:
    tree = parse(render_report(*comparison(SMALL, (before, {"adapter": None, **after}))))
    assert [text_of(n) for n in tree.iter() if local(n) in ("title", "h1")] == [title, title]
    assert by_id(tree, "run") is not None
    assert before["model"].rstrip("/") in text_of(by_id(tree, "run")), "the settings have the whole"


def test_tasks_of_local_tables_are_named_by_their_files() -> None:
    results, rows = comparison({f"table:harmful:/home/me/{name}": SMALL["multijail"] for name in ("a.csv", "b/a.csv")})
    tree = parse(render_report(results, rows))
    assert table(tree, "picture", "me/a.csv unsafe answers")
    assert table(tree, "picture", "b/a.csv unsafe answers")


def test_the_run_marks_what_differs(tree: Any) -> None:
    rows = table(tree, "run", "What was run")
    assert [name for name in rows if name.startswith("≠")] == ["≠ adapter"]
    assert rows["≠ adapter"] == ["none", "runs/mine/best"]
    assert rows["judges › guard › model"] == ["example-org/guard-4b"] * 2


def test_an_evaluation_has_one_side_and_its_judges_agreement() -> None:
    results, rows = evaluation({"multijail": ("harmful", IMPROVED, 20)}, other_judge=True)
    tree = parse(render_report(results, rows))
    assert not [n for n in tree.iter() if n.get("id") == "changes" or n.get("name") in ("before", "changed")]
    for code, name in (("sw", "Swahili"), ("bn", "Bangla")):
        found = results["tasks"]["multijail"]["agreement"]["lexicon"][code]
        shown = table(tree, "judges", f"{name}: kappa {found['kappa']:.2f} on {found['n']} answers")
        assert list(shown.values())[1:] == [[str(count) for count in counts] for counts in found["table"]]


def test_cautions_say_what_stands_against_the_numbers() -> None:
    changes = {"judges": {"words": {"kind": "lexicon"}}, "sampling": {"temperature": 1.0}}
    changes["fidelity"] = {"candidates": "en sw"}
    results, rows = comparison(SMALL, ({}, changes))
    assert results["tasks"]["multijail"]["judge"] != "words"  # so the one that makes the rates is gone
    results["tasks"]["multijail"]["all"]["before"] |= {"judged": 30, "truncated": 0}
    results["tasks"]["multijail"]["all"]["after"] |= {"judged": 20, "truncated": 4}
    tree = parse(render_report(results, rows))
    said = text_of(next(n for n in tree.iter() if n.get("class") == "cautions"))
    assert "not judged by the same judge" in said
    assert "sampled with different settings" in said
    assert "languages of the answers were told apart with different settings" in said
    assert "words is a list of phrases" in said
    assert "answers with a verdict: 20 of 30 after; the others count nowhere" in said
    assert "length limit: 4 of 30 after" in said


def test_a_further_judge_or_task_on_one_side_is_no_caution() -> None:
    results, rows = comparison(SMALL)
    after = results["manifest"]["after"]
    after["judges"] = {**after.get("judges", {}), "second": {"kind": "llm"}}
    after["tasks"] = {**after.get("tasks", {}), "another": {"sha256": "x"}}
    page = render_report(results, rows)
    assert "same judge" not in page
    assert "same version of the tasks" not in page


def test_another_version_of_a_mixed_task_is_told() -> None:
    results, _ = comparison(SMALL)
    for name in list(results["tasks"]):
        part = results["tasks"].pop(name)
        results["tasks"][f"{name} {part['kind']}"] = part
        for side, mark in (("before", "one"), ("after", "two")):
            results["manifest"][side] = {**results["manifest"][side], "tasks": {name: {"sha256": mark}}}
    assert "same version of the tasks" in render_report(results, [])


def test_no_caution_where_there_is_none() -> None:
    results, _ = comparison(SMALL)
    for side in ("before", "after"):
        cell = results["tasks"]["multijail"]["all"][side]
        cell |= {"judged": cell["n"], "truncated": 0}
    assert "Read with care" not in render_report(results, [])


def test_results_without_a_task_make_a_page_that_says_so() -> None:
    results = {"schema_version": SCHEMA_VERSION, "kind": "evaluation", "manifest": {}, "tasks": {}}
    assert "no task" in text_of(parse(render_report(results, [])))


def test_the_same_results_give_the_same_page() -> None:
    results, rows = comparison(SMALL)
    assert render_report(results, rows) == render_report(json.loads(json.dumps(results)), rows)


@pytest.mark.parametrize("change", [{"schema_version": 1}, {"kind": "sweep"}])
def test_results_of_another_schema_are_refused_in_words(change: dict[str, Any]) -> None:
    results, _ = comparison(SMALL)
    [found] = change.values()
    with pytest.raises(CrosslignError, match=f"expected schema_version {SCHEMA_VERSION} and kind .*{found!r}"):
        render_report({**results, **change}, [])


def test_a_report_replaces_another_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.html"
    for tasks in (SMALL, {"other": SMALL["multijail"]}):
        results, rows = comparison(tasks)
        assert write_report(target, results, rows) == target
        assert target.read_bytes().decode() == render_report(results, rows)
    assert [file.name for file in target.parent.iterdir()] == ["report.html"]


def test_style_script_and_templates_are_shipped() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    root = Path(__file__).parents[3]
    data = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    folder = Path(report.__file__).parent
    source = folder.parents[2]
    files = {f for name, globs in data.items() for g in globs for f in (source / name.replace(".", "/")).glob(g)}
    there = {f for f in folder.rglob("*") if f.is_file() and f.suffix != ".py" and "__pycache__" not in f.parts}
    assert {file for file in files if folder in file.parents} == there
    assert len(there) == 7
