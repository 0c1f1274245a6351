"""`crosslign eval --context teacher`: what a prompt alone does, measured as any model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import no_weights

from crosslign.cli import main
from crosslign.contexts import plain_contexts
from crosslign.runs import evaluate as evaluating
from crosslign.types import Query


def evaluate(model: Path, table: Path, out: Path, *flags: str) -> int:
    return main([
        "eval", "--model", str(model), "--tasks", f"table:harmful:{table}", "--languages", "sw", "--out", str(out),
        "--max-completion-length", "4", "--limit", "3", "--max-judgement-length", "5", *flags,
    ])  # fmt: skip


def completions(out: Path) -> list[dict[str, Any]]:
    (file,) = out.glob("*/completions.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_prompt_stands_around_every_query_and_in_the_results(
    model_folder: Path, table_file: Path, tmp_path: Path, tokenizer: Any, sampled: list[int]
) -> None:
    out = tmp_path / "prompt"
    assert evaluate(model_folder, table_file, out, "--context", "teacher", "--template", "system") == 0
    contexts = plain_contexts(tokenizer, max_length=2048, teacher="system")
    for row in completions(out):
        query = Query(row["id"], "sw", row["query"], "en", row["source_query"], "harmful")
        context = contexts.teacher(query)
        assert row["source_query"] not in context.messages[-1].content
        assert row["prompt_tokens"] == len(context.token_ids)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert "system" in json.dumps(results)
    made = len(sampled)
    assert evaluate(model_folder, table_file, out, "--context", "teacher", "--template", "system") == 0
    assert len(sampled) == made


def test_a_judgement_is_written_first_and_leaves_nothing_behind(
    model_folder: Path, table_file: Path, tmp_path: Path, sampled: list[int]
) -> None:
    out = tmp_path / "judged"
    assert evaluate(model_folder, table_file, out, "--context", "teacher", "--template", "judged") == 0
    assert sampled == [3, 3]
    assert not list(out.glob(".judgements*"))


@pytest.mark.parametrize(("template", "hashed"), [("system", 0), ("judged", 1)])
def test_the_weights_are_hashed_once_if_a_judgement_is_kept_and_else_not_at_all(
    template: str, hashed: int, model_folder: Path, table_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(evaluating, "fingerprint", lambda model: str(made.append(model)))
    flags = ("--context", "teacher", "--template", template, "--batch-size", "1")
    assert evaluate(model_folder, table_file, tmp_path / "out", *flags) == 0
    assert len(made) == hashed


def test_another_prompt_wants_another_folder(
    model_folder: Path, table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "prompt"
    assert evaluate(model_folder, table_file, out) == 0
    assert evaluate(model_folder, table_file, out, "--context", "teacher") == 1
    assert "--overwrite" in capsys.readouterr().err


def test_an_endpoint_has_no_teacher(
    table_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_weights(monkeypatch)
    flags = ("--context", "teacher", "--endpoint", "http://localhost:9/v1")
    assert evaluate(Path("name"), table_file, tmp_path / "out", *flags) == 1
    assert "--context teacher: needs a model in memory" in capsys.readouterr().err
