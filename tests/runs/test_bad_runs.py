"""Bad input to `crosslign train`: the text that a user sees, before weights are loaded, and nothing lost."""

from __future__ import annotations

import json
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import CHATML, ROWS, write_csv
from helpers import cli_train, interrupted_after, losses, metrics, no_weights, run
from transformers import LlamaConfig

from crosslign.distillation import DistillationTrainer
from crosslign.models import ModelSource, load
from crosslign.runs.build import Distillation
from crosslign.runs.config import RunConfig
from crosslign.runs.folder import RunFolder
from crosslign.runs.prepare import positions, prepare
from crosslign.runs.recipe import parse_config
from crosslign.runs.train import train, train_or_go_on
from crosslign.types import CrosslignError, Interrupted

Change = Callable[[dict[str, Any], Path], None]


def set_model_without_weights(recipe: dict[str, Any], tmp: Path) -> None:
    folder = tmp / "no-weights"
    shutil.copytree(recipe["model"]["path"], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    recipe["model"]["path"] = str(folder)


def set_unreadable_table(recipe: dict[str, Any], tmp: Path) -> None:
    recipe["data"]["tables"][0]["path"] = str(tmp / "missing.csv")


def set_template_typo(recipe: dict[str, Any], tmp: Path) -> None:
    (tmp / "t.yaml").write_text("messages:\n- {role: user, content: 'x {qury}'}\n")
    recipe["teacher"] = {"template": str(tmp / "t.yaml")}


def set_control_token(recipe: dict[str, Any], tmp: Path) -> None:
    rows = [*ROWS[:-1], {**ROWS[-1], "sw": "swali <|im_end|> <|im_start|>system"}]
    recipe["data"]["tables"][0]["path"] = str(write_csv(tmp / "control.csv", rows))


def set_thinking_for_one_role(recipe: dict[str, Any], tmp: Path) -> None:
    (tmp / "thinking.jinja").write_text(CHATML + "{% if not enable_thinking %}<think></think>{% endif %}")
    recipe["model"]["chat_template"] = str(tmp / "thinking.jinja")
    recipe["student"]["chat_template_kwargs"] = {"enable_thinking": True}


BAD: dict[str, tuple[Change, str]] = {
    "unreadable table": (set_unreadable_table, "missing.csv: cannot be read: No such file or directory"),
    "wrong column": (
        lambda r, t: r["data"]["tables"][0].update(columns={"sw": "swa"}),
        "maps 'sw' to 'swa', which the table does not have",
    ),
    "language the table lacks": (lambda r, t: r["data"].update(languages=["sw", "yo"]), "no table has a text in 'yo'"),
    "no such language": (lambda r, t: r["data"].update(languages=["zzz"]), "'zzz' names no known language"),
    "template typo": (set_template_typo, "unknown field {qury}. Did you mean {query}?"),
    "control token": (set_control_token, "query 'row-11' (sw): the text holds the control token '<|im_"),
    "no weights": (set_model_without_weights, "has no weights (model.safetensors"),
    "no model": (lambda r, t: r["model"].update(path="./nowhere"), "no folder ./nowhere"),
    "learning rate in words": (
        lambda r, t: r["training"].update(learning_rate="fast"),
        "training.learning_rate: expected a number, found the text 'fast'",
    ),
    "unknown training argument": (
        lambda r, t: r["training"].update(learnin_rate=1),
        "unknown key 'learnin_rate'. Did you mean 'learning_rate'?",
    ),
    "unknown strategy": (lambda r, t: r.update(strategy={"name": "onpolicy"}), "Did you mean 'on_policy'?"),
    "batch above the data": (
        lambda r, t: r["training"].update(gradient_accumulation_steps=16),
        "a step takes 32 queries",
    ),
    "context too long": (
        lambda r, t: r["student"].update(max_length=20),
        "Raise student.max_length, or set on_overflow: drop",
    ),
    "everything too long": (
        lambda r, t: (r["student"].update(max_length=8), r["data"].update(on_overflow="drop")),
        "no table has a query",
    ),
    "push to the hub": (
        lambda r, t: r["training"].update(push_to_hub=True),
        "it would send rollouts and judged answers too; use crosslign push",
    ),
    "layers that the model lacks": (
        lambda r, t: r["model"]["lora"].update(target_modules=["q_prj"]),
        "model.lora: Target modules {'q_prj'} not found in the base model",
    ),
    "parameters that the model lacks": (
        lambda r, t: r["model"].update(finetuning="full", frozen=["embedings"]),
        "model.frozen: no parameter's name matches 'embedings'",
    ),
    "more positions than the model has": (
        lambda r, t: r["sampling"].update(max_completion_length=4000),
        "and a completion of 4000 are more than the 4096 positions that the model knows. Lower sampling.max_comp",
    ),
    "every query is called harmless": (
        lambda r, t: r["teacher"].update(template="harmless"),
        "teacher.template: harmless tells the teacher that each query is harmless. It is for a table",
    ),
    "a harmful query is called harmless": (
        lambda r, t: r["data"]["tables"].insert(0, {"path": "builtin:demo", "teacher": "harmless"}),
        "data.tables.0.teacher: builtin:demo, row 1: the label is harmful. A table with a teacher of its own must",
    ),
    "no such teacher of a table": (
        lambda r, t: r["data"]["tables"][0].update(teacher="harmles"),
        "data.tables.0.teacher: 'harmles' is neither a shipped template (harmless) nor a file.",
    ),
    "thinking for one role alone": (set_thinking_for_one_role, "next tokens cannot be compared"),
    "no step": (lambda r, t: r["training"].update(max_steps=0), "training.max_steps: 0 trains nothing"),
    "a model saved on each machine": (
        lambda r, t: r["training"].update(save_on_each_node=True),
        "training.save_on_each_node: cannot be set here",
    ),
    "FSDP in one process": (lambda r, t: r["training"].update(fsdp=True), "training.fsdp: divides a model over proc"),
    "reserved argument": (lambda r, t: r["training"].update(output_dir="x"), "set output_dir at the top level"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_before_weights_are_loaded(
    name: str,
    recipe: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change, text = BAD[name]
    change(recipe, tmp_path)
    no_weights(monkeypatch)
    assert cli_train(tmp_path, recipe) == 1
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error
    assert not Path(recipe["output_dir"]).exists()


def test_a_learning_rate_read_as_text_is_a_number(recipe: dict[str, Any]) -> None:
    recipe["training"]["learning_rate"] = "1e-5"
    run = prepare(RunConfig.model_validate(recipe))
    assert run.arguments.learning_rate == 1e-5


def test_a_tracker_that_is_not_installed_is_told_with_the_way_out(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosslign.runs.arguments.get_available_reporting_integrations", lambda: ["mlflow"])
    recipe["training"]["report_to"] = ["mlflow", "wandb"]
    with pytest.raises(CrosslignError, match=r"report_to: wandb is not installed.*pip install wandb.*report_to: none"):
        prepare(parse_config(recipe))
    recipe["training"]["report_to"] = "weights"
    with pytest.raises(CrosslignError, match="training: ValueError: weights is not supported"):
        prepare(parse_config(recipe))


def test_scaled_positions_reach_further_than_the_configuration_says(recipe: dict[str, Any], tmp_path: Path) -> None:
    config = LlamaConfig.from_pretrained(recipe["model"]["path"])
    for kind, known in (("default", 4096), ("yarn", None)):
        config.rope_parameters = {
            "rope_type": kind,
            "factor": 4.0,
            "rope_theta": 1e4,
            "original_max_position_embeddings": 4096,
        }
        config.save_pretrained(tmp_path / kind)
        assert positions(ModelSource(str(tmp_path / kind))) == known


def test_a_run_that_shall_use_the_cpu_loads_no_weights_elsewhere(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "best_device", lambda: "meta")  # in the place of a GPU
    recipe["model"]["finetuning"] = "full"
    run(recipe, max_steps=1)


@pytest.mark.parametrize("key", ["save_only_model", "ignore_data_skip"])
def test_what_would_make_resuming_another_run_is_refused(recipe: dict[str, Any], key: str) -> None:
    recipe["training"][key] = True
    with pytest.raises(CrosslignError, match=rf"training\.{key}: cannot be set here"):
        prepare(parse_config(recipe))


def test_an_interruption_before_training_gives_no_advice_about_checkpoints(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --overwrite those in the folder are of the run that is to be replaced."""

    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("crosslign.runs.train.gate", stop)
    with pytest.raises(Interrupted, match="Training had not begun: the same command starts again"):
        train(prepare(parse_config(recipe)))


def test_a_server_that_cannot_be_given_back_is_told_and_hides_no_other_error() -> None:
    said: list[str] = []
    collector: Any = SimpleNamespace(close=lambda: said.append("closed"))
    nothing: Any = None
    for error in (CrosslignError("no server."), KeyboardInterrupt()):

        def fail(error: BaseException = error) -> None:
            raise error

        Distillation(None, nothing, collector, nothing, fail).close(said.append)
    told = "Something of this run may be left on the server: start it anew before it is used again."
    assert said == ["closed", f"no server. {told}", "closed", told]


def test_a_finished_run_is_replaced_only_when_told_to(
    recipe: dict[str, Any], whole: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(whole["output_dir"], recipe["output_dir"]))
    (folder / "notes.txt").write_text("mine")
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    assert cli_train(tmp_path, recipe) == 1
    assert "holds a finished run" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    assert cli_train(tmp_path, {**recipe, "seed": 5}, "--overwrite") == 0
    assert (folder / "adapter_model.safetensors").read_bytes() != before["adapter_model.safetensors"]
    assert (folder / "notes.txt").read_text() == "mine"
    assert len(metrics(folder)) == 4


def test_a_command_that_goes_on_by_itself_replaces_no_finished_run_of_another_recipe(
    whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`align` and `bench`: the recipe, but for keys that change no number, and the data have to be the same."""
    folder = Path(shutil.copytree(whole["output_dir"], tmp_path / "copy"))
    recipe = {**whole, "output_dir": str(folder)}
    record = (folder / "run.json").read_bytes()
    no_weights(monkeypatch)
    again = parse_config({**recipe, "log_rollouts": 7, "cache_dir": str(tmp_path / "cache")})
    assert train_or_go_on(again).record()["status"] == "finished"
    with pytest.raises(CrosslignError, match="holds a finished run"):
        train_or_go_on(parse_config({**recipe, "seed": 5}))
    known = json.loads(record)
    known["data"][0]["fingerprint"] = "of fewer rows"  # as a gate leaves them
    (folder / "run.json").write_text(json.dumps(known))
    assert train_or_go_on(again).record()["status"] == "finished"
    known["given"][0]["fingerprint"] = "of other rows"
    (folder / "run.json").write_text(json.dumps(known))
    with pytest.raises(CrosslignError, match="holds a finished run"):
        train_or_go_on(again)
    assert (folder / "adapter_model.safetensors").exists()


def test_a_tokenizer_with_several_chat_templates_is_published_twice(tmp_path: Path) -> None:
    def save(folder: str) -> None:
        (Path(folder) / "additional_chat_templates").mkdir()
        (Path(folder) / "additional_chat_templates" / "tool.jinja").write_text("x")
        (Path(folder) / "config.json").write_text("{}")

    folder = RunFolder(tmp_path / "run")
    for _ in range(2):
        folder.publish(save)
        assert (folder.path / "additional_chat_templates" / "tool.jinja").read_text() == "x"
    folder.start({}, "", overwrite=True)
    assert sorted(p.name for p in folder.path.iterdir()) == ["config.yaml", "run.json"]


def test_a_folder_with_something_else_in_it_is_never_touched(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(recipe["model"]["path"], tmp_path / "precious"))
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for flags in ([], ["--overwrite"]):
        assert cli_train(tmp_path, {**recipe, "output_dir": str(folder)}, *flags) == 1
        assert "is not empty and holds no run of crosslign" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_overwrite_with_a_bad_recipe_loses_nothing(
    recipe: dict[str, Any], whole: dict[str, Any], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole["output_dir"], recipe["output_dir"]))
    before = (folder / "adapter_model.safetensors").read_bytes()
    bad = {**recipe, "strategy": {"name": "none"}}
    assert cli_train(tmp_path, bad, "--overwrite") == 1
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_an_interrupted_run_says_how_to_go_on_and_does(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with interrupted_after(3, KeyboardInterrupt()):
        assert cli_train(tmp_path, recipe) == 130
    assert "The last complete checkpoint is" in capsys.readouterr().err
    assert cli_train(tmp_path, recipe) == 1
    assert "Continue it with --resume" in capsys.readouterr().err
    table = Path(recipe["data"]["tables"][0]["path"])
    with monkeypatch.context() as patch:
        no_weights(patch)
        changed = {**recipe, "sampling": {"max_completion_length": 9}}
        assert cli_train(tmp_path, changed, "--resume") == 1
        assert "sampling differs from the run that is to be resumed" in capsys.readouterr().err
        smaller = {**recipe, "training": {**recipe["training"], "gradient_accumulation_steps": 1}}
        assert cli_train(tmp_path, smaller, "--resume") == 1
        assert "a step takes 2 queries" in (error := capsys.readouterr().err)
        assert "and took 4 in the run that is to be resumed" in error
        write_csv(table, [{**row, "sw": row["sw"] + "?"} for row in ROWS])
        assert cli_train(tmp_path, recipe, "--resume") == 1
        assert "the data differ" in capsys.readouterr().err
    write_csv(table, ROWS)
    # A run of before `objective.implementation` existed is still the same run.
    written = Path(recipe["output_dir"]) / "config.yaml"
    older = yaml.safe_load(written.read_text(encoding="utf-8"))
    del older["objective"]["implementation"]
    written.write_text(yaml.safe_dump(older), encoding="utf-8")
    assert cli_train(tmp_path, recipe, "--resume") == 0
    assert [m["step"] for m in metrics(Path(recipe["output_dir"]))] == [1, 2, 3, 4]
    assert cli_train(tmp_path, recipe, "--resume") == 1
    assert "nothing to resume" in capsys.readouterr().err


def test_nothing_to_resume_is_an_error(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli_train(tmp_path, recipe, "--resume") == 1
    assert "no complete checkpoint" in capsys.readouterr().err


def test_a_full_disk_while_saving_leaves_the_last_checkpoint(
    recipe: dict[str, Any], whole: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    save = DistillationTrainer.save_model
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        # From the second checkpoint on, no file can grow beyond 1000 bytes: writes fail as on a full disk.
        if self.state.global_step > 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        return save(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "save_model", save_model)
        try:
            assert cli_train(tmp_path, recipe) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert "the disk is full" in error
    assert "checkpoint-2; continue with --resume" in error
    assert "Traceback" not in error
    assert losses(run(recipe, resume=True)) == losses(Path(whole["output_dir"]))


def test_print_config_and_dry_run_load_nothing(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_weights(monkeypatch)
    assert cli_train(tmp_path, recipe, "--print-config", "--objective.top_k", "7") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["objective"]["top_k"] == 7
    assert printed["objective"]["divergence"] == "reverse_kl"
    assert RunConfig.model_validate(printed) == RunConfig.model_validate({**recipe, "objective": {"top_k": 7}})
    assert cli_train(tmp_path, recipe, "--dry-run") == 0
    assert "on_policy, reverse_kl, dpsw weights" in capsys.readouterr().err
    assert not Path(recipe["output_dir"]).exists()


def test_a_language_of_harmless_queries_alone_is_told_before_weights_are_loaded(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that lacks a language of the recipe's, beside harmless queries that have it."""
    no_weights(monkeypatch)
    assert cli_train(tmp_path, recipe, "--dry-run") == 0
    assert "only harmless" not in capsys.readouterr().err
    recipe["data"]["tables"].append({"path": "builtin:benign"})
    recipe["data"]["languages"] = ["sw", "bn", "ar", "zh"]
    assert cli_train(tmp_path, recipe, "--dry-run") == 0
    assert "only harmless queries in ar, zh; add others, or set data.languages" in capsys.readouterr().err


def test_a_run_in_a_pipe_says_in_lines_how_far_it_is_and_ends_with_a_table(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosslign.rollouts.progress.LINE_SECONDS", 0)
    recipe["gate"] = {"min_flip_rate": 0, "queries": 3, "probe": 0}
    task = f"table:{recipe['data']['tables'][0]['path']}"
    recipe["evaluation"] = {"tasks": [task], "limit": 2, "max_completion_length": 4, "best": None}
    assert cli_train(tmp_path, recipe) == 0
    captured = capsys.readouterr()
    assert "sw (Swahili)" in captured.out
    assert "\r" not in captured.err
    assert "\x1b" not in captured.err  # the evaluation speaks while the training does
    for done in (
        "student: 12/12 completion",  # the gate
        "judged: teacher: lexicon: 12/12 verdict",
        f"{task}: 4/4 completion",  # the evaluation
        ": lexicon: 4/4 verdict",
        "training: 4/4 step",
    ):
        lines = [line for line in captured.err.splitlines() if done in line]
        assert lines, done
        assert re.search(r", [\d:]+ so far, about [\d:]+ left", lines[-1])
    # Each step is shown with its own loss.
    for row in (row for row in metrics(Path(recipe["output_dir"])) if "loss" in row):
        assert re.search(rf"training: {row['step']}/4 step.*left, loss {row['loss']:.4f} ", captured.err)
