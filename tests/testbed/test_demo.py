"""`crosslign demo` and its report: what is shown is what was counted, and bad input costs nothing."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from small import finished_demo

from crosslign.cli import main
from crosslign.evaluation.tables import MISSING
from crosslign.storage import LOCK
from crosslign.testbed.demo import TEXT
from crosslign.testbed.evaluate import Reply
from crosslign.testbed.experiment import Experiment
from crosslign.testbed.judge import ExactJudge
from crosslign.testbed.report import COLUMNS, examples, report, table
from crosslign.testbed.tables import SETS, Tables, TableSizes
from crosslign.testbed.world import World

WORLD = World(0)
LOW = "art-x-low1"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_demo(tmp_path_factory)


def wilson_by_hand(count: int, n: int) -> tuple[float, float]:
    """The textbook's formula, in %."""
    z, p = 1.959964, count / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return tuple(100 * (middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))  # type: ignore[return-value]


def experiment(tables: TableSizes | None = None) -> Experiment:
    """A scripted outcome: before, all complies; after, all is right but for the first look-alike, which is refused."""
    made, judge = Tables(WORLD, tables or TableSizes(evaluation=10)), ExactJudge(WORLD)

    def replies(stage: str) -> list[Reply]:
        said = []
        for name in SETS:
            for number, row in enumerate(made.evaluation[name]):
                for code, group in WORLD.groups.items():
                    concept = row.request.concept
                    if stage == "before":
                        text = WORLD.compliance(concept, code)
                    elif name == "lookalike" and number == 0:
                        text = WORLD.refusal("harm-a", code)
                    else:
                        text = WORLD.right_answer(concept, code)
                    said.append(Reply(name, group, made.query(row, code), text, judge.judgement(text, concept, code)))
        return said

    return Experiment({s: replies(s) for s in ("before", "teacher", "after")}, 12.0, Path("out"))


def test_table_has_each_language_with_rates_and_wilson_intervals() -> None:
    lines = table(experiment(), WORLD).splitlines()
    assert len(lines) == 1 + len(WORLD.codes())
    assert all(title in lines[0] for title, _, _ in COLUMNS)
    (line,) = (line for line in lines if line.startswith(LOW))
    harmful, benign, lookalike = re.findall(r"(\d+) -> +(\d+) \[(\d+)-(\d+)\]", line)
    for found, counts in ((harmful, (10, 0)), (benign, (10, 10)), (lookalike, (0, 1))):
        low, high = wilson_by_hand(counts[1], 10)
        assert tuple(map(int, found)) == (counts[0] * 10, counts[1] * 10, round(low), round(high))


def test_numbers_of_the_report_are_those_of_the_results() -> None:
    outcome = experiment()
    text = report(outcome, WORLD, 7)
    results = outcome.results()
    for code in WORLD.codes():
        (line,) = (line for line in text.splitlines() if line.startswith(f"{code} "))
        shown = [float(a) for a in re.findall(r"-> +(\d+)", line)]
        after = results["languages"]["after"][code]
        expected = [after["asr"], after["benign_answered"], after["lookalike_refused"]]
        assert shown == pytest.approx(expected, abs=0.5)
    (held_out,) = (line for line in text.splitlines() if re.search("not in alignment +low-resource, trained", line))
    stages = [results["sets"][s]["held_out"]["low"]["asr"] for s in ("before", "teacher", "after")]
    assert [float(v) for v in re.findall(r"\d+\.\d", held_out)] == stages
    assert "7 steps" in text
    assert "no evidence about a large model" in text


def test_examples_are_the_first_of_each_set_whatever_came_out() -> None:
    outcome = experiment()
    shown = examples(outcome, WORLD).split("\n\n")
    assert len(shown) == 3
    first = next(r for r in outcome.replies["after"] if r.set == "harmful" and r.query.language == LOW)
    assert first.query.text in shown[0]
    after = [part.splitlines()[-1] for part in shown]
    assert "sorry" in after[0]
    assert "use" in after[1]
    assert "sorry" in after[2]  # the one that went wrong is shown


def test_a_set_without_rows_is_a_dash() -> None:
    outcome = experiment()
    for stage, replies in outcome.replies.items():
        outcome.replies[stage][:] = [r for r in replies if r.set != "lookalike" or r.query.language == LOW]  # type: ignore[index]
    lines = table(outcome, WORLD).splitlines()
    assert lines[1].endswith(MISSING)
    assert "[" in lines[4].split()[-1]


def test_demo_writes_report_results_and_run_on_one_core(demo: Path) -> None:
    said, out = (demo / "said.txt").read_text(), demo / "out"
    assert "pretraining" in said
    assert "2 steps in" in said
    assert str(out / TEXT) in said
    assert said.endswith(str(out / "evaluation" / "compared" / "report.html"))
    assert (out / "evaluation" / "compared" / "report.html").read_text().startswith("<!DOCTYPE html>")
    shown = "2 steps of on-policy MSD"
    assert (out / TEXT).read_text().startswith(shown)
    assert (out / TEXT).read_text() in said
    for name in ("model/model.safetensors", "model/metrics.jsonl", "model/run.json", "targets.csv", "anchors.csv"):
        assert (out / name).is_file()


def test_finished_demo_is_not_overwritten_unasked(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in (demo / "out").rglob("*") if file.name != LOCK}
    assert main(["demo", "--out", str(demo / "out")]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    said = capsys.readouterr().out
    assert "crosslign demo --seed 3" in said
    assert "docs/testbed.md" in said
