"""The benchmark on a real model: what is held out is held out, and a change is that change."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
import yaml
from benchmarks import real, real_rows, real_tables
from benchmarks.real_variants import BASE, BEST, CONTEXTS, EXPLORED, FIRST, OLDER, PLANNED, VARIANTS
from benchmarks.real_verdicts import Cell, Verdicts
from conftest import write_csv
from evaluations import Table, task

from crosslign.data.load import TableSpec, require_table
from crosslign.evaluation.folder import read_folder
from crosslign.evaluation.judges.lexicon import LexiconJudge
from crosslign.evaluation.stages import Evaluation, run
from crosslign.runs.recipe import parse_config
from crosslign.types import CrosslignError

CODES = ("en", "ar", "hi")


def plan(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> real_rows.Plan:
    settings: dict[str, Any] = {
        "model": "model",
        "queries": [write_csv(folder / "queries.csv", rows)],
        "out": folder / "out",
        "trained": ("ar", "hi"),
        "watched": (),
        "category": "a",
        "other": "b",
        "mild": ("c",),
        "more": (),
        "validation": None,
        "fresh": None,
        "rows": 6,
        "held_out": 8,
        "completion": 8,
        "batch": 4,
        "verdicts": folder / "verdicts.jsonl",
    }
    (folder / "out").mkdir(exist_ok=True)
    return real_rows.Plan(**{**settings, **changes})


def table(number: int = 10) -> list[dict[str, Any]]:
    return [
        {"id": f"{c}{n}", "category": c, **{code: f'{code}, "{c}" {n}' for code in CODES}}
        for c in "abc"
        for n in range(number)
    ]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_split_by_their_ids_and_nothing_is_in_both(tmp_path: Path) -> None:
    made = plan(tmp_path, table())
    real_rows.split(made)
    train, held_out = read(made.out / real_rows.TRAIN), read(made.out / real_rows.HELD_OUT)
    assert [row["category"] for row in train] == ["a"] * 6
    assert sorted(row["category"] for row in held_out) == ["a"] * 4 + ["b"] * 4
    assert {row["id"] for row in train} | {row["id"] for row in held_out if row["category"] == "a"} == {
        f"a{n}" for n in range(10)
    }
    mild = read(made.out / real_rows.MILD)
    assert {(row["category"], row["label"]) for row in mild} == {("c", "benign")}
    assert {row["label"] for row in (*train, *held_out)} == {"harmful"}
    texts = {row["id"]: row["ar"] for row in table()}
    assert all(row["ar"] == texts[row["id"]] for row in (*train, *held_out))


def test_a_second_table_adds_a_language_and_rows_without_it_are_left_out(tmp_path: Path) -> None:
    made = plan(tmp_path, table(), trained=("ar", "ind"))
    more = [{"id": row["id"], "ind": f"ind {row['id']}"} for row in table() if row["id"] != "a3"]
    real_rows.split(replace(made, queries=[*made.queries, write_csv(tmp_path / "more.csv", more)]))
    rows = [*read(made.out / real_rows.TRAIN), *read(made.out / real_rows.HELD_OUT)]
    assert all(row["ind"] == f"ind {row['id']}" for row in rows)
    assert "a3" not in {row["id"] for row in rows}


def rows_of(place: Path) -> list[dict[str, Any]]:
    known = {row["id"]: row for row in table()}
    return [known[row["id"]] for row in read(place)]


def validation_table(folder: Path, rows: list[dict[str, Any]]) -> Path:
    return write_csv(folder / "validation.csv", [{code: row[code] for code in ("id", "ar", "hi")} for row in rows])


def test_rows_to_choose_a_checkpoint_by_are_a_table_of_their_own_in_all_languages(tmp_path: Path) -> None:
    """Their English and category are the first table's; harmless ones are labelled so."""
    first = [*table(), {"id": "d0", "category": "b", "en": "en d0"}, {"id": "d1", "category": "c", "en": "en d1"}]
    first = [{**dict.fromkeys(CODES, ""), **row} for row in first]
    given = write_csv(
        tmp_path / "validation.csv", [{"id": id, "ar": f"ar {id}", "hi": f"hi {id}"} for id in ("d0", "d1")]
    )
    made = plan(tmp_path, first, validation=given)
    real_rows.split(made)
    assert read(made.out / real_rows.VALIDATION) == [
        {"id": "d0", "label": "harmful", "category": "b", "en": "en d0", "ar": "ar d0", "hi": "hi d0"},
        {"id": "d1", "label": "benign", "category": "c", "en": "en d1", "ar": "ar d1", "hi": "hi d1"},
    ]
    raw = real.recipe(made, VARIANTS["best checkpoint"], 0, tmp_path)
    assert raw["evaluation"]["languages"] == ["en", "ar", "hi"]
    write_csv(given, [{"id": "d0", "ar": "x"}])
    with pytest.raises(CrosslignError, match=r"validation\.csv: row 'd0' lacks hi"):
        real_rows.split(made)


