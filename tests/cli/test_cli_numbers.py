"""Numbers on the command line: whole, in a sane range, in plain digits, or a short error that names the flag."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from crosslign.cli import main
from crosslign.cli.main import command_parser

NEEDED = {
    "demo": [],
    "validate": ["t.csv"],
    "generate": ["--model", "m", "--table", "t.csv", "--out", "o.jsonl"],
    "probe": ["r.yaml"],
    "preferences": ["r.yaml", "--out", "o"],
    "steer": ["r.yaml", "--out", "o"],
    "serve-command": ["r.yaml"],
    "eval": [],
    "compare": ["a", "b", "--out", "c"],
    "report": ["a"],
    "train": [],
    "align": ["m", "--languages", "sw", "--out", "o"],
    "bench": ["b.yaml"],
    "translate": ["t.csv", "--to", "sw", "--out", "o.csv"],
    "chat": ["r"],
    "card": ["r"],
    "merge": ["r", "--out", "o"],
    "push": ["r", "me/it"],
}
# Which are checked with what they are for: how completions are sampled, a server is started, a model is aligned.
NUMBERS = {"--temperature", "--top-p", "--memory", "--hours", "--holdout", "--min-gap", "--max-over-refusal-rise"}
NUMBERS |= {"--steer-scale"}  # how a model is steered


def flags() -> Iterator[tuple[str, str]]:
    """Every flag of every command that takes a number."""
    commands = next(a for a in command_parser()._actions if isinstance(a, argparse._SubParsersAction))
    for command, parser in commands.choices.items():
        for action in parser._actions:
            if NUMBERS.intersection(action.option_strings):
                continue
            counted = isinstance(action.default, (int, float)) or (action.type is not None and action.metavar == "N")
            if counted and not isinstance(action.default, bool):
                yield command, action.option_strings[0]


def test_every_command_is_tried() -> None:
    assert set(NEEDED) == set(
        next(a for a in command_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    )
    assert len(list(flags())) >= 20


@pytest.mark.parametrize(("command", "flag"), flags())
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e400", "٣", "9" * 5000, "1_0", "1.5"])
def test_what_is_no_sane_number_is_refused(
    command: str, flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, *NEEDED[command], f"{flag}={value}"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {flag}: " in error
    assert "is no whole number from" in error
    assert len(error) < 200


@pytest.mark.parametrize("command", ["generate"])
@pytest.mark.parametrize(
    ("flag", "value"), [("--temperature", v) for v in ("nan", "inf", "-1", "1e400", "1e-12")] + [("--top-p", "nan")]
)
def test_sampling_that_is_impossible_is_refused(
    command: str, flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*NEEDED[command][:3], "builtin:demo", "--out", "o.jsonl", f"{flag}={value}"]
    assert main([command, *arguments]) == 1
    assert capsys.readouterr().err.startswith(f"crosslign: {flag.strip('-').replace('-', '_')} must ")
