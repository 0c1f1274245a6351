"""`crosslign probe` and `gate:` as a user meets them: tables, files, exit codes, and what bad input is told."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROWS, write_csv
from helpers import cli_train, interrupted_after, no_weights
from probe_script import HELP, REFUSAL, scripted, scripted_recipe, two_of_three

from crosslign.cli import main
from crosslign.rollouts.progress import progress
from crosslign.runs.gate import measure

Capture = pytest.CaptureFixture[str]


def probe(tmp_path: Path, raw: dict[str, Any], *flags: str) -> int:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return main(["probe", str(path), *flags])


def row_of(text: str, code: str) -> list[str]:
    (line,) = [line.split() for line in text.splitlines() if line.startswith(f"{code} (")]
    return line


def test_the_table_says_what_was_counted(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    scripted(monkeypatch, two_of_three)
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert probe(tmp_path, scripted_recipe(recipe)) == 0
    out, err = capsys.readouterr()
    # Harmful queries; ASR; invalid; flips; one of them invalid; nothing to spoil; ...; over-refusal.
    swahili = " ".join(row_of(out, "sw"))
    assert swahili.startswith("sw (Swahili) 6 100 > 17 0 > 17 67 [30, 90] of 6 1 - ")
    assert swahili.endswith(" 0 > 17")
    bengali = " ".join(row_of(out, "bn"))
    assert bengali.startswith("bn (Bangla) 6 67 > 33 0 > 0 4/4: too few 0 2/2 ")
    assert "The lexicon judge is a proxy" in out
    assert "20 harmful queries a language were asked for; the tables have only: sw 6, bn 6." in out
    assert "The teacher context helps: 8 answers made safe, 2 made unsafe, mean flip rate 67 %." in out
    assert "Traceback" not in err
    written = {p for p in tmp_path.rglob("*") if p.is_file()} - before
    # Without --out nothing but the cache.
    assert {p.name for p in written if "cache" not in p.parts} == {"recipe.yaml"}


def test_out_gets_the_report_and_every_pair(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    scripted(monkeypatch, two_of_three)
    out = tmp_path / "out"
    assert probe(tmp_path, scripted_recipe(recipe), "--out", str(out), "--queries", "6") == 0
    rows = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 24
    report = json.loads((out / "probe.json").read_text())
    (found,) = report["templates"].values()
    for code in ("sw", "bn"):
        unsafe = [r for r in rows if r["language"] == code and r["student"]["outcome"] == "unsafe"]
        flips = [r for r in unsafe if r["teacher"]["outcome"] in ("refused", "safe_complied")]
        assert (found["languages"][code]["flip"]["count"], found["languages"][code]["flip"]["n"]) == (
            len(flips),
            len(unsafe),
        )
    (row,) = [r for r in rows if r["id"] == "row-1" and r["language"] == "sw"]
    assert (row["student"]["completion"], row["teacher"]["completion"]) == (HELP, REFUSAL)
    assert row["flipped"] is True
    assert report["judge"]["kind"] == "lexicon"
    capsys.readouterr()
    before = {p: p.read_bytes() for p in out.iterdir()}
    assert probe(tmp_path, scripted_recipe(recipe), "--out", str(out)) == 1
    assert "holds probe.json and pairs.jsonl already" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in out.iterdir()} == before
    assert probe(tmp_path, scripted_recipe(recipe), "--out", str(out), "--queries", "2", "--overwrite") == 0
    assert len((out / "pairs.jsonl").read_text().splitlines()) == 8


def test_the_same_call_gives_the_same_report(recipe: dict[str, Any], tmp_path: Path) -> None:
    """With the tiny model itself, whose answers mean nothing, and a judgement in the teacher's context."""
    for name in ("a", "b"):
        assert probe(tmp_path, recipe, "--out", str(tmp_path / name), "--queries", "3") == 0
    for file in ("probe.json", "pairs.jsonl"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_keys_of_the_recipe_can_be_set(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    scripted(monkeypatch, two_of_three)
    assert probe(tmp_path, scripted_recipe(recipe), "--data.languages", "[sw]", "--queries", "2") == 0
    out = capsys.readouterr().out
    assert "sw (" in out
    assert "bn (" not in out


def test_divergence_is_measured_where_it_is_asked_for(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    scripted(monkeypatch, two_of_three)
    for flags, shown in (((), False), (("--divergence",), True)):
        assert probe(tmp_path, scripted_recipe(recipe), "--queries", "2", *flags) == 0
        out = capsys.readouterr().out
        assert ("nats/token: divergence" in out) == ("DPSW on" in out.splitlines()[1]) == shown


def template_folder(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "templates"
    folder.mkdir()
    for name in names:
        content = f"{name.upper()} {{source_query}} / {{query}}"
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"messages": [{"role": "user", "content": content}]}))
    return folder


def test_the_best_template_of_a_folder_is_named(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    flips = {"WEAK": 1, "STRONG": 9, "NONE": 0}

    def say(kind: str, language: str, number: int) -> str:
        return REFUSAL if number % 2 and number <= flips.get(kind, 0) else HELP

    scripted(monkeypatch, say)
    folder = template_folder(tmp_path, "none", "strong", "weak")
    raw = scripted_recipe(recipe)
    assert probe(tmp_path, raw, "--templates", str(folder), "--out", str(tmp_path / "out")) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("teacher template:")] == [
        "teacher template: none",
        "teacher template: strong",
        "teacher template: weak",
    ]
    assert "Best template: strong (10 answers made safe, 0 made unsafe, mean flip rate 83 %). No help: none." in out
    report = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert report["best"] == "strong"
    assert len((tmp_path / "out" / "pairs.jsonl").read_text().splitlines()) == 3 * 24
    files = f"{folder / 'none.yaml'}, {folder / 'weak.yaml'}"
    assert probe(tmp_path, raw, "--templates", files) == 0
    assert "Best template: weak" in capsys.readouterr().out


def test_it_is_said_if_no_template_helps_or_nothing_is_unsafe(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    folder = template_folder(tmp_path, "first", "second")
    scripted(monkeypatch, lambda *key: HELP)
    assert probe(tmp_path, scripted_recipe(recipe), "--templates", str(folder)) == 0
    assert "None of the templates helps: first makes 0 answers safe and 0 unsafe;" in capsys.readouterr().out
    scripted(monkeypatch, lambda *key: REFUSAL)
    assert probe(tmp_path, scripted_recipe(recipe), "--templates", str(folder)) == 0
    assert "Nothing to flip" in capsys.readouterr().out


def test_shipped_templates_are_compared_by_name(recipe: dict[str, Any], tmp_path: Path, capsys: Capture) -> None:
    flags = ("--templates", "instruct,judged,dialogue", "--queries", "2", "--data.languages", "[sw]")
    assert probe(tmp_path, recipe, *flags) == 0
    out = capsys.readouterr().out
    assert all(f"teacher template: {name}\n" in out for name in ("instruct", "judged", "dialogue"))


def test_progress_shows_what_is_being_done(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, two_of_three)
    bars: list[Any] = []

    def recorded(total: int, what: str, unit: str, **options: Any) -> Any:
        bars.append(progress(total, what, unit, **options))
        return bars[-1]

    monkeypatch.setattr(measure, "progress", recorded)
    assert probe(tmp_path, scripted_recipe(recipe)) == 0
    done = [(bar.desc.removesuffix(": "), bar.n, bar.total) for bar in bars]
    assert done == [
        ("student", 24, 24),
        ("student: lexicon", 24, 24),
        ("custom: teacher", 24, 24),
        ("custom: teacher: lexicon", 24, 24),
    ]


# --- Bad input.

Change = Callable[[dict[str, Any], Path], tuple[str, ...]]


def no_harmful_rows(raw: dict[str, Any], tmp: Path) -> tuple[str, ...]:
    rows = [{**row, "label": "benign"} for row in ROWS]
    raw["data"]["tables"][0]["path"] = str(write_csv(tmp / "benign.csv", rows))
    return ()


def empty_folder(raw: dict[str, Any], tmp: Path) -> tuple[str, ...]:
    (tmp / "nothing").mkdir()
    return ("--templates", str(tmp / "nothing"))


def broken_template(raw: dict[str, Any], tmp: Path) -> tuple[str, ...]:
    (template_folder(tmp, "good") / "bad.yaml").write_text("messages:\n- {role: user, content: 'x {qury}'}\n")
    return ("--templates", str(tmp / "templates"))


def long_template(raw: dict[str, Any], tmp: Path) -> tuple[str, ...]:
    raw["teacher"] = {**raw["teacher"], "max_length": 60}
    raw["teacher"]["template"] = {"messages": [{"role": "user", "content": "{query}"}]}
    return ("--templates", "instruct")


def out_is_a_file(raw: dict[str, Any], tmp: Path) -> tuple[str, ...]:
    (tmp / "file").write_text("mine")
    return ("--out", str(tmp / "file"))


BAD: dict[str, tuple[Change, str]] = {
    "no harmful rows": (no_harmful_rows, "the recipe's tables have no harmful query in its languages"),
    "unknown judge": (lambda r, t: ("--judge", "lexikon"), "--judge: unknown judge 'lexikon'. Did you mean 'lexicon'?"),
    "judge without an endpoint": (
        lambda r, t: ("--judge", "llm:some/model"),
        "--judge: judge 'llm:some/model' needs the URL of its endpoint",
    ),
    "judges itself": (lambda r, t: ("--judge", f"guard:{r['model']['path']}"), "a model must not grade itself"),
    "unknown template": (
        lambda r, t: ("--templates", "instruct,jugded"),
        "'jugded' is neither a folder, a file nor a shipped template. Did you mean 'judged'?",
    ),
    "no template": (lambda r, t: ("--templates", ","), "--templates: names no template"),
    "empty folder": (empty_folder, "holds no .yaml file"),
    "broken template": (broken_template, "unknown field {qury}. Did you mean {query}?"),
    "template too long": (long_template, "Raise teacher.max_length"),
    "out is a file": (out_is_a_file, "file is a file, not a folder"),
    "unknown key": (lambda r, t: ("--data.langauges", "[sw]"), "unknown key 'data.langauges'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_before_weights_are_loaded(
    name: str, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    raw = scripted_recipe(recipe)
    change, text = BAD[name]
    flags = change(raw, tmp_path)
    if name != "template too long":  # found by the code that samples
        no_weights(monkeypatch)
    assert probe(tmp_path, raw, *flags) == 1
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error


# --- gate: in a recipe.


def test_train_stops_at_the_gate_and_writes_nothing(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    scripted(monkeypatch, two_of_three)
    flags = ("--gate.min_flip_rate", "0.9", "--gate.probe", "0")
    assert cli_train(tmp_path, scripted_recipe(recipe), *flags) == 1
    error = capsys.readouterr().err
    assert "the teacher gate is not passed: flip rate below 90 % in sw 67 %, so nothing was trained." in error
    assert "67 [30, 90] of 6" in error
    assert "crosslign probe RECIPE --templates" in error
    assert not Path(recipe["output_dir"]).exists()


def test_a_finished_run_survives_a_closed_gate(
    recipe: dict[str, Any], whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, two_of_three)
    raw = scripted_recipe(recipe)
    folder = Path(shutil.copytree(whole["output_dir"], recipe["output_dir"]))
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert cli_train(tmp_path, {**raw, "gate": {"min_flip_rate": 1}}, "--overwrite") == 1
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_train_passes_the_gate_records_it_and_goes_on_after_an_interruption(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    raw = scripted_recipe(recipe, gate={"min_flip_rate": 0.6, "probe": 0, "drop": ["unsafe"]}, log_rollouts=100)
    folder = Path(recipe["output_dir"])
    scripted(monkeypatch, two_of_three)
    with interrupted_after(3, KeyboardInterrupt()):
        assert cli_train(tmp_path, raw) == 130
    assert "The teacher gate is passed" in capsys.readouterr().err
    assert cli_train(tmp_path, raw, "--resume") == 0
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["gate"]["passed"] is True
    assert record["gate"]["languages"]["sw"]["flip"]["count"] == 4
    dropped = {(row["id"], row["language"]) for row in record["gate"]["dropped"]}
    assert dropped == {("row-11", "sw"), ("row-9", "bn"), ("row-11", "bn")}
    listed = [json.loads(line) for line in (folder / "gate.jsonl").read_text().splitlines()]
    assert {(row["id"], row["language"]) for row in listed if row["dropped"]} == dropped
    assert all(
        (row["teacher"]["completion"] == HELP) == ("unsafe" in row["faults"])
        for row in listed
        if int(row["id"][4:]) % 2
    )
    rollouts = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    assert len(rollouts) == 16
    assert not dropped & {(row["query"], row["language"]) for row in rollouts}
    # The list belongs to its run: the next one starts without it.
    del raw["gate"]
    assert cli_train(tmp_path, raw, "--overwrite") == 0
    assert not (folder / "gate.jsonl").exists()
    assert "gate" not in json.loads((folder / "run.json").read_text())


BAD_GATES: dict[str, tuple[dict[str, Any], str]] = {
    "percent": ({"min_flip_rate": 50}, "gate.min_flip_rate: input should be less than or equal to 1"),
    "judge": ({"judge": "lexikon"}, "gate.judge: unknown judge 'lexikon'. Did you mean 'lexicon'?"),
    "endpoint": ({"judge": "llm:some/model"}, "gate.judge: judge 'llm:some/model' needs the URL of its endpoint"),
    "key": ({"min_flip": 0.5}, "unknown key 'gate.min_flip'. Did you mean 'min_flip_rate'?"),
    "drop": ({"drop": "yes please"}, "gate.drop: input should be a valid list"),
    "dropped": ({"drop": ["unsafe", "ugly"]}, "gate.drop.1: input should be 'unsafe', 'invalid', 'wrong_language' or"),
    "no queries": ({"queries": 0}, "gate.queries: input should be greater than or equal to 1"),
}


@pytest.mark.parametrize("name", BAD_GATES)
@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_a_bad_gate_is_told_before_weights_are_loaded(
    name: str, flags: tuple[str, ...], recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:  # fmt: skip
    no_weights(monkeypatch)
    section, text = BAD_GATES[name]
    assert cli_train(tmp_path, {**recipe, "gate": section}, *flags) == 1
    assert text in capsys.readouterr().err
    assert not Path(recipe["output_dir"]).exists()


def test_a_gate_without_harmful_rows_is_told_by_a_dry_run(
    recipe: dict[str, Any], tmp_path: Path, capsys: Capture
) -> None:
    no_harmful_rows(recipe, tmp_path)
    assert cli_train(tmp_path, {**recipe, "gate": {}}, "--dry-run") == 1
    assert "no harmful query" in capsys.readouterr().err


def test_the_plan_names_the_gate(recipe: dict[str, Any], tmp_path: Path, capsys: Capture) -> None:
    assert cli_train(tmp_path, {**recipe, "gate": {}}, "--dry-run") == 0
    assert "gate      flip rate of 50% or more on 20 queries a language, lexicon\n" in capsys.readouterr().err
    assert cli_train(tmp_path, {**recipe, "gate": {"drop": ["unsafe", "wrong_language"]}}, "--dry-run") == 0
    assert "20 queries a language, lexicon, drops unsafe, wrong_language\n" in capsys.readouterr().err


def test_the_plan_names_the_teacher_of_a_table(recipe: dict[str, Any], tmp_path: Path, capsys: Capture) -> None:
    tables = [*recipe["data"]["tables"], {"path": "builtin:statements", "teacher": "harmless"}]
    assert cli_train(tmp_path, {**recipe, "data": {**recipe["data"], "tables": tables}}, "--dry-run") == 0
    said = capsys.readouterr().err
    assert re.search(r"teacher   \w+ template, judgement \w+; harmless for builtin:statements\n", said)