def test_a_checkpoint_cannot_be_chosen_without_rows(tmp_path: Path) -> None:
    made = plan(tmp_path, table())
    real_rows.split(made)
    with pytest.raises(CrosslignError, match="Name a table of them, --validation FILE"):
        real.make(made, [], ["best checkpoint"], [0], only_say=False)


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (real_rows.TRAIN, "is chosen by, and its (id|text in en) is trained on too"),
        (real_rows.MILD, "is chosen by, and its (id|text in en) is trained on too"),
        (real_rows.HELD_OUT, "is held out, and its (id|text in en) is chosen by too"),
    ],
)
def test_a_row_of_two_parts_is_refused(tmp_path: Path, of: str, says: str) -> None:
    made = plan(tmp_path, table())
    real_rows.split(made)
    used = rows_of(made.out / of)[:1]
    with pytest.raises(CrosslignError, match=says):
        real_rows.split(replace(made, validation=validation_table(tmp_path, used)))


FRESH = [
    {"id": "d0", "label": "harmful", "ar": "ar d0", "hi": "hi d0"},
    {"id": "d1", "label": "benign", "ar": "ar d1", "hi": "hi d1"},
]
KNOWN = [{"id": id, "category": "d", "en": f"en {id}", "ar": "", "hi": ""} for id in ("d0", "d1")]


def test_fresh_rows_have_labels_of_their_own(tmp_path: Path) -> None:
    made = plan(tmp_path, [*table(), *KNOWN], fresh=write_csv(tmp_path / "new.csv", FRESH))
    real_rows.split(made)
    assert read(made.fresh_rows) == [{**KNOWN[n], **FRESH[n]} for n in range(2)]


def test_further_rows_to_train_on(tmp_path: Path) -> None:
    """Harmful ones go with the harmful rows, harmless ones with the mild; those of the category that is only held out
    go nowhere."""
    other = {"id": "d2", "label": "harmful", "category": "b", "en": "en d2", "ar": "ar d2", "hi": "hi d2"}
    given = write_csv(tmp_path / "more.csv", FRESH)
    once = write_csv(tmp_path / "once.csv", [other])
    made = plan(tmp_path, [*table(), *KNOWN], more=(given, once))
    real_rows.split(made)

    def ids(part: str) -> list[str]:
        return [row["id"] for row in read(made.out / part)]

    assert ids(real_rows.HARMFUL) == [*ids(real_rows.TRAIN), "d0"]
    assert ids(real_rows.HARMLESS) == [*ids(real_rows.MILD), "d1"]
    assert {row["label"] for row in read(made.out / real_rows.HARMFUL)} == {"harmful"}
    assert {row["label"] for row in read(made.out / real_rows.HARMLESS)} == {"benign"}
    used = read(made.out / real_rows.HELD_OUT)[0]
    for row, says in (({**FRESH[1], "ar": used["ar"]}, "held out"), (FRESH[0], "fresh")):
        write_csv(given, [row])
        fresh = write_csv(tmp_path / "new.csv", FRESH[:1])
        with pytest.raises(CrosslignError, match=f"is {says}, and its text in (ar|en) is trained on too"):
            real_rows.split(replace(made, fresh=fresh))


def test_a_label_of_the_first_table_decides_for_no_further_table(tmp_path: Path) -> None:
    rows = [{**row, "label": "harmful"} for row in (*table(), *KNOWN)]
    own = [{**FRESH[0], "label": ""}, FRESH[1]]
    made = plan(tmp_path, rows, mild=("c", "d"), fresh=write_csv(tmp_path / "new.csv", own))
    real_rows.split(made)
    assert [row["label"] for row in read(made.fresh_rows)] == ["benign", "benign"]
    bare = write_csv(tmp_path / "bare.csv", [{key: row[key] for key in ("id", "ar", "hi")} for row in FRESH])
    real_rows.split(replace(made, fresh=None, validation=bare))
    assert [row["label"] for row in read(made.out / real_rows.VALIDATION)] == ["benign", "benign"]
    write_csv(tmp_path / "new.csv", [{**FRESH[0], "label": "mild"}])
    with pytest.raises(CrosslignError, match=r"new\.csv: row 'd0': label 'mild'; it is one of harmful, benign"):
        real_rows.split(made)


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (real_rows.TRAIN, "trained on"),
        (real_rows.MILD, "trained on"),
        (real_rows.HELD_OUT, "held out"),
        (real_rows.VALIDATION, "chosen by"),
    ],
)
def test_a_row_that_was_used_is_not_fresh(tmp_path: Path, of: str, says: str) -> None:
    watched = {**KNOWN[0], "ar": "ar other", "hi": "hi other"}
    made = plan(tmp_path, [*table(), *KNOWN], validation=validation_table(tmp_path, [watched]))
    real_rows.split(made)
    used = read(made.out / of)[0]
    copies = {
        "its text in en": {**FRESH[1], "id": used["id"]},
        "its text in hi": {**FRESH[1], "hi": used["hi"].upper()},
    }
    for what, row in copies.items():
        given = write_csv(tmp_path / "new.csv", [row])
        with pytest.raises(CrosslignError, match=f"is fresh, and {what} is {says} too"):
            real_rows.split(replace(made, fresh=given))


