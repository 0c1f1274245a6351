"""The `apertium` translator: with a program in its place, and for real where it is installed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from conftest import write_csv

from crosslign.cli import main
from crosslign.data.load import TableSpec, require_table
from crosslign.translation import Translation
from crosslign.translation.apertium import ApertiumTranslator
from crosslign.types import CrosslignError

LISTS = f"""#!{sys.executable}
import sys
if "-l" in sys.argv:
    print("  eng-spa\\n  eng-cat\\n  eng-cat_valencia\\n  spa-eng")
    sys.exit()
"""


def program(folder: Path, then: str) -> ApertiumTranslator:
    path = folder / "apertium"
    path.write_text(LISTS + then)
    path.chmod(0o755)
    return ApertiumTranslator(str(path))


def test_pairs_are_found_and_others_refused(tmp_path: Path) -> None:
    translator = program(tmp_path, "")
    assert translator.pair("en", "es") == "eng-spa"
    assert translator.pair("en", "ca") == "eng-cat"
    with pytest.raises(
        CrosslignError, match=r"does not know sw \(Swahili\). The nearest that it has: .*spa \(Spanish\)"
    ):
        translator.check("en", "sw")
    with pytest.raises(CrosslignError, match=r"does not know de \(German\). The nearest that it has: eng \(English\)"):
        translator.check("de", "es")
    with pytest.raises(CrosslignError, match="does not know ca"):
        translator.check("es", "ca")


def test_lines_of_a_text_stay_together(tmp_path: Path) -> None:
    translator = program(tmp_path, "for line in sys.stdin: print(line.strip().upper())\n")
    kept: dict[int, Translation] = {}
    translator.translate(["one\ntwo", "three", "a\rb"], "en", "es", kept.__setitem__)
    assert kept == {0: Translation("ONE\nTWO"), 1: Translation("THREE"), 2: Translation("A\nB")}


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ("print('one line')\nsys.stdin.read()\n", "gave 1 lines for 2"),
        ("sys.stdin.read()\n", "gave 0 lines for 2"),
        ("sys.exit('no such pair')\n", "ended with 1: no such pair"),
    ],
)
def test_a_program_that_fails_is_an_error(tmp_path: Path, then: str, message: str) -> None:
    with pytest.raises(CrosslignError, match=message):
        program(tmp_path, then).translate(["one", "two"], "en", "es", lambda index, translation: None)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrosslignError, match="apt-get install apertium"):
        ApertiumTranslator(str(tmp_path / "apertium"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("apertium") is None, reason="Apertium is not installed")
@pytest.mark.parametrize("target", ["es", "ca"])
def test_the_real_one_makes_a_table(tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        ApertiumTranslator().check("en", target)
    except CrosslignError:
        pytest.skip("this pair is not installed")
    rows = require_table(TableSpec("builtin:benign"), "en", None).rows
    source = write_csv(tmp_path / "queries.csv", [{"id": row.id, "en": row.texts["en"]} for row in rows])
    flags = ["translate", str(source), "--to", target, "--translator", "apertium", "--out", str(tmp_path / "t.csv")]
    assert main([*flags, "--cache-dir", str(tmp_path / "cache")]) == 0, capsys.readouterr().err
    table = require_table(TableSpec(str(tmp_path / "t.csv")), "en", [target])
    texts = [row.texts[target] for row in table.rows if target in row.texts]
    assert len(texts) >= 0.8 * len(rows)
    assert all(text != row.texts["en"] for row in table.rows if (text := row.texts.get(target)))
