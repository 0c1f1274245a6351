"""`crosslign validate`: what it prints and what it returns."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROWS, write_csv

from crosslign import __version__
from crosslign.cli import main

Capture = pytest.CaptureFixture[str]


def test_good_table_is_summarised_for_a_person(table_file: Path, capsys: Capture) -> None:
    assert main(["validate", str(table_file)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == f"{table_file}: 12 rows, 3 languages"
    assert lines[1] == "labels:     benign 6, harmful 6"
    assert lines[2] == "categories: a 6, b 6"
    assert lines[-1] == "0 errors, 0 warnings"
    (swahili,) = [line.split() for line in lines if line.startswith("sw")]
    # code (name), texts, then characters of the 5th, 50th, 95th percentile and the longest: "swali 0" to "swali 11".
    assert swahili == ["sw", "(Swahili)", "12", "7", "7", "8", "8"]


def test_demo_table_has_neither_errors_nor_warnings(capsys: Capture) -> None:
    assert main(["validate", "builtin:demo", "--strict"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("builtin:demo: 48 rows, 7 languages\n")
    assert out.endswith("\n0 errors, 0 warnings\n")


def test_harmless_rows_without_look_alikes_are_a_hint(tmp_path: Path, capsys: Capture) -> None:
    for name, rows, hint in (
        ("benign", [("benign", "everyday")], True),
        ("both", [("benign", "everyday"), ("benign", "look_alike")], False),
        ("harmful", [("harmful", "look")], False),
    ):
        table = [{"id": f"{n}", "label": label, "category": c, "en": f"q {n}"} for n, (label, c) in enumerate(rows)]
        assert main(["validate", str(write_csv(tmp_path / f"{name}.csv", table)), "--strict"]) == 0
        assert ("hint: no harmless row has the category look_alike" in capsys.readouterr().out) == hint


def test_errors_are_listed_and_the_exit_code_is_1(tmp_path: Path, capsys: Capture) -> None:
    path = write_csv(tmp_path / "t.csv", [*ROWS[:2], {**ROWS[2], "en": ""}, {**ROWS[3], "label": "evil"}])
    assert main(["validate", str(path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"error: {path}, row 3, field 'en': the source text (en) is empty; every row needs one.",
        f"error: {path}, row 4, field 'label': unknown label 'evil'; valid: harmful, benign, unlabelled.",
        "2 errors, 0 warnings",
    ]


def test_only_the_first_fifty_problems_are_shown_and_all_are_counted(tmp_path: Path, capsys: Capture) -> None:
    path = write_csv(tmp_path / "t.csv", [{"en": f"a {n}", "sw": f"a {n}"} for n in range(60)])
    assert main(["validate", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("warning: ") for line in lines) == 50
    assert lines[50] == "... and 10 more problems"
    assert lines[-1] == "0 errors, 60 warnings"


def test_warnings_fail_only_when_strict(tmp_path: Path, capsys: Capture) -> None:
    path = write_csv(tmp_path / "t.csv", [{"en": "same", "sw": "same"}])
    assert main(["validate", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"warning: {path}, row 1, field 'sw': equals the source text (en): not translated?" in out
    assert "1 rows, 2 languages" in out
    assert out.endswith("0 errors, 1 warnings\n")
    assert main(["validate", str(path), "--strict"]) == 1


def test_file_that_cannot_be_read_gives_one_message_on_standard_error(tmp_path: Path, capsys: Capture) -> None:
    assert main(["validate", str(tmp_path / "no.csv")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"crosslign: {tmp_path / 'no.csv'}: cannot be read: No such file or directory.\n"


def test_options_choose_columns_languages_and_rows(tmp_path: Path, capsys: Capture) -> None:
    rows = [{"prompt": f"question {n}", "prompt_sw": f"swali {n}", "kind": "x" if n < 5 else "y"} for n in range(8)]
    path = write_csv(tmp_path / "t.csv", rows)
    options = ["--columns", "en=prompt, sw=prompt_sw", "--where", "kind=x", "--skip", "1"]
    assert main(["validate", str(path), *options]) == 0
    assert f"{path}: 4 rows, 2 languages" in capsys.readouterr().out
    assert main(["validate", str(path), *options, "--limit", "3", "--languages", "sw"]) == 0
    assert f"{path}: 3 rows, 1 languages" in capsys.readouterr().out
    assert main(["validate", str(path), *options, "--languages", "sw,bn"]) == 1
    assert "no column for the language 'bn'" in capsys.readouterr().err


def test_source_language_need_not_be_english(table_file: Path, capsys: Capture) -> None:
    assert main(["validate", str(table_file), "--source-language", "sw", "--languages", "en,bn"]) == 0
    assert "12 rows, 2 languages" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validate"], "required: table"),
        (["validate", "t.csv", "--columns", "en"], "'en' is not NAME=VALUE"),
        (["validate", "t.csv", "--columns", "en=a,en=b"], "'en' is there twice: it takes one value"),
        (["validate", "t.csv", "--lnguages", "sw"], "unrecognised arguments: --lnguages sw"),
        (["validat"], "invalid choice: 'validat'"),
        ([], "required: COMMAND"),
    ],
)
def test_wrong_use_is_explained_with_exit_code_2(capsys: Capture, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "example"),
    [
        (["--help"], "Start with `crosslign demo`"),
        (["validate", "--help"], "crosslign validate prompts.jsonl --columns en=prompt,zh=prompt_zh"),
        (["generate", "-h"], "crosslign generate --model"),
    ],
)
def test_help_ends_well_and_shows_an_example(capsys: Capture, arguments: list[str], example: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert example in " ".join(capsys.readouterr().out.split())


def test_version_is_printed(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"crosslign {__version__}\n"
