"""`crosslign bench`: which cells there are, how they are made and go on, and every bad input before hours are spent."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bench_files import ANSWER, bench_raw, finish, write_bench
from helpers import no_weights

from crosslign.cli import main
from crosslign.evaluation.stages import RESULTS
from crosslign.runs.bench import bench as bench_module
from crosslign.runs.bench import make
from crosslign.runs.bench.cells import EVALUATION, Cell, cells_of, shard_of
from crosslign.runs.bench.check import check_inputs
from crosslign.runs.bench.config import load_bench
from crosslign.storage import LOCK, locked
from crosslign.types import CrosslignError, Interrupted


@pytest.fixture
def raw(tmp_path: Path, model_folder: Path) -> dict[str, Any]:
    return bench_raw(tmp_path, model_folder)


def cells(folder: Path, raw: dict[str, Any]) -> list[Cell]:
    return cells_of(load_bench(write_bench(folder, raw)))


def names(cells: list[Cell]) -> list[str]:
    return [cell.name for cell in cells]


def bench(folder: Path, raw: dict[str, Any], *flags: str) -> int:
    return main(["bench", str(write_bench(folder, raw)), *flags])


def scripted(monkeypatch: pytest.MonkeyPatch, fails: str = "", *, tables: bool = False) -> list[str]:
    """From now on a cell is made at once, without a model; the list names those that were begun. One of the method
    `fails` raises. Only with `tables` are there rows, and tables of them."""
    begun: list[str] = []
    if not tables:
        monkeypatch.setattr(bench_module, "write_tables", lambda bench, *_: Path(bench.out) / "tables.html")

    def made(cell: Cell, announce: Any) -> None:
        begun.append(cell.name)
        if cell.method == fails:
            raise RuntimeError("CUDA out of memory")
        if tables:
            finish(cell, lambda *_: ANSWER)
        else:
            (cell.folder / EVALUATION).mkdir(exist_ok=True)
            (cell.folder / EVALUATION / RESULTS).write_text("{}")

    monkeypatch.setattr(make, "_make", made)
    return begun


def test_what_trains_nothing_is_measured_once_and_all_else_with_every_seed(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["methods"]["steer"] = {"steer": {}}
    assert names(cells(tmp_path, raw)) == [
        "tiny / base / seed 0",
        *(f"tiny / {method} / seed {seed}" for method in ("msd", "sft") for seed in (0, 1)),
        "tiny / prompt / seed 0",
        *(f"tiny / steer / seed {seed}" for seed in (0, 1)),
    ]  # fmt: skip
    assert len(cells(tmp_path, {**raw, "temperature": 0.7})) == 10  # other seeds, other answers
    raw["models"] = {"tiny": {"model": {"path": f"{tmp_path}/{{seed}}/model"}}}
    found = cells(tmp_path, raw)
    assert len(found) == 10
    assert {cell.config.model.path for cell in found} == {f"{tmp_path}/{seed}/model" for seed in (0, 1)}


def test_a_methods_changes_lie_over_the_models_and_those_over_the_recipe(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["recipe"]["objective"] = {"divergence": "jsd", "beta": 0.1, "weighting": "uniform"}
    changes = {"path": raw["models"]["tiny"]}
    raw["models"] = {"tiny": {"model": changes, "objective": {"beta": 0.2, "weighting": "teacher"}}}
    raw["methods"] = {"msd": {"objective": {"weighting": "student"}}}
    cell = cells(tmp_path, raw)[-1]
    objective = cell.config.objective
    assert (objective.divergence, objective.beta, objective.weighting) == ("jsd", 0.2, "student")
    assert cell.config.data.languages == ["en", "sw"]
    assert cell.config.seed == 1


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_the_shards_are_the_whole_and_share_no_cell(raw: dict[str, Any], tmp_path: Path, number: int) -> None:
    found = cells(tmp_path, raw)
    shards = [names(shard_of(found, f"{i}/{number}")) for i in range(number)]
    assert sorted(name for shard in shards for name in shard) == sorted(names(found))
    for wrong in (f"{number}/{number}", "1", "a/b", "-1/2", "1/0"):
        with pytest.raises(CrosslignError, match="--shard"):
            shard_of(found, wrong)


def methods(**changes: Any) -> dict[str, Any]:
    return {"methods": {"msd": {}, **changes}}


FIGURE = {"model": "tiny", "method": "mds", "task": "x", "value": 1}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown method": (methods(x={"method": "sfft"}), "tiny / x: .*unknown method 'sfft'. Did you mean 'sft'"),
    "a method's option": (methods(x={"method": {"name": "dpo", "options": {"bta": 1}}}), "takes no option 'bta'"),
    "unknown strategy": (methods(x={"strategy": {"name": "of_policy"}}), "Did you mean 'off_policy'"),
    "names of one folder": (methods(MSD={}), "'msd' and 'MSD' would share a folder"),
    "an empty name": ({"methods": {" ": {}}}, "a name is empty"),
    "a method called base": (methods(Base={}), "measured anyway"),
    "unknown key": ({"sedes": [1]}, "unknown key 'sedes'. Did you mean 'seeds'"),
    "unknown key of a method": (methods(x={"objectiv": {}}), "methods.x: unknown key 'objectiv'. .* 'objective'"),
    "unknown key of a recipe": (methods(x={"objective": {"weigthing": 1}}), "Did you mean 'weighting'"),
    "unknown key of a prompt": (methods(x={"context": "teacher", "templat": "x"}), "Did you mean 'template'"),
    "keys of two kinds": (methods(x={"context": "teacher", "method": "sft"}), "Make two methods"),
    "a reference that is no method": ({"reference": "msdd"}, "there is no method 'msdd'. Did you mean 'msd'"),
    "seeds twice": ({"seeds": [0, 1, 0]}, "the seed 0 is there twice"),
    "no seeds": ({"seeds": []}, "seeds"),
    "no models": ({"models": {}}, "models"),
    "a task twice": ({"tasks": ["builtin:demo", "builtin:demo"]}, "a task is there twice"),
    "two tasks of one title": ({"tasks": [{"name": n, "title": "x"} for n in ("xstest", "aya")]}, "one title"),
    "unknown task": ({"tasks": ["multijial"]}, "Did you mean 'multijail'"),
    "unknown judge": ({"judge": "lexcon"}, "Did you mean 'lexicon'"),
    "unknown language": ({"languages": ["en", "xx-klingon"]}, "xx-klingon"),
    "unknown template": (methods(x={"context": "teacher", "template": "sytem"}), "sytem"),
    "a table that is not there": ({"tasks": ["table:nowhere.csv"]}, "nowhere.csv"),
    "a model that is not there": ({"models": {"tiny": "./nowhere"}}, "no folder ./nowhere"),
    "utility without its benchmark": ({"utility": {"tasks": ["mgms"]}}, "mgms"),
    "a figure of no method": ({"published": [FIGURE]}, "Did you mean 'msd'"),
    "not said what is trained": ({"trained": None}, "trained"),
    "a student's own messages": (
        methods(x={"student": {"messages": [{"role": "user", "content": "So: {query}"}]}}),
        "tiny / x: student.messages: a bench asks every model as crosslign eval does",
    ),
    "a student's own chat options": (
        {"models": {"tiny": {"model": {"path": "some/model"}, "student": {"chat_template_kwargs": {"tools": True}}}}},
        "tiny / base: student.chat_template_kwargs: ",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_before_anything_is_made(
    raw: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    no_weights(monkeypatch)
    changes, message = BAD[case]
    assert bench(tmp_path, {**raw, **changes}) == 1
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert "Traceback" not in said
    assert not Path(raw["out"]).exists()


def test_a_name_that_is_there_twice(raw: dict[str, Any], tmp_path: Path) -> None:
    path = write_bench(tmp_path, raw)
    path.write_text(path.read_text(encoding="utf-8").replace("  sft:\n", "  msd:\n"), encoding="utf-8")
    with pytest.raises(CrosslignError, match="the key 'msd' is there twice"):
        load_bench(path)


def test_a_method_whose_package_cannot_be_imported(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a plugin's whose own extra is not installed."""
    (tmp_path / "needy.py").write_text("import a_package_that_nobody_has\n")
    info = tmp_path / "needy-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: needy\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[crosslign.methods]\nneedy = needy:Method\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert bench(tmp_path, {**raw, "methods": {"msd": {}, "x": {"method": "needy"}}}) == 1
    said = capsys.readouterr().err
    assert "tiny / x: method 'needy'" in said
    assert "a_package_that_nobody_has" in said


