"""`crosslign generate`: completions for a table, resumable, with or without an adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROWS
from helpers import sampling_interrupted_after

from crosslign.cli import main


def generate(model: Path, table: Path, out: Path, *flags: str) -> int:
    return main([
        "generate", "--model", str(model), "--table", str(table), "--out", str(out), "--max-completion-length", "6",
        "--languages", "sw,bn", "--batch-size", "5", *flags,
    ])  # fmt: skip


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_one_row_for_each_query_and_language_in_the_tables_order(
    model_folder: Path, table_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    assert generate(model_folder, table_file, out) == 0
    rows = rows_of(out)
    assert [(r["id"], r["language"]) for r in rows] == [(row["id"], lang) for row in ROWS for lang in ("sw", "bn")]
    assert all(r["query"] == ROWS[i // 2][r["language"]] for i, r in enumerate(rows))
    assert all(r["truncated"] == (r["completion_tokens"] == 6) or not r["truncated"] for r in rows)
    assert {p.name for p in tmp_path.iterdir()} == {"out.jsonl", "out.jsonl.identity.json", "queries.csv"}


def test_greedy_completions_do_not_depend_on_the_batch(model_folder: Path, table_file: Path, tmp_path: Path) -> None:
    generate(model_folder, table_file, tmp_path / "a.jsonl")
    generate(model_folder, table_file, tmp_path / "b.jsonl", "--batch-size", "1")
    assert rows_of(tmp_path / "a.jsonl") == rows_of(tmp_path / "b.jsonl")


def test_an_interrupted_call_continues_where_it_stopped(
    model_folder: Path, table_file: Path, tmp_path: Path, sampled: list[int]
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    generate(model_folder, table_file, whole)
    with sampling_interrupted_after(2):
        assert generate(model_folder, table_file, out) == 130
    assert len(rows_of(out)) == 10
    with out.open("a") as file:
        file.write('{"id": "row-9", "langu')
    sampled.clear()
    assert generate(model_folder, table_file, out) == 0
    assert sum(sampled) == 14
    assert rows_of(out) == rows_of(whole)
    sampled.clear()
    assert generate(model_folder, table_file, out) == 0
    assert sampled == []


def test_other_settings_do_not_mix_into_a_file(
    model_folder: Path, table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    generate(model_folder, table_file, out)
    before = out.read_text()
    assert generate(model_folder, table_file, out, "--temperature", "1") == 1
    assert "was made with other settings (sampling differ)" in capsys.readouterr().err
    assert out.read_text() == before
    assert generate(model_folder, table_file, out, "--temperature", "1", "--overwrite") == 0
    assert out.read_text() != before


def test_a_file_of_unknown_origin_is_not_touched(
    model_folder: Path, table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    link = tmp_path / "link.jsonl"
    link.symlink_to(out)
    for path in (out, link):
        for flags in ((), ("--overwrite",)):
            assert generate(model_folder, table_file, path, *flags) == 1
            error = capsys.readouterr().err
            assert "nothing beside it says that crosslign made it" in error or "is a link" in error
            assert error.count("\n") == 1
    assert out.read_text() == "mine"


def test_other_weights_and_another_chat_template_do_not_continue_a_file(
    model_folder: Path, table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "model", tmp_path / "out.jsonl"
    shutil.copytree(model_folder, model)
    assert generate(model, table_file, out) == 0
    template = model / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert generate(model, table_file, out) == 1
    assert "(weights differ)" in capsys.readouterr().err


def test_a_changed_adapter_does_not_continue_a_file(
    whole: dict[str, Any], model_folder: Path, table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, out = tmp_path / "adapter", tmp_path / "out.jsonl"
    shutil.copytree(whole["output_dir"], adapter)
    assert generate(model_folder, table_file, out, "--adapter", str(adapter)) == 0
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 64}))
    assert generate(model_folder, table_file, out, "--adapter", str(adapter)) == 1
    assert "(adapter_sha256 differ)" in capsys.readouterr().err


def test_the_teachers_context_can_be_looked_at(model_folder: Path, table_file: Path, tmp_path: Path) -> None:
    student = tmp_path / "student.jsonl"
    generate(model_folder, table_file, student)
    for template in ("instruct", "judged", "dialogue"):
        teacher = tmp_path / f"{template}.jsonl"
        flags = ("--context", "teacher", "--template", template, "--max-judgement-length", "5")
        assert generate(model_folder, table_file, teacher, *flags) == 0
        pairs = list(zip(rows_of(student), rows_of(teacher), strict=True))
        assert all(t["prompt_tokens"] > s["prompt_tokens"] for s, t in pairs)
        assert any(t["completion"] != s["completion"] for s, t in pairs)
    assert {p.name for p in tmp_path.glob(".*")} == set()


def test_an_adapter_changes_completions(
    whole: dict[str, Any], model_folder: Path, table_file: Path, tmp_path: Path
) -> None:
    generate(model_folder, table_file, tmp_path / "before.jsonl")
    assert generate(model_folder, table_file, tmp_path / "after.jsonl", "--adapter", whole["output_dir"]) == 0
    assert rows_of(tmp_path / "before.jsonl") != rows_of(tmp_path / "after.jsonl")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--adapter", "nowhere"), "--adapter: nowhere has no adapter_config.json"),
        (("--max-length", "10"), "Raise --max-length"),
        (("--template", "judge"), "neither a shipped template"),
        (("--languages", "xh"), "no column for the language 'xh'"),
        (("--temperature", "-1"), "temperature must be 0 (greedy) or from 0.01 to 100"),
    ],
)
def test_bad_flags_are_told(
    model_folder: Path, table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...], text: str,
) -> None:  # fmt: skip
    assert generate(model_folder, table_file, tmp_path / "out.jsonl", *flags) == 1
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
