"""`translate_table` and `crosslign translate`: what is written, what is kept, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import small_recipe, write_csv
from fake_endpoint import Answer, FakeEndpoint, failed
from fake_endpoint import said as says

from crosslign.cli import main
from crosslign.data.load import TableSpec, require_table
from crosslign.data.provenance import read_provenance, side_file
from crosslign.data.schema import QueryTable
from crosslign.runs.prepare import prepare
from crosslign.runs.recipe import parse_config
from crosslign.runs.train import train
from crosslign.translation import Keep, ScriptedTranslator, Translation
from crosslign.translation.output import Translated, TranslateRequest
from crosslign.translation.translate import translate_table
from crosslign.types import CrosslignError, Interrupted

Capture = pytest.CaptureFixture[str]


@cache
def shipped() -> QueryTable:
    """The harmless queries that ship: 60 rows of real translations in 12 languages."""
    return require_table(TableSpec("builtin:benign"), "en", None)


def benign(languages: Sequence[str]) -> list[dict[str, str]]:
    """The rows of that table, in these languages."""
    return [{"id": row.id, "label": row.label, **{c: row.texts[c] for c in languages}} for row in shipped().rows[:60]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "queries.csv", benign(["en"]))


def to_swahili(text: str, source: str, target: str) -> str:
    return _known()[text, target]


@cache
def _known() -> Mapping[tuple[str, str], str]:
    return {(row.texts["en"], code): text for row in shipped().rows for code, text in row.texts.items()}


def run(source: Path, translator: Any, *languages: str, **more: Any) -> Translated:
    request = TranslateRequest(
        languages or ("sw",), source.with_name("table.csv"), cache=str(source.parent / "cache"), **more
    )
    return translate_table(require_table(TableSpec(str(source)), "en", None), request, translator)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Counting(ScriptedTranslator):
    """A scripted translator that remembers what it was asked, and fails at the text with this number."""

    def __init__(self, script: Any = to_swahili, fails: BaseException | None = None, at: int = -1) -> None:
        super().__init__(script, identity={"script": "counting"})
        self.asked: list[str] = []
        self.fails, self.at = fails, at

    def translate(self, texts: Sequence[str], source: str, target: str, keep: Keep) -> None:
        for index, text in enumerate(texts):
            if self.fails is not None and index == self.at:
                raise self.fails
            self.asked.append(text)
            keep(index, Translation(self.script(text, source, target)))


def test_a_good_translation_becomes_a_table(source: Path) -> None:
    translated = run(source, Counting(), "sw", "bn")
    assert {code: translated.passed(code) for code in ("sw", "bn")} == {"sw": 60, "bn": 60}
    table = require_table(TableSpec(str(source.with_name("table.csv"))), "en", ["en", "sw", "bn"])
    expected = {row["id"]: row for row in benign(["en", "sw", "bn"])}
    assert {row.id: dict(row.texts) for row in table.rows} == {
        key: {code: row[code] for code in ("en", "sw", "bn")} for key, row in expected.items()
    }
    assert all(row.label == "benign" for row in table.rows)
    (first, *_) = rows_of(source.with_name("table.csv"))
    assert first["check:sw"].startswith("passed: language sw 1.00; script 1.00; length ")
    assert rows_of(source.with_name("rejected.csv")) == []


def test_what_fails_a_check_is_rejected_with_its_reason_and_leaves_an_empty_cell(source: Path) -> None:
    bad = {"I'm sorry, but I can't translate that.": "refused"}

    def script(text: str, source: str, target: str) -> str:
        return next(iter(bad)) if text == benign(["en"])[3]["en"] else to_swahili(text, source, target)

    translated = run(source, Counting(script))
    assert translated.passed("sw") == 59
    (rejected,) = rows_of(source.with_name("rejected.csv"))
    assert rejected["id"] == benign(["en"])[3]["id"]
    assert "refused" in rejected["reason"].split(", ")
    assert "language" in rejected["reason"].split(", ")
    assert rejected["translation"] == next(iter(bad))
    row = rows_of(source.with_name("table.csv"))[3]
    assert row["sw"] == ""
    assert row["check:sw"].startswith("failed: ")
    assert translated.summary().splitlines()[1].split()[:5] == ["sw", "(Swahili)", "60", "59", "1"]


def test_texts_come_sorted_and_each_once(source: Path) -> None:
    write_csv(source, [*benign(["en"]), {"id": "again", "label": "benign", "en": benign(["en"])[0]["en"]}])
    translator = Counting()
    run(source, translator)
    assert translator.asked == sorted(set(translator.asked), key=lambda text: (-len(text), text))
    assert len(translator.asked) == 60


@pytest.mark.parametrize("error", [KeyboardInterrupt(), CrosslignError("the server is gone"), ZeroDivisionError()])
def test_what_was_translated_is_kept_when_the_rest_fails(source: Path, error: BaseException) -> None:
    with pytest.raises(CrosslignError) as raised:
        run(source, Counting(fails=error, at=23))
    assert isinstance(raised.value, Interrupted) == isinstance(error, KeyboardInterrupt)
    assert sorted(p.name for p in source.parent.iterdir()) == ["cache", "queries.csv"]
    again = Counting()
    assert run(source, again).passed("sw") == 60
    assert len(again.asked) == 60 - 23
    once_more = Counting()
    run(source, once_more, overwrite=True)
    assert once_more.asked == []


def test_a_cut_line_of_the_cache_is_translated_again(source: Path) -> None:
    run(source, Counting())
    (cache,) = (p for p in (source.parent / "cache").iterdir() if p.suffix == ".jsonl")
    cache.write_bytes(cache.read_bytes()[:-20])
    again = Counting()
    run(source, again, overwrite=True)
    assert len(again.asked) == 1


def test_a_rejected_translation_is_no_formula_to_a_spreadsheet(source: Path) -> None:
    first = benign(["en"])[0]["en"]
    bad = "=HYPERLINK(1)"
    run(source, Counting(lambda text, *codes: bad if text == first else to_swahili(text, *codes)))
    assert [row["translation"] for row in rows_of(source.with_name("rejected.csv"))] == [f"'{bad}"]


def test_errors_and_blank_translations_are_rejected_and_tried_again(source: Path) -> None:
    class Failing(Counting):
        def translate(self, texts: Sequence[str], source: str, target: str, keep: Keep) -> None:
            self.asked += texts
            for index, text in enumerate(texts):
                sick = Translation("", error="too long") if index else Translation(" \n")
                keep(index, sick if index < 2 else Translation(to_swahili(text, source, target)))

    translated = run(source, Failing())
    assert translated.reasons("sw") == {"missing": 2}
    assert [row["error"] for row in rows_of(source.with_name("rejected.csv"))].count("too long") == 1
    again = Counting()
    run(source, again, overwrite=True)
    assert len(again.asked) == 2


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        (lambda n: range(n - 1), r"gave 59 translations for 60 texts"),
        (lambda n: [*range(n), 0], r"gave text 0 of 60 a second time"),
        (lambda n: range(n + 1), r"gave text 60 of 60"),
    ],
)
def test_a_wrong_number_of_translations_is_an_error(
    source: Path, gives: Callable[[int], Sequence[int]], message: str
) -> None:
    class Wrong(Counting):
        def translate(self, texts: Sequence[str], source: str, target: str, keep: Keep) -> None:
            for index in gives(len(texts)):
                keep(index, Translation(to_swahili(texts[index % len(texts)], source, target)))

    with pytest.raises(CrosslignError, match=message):
        run(source, Wrong())
    assert not source.with_name("table.csv").exists()


def test_provenance_says_who_and_goes_with_the_next_table(source: Path, capsys: Capture) -> None:
    run(source, Counting())
    table = source.with_name("table.csv")
    found = read_provenance(table)
    assert found is not None
    assert found["languages"]["sw"]["translator"] == {"kind": "scripted", "script": "counting"}
    assert found["languages"]["sw"]["passed"] == 60
    assert found["source"]["table"] == "queries.csv"
    assert found["edited_since"] is False
    request = TranslateRequest(
        ["bn"], source.with_name("more.jsonl"), source.with_name("r.csv"), cache=str(source.parent / "cache")
    )
    translate_table(require_table(TableSpec(str(table)), "en", None), request, Counting())
    more = read_provenance(source.with_name("more.jsonl"))
    assert more is not None
    assert list(more["languages"]) == ["sw", "bn"]
    with source.with_name("more.jsonl").open("a") as file:
        file.write("\n")
    assert main(["validate", str(source.with_name("more.jsonl"))]) == 0
    out = capsys.readouterr().out
    assert "sw: translated by scripted" in out
    assert "bn: translated by scripted" in out
    assert "The table was edited since." in out


def test_a_run_trained_on_it_says_who_translated(source: Path, model_folder: Path, tmp_path: Path) -> None:
    run(source, Counting())
    raw = small_recipe(tmp_path, model_folder, source.with_name("table.csv"))
    raw["data"]["languages"] = ["sw"]
    raw["training"]["max_steps"] = 1
    train(prepare(parse_config(raw)))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (found,) = record["provenance"].values()
    assert found["languages"]["sw"]["translator"] == {"kind": "scripted", "script": "counting"}


@pytest.mark.parametrize("content", ["{", "[]", '{"languages": 3}', '{"languages": {"sw": 1}}', "{}"])
def test_a_damaged_side_file_is_a_warning(source: Path, content: str, capsys: Capture) -> None:
    side_file(source).write_text(content)
    assert main(["validate", str(source)]) == 0
    assert "warning" in capsys.readouterr().out


def test_what_a_side_file_says_cannot_command_a_terminal(source: Path, capsys: Capture) -> None:
    side_file(source).write_text(
        json.dumps({"languages": {"sw\n\x1b[31m": {"when": "\x1b]0;x\x07", "translator": [1]}}})
    )
    assert main(["validate", str(source)]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        ([], "at least one language"),
        (["xx-nothing"], "not a language code|no known language"),
        (["qqq"], "no known language"),
        (["en"], "has a column for en"),
        (["swa", "sw"], "are the same language"),
        (["id"], "use the code 'ind'"),
    ],
)
def test_languages_that_cannot_be_translated_to(source: Path, languages: list[str], message: str) -> None:
    request = TranslateRequest(languages, source.with_name("table.csv"), cache=str(source.parent / "cache"))
    table = require_table(TableSpec(str(source)), "en", None)
    with pytest.raises(CrosslignError, match=message):
        translate_table(table, request, Counting())
    assert [p.name for p in source.parent.iterdir()] == ["queries.csv"]


def test_a_target_that_the_table_has_is_refused_and_an_empty_column_is_filled(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "queries.csv", benign(["en", "sw"]))
    with pytest.raises(CrosslignError, match=r"queries.csv: has a column for swa \(Swahili\) already, 'sw'"):
        run(path, Counting(), "swa")
    write_csv(path, [{**row, "sw": ""} for row in benign(["en"])])
    assert run(path, Counting()).passed("sw") == 60


def test_nothing_is_overwritten(source: Path) -> None:
    foreign = source.with_name("table.csv")
    foreign.write_text("mine")
    with pytest.raises(CrosslignError, match="nothing beside it says that crosslign made it"):
        run(source, Counting(), overwrite=True)
    foreign.unlink()
    source.with_name("rejected.csv").write_text("mine")
    with pytest.raises(CrosslignError, match="--rejected"):
        run(source, Counting(), overwrite=True)
    source.with_name("rejected.csv").unlink()
    run(source, Counting())
    with pytest.raises(CrosslignError, match="exists"):
        run(source, Counting())
    table = require_table(TableSpec(str(foreign)), "en", None)
    with pytest.raises(CrosslignError, match="is the table that is read"):
        translate_table(table, TranslateRequest(["bn"], foreign, overwrite=True), Counting())


def test_the_way_back_is_compared_with_the_source(source: Path) -> None:
    back = {text: english for (english, code), text in _known().items() if code == "sw"}
    texts = list(back)
    wrong = {texts[0]: "Something else was asked here altogether."}
    translated = run(source, Counting(), back=ScriptedTranslator(lambda t, s, g: wrong.get(t, back[t])))
    assert translated.reasons("sw") == {"round_trip": 1}
    scores = [row.round_trip for row in translated.languages["sw"]]
    assert sorted(s for s in scores if s is not None)[1] == pytest.approx(100)


def test_a_server_that_dies_half_way_loses_nothing(source: Path, capsys: Capture) -> None:
    answered: list[str] = []
    alive = True

    def script(prompt: str, earlier: int) -> Answer:
        english = next((t for t in (r["en"] for r in benign(["en"])) if f"\n{t}\n" in prompt), None)
        if english is None:
            return says("OK")
        if not alive and len(answered) >= 20:
            return failed(401, "gone")
        answered.append(english)
        nonce = prompt.rsplit("END ", 1)[1].strip()
        return says(f"BEGIN {nonce}\n{to_swahili(english, 'en', 'sw')}\nEND {nonce}")

    with FakeEndpoint(script) as server:
        flags = ["translate", str(source), "--to", "sw", "--out", str(source.with_name("t.csv")), "--concurrency", "1"]
        flags += ["--translator", "endpoint:m", "--url", server.url, "--cache-dir", str(source.parent / "cache")]
        alive = False
        assert main(flags) == 1
        assert "gone" in capsys.readouterr().err
        alive = True
        assert main(flags) == 0
    assert len(answered) == len(set(answered)) == 60
    assert "sw (Swahili)" in capsys.readouterr().out


def test_the_command_with_a_table_of_translations(source: Path, tmp_path: Path, capsys: Capture) -> None:
    people = write_csv(tmp_path / "people.csv", benign(["en", "sw"])[:50])
    flags = ["translate", str(source), "--to", "sw", "--translator", f"scripted:{people}"]
    flags += ["--out", str(tmp_path / "t.csv"), "--cache-dir", str(tmp_path / "cache")]
    assert main(flags) == 0
    said = capsys.readouterr()
    assert "sw (Swahili)    60      50        10  missing 10" in said.out
    assert main([*flags[:3], "de", *flags[4:]]) == 1
    assert "people.csv: no column for the language 'de'" in capsys.readouterr().err
    assert main([*flags, "--translator", "scripted"]) == 1
    assert "scripted:TABLE.csv" in capsys.readouterr().err
    assert main([*flags, "--translator", "endpoint:m"]) == 1
    assert "--url" in capsys.readouterr().err
    assert main([*flags, "--translator", "scriptd"]) == 1
    assert "Did you mean 'scripted'?" in capsys.readouterr().err


def test_where_nothing_passes_the_exit_code_says_so(source: Path, tmp_path: Path, capsys: Capture) -> None:
    people = write_csv(tmp_path / "people.csv", [{"en": r["en"], "sw": r["en"]} for r in benign(["en"])])
    flags = ["translate", str(source), "--to", "sw", "--translator", f"scripted:{people}"]
    assert main([*flags, "--out", str(tmp_path / "t.csv"), "--cache-dir", str(tmp_path / "cache")]) == 1
    assert "no translation into sw passed" in capsys.readouterr().err
    assert len(rows_of(tmp_path / "rejected.csv")) == 60