@pytest.mark.parametrize("name", ["builtin:benign", "builtin:statements"])
def test_a_row_that_ships_and_is_trained_on_is_not_measured(tmp_path: Path, name: str) -> None:
    used = require_table(TableSpec(name), "en", None).rows[0].texts["en"]
    rows = [*table(), {**KNOWN[1], "en": used.upper()}]
    made = plan(tmp_path, rows, fresh=write_csv(tmp_path / "new.csv", FRESH[1:]))
    with pytest.raises(CrosslignError, match="is fresh, and its text in en is trained on too"):
        real_rows.split(made)


def test_trained_cells_are_measured_on_fresh_rows_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = write_csv(tmp_path / "new.csv", FRESH)
    made = plan(tmp_path, [*table(), *KNOWN], trained=("ar",), watched=("hi",), fresh=fresh)
    real_rows.split(made)
    cells = [(BEST, 0), (BEST, 1), ("best checkpoint", 0)]
    for name, seed in cells:
        run_folder = made.cell(name, seed) / "run"
        run_folder.mkdir(parents=True)
        (run_folder / "run.json").write_text('{"status": "finished", "seconds": 60}')
        made.cell(name, seed).with_suffix(real.SETTINGS).write_text(real.settings(made, name))
    calls = []

    def call(module: str, *flags: str) -> None:
        given = dict(zip(flags[1::2], flags[2::2], strict=True))
        calls.append((given["--tasks"], given.get("--adapter"), given["--languages"]))
        tasks = [task("harmful", "harmful"), task("benign", "benign")]
        run(Evaluation(Path(given["--out"]), tasks, [LexiconJudge()]), Table())

    monkeypatch.setattr(real, "call", call)
    for _ in range(2):
        real.measure_fresh(made, cells)
    table_task = f"table:{made.fresh_rows}"
    runs = [None, *(str(made.cell(BEST, seed) / "run") for seed in (0, 1))]
    assert calls[:3] == [(table_task, adapter, "en,ar,hi") for adapter in runs]
    assert calls[3:] == [(table_task, str(made.cell("best checkpoint", 0) / "run" / "best"), "en,ar")]
    kept = Verdicts.read(tmp_path / "verdicts_fresh.jsonl")
    assert [(cell.name, cell.seed) for cell in kept.cells] == [(BASE, None), *cells]
    assert not made.verdicts.exists()
    assert "best, mean of 2" in real_tables.report(kept)
    write_csv(tmp_path / "new.csv", FRESH[:1])
    with pytest.raises(CrosslignError, match=r"fresh\.csv: holds other rows"):
        real_rows.split(made)
    made.fresh_rows.unlink()
    real_rows.split(made)
    with pytest.raises(CrosslignError, match="holds verdicts on other rows"):  # not those that were measured
        real.make(made, [], [BEST], [0, 1], only_say=True)


