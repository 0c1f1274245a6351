"""Perplexity of ordinary text before and after training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import ordinary_text
from benchmarks.real_losses import losses

from crosslign.models import ModelSource, load_tokenizer, load_with_adapter
from crosslign.types import CrosslignError


def treebank(folder: Path, sentences: int) -> Path:
    path = folder / "text.conllu"
    path.write_text("".join(f"# sent_id = {n}\n# text = kitten {n}\n1\tkitten\n\n" for n in range(sentences)), "utf-8")
    return path


def test_a_loss_is_the_mean_over_the_predicted_tokens(model_folder: Path) -> None:
    source = ModelSource(str(model_folder))
    tokenizer, model = load_tokenizer(source), load_with_adapter(source, None)
    text = "a small red kitten"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) > 2
    slow = 0.0
    for t in range(1, len(ids)):  # one token at a time, from what is before it alone
        with torch.no_grad():
            logits = model(torch.tensor([ids[:t]])).logits[0, -1].double()
        slow -= float(torch.log_softmax(logits, -1)[ids[t]])
    assert losses(tokenizer, model, [text]) == [pytest.approx(slow / (len(ids) - 1), abs=1e-4)]


def test_sentences_are_those_of_the_file_without_repeats(tmp_path: Path) -> None:
    drawn = ordinary_text.sentences(treebank(tmp_path, 9), 8)
    assert len(set(drawn)) == 8
    assert set(drawn) < {f"kitten {n}" for n in range(9)}


def test_too_few_sentences_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CrosslignError, match=r"text\.conllu: 3 sentences are here, and --rows asks for 4"):
        ordinary_text.sentences(treebank(tmp_path, 3), 4)
    with pytest.raises(CrosslignError, match=r"none\.conllu: 0 sentences"):
        ordinary_text.sentences(tmp_path / "none.conllu", 4)


def test_the_table_has_the_ratio_of_the_two_models(
    tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, run, path = whole["model"]["path"], whole["output_dir"], treebank(tmp_path, 6)
    flags = ["--model", model, "--adapter", run, "--texts", f"en={path}", "--rows", "6"]
    monkeypatch.setattr("sys.argv", ["ordinary_text", *flags])
    ordinary_text.main()
    source = ModelSource(model, dtype="bfloat16")
    means = [
        sum(losses(load_tokenizer(source), load_with_adapter(source, adapter), ordinary_text.sentences(path, 6))) / 6
        for adapter in (None, run)
    ]
    before, after = map(math.exp, means)
    assert f"| en | {before:.1f} | {after:.1f} | {after / before:.3f} [" in capsys.readouterr().out
