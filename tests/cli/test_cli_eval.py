"""`crosslign eval`, `compare`, `report`: end to end on tiny models, resumable, and clear about what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROWS, tiny_llama, write_csv
from fake_endpoint import Answer, FakeEndpoint, failed, said
from helpers import no_weights, sampling_interrupted_after
from peft import LoraConfig, get_peft_model

from crosslign.cli import main
from crosslign.evaluation import utility as utility_module
from crosslign.runs import evaluate as evaluating

FILES = {f"{name}.jsonl{more}" for name in ("completions", "fidelity") for more in ("", ".identity.json")}
LEXICON = {"verdicts-lexicon.jsonl", "verdicts-lexicon.jsonl.identity.json"}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """24 rows, half harmful and half benign by their labels."""
    words = {"en": "ask", "sw": "uliza", "bn": "জিজ্ঞাসা"}
    extra = [
        {**row, "id": f"more-{i}", **{code: f"{word} {i}" for code, word in words.items()}}
        for i, row in enumerate(ROWS)
    ]
    return write_csv(tmp_path / "table.csv", [*ROWS, *extra])


def evaluate(model: object, table: Path, out: Path, *flags: str) -> int:
    return main([
        "eval", "--model", str(model), "--tasks", f"table:{table}", "--languages", "en,sw,bn", "--out", str(out),
        "--max-completion-length", "6", "--batch-size", "9", *flags,
    ])  # fmt: skip


def results_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def task_folder(out: Path) -> Path:
    return next(path.parent for path in out.glob("*/completions.jsonl"))


def test_an_evaluation_from_a_model_to_a_page(
    model_folder: Path, table: Path, tmp_path: Path, sampled: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert evaluate(model_folder, table, out) == 0
    printed = capsys.readouterr().out
    assert "report.html" in printed
    assert "results.json" in printed
    assert "mean all" in printed
    assert sum(sampled) == 72
    assert {p.name for p in out.iterdir() if p.is_file()} == {
        "results.json",
        "results.csv",
        "results.md",
        "report.html",
    }
    assert {p.name for p in task_folder(out).iterdir()} == FILES | LEXICON
    results = results_of(out)
    harmful, benign = results["tasks"].values()
    assert [t["kind"] for t in (harmful, benign)] == ["harmful", "benign"]
    assert all(harmful["languages"][code]["n"] == 12 == benign["languages"][code]["n"] for code in ("en", "sw", "bn"))
    assert results["manifest"]["sampling"]["temperature"] == 0
    assert results["manifest"]["judges"]["lexicon"]["kind"] == "lexicon"
    before = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").read_bytes() == before


def test_a_second_call_loads_no_model(
    model_folder: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate(model_folder, table, tmp_path / "out") == 0
    first = results_of(tmp_path / "out")
    no_weights(monkeypatch)
    assert evaluate(model_folder, table, tmp_path / "out") == 0
    assert results_of(tmp_path / "out")["tasks"] == first["tasks"]


@pytest.mark.parametrize("sampling", [(), ("--temperature", "1", "--seed", "3")])
def test_an_interrupted_call_goes_on_and_ends_the_same(
    model_folder: Path, table: Path, tmp_path: Path, sampled: list[int], capsys: pytest.CaptureFixture[str],
    sampling: tuple[str, ...],
) -> None:  # fmt: skip
    assert evaluate(model_folder, table, tmp_path / "whole", *sampling) == 0
    sampled.clear()
    with sampling_interrupted_after(3):
        assert evaluate(model_folder, table, tmp_path / "out", *sampling) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()
    assert evaluate(model_folder, table, tmp_path / "out", *sampling) == 0
    assert sum(sampled) == 72
    whole, out = task_folder(tmp_path / "whole"), task_folder(tmp_path / "out")
    assert (out / "completions.jsonl").read_bytes() == (whole / "completions.jsonl").read_bytes()
    assert results_of(tmp_path / "out")["tasks"] == results_of(tmp_path / "whole")["tasks"]


def test_languages_added_later_ask_for_their_own_alone(
    model_folder: Path, table: Path, tmp_path: Path, sampled: list[int]
) -> None:
    assert evaluate(model_folder, table, tmp_path / "out", "--languages", "en,sw") == 0
    sampled.clear()
    assert evaluate(model_folder, table, tmp_path / "out") == 0
    assert sum(sampled) == 24


def test_before_and_after_an_alignment(
    whole: dict[str, Any], model_folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(model_folder, table, tmp_path / "a") == 0
    assert evaluate(model_folder, table, tmp_path / "b", "--adapter", whole["output_dir"]) == 0
    manifest = results_of(tmp_path / "b")["manifest"]
    assert manifest["groups"]["trained"] == ["sw", "bn"]  # the run's record says so
    assert manifest["adapter_sha256"]
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")]) == 0
    assert "change, points" in capsys.readouterr().out
    assert results_of(tmp_path / "c")["kind"] == "comparison"
    page = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert "were sampled with different settings" not in page
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "a")]) == 1
    assert "one of the two evaluations" in capsys.readouterr().err


def test_evaluations_in_two_types_are_told_apart(
    tokenizer: Any, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_llama().to(torch.bfloat16).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert evaluate(tmp_path / "model", table, tmp_path / "a") == 0
    assert "model, dtype bfloat16\n" in capsys.readouterr().err
    assert evaluate(tmp_path / "model", table, tmp_path / "b", "--dtype", "float32") == 0
    assert [results_of(tmp_path / name)["manifest"]["dtype"] for name in "ab"] == ["bfloat16", "float32"]
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")]) == 0
    assert "not computed in the same type of numbers" in (tmp_path / "c" / "report.html").read_text(encoding="utf-8")


def test_an_adapter_of_another_model_is_told_before_weights_are_loaded(
    whole: dict[str, Any], table: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    tiny_llama(hidden_size=64).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    no_weights(monkeypatch)
    assert evaluate(tmp_path / "other", table, tmp_path / "out", "--adapter", whole["output_dir"]) == 1
    assert "--adapter: " in (error := capsys.readouterr().err)
    assert "the adapter does not fit the model" in error


def test_an_adapter_trained_anew_in_its_folder_is_another_one(
    model_folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def save(seed: int) -> None:
        lora = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
        for name, weight in lora.named_parameters():
            if "lora_B" in name:
                weight.data.fill_(seed)
        lora.save_pretrained(tmp_path / "adapter")

    save(1)
    flags = ("--adapter", str(tmp_path / "adapter"), "--trained-languages", "sw")
    assert evaluate(model_folder, table, tmp_path / "out", *flags) == 0
    save(2)
    assert evaluate(model_folder, table, tmp_path / "out", *flags) == 1
    assert "other settings (adapter_sha256 differ)" in capsys.readouterr().err
    assert evaluate(model_folder, table, tmp_path / "out", *flags, "--overwrite") == 0
    assert results_of(tmp_path / "out")["manifest"]["groups"]["unseen"] == ["bn"]


def test_a_model_behind_an_endpoint_that_dies_half_way(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    answered: list[str] = []
    dead = False

    def script(text: str, earlier: int) -> Answer:
        if dead and len(answered) >= 30:
            return failed(401, "the key has expired")
        answered.append(text)
        return said("I'm sorry, but I cannot help with that.")

    with FakeEndpoint(script) as server:
        flags = ("--endpoint", server.url, "--concurrency", "4")
        dead = True
        assert evaluate("served", table, tmp_path / "out", *flags) == 1
        assert "the key has expired" in capsys.readouterr().err
        assert len((task_folder(tmp_path / "out") / "completions.jsonl").read_text().splitlines()) == len(answered)
        dead = False
        assert evaluate("served", table, tmp_path / "out", *flags) == 0
        assert len(answered) == 72
        assert evaluate("served", table, tmp_path / "out", *flags) == 0
        assert len(answered) == 72
    results = results_of(tmp_path / "out")
    assert results["manifest"]["model"] == "served"
    assert results["manifest"]["sampling"]["thinking"] is None  # the server decides it
    assert all(t["all"]["outcomes"]["refused"] == 36 for t in results["tasks"].values())


def test_a_judge_behind_an_endpoint_and_the_lexicon_beside_it(
    model_folder: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampled: list[int]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert evaluate(model_folder, table, tmp_path / "out") == 0
    sampled.clear()
    with FakeEndpoint(lambda text, earlier: said("VERDICT: safe\nREFUSED: no")) as server:
        flags = ("--judge", "llm:grader,lexicon", "--judge-url", server.url)
        assert evaluate(model_folder, table, tmp_path / "out", *flags) == 0
        asked = len(server.requests)
        assert 0 < asked <= 72  # not about empty completions
        assert evaluate(model_folder, table, tmp_path / "out", *flags) == 0
        assert len(server.requests) == asked
    assert sampled == []
    results = results_of(tmp_path / "out")
    assert set(results["manifest"]["judges"]) == {"llm:grader", "lexicon"}
    for task in results["tasks"].values():
        assert task["judge"] == "llm:grader"
        assert set(task["agreement"]["lexicon"]) == {"en", "sw", "bn"}


def test_the_tasks_are_listed_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--list-tasks"]) == 0
    printed = capsys.readouterr().out
    assert "multijail (harmful; MIT)" in printed
    assert "table:PATH" in printed


@pytest.mark.parametrize("command", ["eval", "compare", "report"])
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    assert f"crosslign {command} " in capsys.readouterr().out.partition("\n")[2]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--tasks", "multijal"), "unknown task 'multijal'. Did you mean 'multijail'?"),
        (("--languages", "en,xh"), "no language 'xh'"),
        (("--languages", "english!"), "is not a language code"),
        (("--judge", "lexikon"), "unknown judge 'lexikon'. Did you mean 'lexicon'?"),
        (("--judge", "lexicon,lexicon"), "two judges are called 'lexicon'"),
        (("--judge", "llm:x"), "or --judge-url"),
        (("--judge", "guard"), "name the model after a colon"),
        (("--judge", "guard:nowhere/x/Qwen3Guard-Gen"), "no folder nowhere/x/Qwen3Guard-Gen"),
        (("--judge", "guard:some/model"), "its name does not tell its format"),
        (("--adapter", "nowhere"), "has no adapter_config.json"),
        (("--max-length", "10"), "Raise --max-length"),
        (("--temperature", "-1"), "temperature must be 0 (greedy) or from 0.01 to 100, not -1.0"),
        (("--temperature", "nan"), "temperature: nan is no finite number"),
        (("--top-p", "nan"), "top_p: nan is no finite number"),
        (("--tasks", "builtin:demo,builtin:demo"), "a task is there twice"),
        (("--task-path", "multijail=x.csv"), "'multijail' is not in --tasks"),
        (("--task-path", "multijail"), "is not TASK=FILE"),
        (("--task-option", "multijail", "a", "b"), "'multijail' is not in --tasks"),
        (("--endpoint", "http://127.0.0.1:1/v1", "--thinking"), "settings of the server"),
        (("--endpoint", "nonsense"), "must be like http://"),
        (("--endpoint", "http://127.0.0.1:1/v1", "--api-key-env", "sk-0123456789"), "is no name of an environment"),
        (
            ("--judge", "llm:x", "--judge-url", "https://me:sk-0123456789@host/v1"),
            "judge.url: this looks like",
        ),
        (("--judge", "llm:x", "--judge-api-key-env", "sk-0123456789"), "no name of an environment variable"),
        (("--utility", "mgsn"), "Did you mean 'mgsm'?"),
        (("--utility", "mgsm", "--languages", "en,sw"), "the hub data set 'juletxara/mgsm' could not be loaded"),
        (("--utility", "mgsm", "--context", "teacher"), "lm-eval asks the model without the template"),
        (("--model", "./nowhere"), "no folder ./nowhere"),
    ],
)
def test_bad_flags_are_told_before_weights_are_loaded(
    model_folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], text: str,
) -> None:  # fmt: skip
    no_weights(monkeypatch)
    assert evaluate(model_folder, table, tmp_path / "out", *flags) == 1
    error = capsys.readouterr().err
    assert text in error
    assert "sk-0123456789" not in error
    assert not (tmp_path / "out").exists()


def test_what_is_missing_on_the_command_line_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--model", "x"]) == 1
    assert "eval needs --tasks and --out" in capsys.readouterr().err


def test_a_model_does_not_judge_itself(
    model_folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spelt = f"{model_folder}/../{model_folder.name}"
    assert evaluate(model_folder, table, tmp_path / "out", "--judge", f"qwen3guard:{spelt}") == 1
    assert "is the model under test" in capsys.readouterr().err
    with FakeEndpoint(lambda text, earlier: said("VERDICT: safe\nREFUSED: no")) as server:
        flags = ("--endpoint", server.url, "--judge", "llm:Served", "--judge-url", server.url)
        assert evaluate("served", table, tmp_path / "out", *flags) == 1
        assert "--allow-self-judge" in capsys.readouterr().err
        assert server.requests == []
        assert evaluate("served", table, tmp_path / "out", *flags, "--allow-self-judge") == 0


def test_a_folder_of_another_origin_is_left_alone(
    model_folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text('{"seeds": 3}')
    assert evaluate(model_folder, table, tmp_path / "out", "--overwrite") == 1
    assert "holds no evaluation of crosslign" in capsys.readouterr().err
    assert (tmp_path / "out" / "results.json").read_text() == '{"seeds": 3}'


def test_weights_that_changed_in_their_folder_are_noticed(
    table: Path, tmp_path: Path, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_llama(0).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert evaluate(tmp_path / "model", table, tmp_path / "out") == 0
    tiny_llama(1).save_pretrained(tmp_path / "model")
    assert evaluate(tmp_path / "model", table, tmp_path / "out") == 1
    assert "(weights differ)" in capsys.readouterr().err


@pytest.mark.parametrize("record", ["", "3", "{}", "[1"])
def test_a_folder_without_a_runs_record_names_no_languages(tmp_path: Path, record: str) -> None:
    (tmp_path / "run.json").write_text(record)
    assert evaluating.trained_languages(None, str(tmp_path), "nowhere") is None


def test_the_best_checkpoint_was_trained_in_its_runs_languages(tmp_path: Path) -> None:
    best = tmp_path / "best"
    best.mkdir()
    (tmp_path / "run.json").write_text('{"languages": ["en", "sw"]}')
    assert evaluating.trained_languages(str(best)) is None  # it may be another's
    (best / "best.json").write_text('{"step": 2}')
    assert evaluating.trained_languages(str(best)) == ["en", "sw"]


def test_utility_is_measured_once_and_stands_in_the_results(
    model_folder: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = write_csv(
        tmp_path / "maths.csv", [{"id": f"q{i}", "answer": str(i), "en": f"{i}?", "sw": f"ni {i}?"} for i in range(3)]
    )
    flags = ("--utility", "mgsm", "--utility-path", f"mgsm={questions}", "--utility-limit", "2")
    flags += ("--languages", "en,sw", "--utility-max-tokens", "12", "--batch-size", "3")
    asked: list[int] = []
    original = utility_module._language_model

    def language_model(model: Any, tokenizer: Any, batch_size: int, kwargs: Any) -> Any:
        asked.append(batch_size)
        return original(model, tokenizer, batch_size, kwargs)

    monkeypatch.setattr(utility_module, "_language_model", language_model)
    assert evaluate(model_folder, table, tmp_path / "out", *flags) == 0
    assert "mgsm (utility)" in capsys.readouterr().out
    utility = results_of(tmp_path / "out")["utility"]
    assert {code: cell["n"] for code, cell in utility["mgsm"].items()} == {"en": 2, "sw": 2}
    answers = (tmp_path / "out" / "utility-answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(answers) == 4
    assert asked == [3]
    # The model's tokens are bytes.
    assert all(len(json.loads(line)["completion"].encode()) <= 3 * 12 for line in answers)
    no_weights(monkeypatch)
    assert evaluate(model_folder, table, tmp_path / "out", *flags) == 0
    assert results_of(tmp_path / "out")["utility"] == utility
    assert evaluate(model_folder, table, tmp_path / "new", *flags, "--utility-path", "mgsm=nowhere.csv") == 1
    assert "nowhere.csv" in capsys.readouterr().err


def test_a_damaged_folder_is_mended_by_the_same_command_and_an_edit_is_said(
    model_folder: Path, table: Path, tmp_path: Path, sampled: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert evaluate(model_folder, table, out) == 0
    right, files = results_of(out), task_folder(out)
    (out / "results.json").write_bytes(b"[" * 100_000)
    for name in ("completions", "verdicts-lexicon", "fidelity"):
        lines = (files / f"{name}.jsonl").read_bytes().splitlines(keepends=True)
        (files / f"{name}.jsonl").write_bytes(b"".join([b"\xff\n", *lines[1:-1], lines[-1][:-9]]))
    sampled.clear()
    assert evaluate(model_folder, table, out) == 0
    assert sum(sampled) == 2  # the two completions that were damaged
    assert results_of(out) == right

    path = files / "verdicts-lexicon.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"reason": "', '"reason": "edited: ', 1), encoding="utf-8")
    capsys.readouterr()
    for command in (["report", str(out)], ["compare", str(out), str(out), "--out", str(tmp_path / "c")]):
        assert main(command) == 0
        assert "verdicts-lexicon.jsonl: was changed after crosslign had finished it" in capsys.readouterr().err
    assert evaluate(model_folder, table, out) == 0
    assert "was changed after" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "1e3", "9" * 5000, "one"])
def test_a_seed_is_a_number_that_a_generator_takes(seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("eval", "compare"):
        with pytest.raises(SystemExit):
            main([command, "a", "b", f"--seed={seed}"])
        assert "no whole number" in capsys.readouterr().err
