"""Long work shows a bar on a terminal, and elsewhere lines that a log can hold."""

from __future__ import annotations

import re

import pytest

from crosslign.rollouts.progress import progress


def test_without_a_terminal_every_state_is_a_line_with_done_total_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")  # as the command line sets it for the bars of libraries
    monkeypatch.setattr("crosslign.rollouts.progress.LINE_SECONDS", 0)
    with progress(3, "gate: student", "completion") as bar:
        for _ in range(3):
            bar.update(1)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert "\r" not in err
    assert all(re.fullmatch(r"gate: student: \d/3 completion, [\d:]+ so far, about [\d:?]+ left", s) for s in lines)
    assert lines[-1].startswith("gate: student: 3/3 completion")
    counts = [line.split("/3")[0] for line in lines]
    assert counts == list(dict.fromkeys(counts))  # each state once
    assert len(lines) >= 3


def test_short_work_and_other_processes_say_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress(3, "judging", "verdict") as bar:
        bar.update(3)
    monkeypatch.setattr("crosslign.rollouts.progress.LINE_SECONDS", 0)
    with progress(3, "judging", "verdict", quiet=True) as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""
