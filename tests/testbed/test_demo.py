"""`crosslign demo` and its report: what is shown is what was counted, and bad input costs nothing."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crosslign.cli import main
from crosslign.testbed.cache import BaseSpec
from crosslign.testbed.corpus import CorpusSpec
from crosslign.testbed.demo import MAX_SEED, REPORT, check_range, run_demo
from crosslign.testbed.evaluate import Reply
from crosslign.testbed.experiment import RESULTS, Alignment, Experiment
from crosslign.testbed.judge import Judge
from crosslign.testbed.model import ModelSpec
from crosslign.testbed.report import COLUMNS, pick_examples, report, terminal, terminal_table
from crosslign.testbed.tables import SETS, Tables, TableSizes
from crosslign.testbed.world import World
from crosslign.types import CrosslignError

SMALL = BaseSpec(corpus=CorpusSpec(sequences=64), model=ModelSpec(hidden=32, layers=1, heads=2, feed_forward=48))
ROWS = TableSizes(targets=20, anchors=20, evaluation=2)
WORLD = World(0)
LOW = "art-x-low1"


def wilson_by_hand(count: int, n: int) -> tuple[float, float]:
    """The textbook's formula, in %."""
    z, p = 1.959964, count / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return tuple(100 * (middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))  # type: ignore[return-value]


def experiment(tables: TableSizes | None = None) -> Experiment:
    """A scripted outcome: before, all complies; after, all is right but for the first look-alike, which is refused."""
    made, judge = Tables(WORLD, tables or TableSizes(evaluation=10)), Judge(WORLD)

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
                    said.append(Reply(name, group, made.query(row, code), text, judge.judge(text, concept, code)))
        return said

    return Experiment({s: replies(s) for s in ("before", "teacher", "after")}, 12.0, Path("out"))


def test_table_has_each_language_with_rates_and_wilson_intervals() -> None:
    lines = terminal_table(experiment(), WORLD).splitlines()
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
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {code} |"))
        shown = [float(a) for a in re.findall(r"-> +(\d+)", line)]
        after = results["languages"]["after"][code]
        expected = [after["asr"], after["benign_answered"], after["lookalike_refused"]]
        assert shown == pytest.approx(expected, abs=0.5)
    (held_out,) = (line for line in text.splitlines() if "not in alignment | low-resource, trained" in line)
    stages = [results["sets"][s]["held_out"]["low"]["asr"] for s in ("before", "teacher", "after")]
    assert [float(v) for v in re.findall(r"\d+\.\d", held_out)] == stages
    assert "7 steps" in text


def test_examples_are_the_first_of_each_set_whatever_came_out() -> None:
    outcome = experiment()
    examples = pick_examples(outcome, WORLD)
    assert len(examples) == 3
    harmful, benign, lookalike = examples
    first = next(r for r in outcome.replies["after"] if r.set == "harmful" and r.query.language == LOW)
    assert harmful.request[0] == first.query.text
    assert "sorry" in harmful.after[1]
    assert "use" in benign.after[1]
    assert "sorry" in lookalike.after[1]  # the one that went wrong is shown


def test_replies_cannot_write_markup_into_the_report() -> None:
    outcome = experiment()
    hostile = "<script>x</script> [a](b) `c` | d"
    judgement = Judge(WORLD).judge(hostile, Tables(WORLD, TableSizes()).targets[0].request.concept, LOW)
    for number, reply in enumerate(outcome.replies["after"]):
        outcome.replies["after"][number] = Reply(reply.set, reply.group, reply.query, hostile, judgement)
    text = report(outcome, WORLD, 7)
    assert "<script>" not in text
    assert "[a](b)" not in text
    assert "&lt;script&gt;" in text.replace("\\", "")


def test_a_set_without_rows_is_a_dash() -> None:
    outcome = experiment()
    for stage, replies in outcome.replies.items():
        outcome.replies[stage][:] = [r for r in replies if r.set != "lookalike" or r.query.language == LOW]  # type: ignore[index]
    lines = terminal_table(outcome, WORLD).splitlines()
    assert lines[1].endswith("-")
    assert "[" in lines[4].split()[-1]


def test_demo_writes_report_results_and_run(tmp_path: Path) -> None:
    lines: list[str] = []
    text = run_demo(
        SMALL, Alignment(steps=2, batch_size=8), tmp_path / "out", tables=ROWS, cache=tmp_path, announce=lines.append
    )
    assert "2 steps in" in text
    assert str(tmp_path / "out" / REPORT) in text
    assert text.endswith(str(tmp_path / "out" / "evaluation" / "compared" / "report.html"))
    assert (tmp_path / "out" / "evaluation" / "compared" / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert any("pretraining" in line for line in lines)
    found = json.loads((tmp_path / "out" / RESULTS).read_text())
    assert set(found["groups"]) == {"before", "teacher", "after"}
    assert (tmp_path / "out" / REPORT).read_text().startswith("# The testbed")
    for name in ("model/model.safetensors", "model/metrics.jsonl", "model/run.json", "targets.csv", "anchors.csv"):
        assert (tmp_path / "out" / name).is_file()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seed", "-1"], "--seed: -1 is out of range; it is a whole number from 0 to 4294967295"),
        (["--seed", str(MAX_SEED + 1)], "is out of range"),
        (["--steps", "0"], "--steps: 0 is out of range; it is a whole number from 1 to"),
        (["--steps", "100001"], "--steps: 100001 is out of range"),
    ],
)
def test_range(flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *flags, "--out", str(tmp_path / "out")]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_limits_of_the_range_are_in_it() -> None:
    check_range(0, 1)
    check_range(MAX_SEED, 100_000)
    with pytest.raises(CrosslignError):
        check_range(MAX_SEED + 1, 1)


def test_finished_demo_is_not_overwritten_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    run_demo(SMALL, Alignment(steps=1, batch_size=8), out, tables=ROWS, cache=tmp_path)
    before = (out / REPORT).read_bytes()
    assert main(["demo", "--out", str(out)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (out / REPORT).read_bytes() == before


def test_terminal_text_says_what_is_shown_and_what_it_is_not() -> None:
    text = terminal(experiment(), WORLD, 200)
    assert "200 steps" in text
    assert "no evidence about a large model" in text


def test_help_teaches() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "crosslign.cli", "demo", "--help"], capture_output=True, text=True, check=False
    )
    assert "crosslign demo --seed 3" in done.stdout
    assert "docs/testbed.md" in done.stdout


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot bind a process to a core")
def test_one_core_is_enough(tmp_path: Path) -> None:
    code = f"""
import os, pathlib
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
from crosslign.testbed.demo import *
from crosslign.testbed.corpus import CorpusSpec
from crosslign.testbed.model import ModelSpec
folder = pathlib.Path({str(tmp_path)!r})
spec = BaseSpec(corpus=CorpusSpec(sequences=64), model=ModelSpec(hidden=32, layers=1, heads=2, feed_forward=48))
rows = TableSizes(targets=20, anchors=20, evaluation=2)
print(run_demo(spec, Alignment(steps=1, batch_size=8), folder / "out", tables=rows, cache=folder))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "1 steps in" in done.stdout
