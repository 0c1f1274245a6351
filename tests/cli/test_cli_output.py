"""What the command line prints: untrusted text commands no terminal, wherever it comes from."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROWS, write_csv

from crosslign.cli import main
from crosslign.cli.common import LogFormatter
from crosslign.rollouts.progress import progress
from crosslign.types import cause

EVIL = "\x1b]0;owned\x07\x1b[2J"


def clean(text: str) -> bool:
    return "\x1b" not in text and "\x07" not in text and r"\x1b" in text


@pytest.mark.parametrize("arguments", [["demo", "--seed", EVIL], [EVIL], ["validate", "x", f"--{EVIL}"]])
def test_errors_of_the_parser(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert clean(capsys.readouterr().err)


def test_categories_and_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row, "category": f"a{EVIL}\n0 errors, 0 warnings", f"x{EVIL}\nforged": "1"} for row in ROWS]
    main(["validate", str(write_csv(tmp_path / "t.csv", rows))])
    out = capsys.readouterr().out
    assert clean(out)
    lines = out.splitlines()
    assert not any(line.startswith("forged") for line in lines)
    assert sum(line.startswith("0 errors") for line in lines) <= 1


def test_log_records_with_their_tracebacks() -> None:
    try:
        raise ValueError(EVIL)
    except ValueError:
        record = logging.LogRecord("x", logging.WARNING, "f", 1, "left out: %s", (EVIL,), sys.exc_info())
    text = LogFormatter("%(message)s").format(record)
    assert clean(text)
    assert "Traceback" in text


def test_crash_and_warnings() -> None:
    """An error that nobody expected, and a library's warning, in a process of its own."""
    program = (
        "import warnings\nfrom crosslign.cli.common import log_to_terminal\nlog_to_terminal(False)\n"
        f"warnings.warn({EVIL!r})\nraise ValueError({EVIL!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert clean(done.stderr)
    assert "Traceback" in done.stderr
    assert done.stderr.count("owned") >= 2


def test_progress_bars(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(2, f"judging {EVIL}\nforged", "row") as bar:
        bar.set_postfix_str(EVIL, refresh=False)
        bar.display()
    text = capsys.readouterr().err
    assert clean(text)
    assert len(text.splitlines()) == 1


def test_a_library_error_is_quoted_in_part() -> None:
    assert len(cause(ValueError("x" * 100_000))) < 400
