"""The demo's evaluation folders: three sources that were counted apart say the same, and the page shows it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import pytest
from report_page import parse, table, transcripts
from test_demo import WORLD, experiment

from crosslign.evaluation.folder import compare, read_folder
from crosslign.testbed.demo import COMPARED, FOLDER, MARK, check_folders, write_folders
from crosslign.testbed.evaluate import Reply
from crosslign.testbed.experiment import Experiment
from crosslign.testbed.judge import ExactJudge
from crosslign.testbed.tables import SETS, Tables, TableSizes
from crosslign.types import CrosslignError

ROWS = 10
CODES = WORLD.codes()
TABLES = Tables(WORLD, TableSizes(evaluation=ROWS))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Beside what `experiment` scripts: after, some answers are garbled, in another language or cut."""
    made = experiment(TableSizes(evaluation=ROWS))
    judge, foreign = ExactJudge(WORLD), {}
    for number, reply in enumerate(made.replies["after"]):
        foreign[reply.set, reply.query.id, reply.query.language] = reply.completion
        if number % 7 == 0:
            made.replies["after"][number] = changed(reply, judge, reply.completion + " and", truncated=True)
        elif number % 5 == 0 and reply.query.language != "en":
            made.replies["after"][number] = changed(reply, judge, foreign[reply.set, reply.query.id, "en"])
    return replace(made, folder=tmp_path_factory.mktemp("demo"))


def changed(reply: Reply, judge: ExactJudge, text: str, truncated: bool = False) -> Reply:
    row = next(r for r in TABLES.evaluation[reply.set] if r.id == reply.query.id)
    judged = judge.judgement(text, row.request.concept, reply.query.language)
    return replace(reply, completion=text, judgement=judged, truncated=truncated)


@pytest.fixture(scope="module")
def page(outcome: Experiment) -> Path:
    return write_folders(outcome, WORLD, 400)


@pytest.fixture(scope="module")
def results(page: Path) -> dict[str, Any]:
    return json.loads((page.parent / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def html(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(html: str) -> Element:
    return parse(html)


@pytest.mark.parametrize("stage", ["before", "after"])
def test_the_pages_rates_are_those_that_the_experiment_counts_by_itself(
    outcome: Experiment, tree: Element, stage: str
) -> None:
    counted = outcome.results()["languages"][stage]
    for task, heading, name in (
        ("harmful", "Unsafe, %", "asr"),
        ("harmful", "Malformed, %", "invalid"),
        ("lookalike", "Refused, harmless, %", "lookalike_refused"),
    ):
        rows = table(tree, "numbers", f"{task}, judged")
        column = rows[""].index(heading) - 1
        for code in CODES:
            [cells] = [cells for head, cells in rows.items() if code in head.split()]
            found = cells[cells.index(stage) :][column]
            assert float(found.split()[0]) == pytest.approx(counted[code][name], abs=0.0501), (task, heading, code)
    assert len({counted[code]["invalid"] for code in CODES}) > (stage == "after")


def test_means_of_groups_are_those_of_the_experiment(outcome: Experiment, results: dict[str, Any]) -> None:
    for ours, theirs in (("high", "high"), ("unseen", "unseen")):
        for name in ("harmful", "held_out", "harder"):
            for stage in ("before", "after"):
                counted = outcome.results()["sets"][stage][name][theirs]
                found = results["tasks"][name]["groups"][ours][stage]
                assert found["asr"]["value"] == pytest.approx(counted["asr"], abs=0.01)
                assert found["invalid"]["value"] == pytest.approx(counted["invalid"], abs=0.01)


def test_the_language_of_each_answer_is_known(outcome: Experiment, results: dict[str, Any]) -> None:
    for task in SETS:
        for code in CODES:
            replies = [r for r in outcome.replies["after"] if r.set == task and r.query.language == code]
            cell = results["tasks"][task]["languages"][code]["after"]
            fidelity = {k: cell["fidelity"][k] for k in ("match", "other", "unknown")}
            assert fidelity == {
                "match": sum(r.judgement.in_language for r in replies),
                "other": sum(r.judgement.language is not None and not r.judgement.in_language for r in replies),
                "unknown": sum(r.judgement.language is None for r in replies),
            }
            assert cell["truncated"] == sum(r.truncated for r in replies)


def test_the_page_holds_every_pair_of_answers(outcome: Experiment, html: str) -> None:
    rows = transcripts(html)
    assert len(rows) == len(SETS) * ROWS * len(CODES)
    found = {(r["task"], r["id"], r["language"]): [side["answer"] for side in r["sides"]] for r in rows}
    for before, after in zip(outcome.replies["before"], outcome.replies["after"], strict=True):
        key = (before.set, before.query.id, before.query.language)
        assert found[key] == [before.completion, after.completion]


def test_the_teacher_can_be_compared_too(outcome: Experiment, page: Path, tmp_path: Path) -> None:
    before, teacher = (read_folder(page.parents[1] / stage) for stage in ("before", "teacher"))
    made = compare(before, teacher, tmp_path / "out")
    assert made["tasks"]["harmful"]["all"]["n_paired"] == ROWS * len(CODES)
    assert "teacher" in made["manifest"]["after"]["model"]


def test_the_folders_are_made_anew(outcome: Experiment, page: Path, tmp_path: Path) -> None:
    """Another experiment in the same place leaves nothing of the first."""
    made = experiment(TableSizes(evaluation=2))
    few = {stage: [r for r in replies if r.query.language == "en"] for stage, replies in made.replies.items()}
    first = Experiment(few, made.seconds, tmp_path)
    write_folders(first, WORLD, 1)
    second = replace(first, replies={**first.replies, "after": first.replies["before"]})
    found = json.loads((write_folders(second, WORLD, 1).parent / "results.json").read_text(encoding="utf-8"))
    for task in found["tasks"].values():
        assert task["all"]["before"] == task["all"]["after"]


@pytest.mark.parametrize("name", ["targets.csv", "anchors.csv", "report.txt", "results.json", "demo.json"])
def test_a_file_of_another_origin_stops_the_demo_at_its_start(name: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for out in (tmp_path / "out", tmp_path / "link", tmp_path / "out" / name, tmp_path / "out" / name / "below"):
        with pytest.raises(CrosslignError):
            check_folders(out)


def test_what_is_of_another_origin_stops_the_demo_at_its_start(tmp_path: Path) -> None:
    check_folders(tmp_path)
    there = tmp_path / FOLDER / COMPARED
    there.mkdir(parents=True)
    (there / "notes.txt").write_text("mine")
    with pytest.raises(CrosslignError, match="holds no demo"):
        check_folders(tmp_path)
    (tmp_path / MARK).write_text('{"seed": 0}')
    with pytest.raises(CrosslignError, match="holds no comparison"):
        check_folders(tmp_path)