def test_the_plan_changes_no_rows_and_counts_evaluations_on_fresh_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = plan(tmp_path, [*table(), *KNOWN], fresh=write_csv(tmp_path / "new.csv", FRESH))
    real_rows.split(made, only_say=True)  # nothing was there
    real.make(made, [BASE], [BEST, "20 steps"], [0], only_say=True)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("0 cells are there. To make: 6 cells, about ")
    assert said[1:] == [
        "  base",
        "  best, seed 0",
        "  20 steps, seed 0",
        "  fresh rows: base",
        "  fresh rows: best, seed 0",
        "  fresh rows: 20 steps, seed 0",
    ]
    before = {path: path.read_bytes() for path in made.out.iterdir()}
    with pytest.raises(CrosslignError, match=r"train\.csv: holds other rows"):
        real_rows.split(replace(made, rows=5), only_say=True)
    real_rows.split(replace(made, rows=5))  # no cell is made of them yet
    real_rows.split(made)
    (made.out / "20_steps-seed0").mkdir()
    with pytest.raises(CrosslignError, match=r"train\.csv: holds other rows"):
        real_rows.split(replace(made, rows=5))
    assert before == {path: path.read_bytes() for path in made.out.glob("*.csv")}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"rows": {"harmful": [["z", "a"]]}}, "on other rows"),
        ({"model": "other"}, "with model 'other', and these are with 'model'"),
        ({"trained": ["sw"]}, r"with trained \['sw'\], and these are with \['ar', 'hi'\]"),
    ],
)
def test_what_would_be_refused_at_the_end_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr(real, "call", lambda *_: pytest.fail("something was made"))
    made = plan(tmp_path, table())
    real_rows.split(made)
    rows = {"rows": real_rows.rows_of(made.out / real_rows.HELD_OUT)}
    about = {"trained": ["ar", "hi"], "model": "model", "machine": "x"}
    made.verdicts.write_text(json.dumps({**rows, **about, **header}))
    with pytest.raises(CrosslignError, match=f"holds verdicts {says}"):
        real.make(made, [BASE], ["20 steps"], [0], only_say=False)
    made.verdicts.write_text(json.dumps({**rows, **about}))
    made.cell("20 steps", 0).mkdir()  # the last of the cells
    with pytest.raises(CrosslignError, match="20_steps-seed0: was made with other settings"):
        real.make(made, [BASE], ["20 steps"], [0], only_say=False)


def test_a_cell_that_fails_stops_no_other_and_ends_the_call_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = plan(tmp_path, [*table(), *KNOWN], fresh=write_csv(tmp_path / "new.csv", FRESH))
    begun = []

    def call(module: str, what: str, *flags: str) -> None:
        begun.append((module, what))
        if what == "train":
            raise CrosslignError("train has failed, as it says above.")
        if what == "eval":
            place = Path(flags[flags.index("--out") + 1])
            run(Evaluation(place, [task("harmful", "harmful"), task("benign", "benign")], [LexiconJudge()]), Table())

    monkeypatch.setattr(real, "call", call)
    flags = [f"--{name}={value}" for name, value in vars(made).items() if name in ("model", "out", "category", "other")]
    flags += ["--queries", *map(str, made.queries), "--trained", "ar", "hi", "--watched", "hi", "--mild", "c"]
    flags += ["--rows", "6", "--held-out", "8", "--fresh", str(made.fresh), "--seeds", "0"]
    monkeypatch.setattr(sys, "argv", ["real", *flags, "--only", "20 steps", BASE, BEST])
    assert real.main() == 1
    said = capsys.readouterr()
    assert "20 steps, seed 0: failed: train has failed" in said.err
    assert "failed: 20 steps, seed 0, best, seed 0. The same command tries them again" in said.err
    assert [what for _, what in begun].count("train") == 2  # and the failed cells are not tried on the fresh rows
    for name in ("verdicts", "verdicts_fresh"):
        assert [cell.name for cell in Verdicts.read(made.out / f"{name}.jsonl").cells] == [BASE]
    assert (made.out / "real.md").exists()


def test_an_id_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    rows = table()
    with pytest.raises(CrosslignError, match=r"queries\.csv: the id 'b0' is there twice"):
        real_rows.split(plan(tmp_path, [*rows, {**rows[10], "category": "a"}]))


def test_a_text_that_is_trained_on_and_held_out_is_refused(tmp_path: Path) -> None:
    rows = table()
    for row in rows[10:20]:
        row["ar"] = f" {rows[0]['ar'].upper()}"
    for row in rows[1:10]:
        row["ar"] = rows[0]["ar"]
    with pytest.raises(CrosslignError, match="is held out, and its text in ar is trained on too"):
        real_rows.split(plan(tmp_path, rows))


@pytest.mark.parametrize(("changes", "flag"), [({"rows": 11}, "--rows 10"), ({"held_out": 15}, "--held-out 14")])
def test_too_few_rows_are_refused(tmp_path: Path, changes: dict[str, Any], flag: str) -> None:
    with pytest.raises(CrosslignError, match=f"Take fewer: {flag}"):
        real_rows.split(replace(plan(tmp_path, table()), **changes))


