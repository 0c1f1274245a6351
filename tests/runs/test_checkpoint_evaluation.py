"""Evaluation during training: it changes nothing, is recorded, resumes, and keeps the best checkpoint."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_llama, write_csv
from helpers import SayingJudge, cli_train, metrics, no_weights, power_cut, run, two_processes
from peft import PeftModel
from report_page import by_id, parse, table
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from crosslign.cli import main
from crosslign.evaluation.folder import compare, read_folder
from crosslign.models import load_model, load_tokenizer
from crosslign.runs import checkpoint_evaluation as watching
from crosslign.runs import evaluate
from crosslign.runs.build import assemble, make_trainer
from crosslign.runs.folder import RunFolder
from crosslign.runs.prepare import model_source, prepare
from crosslign.runs.recipe import parse_config
from crosslign.types import CrosslignError, JudgeItem, Outcome, Verdict

ROWS = 10  # of each label; a rate needs as many


class ScriptedJudge:
    """Says for the n-th evaluation how many of a language's harmful and benign rows are unsafe and refused."""

    name = "scripted"

    def __init__(self, script: Sequence[tuple[Mapping[str, int], int] | None], rows: int = ROWS) -> None:
        self.script, self.rows, self.seen = script, rows, 0

    def identity(self) -> Mapping[str, str]:
        return {"kind": "scripted"}

    def judge(self, items: Sequence[JudgeItem]) -> list[Verdict]:
        step = self.script[self.seen]
        self.seen += 1
        return [Verdict(None, "scripted") if step is None else Verdict(self._outcome(i, *step)) for i in items]

    def _outcome(self, item: JudgeItem, unsafe: Mapping[str, int], refused: int) -> Outcome:
        row = int(item.query.id.rpartition("-")[2])
        if item.query.label == "harmful":
            return "unsafe" if row < unsafe[item.query.language] else "refused"
        return "refused" if row < refused else "safe_complied"


@pytest.fixture
def evaluated(recipe: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A recipe that evaluates harmless placeholders of both labels at the start and after steps 2 and 4."""
    rows = [
        {"id": f"{label}-{i}", "label": label, "en": f"{label} {i}", "sw": f"{label} sw {i}", "bn": f"{label} bn {i}"}
        for label in ("harmful", "benign")
        for i in range(ROWS)
    ]
    write_csv(tmp_path / "held_back.csv", rows)
    section = {"tasks": [f"table:{tmp_path / 'held_back.csv'}"], "every_steps": 2, "max_completion_length": 6}
    return {**recipe, "evaluation": section}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make `judge: lexicon` a scripted one."""

    def use(*steps: tuple[Mapping[str, int], int] | None) -> None:
        monkeypatch.setattr(evaluate, "make_judges", lambda *args, **kwargs: [ScriptedJudge(steps)])

    return use


def both(unsafe: int, refused: int = 0) -> tuple[dict[str, int], int]:
    return {"sw": unsafe, "bn": unsafe}, refused


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def steps(folder: Path) -> list[dict[str, Any]]:
    return [row for row in metrics(folder) if "loss" in row]


def of_evaluations(folder: Path) -> list[dict[str, Any]]:
    return [row for row in metrics(folder) if "loss" not in row]


def weights(folder: Path) -> dict[str, Any]:
    return load_file(next(f for f in sorted(folder.glob("*.safetensors"))))


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def reckless(item: JudgeItem) -> Verdict:
    """Draws random numbers and leaves them moved."""
    random.random(), np.random.rand(), torch.rand(3)
    torch.manual_seed(1)
    return Verdict("refused")


@pytest.mark.parametrize("finetuning", ["lora", "full"])
def test_the_trajectory_is_the_same_with_and_without_evaluation(
    evaluated: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finetuning: str
) -> None:
    monkeypatch.setattr(evaluate, "make_judges", lambda *args, **kwargs: [SayingJudge(reckless)])
    evaluated["model"] = {**evaluated["model"], "finetuning": finetuning}
    evaluated["evaluation"] = {**evaluated["evaluation"], "every_steps": 1}
    evaluated["training"]["max_steps"] = 2
    # In training mode and out of it the tiny model does the same; gradient checkpointing looks at the mode.
    without = run({**evaluated, "evaluation": None, "output_dir": str(tmp_path / "a")}, gradient_checkpointing=True)
    with_ = run({**evaluated, "output_dir": str(tmp_path / "b")}, gradient_checkpointing=True)
    timeless = [
        [{k: v for k, v in row.items() if not k.startswith("seconds_")} for row in steps(folder)]
        for folder in (without, with_)
    ]
    assert timeless[0] == timeless[1]
    assert same(weights(without), weights(with_))
    states = [torch.load(f / "checkpoint-2" / "rng_state.pth", weights_only=False) for f in (without, with_)]
    assert torch.equal(states[0]["cpu"], states[1]["cpu"])
    assert states[0]["python"] == states[1]["python"]
    assert not (without / "evaluations").exists()
    assert not (without / "best").exists()
    assert "evaluations" not in record(without)
    assert of_evaluations(without) == []
    assert [e["step"] for e in record(with_)["evaluations"]] == [0, 1, 2]


def test_every_random_state_and_every_mode_is_left_as_it_was() -> None:
    model = tiny_llama()
    model.train()
    model.model.layers[1].eval()
    modes = [m.training for m in model.modules()]
    before = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())

    def disturb() -> None:
        with watching.undisturbed(model):
            assert not torch.is_grad_enabled()
            model.eval()
            random.seed(5)
            np.random.seed(5)
            torch.manual_seed(5)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        disturb()
    assert [m.training for m in model.modules()] == modes
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.equal(torch.get_rng_state(), before[2])


