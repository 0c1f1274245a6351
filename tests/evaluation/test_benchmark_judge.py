"""The benchmark of the judge: what is drawn stands for what was there, and errors are counted and corrected by it."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import judge, judge_draw
from benchmarks.judge_draw import Found, Labelled
from evaluations import Table, task

from crosslign.evaluation.judges.lexicon import LexiconJudge
from crosslign.evaluation.stages import Evaluation, run
from crosslign.types import OUTCOMES, JudgeItem, Query


def found(number: int, outcome: str, language: str = "en", label: str = "harmful") -> Found:
    query = Query(f"q{number}", language, "Ask?", "en", "Ask?", label)  # type: ignore[arg-type]
    return Found("before", JudgeItem(query, f"{outcome} {number} {language}"), outcome)


def labelled(verdict: str, right: str, size: int = 1, language: str = "en", **more: str) -> Labelled:
    row = Labelled("0", "x", "q", language, "harmful", "before", "held_out", verdict, str(size), verdict, right)
    return replace(row, **more)


def test_the_labels_that_ship_are_labels_and_hold_no_text() -> None:
    rows = judge_draw.read_labels()
    assert len(rows) >= 300
    assert len({(row.reply, row.side) for row in rows}) == len(rows)
    for row in rows:
        assert {row.stratum, row.verdict, row.right} <= set(OUTCOMES)
        assert row.half in judge_draw.HALVES
        assert row.label in ("harmful", "benign")
        assert re.fullmatch("[0-9a-f]{16}", row.reply)
        assert re.fullmatch(r"[\w.-]{1,80}", row.id)


def test_strata_are_drawn_evenly_and_their_sizes_are_kept() -> None:
    replies = [found(n, outcome) for n in range(30) for outcome in ("unsafe", "refused")] + [found(99, "invalid", "ar")]
    drawn = judge_draw.draw(replies, "3", judge_draw.HALVES)
    most = judge_draw.DRAWN["harmful"]
    assert Counter(row.stratum for row in drawn) == {**most, "invalid": 1}
    assert {(row.stratum, row.size) for row in drawn} == {("unsafe", "30"), ("refused", "30"), ("invalid", "1")}
    halves = Counter(row.half for row in drawn if row.stratum == "unsafe")
    assert set(halves.values()) == {most["unsafe"] // 2}
    assert drawn == judge_draw.draw(reversed(replies), "3", judge_draw.HALVES)
    assert {row.half for row in judge_draw.draw(replies, "3", ["held_out"])} == {"held_out"}


def test_replies_are_found_in_evaluations_and_in_pairs_once_each(tmp_path: Path) -> None:
    run(Evaluation(tmp_path / "base", [task("harmful", "harmful")], [LexiconJudge()]), Table())
    names = {"query": "Ask?", "source_language": "en", "source_query": "Ask?", "label": "harmful", "category": ""}
    said = {"completion": "No.", "truncated": False, "outcome": "refused"}
    row = {"id": "p", "language": "en", **names, "student": said, "teacher": {**said, "completion": "Yes."}}
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / judge_draw.PAIRS).write_text(json.dumps(row) + "\n", encoding="utf-8")
    run(Evaluation(tmp_path / "run" / "evaluation", [task("harmful", "harmful")], [LexiconJudge()]), Table())
    folders = [tmp_path / "base", tmp_path / "probe", tmp_path / "run" / "evaluation"]
    replies = judge_draw.found([*folders, *folders])
    sides = Counter(one.side for one in replies.values() if one.item.query.id == "p")
    assert sides == {"before": 1, "teacher": 1}
    sides = Counter(one.side for one in replies.values() if one.item.query.id != "p")
    assert sides["after"] == sides["before"] > 0  # training has changed no reply: they stand on both sides
    path = tmp_path / "labels.csv"
    rows = judge_draw.draw(replies.values(), "0", judge_draw.HALVES)
    judge_draw.write_labels(rows, path)
    assert judge_draw.read_labels(path) == rows


def test_error_rates_weigh_rows_by_their_strata() -> None:
    # 2 of 20 replies called unsafe were read, one of them is; 2 of 2 called invalid, both help.
    rows = [
        labelled("unsafe", "unsafe", 20),
        labelled("unsafe", "safe_complied", 20),
        *[labelled("invalid", "refused_then_answered", 2)] * 2,
        *[labelled("refused", "refused", 30)] * 3,
    ]
    sensitivity, specificity = judge.error_rates(rows, judge.HELP)
    assert sensitivity
    assert specificity
    assert sensitivity.value == pytest.approx(10 / 12)
    assert specificity.value == pytest.approx(30 / 40)
    assert judge.error_rates(rows, "benign query: refused") == (None, None)


def test_corrected_rates_undo_the_judges_errors() -> None:
    """It calls a fifth of what is harmless help before, nothing after: 60 % and 20 % are 50 % and 20 %."""
    labels = [labelled("unsafe", "unsafe", 50)] * 50
    labels += [labelled(verdict, "refused", 10, stratum="a") for verdict in ["unsafe"] * 10 + ["refused"] * 40]
    labels += [labelled("refused", "refused", 10, side="after")] * 50
    sides = [{"en": {f"q{n}": float(n < hits) for n in range(100)}, "xx": {"q": 1.0}} for hits in (60, 20)]
    cells = [line.split("|")[1:-1] for line in judge.corrected_table(sides, labels).splitlines()]
    english = next(line for line in cells if line[0].strip() == "en")
    assert [cell.split()[0] for cell in english] == ["en", "60.0", "50.0", "20.0", "20.0", "-40.0", "-30.0"]
    assert not any(line[0].strip() == "xx" for line in cells)  # nobody read it
    assert "No language" in judge.corrected_table(sides, [])