def test_hours_are_said_before_anything_is_made_and_follow_the_steps(tmp_path: Path) -> None:
    made = plan(tmp_path, table())
    real_rows.split(made)
    cells = [("base", None), ("20 steps", 0), ("40 steps", 0)]
    seconds = 3 * real.EVALUATING + 60 * real.STEP
    assert real.hours(made, cells).startswith(f"3 cells, about {seconds / 3600:.1f} hours on one core, by another")
    # A run of the best recipe that is not here is made before it is measured on fresh rows.
    seconds = 2 * real.EVALUATING + 160 * real.STEP
    assert real.hours(made, [], [(BASE, None), (BEST, 0)]).startswith(f"2 cells, about {seconds / 3600:.1f} hours")
    rows = {kind: [["a", ""]] for kind in ("harmful", "benign")}
    empty: dict[str, Any] = {"verdicts": {}, "languages": {}}
    for name, training in (("20 steps", 20 * 60.0), ("on-policy, 80 steps", 80 * 600.0)):
        cell = Cell(name, 0, "", **empty, seconds={"evaluating": 1800, "training": training})
        Verdicts.read(made.verdicts).keep(cell, rows, {"trained": [], "model": "", "machine": ""})
    assert real.hours(made, cells) == "3 cells, about 2.5 hours on one core."


