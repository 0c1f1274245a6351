"""Finished folders: read back, compared, reported; what does not fit together is told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluations import LANGUAGES, Phrase, Table, answer, task
from scipy.stats import binomtest

from crosslign.evaluation.completions import OnRows, completion_row
from crosslign.evaluation.folder import check_folder, compare, read_folder, report
from crosslign.evaluation.result_tables import terminal
from crosslign.evaluation.stages import Evaluation, run
from crosslign.types import CrosslignError, Query

TASKS = (task("bad", "harmful"), task("good", "benign"))


class Safer(Table):
    """Refuses what has an even number, besides what the table refuses."""

    def complete(self, queries: Any, on_rows: OnRows) -> None:
        on_rows([completion_row(q, safer(q), truncated=False) for q in queries])


def safer(query: Query) -> str:
    return "sorry" if int(query.id.rpartition("-")[2]) % 2 == 0 else answer(query)


def finished(out: Path, completer: Table | None = None, **changes: Any) -> Path:
    run(replace(Evaluation(out, TASKS, [Phrase()], {"model": "table"}), **changes), completer or Table())
    return out


def test_a_folder_is_read_back_as_it_was_judged(tmp_path: Path) -> None:
    folder = read_folder(finished(tmp_path / "a"))
    assert set(folder.tasks) == {"bad", "good"}
    for data in TASKS:
        judged = folder.tasks[data.name]
        assert set(judged) == {q.key for q in data.queries}
        assert all(judged[q.key].completion == answer(q) for q in data.queries)


def test_a_folder_of_the_schema_before_is_refused_and_evaluated_again_without_new_completions(tmp_path: Path) -> None:
    finished(tmp_path)
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 1}))
    with pytest.raises(CrosslignError, match=r"schema 1, not an evaluation of schema 2. Run crosslign eval into"):
        read_folder(tmp_path)
    again = Table()
    finished(tmp_path, again)
    assert read_folder(tmp_path).results["schema_version"] == 2
    assert again.asked == []


def test_rows_of_an_earlier_larger_call_are_not_the_results(tmp_path: Path) -> None:
    finished(tmp_path)
    finished(tmp_path, tasks=[task("bad", "harmful", ("en", "sw"), 11)])
    folder = read_folder(tmp_path)
    assert len(folder.tasks["bad"]) == 22 == folder.results["tasks"]["bad"]["all"]["n"]


def test_a_mixed_task_is_told_apart(tmp_path: Path) -> None:
    both = [*TASKS[0].queries, *TASKS[1].queries]
    folder = read_folder(finished(tmp_path, tasks=[replace(TASKS[0], name="both", kind="mixed", queries=both)]))
    assert {name: len(rows) for name, rows in folder.tasks.items()} == {"both harmful": 36, "both benign": 36}


def test_a_comparison_counts_pairs_as_one_would_by_hand(tmp_path: Path) -> None:
    before, after = finished(tmp_path / "a"), finished(tmp_path / "b", Safer(), manifest={"model": "safer"})
    results = compare(read_folder(before), read_folder(after), tmp_path / "c")
    assert json.loads((tmp_path / "c" / "results.json").read_text(encoding="utf-8")) == results
    assert {p.name for p in (tmp_path / "c").iterdir()} == {"results.json", "results.csv", "results.md", "report.html"}
    for code in LANGUAGES:
        pair = results["tasks"]["bad"]["languages"][code]
        mine = [q for q in TASKS[0].queries if q.language == code]
        lost = sum(bool(answer(q)) and "sorry" not in answer(q) and "sorry" in safer(q) for q in mine)
        both = sum(bool(answer(q)) and bool(safer(q)) for q in mine)
        change = pair["change"]
        assert (change["gained"], change["lost"], pair["n_paired"]) == (0, lost, both)
        assert change["difference"] == pytest.approx(-100 * lost / both)
        assert change["p"] == pytest.approx(binomtest(0, lost, 0.5).pvalue)
        assert pair["before"] == read_folder(before).results["tasks"]["bad"]["languages"][code]
    text = terminal(results)
    assert "change, points" in text
    assert len(text.splitlines()) == 1 + sum(
        len(t["languages"]) + len(t["groups"]) + 1 for t in results["tasks"].values()
    )


def test_utility_that_both_sides_have_is_compared(tmp_path: Path) -> None:
    cell = {"metric": "exact_match", "value": 50.0, "n": 20, "low": 29.9, "high": 70.1}
    for name, codes in (("a", ("en", "zh")), ("b", ("en",))):
        path = finished(tmp_path / name) / "results.json"
        results = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**results, "utility": {"mgsm": dict.fromkeys(codes, cell)}}), encoding="utf-8")
    compared = compare(read_folder(tmp_path / "a"), read_folder(tmp_path / "b"), tmp_path / "c")
    assert compared["utility"] == {"mgsm": {"en": {"before": cell, "after": cell}}}
    assert compared["not_compared"] == {"before": ["mgsm (zh)"], "after": []}
    assert "mgsm (utility)" in terminal(compared)


def test_what_one_side_lacks_is_said(tmp_path: Path) -> None:
    more = replace(TASKS[1], name="table:/home/me/more.csv")
    first, second = read_folder(finished(tmp_path / "a")), read_folder(finished(tmp_path / "b", tasks=[TASKS[0], more]))
    compared = compare(first, second, tmp_path / "c")
    assert list(compared["tasks"]) == ["bad"]
    assert compared["not_compared"] == {"before": ["good"], "after": ["table:/home/me/more.csv"]}
    page = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    for said in (
        "Not compared, since only the evaluation before has it: good.",
        "Not compared, since only the evaluation after has it: more.csv.",
    ):
        assert said in page
        assert said in terminal(compared)
    assert "not_compared" not in compare(first, first, tmp_path / "d")


def test_different_queries_are_not_compared(tmp_path: Path) -> None:
    first = read_folder(finished(tmp_path / "a"))
    other = replace(TASKS[0].queries[0], text="another")
    changed = [replace(TASKS[0], queries=[other, *TASKS[0].queries[1:]]), TASKS[1]]
    with pytest.raises(CrosslignError, match="different queries: 1 with another text"):
        compare(first, read_folder(finished(tmp_path / "b", tasks=changed)), tmp_path / "c")
    fewer = finished(tmp_path / "d", tasks=[task("bad", "harmful", rows=11)])
    with pytest.raises(CrosslignError, match="different queries: 3 only before"):
        compare(first, read_folder(fewer), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_different_judges_and_tasks_are_not_compared(tmp_path: Path) -> None:
    first = read_folder(finished(tmp_path / "a"))
    with pytest.raises(CrosslignError, match=r"judged by phrase in .* and by other"):
        compare(first, read_folder(finished(tmp_path / "b", judges=[Phrase("other", "x")])), tmp_path / "c")
    with pytest.raises(CrosslignError, match="two states of one judge"):
        compare(first, read_folder(finished(tmp_path / "d", judges=[Phrase(word="x")])), tmp_path / "c")
    with pytest.raises(CrosslignError, match="no task in common"):
        compare(first, read_folder(finished(tmp_path / "e", tasks=[replace(TASKS[0], name="x")])), tmp_path / "c")


def test_missing_and_damaged_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(CrosslignError, match="no finished evaluation"):
        read_folder(tmp_path / "nowhere")
    for file in ("verdicts-phrase.jsonl", "fidelity.jsonl", "completions.jsonl"):
        folder = finished(tmp_path / file)
        path = folder / "bad" / file
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(CrosslignError, match="'bad' has 35 judged rows, but its results count 36"):
            read_folder(folder)
    (folder / "results.json").write_text("{")
    with pytest.raises(CrosslignError, match="no finished evaluation"):
        read_folder(folder)


def test_a_comparison_is_no_evaluation(tmp_path: Path) -> None:
    folder = read_folder(finished(tmp_path / "a"))
    compare(folder, folder, tmp_path / "c")
    with pytest.raises(CrosslignError, match="is a comparison"):
        read_folder(tmp_path / "c")


def test_the_page_can_be_written_anew(tmp_path: Path) -> None:
    folder = read_folder(finished(tmp_path))
    page = report(folder)
    content = page.read_bytes()
    page.unlink()
    assert report(read_folder(tmp_path)).read_bytes() == content


def test_folders_of_another_origin_are_left_alone(tmp_path: Path) -> None:
    check_folder(tmp_path / "new", "evaluation")
    check_folder(finished(tmp_path / "a"), "evaluation")
    with pytest.raises(CrosslignError, match="no comparison of crosslign"):
        check_folder(tmp_path / "a", "comparison")
    (tmp_path / "a" / "results.json").write_text('{"seeds": 3}')
    with pytest.raises(CrosslignError, match="no evaluation of crosslign"):
        check_folder(tmp_path / "a", "evaluation")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CrosslignError, match="is a file"):
        check_folder(tmp_path / "file", "evaluation")
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("mine")
    with pytest.raises(CrosslignError, match="is not empty"):
        check_folder(tmp_path / "a", "evaluation")


def test_a_comparison_does_not_overwrite_what_it_compares(tmp_path: Path) -> None:
    folder = read_folder(finished(tmp_path / "a"))
    with pytest.raises(CrosslignError, match="one of the two evaluations"):
        compare(folder, folder, tmp_path / "a")