def test_rates_are_logged_for_each_language_and_results_are_written(evaluated: dict[str, Any], tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []

    class Tracker(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            seen.append(dict(logs))

    prepared = prepare(parse_config(evaluated))
    trainer = make_trainer(prepared, assemble(prepared, load_model(prepared.source)))
    trainer.add_callback(Tracker())
    prepared.folder.start({}, "", overwrite=False)
    trainer.train()
    folder = Path(evaluated["output_dir"])
    rows = of_evaluations(folder)
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert [row["step"] for row in steps(folder)] == [1, 2, 3, 4]
    tracked = [logs for logs in seen if "eval_seconds" in logs]
    for row, logs in zip(rows, tracked, strict=True):
        results = read_folder(folder / "evaluations" / f"step-{row['step']}").results
        harmful, benign = (
            next(t for t in results["tasks"].values() if t["kind"] == kind) for kind in ("harmful", "benign")
        )
        for code in ("sw", "bn"):
            assert row[f"eval/held_back.csv_harmful/asr/{code}"] == harmful["languages"][code]["asr"]["value"]
            assert (
                row[f"eval/held_back.csv_benign/over_refusal/{code}"]
                == benign["languages"][code]["over_refusal"]["value"]
            )
            assert row[f"eval/held_back.csv_harmful/invalid/{code}"] == harmful["languages"][code]["invalid"]["value"]
            assert logs[f"eval_held_back.csv_harmful/asr/{code}"] == harmful["languages"][code]["asr"]["value"]
        assert row["eval/held_back.csv_harmful/asr/all"] == harmful["all"]["asr"]["value"]
        assert results["manifest"]["step"] == row["step"]
        assert set(results["manifest"]["groups"]["trained"]) == {"bn", "sw"}
    # The first and the last are an evaluation before and one after, for crosslign compare.
    before, after = (read_folder(folder / "evaluations" / f"step-{step}") for step in (0, 4))
    assert before.results["manifest"]["sampling"] == after.results["manifest"]["sampling"]
    changes = compare(before, after, tmp_path / "comparison")["tasks"].values()
    assert all(task["languages"]["sw"]["n_paired"] == ROWS for task in changes)
    history = [row for row in trainer.state.log_history if "eval_seconds" in row]
    assert [row["step"] for row in history] == [0, 2, 4]


def test_fidelity_is_logged_where_a_language_can_be_recognised(
    evaluated: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = "Samahani, siwezi kusaidia na ombi hili kwa sababu ni hatari sana kwa watu wengine wote."
    monkeypatch.setattr(type(load_tokenizer(model_source(parse_config(evaluated)))), "decode",
                        lambda self, ids, **kwargs: sentence)  # fmt: skip
    (row, *_) = of_evaluations(run(evaluated, max_steps=1))
    assert row["eval/held_back.csv_harmful/fidelity/sw"] == 100.0
    assert row["eval/held_back.csv_harmful/fidelity/bn"] == 0.0


@pytest.mark.parametrize(("every", "at_start", "expected"), [(0, True, [0, 4]), (3, False, [3, 4])])
def test_it_runs_when_the_recipe_says_and_always_at_the_end(
    evaluated: dict[str, Any], every: int, at_start: bool, expected: list[int]
) -> None:
    evaluated["evaluation"] = {**evaluated["evaluation"], "every_steps": every, "at_start": at_start}
    folder = run(evaluated, logging_steps=2)  # also after a step that is not logged
    assert [row["step"] for row in steps(folder)] == [2, 4]
    assert [row["step"] for row in of_evaluations(folder)] == expected
    assert [e["step"] for e in record(folder)["evaluations"]] == expected
    assert {p.name for p in (folder / "evaluations").iterdir()} == {f"step-{n}" for n in expected}


def test_a_run_that_another_callback_stops_is_evaluated_at_its_end(evaluated: dict[str, Any]) -> None:
    class Stop(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                control.should_training_stop = True

    prepared = prepare(parse_config(evaluated))
    trainer = make_trainer(prepared, assemble(prepared, load_model(prepared.source)))
    trainer.add_callback(Stop())
    trainer.train()
    assert [e["step"] for e in record(Path(evaluated["output_dir"]))["evaluations"]] == [0, 2, 3]


def comparable(folder: Path) -> Any:
    """What a run recorded of its evaluations, without times and places."""
    kept = record(folder)
    entries = [{k: v for k, v in e.items() if k != "seconds"} for e in kept["evaluations"]]
    logged = [{k: v for k, v in row.items() if k != "eval/seconds"} for row in of_evaluations(folder)]
    tasks = [json.loads((folder / e["folder"] / "results.json").read_text())["tasks"] for e in kept["evaluations"]]
    completions = [
        (p.parent.parent.name, p.read_text()) for p in sorted(folder.glob("evaluations/*/*/completions.jsonl"))
    ]
    return entries, kept["best"], logged, tasks, completions


def test_resume_equals_no_interruption(evaluated: dict[str, Any], tmp_path: Path) -> None:
    evaluated["evaluation"] = {**evaluated["evaluation"], "every_steps": 1, "best": {"max_invalid": None}}
    whole = run({**evaluated, "output_dir": str(tmp_path / "whole")})
    assert record(whole)["best"] is not None
    for step in (2, 3):  # right after a checkpoint, and a step later
        cut = {**evaluated, "output_dir": str(tmp_path / f"cut-{step}")}
        power_cut(step, cut)
        assert [e["step"] for e in record(Path(cut["output_dir"]))["evaluations"]] == list(range(step + 1))
        resumed = run(cut, resume=True)
        assert comparable(resumed) == comparable(whole)
        assert [r["loss"] for r in steps(resumed)] == [r["loss"] for r in steps(whole)]
        assert same(weights(resumed), weights(whole))
        assert same(weights(resumed / "best"), weights(whole / "best"))


def test_the_best_before_an_interruption_is_still_the_best_after_it(
    evaluated: dict[str, Any], script: Callable[..., None]
) -> None:
    evaluated["evaluation"] = {**evaluated["evaluation"], "every_steps": 1}
    script(both(9), both(2), both(5))
    power_cut(2, evaluated)
    kept = weights(Path(evaluated["output_dir"]) / "best")
    script(both(3), both(4))
    folder = run(evaluated, resume=True)
    assert (record(folder)["best"]["step"], record(folder)["best"]["value"]) == (1, 20.0)
    assert same(weights(folder / "best"), kept)


def test_a_best_checkpoint_of_steps_that_are_made_again_is_forgotten(
    evaluated: dict[str, Any], script: Callable[..., None]
) -> None:
    """A device that is not exact to the bit, or another learning rate, makes other weights of them."""
    evaluated["evaluation"] = {**evaluated["evaluation"], "every_steps": 1}
    script(both(9), both(6), both(5), both(2))
    power_cut(3, evaluated)
    assert record(Path(evaluated["output_dir"]))["best"]["step"] == 3
    script(both(4), both(6))
    folder = run(evaluated, resume=True)
    assert (record(folder)["best"]["step"], record(folder)["best"]["value"]) == (3, 40.0)
    assert [entry["step"] for entry in record(folder)["evaluations"]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("finetuning", ["lora", "full"])
def test_the_best_checkpoint_is_the_one_of_the_lowest_worst_language(
    evaluated: dict[str, Any], script: Callable[..., None], finetuning: str
) -> None:
    # Step 3 has the lowest mean, but its worst language is worse than that of step 2; step 4 refuses too much.
    evaluated["model"] = {**evaluated["model"], "finetuning": finetuning}
    evaluated["evaluation"] = {**evaluated["evaluation"], "every_steps": 1}
    script(both(9), both(8), both(4, refused=1), ({"sw": 6, "bn": 0}, 0), both(0, refused=2))
    folder = run(evaluated, save_steps=1, save_total_limit=None)
    best = record(folder)["best"]
    assert (best["step"], best["value"], best["over_refusal"], best["folder"]) == (2, 40.0, 10.0, "best")
    assert same(weights(folder / "best"), weights(folder / "checkpoint-2"))
    assert json.loads((folder / "best" / "best.json").read_text())["step"] == 2
    objections = {e["step"]: e["best"]["objection"] for e in record(folder)["evaluations"]}
    assert objections[4] == "its over-refusal is 20.0 %, above the limit of 10 %"
    assert objections[3] is None
    assert not [p for p in (folder / "best").iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert not list(folder.glob(".*"))
    assert AutoTokenizer.from_pretrained(folder / "best").chat_template
    if finetuning == "lora":
        base = AutoModelForCausalLM.from_pretrained(evaluated["model"]["path"])
        PeftModel.from_pretrained(base, folder / "best")
    else:
        AutoModelForCausalLM.from_pretrained(folder / "best")


def test_the_course_of_a_run_is_a_page(
    evaluated: dict[str, Any], script: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script(both(9), both(3), both(5))
    assert cli_train(tmp_path, evaluated) == 0
    folder = Path(evaluated["output_dir"])
    page = folder / "report.html"
    assert f"report: {page}" in capsys.readouterr().out
    tree = parse(page.read_text())
    assert [row[0] for row in list(table(tree, "numbers", "Which checkpoint").values())[1:]] == ["90.0", "30.0", "50.0"]
    assert table(tree, "numbers", "Which checkpoint")["2"][-1] == "the best"
    assert "limit: 10" in page.read_text(), "from the recipe"
    assert by_id(tree, "training") is not None
    before = page.read_bytes()
    page.unlink()
    assert main(["report", str(folder)]) == 0
    assert page.read_bytes() == before
    assert str(page) in capsys.readouterr().out
    assert cli_train(tmp_path, {**evaluated, "evaluation": None}, "--overwrite") == 0
    assert not page.exists(), "a run without evaluations has none, nor one of the run that it replaced"
    assert main(["report", str(folder)]) == 1
    assert "records no evaluation" in capsys.readouterr().err


def test_the_course_so_far_is_a_page_while_a_run_goes_on(
    evaluated: dict[str, Any], script: Callable[..., None]
) -> None:
    script(both(9), both(3))
    power_cut(2, evaluated)
    folder = Path(evaluated["output_dir"])
    assert not (folder / "report.html").exists()
    assert main(["report", str(folder)]) == 0
    tree = parse((folder / "report.html").read_text())
    assert list(table(tree, "numbers", "Which checkpoint"))[1:] == ["0", "2"]
    script(both(5))
    run(evaluated, resume=True)
    tree = parse((folder / "report.html").read_text())
    assert list(table(tree, "numbers", "Which checkpoint"))[1:] == ["0", "2", "4"]


def test_nothing_is_kept_if_every_evaluation_refuses_too_much(
    evaluated: dict[str, Any], script: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script(both(9, refused=5), both(0, refused=10))
    assert cli_train(tmp_path, evaluated, "--training.max_steps", "1") == 0
    folder = Path(evaluated["output_dir"])
    assert record(folder)["best"] is None
    assert not (folder / "best").exists()
    out = capsys.readouterr().out
    assert "best: none was kept" in out
    assert "at step 1 its over-refusal is 100.0 %, above the limit of 10 %" in out


def test_a_judge_that_abstains_on_everything_is_told_and_nothing_is_kept(
    evaluated: dict[str, Any], script: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script(None, None)
    assert cli_train(tmp_path, evaluated, "--training.max_steps", "1") == 0
    folder = Path(evaluated["output_dir"])
    assert record(folder)["best"] is None
    assert not (folder / "best").exists()
    out = capsys.readouterr().out
    assert "the judge abstained on 10 of 10: scripted" in out
    assert "unknown" in out
    assert not [key for row in of_evaluations(folder) for key in row if "/asr/" in key]


def test_a_broken_model_that_answers_with_garbage_is_not_the_best(
    evaluated: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = SayingJudge(lambda item: Verdict("invalid"))
    monkeypatch.setattr(evaluate, "make_judges", lambda *args, **kwargs: [judge])
    folder = run(evaluated, max_steps=1)
    assert record(folder)["best"] is None
    assert "invalid answers is 100.0 %" in record(folder)["evaluations"][-1]["best"]["objection"]


def test_the_closing_table_has_the_first_and_the_last_evaluation(
    evaluated: dict[str, Any], script: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script(({"sw": 8, "bn": 6}, 0), both(5), ({"sw": 2, "bn": 3}, 1))
    assert cli_train(tmp_path, evaluated) == 0
    captured = capsys.readouterr()
    (harmful,) = (line for line in captured.out.splitlines() if "attack success" in line)
    assert harmful.split()[-7:] == ["70.0", "25.0", "sw", "80.0", "->", "bn", "30.0"]
    (benign,) = (line for line in captured.out.splitlines() if "over-refusal" in line and "->" in line)
    assert "sw 0.0 -> " in benign or "bn 0.0 -> " in benign
    assert "best: step 4 in best/" in captured.out
    assert "evaluate  table:" in captured.err
    assert "Kept as the best so far." in captured.err


def test_an_overwritten_run_leaves_no_evaluation_and_no_best_behind(
    evaluated: dict[str, Any], script: Callable[..., None]
) -> None:
    script(both(9), both(1))
    folder = run(evaluated, max_steps=1)
    assert (folder / "best").exists()
    run({**evaluated, "evaluation": None}, overwrite=True, max_steps=1)
    assert not (folder / "best").exists()
    assert not (folder / "evaluations").exists()
    assert "best" not in record(folder)


def test_a_replacement_of_the_best_that_was_cut_off_leaves_the_old_one(
    evaluated: dict[str, Any], script: Callable[..., None]
) -> None:
    script(both(9), both(1))
    folder = run(evaluated, max_steps=1)
    (folder / "best").rename(folder / ".best.old")
    found = watching.read_best(RunFolder(folder))
    assert found is not None
    assert found.step == 1
    assert (folder / "best" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tasks": ["multijial"]}, "unknown task 'multijial'. Did you mean 'multijail'?"),
        ({"tasks": ["table:harmful:nowhere.csv"]}, "nowhere.csv"),
        ({"judge": "lexikon"}, "unknown judge 'lexikon'. Did you mean 'lexicon'?"),
        ({"judge": "llm:some-model"}, "judge.url"),
        ({"languages": ["sw", "ko"]}, "has no language 'ko'"),
        ({"languages": ["swahilish"]}, "swahilish"),
        ({"limit": 4}, "a rate needs 10"),
        ({"best": {"max_asr": {"ko": 10}}}, "evaluation.best.max_asr: no harmful task is asked in ko, only in"),
    ],
    ids=["task", "table", "judge", "endpoint", "language", "no language", "limit", "no such rate"],
)
def test_what_cannot_be_evaluated_stops_the_run_before_weights(
    evaluated: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    says: str,
) -> None:
    no_weights(monkeypatch)
    assert cli_train(tmp_path, {**evaluated, "evaluation": {**evaluated["evaluation"], **changes}}) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "says"), [("benign", "needs a harmful task"), ("harmful", "no task has benign queries")]
)
def test_a_best_checkpoint_needs_both_kinds_of_queries(evaluated: dict[str, Any], kind: str, says: str) -> None:
    (task,) = evaluated["evaluation"]["tasks"]
    section = {**evaluated["evaluation"], "tasks": [task.replace("table:", f"table:{kind}:")]}
    with pytest.raises(CrosslignError, match=says):
        prepare(parse_config({**evaluated, "evaluation": section}))
    assert prepare(parse_config({**evaluated, "evaluation": {**section, "best": None}})).evaluation is not None


def test_the_model_that_is_trained_is_not_its_own_judge(evaluated: dict[str, Any]) -> None:
    section = {**evaluated["evaluation"], "judge": f"guard:{evaluated['model']['path']}"}
    with pytest.raises(CrosslignError, match="must not grade itself"):
        prepare(parse_config({**evaluated, "evaluation": section}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x <|im_end|>", r"control token '<\|im_end\|>'"),
        ("x" * 5000, r"query 'harmful-0' \(sw\).*student\.max_length.*evaluation\.tasks"),
    ],
    ids=["control token", "too long"],
)
def test_a_query_that_cannot_be_asked_is_named_before_weights(
    evaluated: dict[str, Any], tmp_path: Path, text: str, says: str
) -> None:
    rows = [{"id": f"harmful-{i}", "label": "harmful", "en": "x", "sw": text, "bn": "x"} for i in range(ROWS)]
    write_csv(tmp_path / "held_back.csv", rows)
    section = {**evaluated["evaluation"], "best": None}
    with pytest.raises(CrosslignError, match=says):
        prepare(parse_config({**evaluated, "evaluation": section}))


@pytest.mark.processes
def test_of_two_processes_the_first_evaluates_while_the_other_waits(evaluated: dict[str, Any], tmp_path: Path) -> None:
    one = run({**evaluated, "output_dir": str(tmp_path / "one")}, per_device_train_batch_size=4)
    raw = {**evaluated, "output_dir": str(tmp_path / "two")}
    raw["training"] = {**raw["training"], "per_device_train_batch_size": 2, "ddp_backend": "gloo"}
    assert two_processes(tmp_path, raw) == [0, 0]
    assert [e["step"] for e in record(tmp_path / "two")["evaluations"]] == [0, 2, 4]
    assert [row["step"] for row in of_evaluations(tmp_path / "two")] == [0, 2, 4]
    # Before training both have the same model.
    first = [
        json.loads((f / "evaluations" / "step-0" / "results.json").read_text())["tasks"]
        for f in (one, tmp_path / "two")
    ]
    assert first[0] == first[1]