def test_a_folder_of_something_else_or_of_another_bench_is_left_alone(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = scripted(monkeypatch)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    assert bench(tmp_path, raw, "--out", str(other)) == 1
    assert "holds no bench of crosslign" in capsys.readouterr().err
    assert bench(tmp_path, raw) == 0
    made = len(begun)
    titles = [{**task, "title": "another title", "harder": True} for task in raw["tasks"]]
    judge = {"names": ["lexicon"], "batch_size": 2}
    assert bench(tmp_path, {**raw, "batch_size": 3, "judge": judge, "tasks": titles}) == 0
    assert bench(tmp_path, {**raw, "max_completion_length": 5, "trained": ["en"]}) == 1
    assert "holds another bench: trained, max_completion_length differ" in capsys.readouterr().err
    assert len(begun) == made
    assert bench(tmp_path, {**raw, "max_completion_length": 5}, "--overwrite") == 0
    assert len(begun) == 2 * made
    assert bench(tmp_path, {**raw, "max_completion_length": 5}) == 0
    assert len(begun) == 2 * made


def test_cells_of_other_settings_are_named_and_made_anew_when_asked_to(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = scripted(monkeypatch)
    assert bench(tmp_path, raw) == 0
    raw["methods"]["sft"] = {"method": "sft", "training": {"max_steps": 3}}
    begun.clear()
    assert bench(tmp_path, raw) == 1
    assert "made with other settings (recipe differ)" in capsys.readouterr().err
    assert bench(tmp_path, raw, "--overwrite") == 0
    assert begun == [f"tiny / sft / seed {seed}" for seed in (0, 1)]
    begun.clear()
    raw["methods"]["more"] = {"strategy": {"name": "off_policy"}}
    assert bench(tmp_path, raw, "--seeds", "[0, 1, 2]") == 0  # what comes to it is made, and what is there stays
    assert begun == [*(f"tiny / {m} / seed 2" for m in ("msd", "sft")), *(f"tiny / more / seed {s}" for s in (0, 1, 2))]


@pytest.mark.parametrize(
    ("part", "kept"), [("evaluation", True), ("utility", True), ("asked", True), ("recipe", False), ("weights", False)]
)
def test_what_was_trained_stays_where_only_other_things_are_measured(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, kept: bool
) -> None:
    begun = scripted(monkeypatch)
    assert bench(tmp_path, raw) == 0
    (cell,) = (cell for cell in cells(tmp_path, raw) if cell.name == "tiny / msd / seed 0")
    (cell.folder / "run").mkdir()
    old = cell.folder / EVALUATION / "old.txt"
    old.write_text("what was measured before")
    cell.update(settings={**cell.settings(), part: "other"})
    begun.clear()
    assert bench(tmp_path, raw, "--overwrite") == 0
    assert begun == [cell.name]
    assert (cell.folder / "run").exists() == kept
    assert not old.exists()


def test_what_decides_a_cells_numbers_is_what_it_uses(raw: dict[str, Any], tmp_path: Path) -> None:
    """More steps are nothing to what is not trained, other tables nothing to what learns nothing."""
    raw["methods"]["steer"] = {"steer": {}}

    def marks(raw: dict[str, Any]) -> dict[str, dict[str, str]]:
        return {cell.name: cell.settings() for cell in cells(tmp_path, raw)}

    before = marks(raw)
    training = {**raw["recipe"]["training"], "max_steps": 9}
    longer = marks({**raw, "recipe": {**raw["recipe"], "training": training}})
    trained = {name for name in before if "/ msd /" in name or "/ sft /" in name}
    assert {name for name in before if before[name] != longer[name]} == trained
    (tmp_path / "queries.csv").write_text((tmp_path / "heldout.csv").read_text(encoding="utf-8"), encoding="utf-8")
    found = [cell.settings() for cell in cells_of(load_bench(tmp_path / "bench.yaml"))]
    other = {name for name, now in zip(before, found, strict=True) if now != longer[name]}
    assert other == {name for name in before if "/ base /" not in name and "/ prompt /" not in name}


def test_what_changes_no_number_makes_no_other_cell(raw: dict[str, Any], tmp_path: Path) -> None:
    """Of a server that has moved, or of a batch that was too large for the memory."""
    raw["utility"] = {"tasks": ["mgsm"]}
    gate = {"judge": {"names": ["llm:judge"], "url": "http://here:1/v1"}}
    raw["recipe"] |= {"rollouts": {"backend": "vllm", "url": "http://here:2"}, "gate": gate}

    def marks(**changes: Any) -> list[dict[str, str]]:
        return [cell.settings() for cell in cells(tmp_path, {**raw, **changes})]

    before = marks()
    moved = {
        "rollouts": {"backend": "vllm", "url": "http://there:2", "timeout_seconds": 9, "adapter_dir": "elsewhere"},
        "gate": {"judge": {**gate["judge"], "url": "http://there:1/v1", "api_key_env": "KEY", "concurrency": 2}},
        "log_rollouts": 0,
    }
    assert marks(batch_size=3, recipe={**raw["recipe"], **moved}) == before
    for other in ({"gate": {"judge": {**gate["judge"], "rubric": "strongreject"}}}, {"sampling": {"batch_size": 1}}):
        found = marks(recipe={**raw["recipe"], **other})
        trained = [cell.untrained is None for cell in cells(tmp_path, raw)]
        assert [now != old for now, old in zip(found, before, strict=True)] == trained


TEMPLATE = "messages: [{{role: user, content: '{say} {{source_query}} {{query}}'}}]\n"


def test_what_a_file_holds_decides_and_not_its_name_alone(
    raw: dict[str, Any], tmp_path: Path, model_folder: Path
) -> None:
    names = ("model", "template.yaml", "told.yaml", "wrapper.txt", "ids.csv")
    model, template, told, wrapper, table = (tmp_path / name for name in names)
    shutil.copytree(model_folder, model)
    template.write_text(TEMPLATE.format(say="Read:"))
    told.write_text(TEMPLATE.format(say="Harmless:"))
    wrapper.write_text("Now: {query}")
    table.write_text("id,answer,en\n1,2,x\n")
    raw |= {"models": {"tiny": str(model)}, "utility": {"tasks": ["mgsm"], "paths": {"mgsm": str(table)}}}
    raw["recipe"]["teacher"] = {"template": str(template)}
    raw["recipe"]["data"]["tables"].append({"path": "builtin:benign", "teacher": str(told)})
    raw["methods"]["prompt"] = {"context": "teacher", "template": str(template)}
    raw["methods"]["steer"] = {"steer": {}}
    raw["tasks"] += [{"name": "multijail_intentional", "options": {"wrapper": str(wrapper)}}]
    found = cells(tmp_path, raw)
    for cell in found:
        cell.update(settings=cell.settings())

    def differing() -> dict[str, set[str]]:
        return {cell.method: {*cell.differences()} for cell in found}

    none: dict[str, set[str]] = {method: set() for method in ("base", "msd", "sft", "prompt", "steer")}
    with_template = {"msd", "sft", "prompt"}
    for path, text, part, methods in (
        (tmp_path / "heldout.csv", None, "asked", {*none}),
        (wrapper, "Then: {query}", "asked", {*none}),
        (table, "id,answer,en\n1,3,x\n", "asked", {*none} - {"prompt"}),  # of which no utility is measured
        (template, TEMPLATE.format(say="See:"), "template", with_template),
        (told, TEMPLATE.format(say="Mild:"), "template", {"msd", "sft"}),
        (model / "config.json", None, "weights", {*none}),
    ):
        before = path.read_bytes()
        path.write_bytes(before + b"\n" if text is None else text.encode())
        assert differing() == {method: {part} if method in methods else set() for method in none}, path
        (place := model if part == "weights" else path).rename(tmp_path / "gone")
        assert differing() == none, path  # tables may be made where the files are not
        (tmp_path / "gone").rename(place)
        path.write_bytes(before)
        assert differing() == none, path


def test_languages_of_a_methods_own_stay_its_own(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["methods"]["more"] = {"data": {"languages": ["sw", "bn"]}}
    trained = {cell.method: cell.config.data.languages for cell in cells(tmp_path, raw)}
    assert trained == {"base": ["en", "sw"], "msd": ["en", "sw"], "sft": ["en", "sw"], "prompt": ["en", "sw"],
                       "more": ["sw", "bn"]}  # fmt: skip


def test_utility_is_checked_though_the_first_cell_to_make_has_none(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["utility"] = {"tasks": ["mgms"]}
    prompt, *others = sorted(cells(tmp_path, raw), key=lambda cell: cell.method != "prompt")
    assert prompt.utility is None
    assert check_inputs([prompt]) == []
    (wrong,) = check_inputs([prompt, *others])
    assert "mgms" in wrong


def test_a_cell_that_fails_is_recorded_and_stops_no_other(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw["languages"] = ["sw"]
    scripted(monkeypatch, fails="msd", tables=True)
    assert bench(tmp_path, raw) == 1
    out = Path(raw["out"])
    assert "4 made, 2 failed" in capsys.readouterr().out
    failed = cells(tmp_path, raw)[1]
    assert failed.state() == "failed"
    assert "CUDA out of memory" in failed.record()["error"]
    assert "RuntimeError" in (failed.folder / "error.txt").read_text()
    assert "CUDA out of memory" in (out / "tables.md").read_text()
    assert bench(tmp_path, raw, "--plan") == 0
    assert "failed: RuntimeError: CUDA out of memory" in capsys.readouterr().out
    begun = scripted(monkeypatch)
    assert bench(tmp_path, raw) == 0
    assert begun == ["tiny / msd / seed 0", "tiny / msd / seed 1"]
    assert not (failed.folder / "error.txt").exists()
    (failed.folder / EVALUATION / RESULTS).unlink()  # as a user who wants it measured again
    begun.clear()
    assert bench(tmp_path, raw) == 0
    assert begun == ["tiny / msd / seed 0"]


def test_ctrl_c_ends_the_bench_and_the_cell_goes_on_next_time(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(cell: Cell, announce: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(make, "_make", stopped)
    found = cells(tmp_path, raw)
    with pytest.raises(Interrupted):
        make.make_cells(found)
    assert [cell.state() for cell in found] == ["begun", *["open"] * 5]
    begun = scripted(monkeypatch)
    assert make.make_cells(found) == {"made": 6}
    assert len(begun) == 6


def test_a_cell_that_another_process_makes_is_left_to_it(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = scripted(monkeypatch)
    found = cells(tmp_path, raw)
    with locked(found[2].folder / LOCK):
        counts = make.make_cells(found)
    assert counts == {"made": 5, "elsewhere": 1}
    assert found[2].name not in begun


def test_the_plan_makes_nothing_and_says_what_is_missing(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_weights(monkeypatch)
    raw["models"]["large"] = "some/model-of-the-hub"
    raw["tasks"] += ["multijail"]
    raw["languages"] = ["en", "sw", "bn"]
    assert bench(tmp_path, raw, "--plan") == 0
    said = capsys.readouterr().out
    assert "12 cells, 12 to make" in said
    assert "- large: " in said
    assert "MultiJail.csv could not be fetched" in said
    assert "held" not in said.partition("Needed before")[2]
    assert not Path(raw["out"]).exists()
    assert bench(tmp_path, raw) == 1  # and what is missing stops the real thing
    assert "large: " in capsys.readouterr().err


def numbers(out: Path) -> list[dict[str, str]]:
    """But for the hours, which no two runs share."""
    with (out / "numbers.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["scope"] != "hours"]


@pytest.mark.processes
def test_a_bench_of_real_cells_killed_and_in_shards_is_the_same_as_at_once(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["methods"]["steer"] = {"steer": {"queries": 4}}
    raw["seeds"] = [0]
    assert bench(tmp_path, raw, "--out", str(tmp_path / "whole")) == 0
    whole = numbers(tmp_path / "whole")
    assert {row["method"] for row in whole} == {"base", "msd", "sft", "prompt", "steer"}
    command = [sys.executable, "-m", "crosslign.cli", "bench", str(write_bench(tmp_path, raw))]
    first = subprocess.Popen(command, start_new_session=True)
    checkpoint = tmp_path / "out" / "cells" / "tiny" / "msd" / "seed-0" / "run" / "checkpoint-1" / "manifest.json"
    while not checkpoint.exists() and first.poll() is None:
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert json.loads((checkpoint.parents[2] / "cell.json").read_text())["status"] in ("running", "finished")
    for shard in ("1/2", "0/2"):
        assert bench(tmp_path, raw, "--shard", shard) == 0
    assert numbers(tmp_path / "out") == whole


ROOT = Path(__file__).parents[2]


def test_the_papers_bench_passes_its_dry_run_without_a_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    found = cells_of(load_bench("benchmarks/paper.yaml"))
    assert main(["bench", "benchmarks/paper.yaml", "--plan"]) == 0
    said = capsys.readouterr().out
    assert f"{len(found)} cells" in said
    for needed in ("queries.csv", "pku_saferlhf.jsonl", "MultiJail.csv", "Qwen/Qwen3-8B", "Qwen3Guard"):
        assert needed in said.partition("Needed before")[2]
    assert {cell.config.method.name for cell in found} >= {"msd", "sft", "dpo", "mpo", "self_defence"}
    assert {cell.utility.batch_size for cell in found if cell.utility} == {32}


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("testbed*.yaml")), ids=lambda path: path.stem)
def test_a_bench_on_the_testbed_has_a_world_for_each_seed(path: Path) -> None:
    recipe = {
        "model": {"path": "{seed}/base", "finetuning": "full"},
        "data": {"tables": [{"path": "{seed}/x.csv"}], "languages": ["en"]},
    }
    bench = load_bench(path, ["--recipe", json.dumps(recipe)])
    found = cells_of(bench)
    assert len(found) == len(bench.seeds) * (1 + len(bench.methods))
    for cell in found:
        assert cell.config.model.path == f"{cell.seed}/base"
        (judge,) = cell.evaluation.judge.names
        assert judge in (f"testbed:{cell.seed}", f"testbed:polite-{cell.seed}")
        assert f"/{cell.seed}/harmful.csv" in cell.evaluation.tasks[0].name