def test_a_table_without_a_language_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrosslignError, match=r"the columns \['bn'\] are missing"):
        real_rows.split(plan(tmp_path, table(), trained=("ar", "bn")))


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Keys, also of sections within sections, whose values differ."""
    found = []
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(one[key], dict):
            found += [f"{key}.{inner}" for inner in differing(one[key], value)]
        elif value != one[key]:
            found.append(key)
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_every_change_makes_a_valid_recipe_that_differs_in_that_alone(tmp_path: Path, name: str) -> None:
    made = plan(tmp_path, table())
    real_rows.split(made)
    of = VARIANTS[FIRST if name in EXPLORED else BEST]
    best = parse_config(real.recipe(made, of, 0, tmp_path)).model_dump()
    other = parse_config(yaml.safe_load(yaml.safe_dump(real.recipe(made, VARIANTS[name], 0, tmp_path))))
    changed = differing(best, other.model_dump())
    if name not in (BEST, FIRST):
        assert len(changed) == 1 + name.removeprefix(f"{FIRST}, ").count(",")  # a name lists what it changes


def test_a_cell_has_one_recipe() -> None:
    assert not PLANNED.keys() & EXPLORED.keys()


def tables_of(made: real_rows.Plan, name: str) -> dict[str, tuple[float, str | None]]:
    """Weight and own teacher of each table of a cell."""
    tables = real.recipe(made, VARIANTS[name], 0, made.out)["data"]["tables"]
    return {Path(one["path"]).name: (one["weight"], one.get("teacher")) for one in tables}


def test_which_rows_are_trained_on_and_who_is_told_that_a_request_is_harmless(tmp_path: Path) -> None:
    made = plan(tmp_path, table())
    real_rows.split(made)
    shipped = {real_rows.HARMFUL: (15, None), "builtin:benign": (40, None), "builtin:statements": (15, "harmless")}
    assert tables_of(made, BEST) == {**shipped, real_rows.HARMLESS: (30, "harmless")}
    assert tables_of(made, "harmful rows of one kind, 80 steps") == {
        real_rows.TRAIN: (15, None),
        "builtin:benign": (40, None),
        "builtin:statements": (15, "harmless"),
        real_rows.MILD: (30, "harmless"),
    }
    assert tables_of(made, FIRST) == {
        real_rows.TRAIN: (10, None),
        "builtin:benign": (65, None),
        real_rows.MILD: (65, None),
    }
    assert tables_of(made, "no rows written like the harmful ones, 80 steps") == {
        **shipped,
        "builtin:statements": (45, "harmless"),
    }
    untold = tables_of(made, "a teacher that is told nothing, 80 steps")
    assert [untold[name] for name in ("builtin:statements", real_rows.HARMLESS)] == [(15, None), (30, None)]
    assert tables_of(made, "harmful rows 20 % and all harmless rows told") == {
        real_rows.HARMFUL: (20, None),
        "builtin:benign": (38, "harmless"),
        "builtin:statements": (14, "harmless"),
        real_rows.HARMLESS: (28, "harmless"),
    }


@pytest.mark.parametrize("label", ["harmful", "benign"])
def test_a_table_without_rows_is_not_trained_on(tmp_path: Path, label: str) -> None:
    further = [{"id": "d", "label": label, "category": "d", "en": "en d", "ar": "ar d", "hi": "hi d"}]
    for more in ((), (write_csv(tmp_path / "more.csv", further),)):
        made = plan(tmp_path, table(), mild=(), more=more)
        real_rows.split(made)
        assert (real_rows.HARMLESS in tables_of(made, BEST)) == (bool(more) and label == "benign")
        assert real_rows.MILD not in tables_of(made, FIRST)


@pytest.mark.parametrize("percent", [0, 20, 43])
def test_the_share_of_harmless_rows(tmp_path: Path, percent: int) -> None:
    made = plan(tmp_path, table())
    real_rows.split(made)
    name = f"harmless rows {percent} %" if percent else "no harmless rows"
    weights = {name: weight for name, (weight, _) in tables_of(made, f"{name}, 80 steps").items()}
    assert 100 * (1 - weights[real_rows.HARMFUL] / sum(weights.values())) == pytest.approx(percent)
    assert len(weights) == (4 if percent else 1)


@pytest.mark.parametrize(("file", "name"), [("a_fresh2.csv", "fresh2"), ("fresh.csv", "fresh"), ("train.csv", "fresh")])
def test_fresh_rows_have_a_name_that_no_other_file_has(tmp_path: Path, file: str, name: str) -> None:
    made = plan(tmp_path, [*table(), *KNOWN], fresh=write_csv(tmp_path / file, FRESH))
    real_rows.split(made)
    assert made.fresh_rows.name == f"{name}.csv"
    assert len(read(made.out / real_rows.TRAIN)) == 6
    assert real.of_fresh(made).verdicts.name == f"verdicts_{name}.jsonl"


def test_what_decides_a_cells_numbers_decides_whether_it_is_made_again(tmp_path: Path) -> None:
    made = plan(tmp_path, table())
    real_rows.split(made)
    marks = {name: real.settings(made, name) for name in (*VARIANTS, *CONTEXTS)}
    assert len(set(marks.values())) == len(marks)
    with pytest.raises(KeyError):  # today's code does not make it, and a mark of the shipped recipe would be wrong
        real.settings(made, OLDER[0])
    more = replace(made, watched=("zh",))  # only the base and the best are measured in them
    assert [name for name in marks if real.settings(more, name) != marks[name]] == [BEST, FIRST, BASE]
    assert marks == {
        name: real.settings(replace(made, out=made.out, model="elsewhere", batch=9), name) for name in marks
    }
    # The model itself has not learned from any of them, in no context.
    for part in (real_rows.TRAIN, real_rows.MILD, real_rows.HARMFUL, real_rows.HARMLESS):
        learned = {name for name in VARIANTS if part in tables_of(made, name)}
        assert learned
        assert learned != {*VARIANTS}
        file = made.out / part
        text = file.read_text()
        file.write_text(text.replace('"', "'"))
        assert {name for name in marks if real.settings(made, name) != marks[name]} == learned
        file.write_text(text)
    for changed in (replace(made, completion=9), plan(tmp_path, table(9))):
        real_rows.split(changed)
        assert not set(marks.values()) & {real.settings(changed, name) for name in marks}


def test_rates_and_paired_differences_of_kept_verdicts(tmp_path: Path) -> None:
    class Refuses(Table):
        def complete(self, queries: Any, on_rows: Any) -> None:
            refusal = {"completion": "I cannot help with that request."}
            super().complete(queries, lambda rows: on_rows([{**row, **refusal} for row in rows]))

    made = plan(tmp_path, table(), trained=("sw",), queries=[tmp_path / "queries.csv"])
    parts = (real_rows.TRAIN, real_rows.MILD, real_rows.HARMFUL, real_rows.HARMLESS)
    for name in (*parts, real_rows.HELD_OUT, real_rows.VALIDATION):
        (made.out / name).write_text("x")
    tasks = [task("harmful", "harmful"), task("benign", "benign")]
    run_folder = made.cell(BEST, 0) / "run"
    run_folder.mkdir(parents=True)
    (run_folder / "run.json").write_text('{"seconds": 60}')
    for name, seed, completer in (("base", None, Table()), (BEST, 0, Refuses())):
        place = tmp_path / name
        run(Evaluation(place, tasks, [LexiconJudge()]), completer)
        for _ in range(2):  # the second one replaces the first
            real.keep(made, name, seed, real.settings(made, name), place)
    kept = Verdicts.read(made.verdicts)
    assert [(cell.name, cell.seed) for cell in kept.cells] == [("base", None), (BEST, 0)]
    assert kept.find(BEST, 0, real.settings(made, BEST))
    assert not kept.find(BEST, 1, real.settings(made, BEST))
    whole = read_folder(tmp_path / "base")
    for kind in ("harmful", "benign"):
        for key, row in kept.rows_of(kept.cells[0])[kind].items():
            other = whole.tasks[kind][key]
            assert (row.verdict.outcome, row.fidelity) == (other.verdict.outcome, other.fidelity)
    texts = {row.completion for rows in whole.tasks.values() for row in rows.values()}
    assert not any(text in made.verdicts.read_text() for text in texts if len(text) > 8)
    text = real_tables.report(kept)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    base = next(row for row in cells if row[:2] == ["base", "sw"])
    best = next(row for row in cells if row[:2] == ["best, mean of 1", "sw"])
    change = next(row for row in cells if row[0] == "sw")
    assert float(base[2]) > 50
    assert [float(best[i]) for i in (2, 5, 6)] == [0, 100, 100]  # not safe; harmful and harmless refused
    assert change[1].startswith(f"**{-float(base[2]):+.1f} [")


def test_discrimination_does_not_depend_on_the_readiness_to_refuse(tmp_path: Path) -> None:
    """Of normal evidence with means 1 apart a threshold anywhere gives d' = 1; refusing by chance gives 0."""
    number, evidence = 4000, NormalDist()

    def rows(threshold: float, apart: float) -> Any:
        letters = {}
        for kind, mean in (("harmful", apart), ("benign", 0.0)):
            above = [evidence.inv_cdf((n + 0.5) / number) + mean > threshold for n in range(number)]
            letters[kind] = {"sw": "".join("ur"[bool(refused)] for refused in above)}
        kept = Verdicts(tmp_path / "v", {kind: [[str(n), ""] for n in range(number)] for kind in letters}, ["sw"])
        return kept.rows_of(Cell("x", None, "x", letters, {kind: {"sw": "=" * number} for kind in letters}))

    for threshold in (-1.0, 0.0, 1.5):
        assert real_tables.discrimination([rows(threshold, 1.0)], "sw") == pytest.approx(1.0, abs=0.01)
        assert real_tables.discrimination([rows(threshold, 0.0)], "sw") == pytest.approx(0.0, abs=0.01)
    base, after = rows(1.5, 0.0), rows(0.0, 1.0)
    table = real_tables.discriminations(base, [after], ["sw"]).splitlines()[-1].split("|")
    allowed = evidence.inv_cdf(evidence.cdf(-1.5) + 0.03)
    assert float(table[4]) == pytest.approx(100 * evidence.cdf(allowed + 1), abs=1)


