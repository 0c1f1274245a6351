"""TRL's DPOTrainer as an oracle: it reads the pairs that are exported, and its losses are ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import byte_tokenizer
from helpers import metrics, run
from probe_script import contrasted, scripted
from test_methods import brief
from transformers import AutoModelForCausalLM

from crosslign.cli import main

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "options", "settings"),
    [
        ("dpo", {"beta": 0.3}, {"beta": 0.3}),
        ("rdpo", {"beta": 0.3, "flipped": 0.2}, {"beta": 0.3, "loss_type": "robust", "label_smoothing": 0.2}),
    ],
)
def test_a_step_of_trls_dpo_trainer_has_our_loss(
    recipe: dict[str, Any],
    tmp_path: Path,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    """The second step's loss, of a student that has moved: the first one's is log 2 whatever the pairs are."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from torch.optim import SGD

    scripted(monkeypatch, contrasted)
    raw = brief(recipe, name, steps=2, per_device_train_batch_size=12, learning_rate=0.02)
    raw["model"] = {"path": str(model_folder), "finetuning": "full"}
    raw["method"]["options"] = options
    raw["training"] |= {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0, "save_strategy": "no"}
    ours = metrics(run(raw))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    assert main(["preferences", str(path), "--out", str(tmp_path / "pairs")]) == 0
    lines = (tmp_path / "pairs" / "preferences.jsonl").read_text(encoding="utf-8").splitlines()
    # As text: of a conversation TRL also scores what the template writes after the end of the turn.
    write = byte_tokenizer().apply_chat_template
    pairs = [
        {
            "prompt": write(row["prompt"], tokenize=False, add_generation_prompt=True),
            **{side: row[side][0]["content"] for side in ("chosen", "rejected")},
        }
        for row in map(json.loads, lines)
    ]
    assert len(pairs) == 12
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    trainer = trl.DPOTrainer(
        model,
        ref_model=AutoModelForCausalLM.from_pretrained(model_folder),
        args=trl.DPOConfig(
            str(tmp_path / "trl"),
            max_steps=2,
            per_device_train_batch_size=12,
            logging_steps=1,
            max_grad_norm=0,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            **settings,
        ),
        train_dataset=Dataset.from_list(pairs),
        processing_class=byte_tokenizer(),
        optimizers=(SGD(model.parameters(), lr=0.02), None),
    )
    trainer.create_scheduler = lambda *_, **__: None
    from torch.optim.lr_scheduler import LambdaLR

    trainer.lr_scheduler = LambdaLR(trainer.optimizer, lambda _: 1.0)
    trainer.train()
    theirs = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    for own, their in zip(ours, theirs, strict=True):
        assert own["loss"] == pytest.approx(their, rel=2e-3)
    assert abs(ours[1]["loss"] - ours[0]["loss"]) > 0.01