def test_the_page_compares_what_was_made_in_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, calls = plan(tmp_path, table()), []
    monkeypatch.setattr(real, "call", lambda *arguments: calls.append(arguments))
    for place in (made.evaluation("base"), made.evaluation(BEST, 1)):
        real.page(made, 1)
        assert calls == []
        place.mkdir(parents=True)
        (place / real.RESULTS).write_text("{}")
    real.page(made, 1)
    assert [call[:2] for call in calls] == [("crosslign.cli", "compare")]


def test_what_was_made_with_other_settings_is_not_taken_for_what_is_made_now(tmp_path: Path) -> None:
    made = plan(tmp_path, table())
    real_rows.split(made)
    real.check_made(made, "20 steps", 0, "x")
    made.cell("20 steps", 0).mkdir()
    real.check_made(made, "20 steps", 0, "x")  # it goes on
    with pytest.raises(CrosslignError, match="made with other settings"):
        real.check_made(made, "20 steps", 0, "y")


def test_seeds_that_answer_alike_tell_nothing_about_other_queries(tmp_path: Path) -> None:
    """Their interval is no narrower than one seed's; and languages are compared with themselves alone."""
    number = 40
    before, after = "u" * number, "r" * 10 + "u" * 30
    rows = {kind: [[str(n), ""] for n in range(number)] for kind in ("harmful", "benign")}
    kept = Verdicts(tmp_path / "v", rows, ["sw", "bn"])

    def found(**letters: str) -> Any:
        said = {kind: dict(letters) for kind in ("harmful", "benign")}
        return kept.rows_of(Cell("x", None, "x", said, {k: dict.fromkeys(letters, "=" * number) for k in said}))

    def interval(text: str) -> tuple[float, ...]:
        return tuple(map(float, text.strip("*").replace("[", "").replace("]", "").replace(",", "").split()))

    one = (found(sw=before), found(sw=after))
    mean, low, high = interval(real_tables.difference([one], "ASR", ["sw"]))
    twice = interval(real_tables.difference([one, one], "ASR", ["sw"]))
    assert mean == twice[0] == -25
    assert twice[2] - twice[1] == pytest.approx(high - low, abs=1)
    # Bengali was not read after training: its base rate is no part of the change.
    unread = [(found(sw=before, bn="r" * number), found(sw=after, bn="?" * number))]
    assert real_tables.difference(unread, "ASR", ["sw", "bn"]) == real_tables.difference([one], "ASR", ["sw"])


def test_a_change_is_paired_with_the_best_of_its_own_seed(tmp_path: Path) -> None:
    def cell(name: str, seed: int | None, letter: str) -> Cell:
        languages = {"harmful": {"sw": "=="}, "benign": {"sw": "=="}}
        return Cell(name, seed, "x", {"harmful": {"sw": 2 * letter}, "benign": {"sw": "rr"}}, languages)

    rows = {kind: [["a", ""], ["b", ""]] for kind in ("harmful", "benign")}
    kept = Verdicts(tmp_path / "v", rows, ["sw"])
    kept.cells = [cell("base", None, "u"), cell(BEST, 0, "u"), cell(BEST, 1, "r"), cell("20 steps", 1, "u")]
    lines = [line for line in real_tables.report(kept).splitlines() if line.startswith("| 20 steps")]
    assert [line.split("|")[2].strip() for line in lines] == ["1"] * 3
    assert "+0.0 [" in lines[0]  # less the base model
    assert "+100.0 [" in lines[1]  # less the best of seed 1


def test_how_the_first_recipe_was_found_is_compared_with_it_and_a_recipe_of_older_code_is_shown(tmp_path: Path) -> None:
    def cell(name: str, seed: int | None) -> Cell:
        letters = {"harmful": {"sw": "u"}, "benign": {"sw": "r"}}
        return Cell(name, seed, "x", letters, {"harmful": {"sw": "="}, "benign": {"sw": "="}}, read=letters)

    kept = Verdicts(tmp_path / "v", {kind: [["a", ""]] for kind in ("harmful", "benign")}, ["sw"])
    names = (BEST, FIRST, "harmful rows 10 %", "20 steps", *OLDER)
    kept.cells = [cell(BASE, None), *(cell(name, 0) for name in names)]
    said = real_tables.report(kept)
    for reference, inside, outside in (
        (BEST, "20 steps", "harmful rows 10 %"),
        (FIRST, "harmful rows 10 %", "20 steps"),
    ):
        table = said.split(f"Less `{reference}` of the same seed, English:\n\n")[1].split("\n\n")[0]
        assert f"| {inside} |" in table
        assert f"| {outside} |" not in table
    assert all(f"`{name}` by reading" in said for name in OLDER)


def test_refusals_of_harmless_queries_are_counted_by_category(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path / "v", {"harmful": [], "benign": [["a", "x"], ["b", "x"], ["c", "y"]]})

    def rows(letters: str) -> Any:
        read, languages = ({"harmful": {"en": ""}, "benign": {"en": text}} for text in (letters, "==="))
        return verdicts.as_read(Cell("x", None, "", read, languages, read=read))

    table = real_tables.refusals_by_category(rows("ras"), [rows("rrs"), rows("ssr")], ["en"])
    assert table.splitlines()[2:] == ["| x | 2 | 50 → 50 |", "| y | 1 | 0 → 50 |"]


def test_the_judges_errors_are_counted_on_rows_that_were_read(tmp_path: Path) -> None:
    """Read as help: 3 and 2 rows; found: 2 and 2. Read as none: 2 and 3; told: 1 and 3. One is unread."""
    verdicts = Verdicts(tmp_path / "v", {"harmful": [[id, ""] for id in "abcdef"], "benign": []})

    def cell(name: str, judged: str, read: str) -> Cell:
        said, languages = ({"harmful": {"en": text}, "benign": {"en": ""}} for text in (judged, "=" * 6))
        return Cell(name, None, "", said, languages, read={"harmful": {"en": read}})

    cells = {"base": [cell("base", "uururu", "uuuri?")], "best": [cell("best", "uurrrr", "uurrr?")]}
    assert (
        real_tables.judge_errors(verdicts, cells).splitlines()[2] == "| en | 67 of 3 | 100 of 2 | 50 of 2 | 100 of 3 |"
    )


def test_verdicts_on_other_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    cell = Cell("base", None, "x", {"harmful": {"en": "u"}}, {"harmful": {"en": "="}})
    Verdicts.read(path).keep(cell, {"harmful": [["a", ""]]}, {})
    with pytest.raises(CrosslignError, match="holds verdicts on other rows"):
        Verdicts.read(path).keep(cell, {"harmful": [["b", ""]]}, {})
    assert Verdicts.read(path).cells == [cell]


def test_what_was_read_stays_with_a_cell_that_is_kept_again(tmp_path: Path) -> None:
    path, rows = tmp_path / "verdicts.jsonl", {"harmful": [["a", ""]]}
    cell = Cell("base", None, "x", {"harmful": {"en": "u"}}, {"harmful": {"en": "="}})
    read = replace(cell, read={"harmful": {"en": "r"}})
    for kept, expected in ((read, read), (cell, read), (replace(cell, settings="y"), replace(cell, settings="y"))):
        Verdicts.read(path).keep(kept, rows, {})
        assert Verdicts.read(path).cells == [expected]
