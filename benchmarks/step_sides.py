"""The two sides that `benchmarks.step` compares, on the same rollouts: crosslign's trainer and TRL's SDFTTrainer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from crosslign.models import load_model
from crosslign.runs.build import assemble, make_trainer
from crosslign.runs.config import RunConfig
from crosslign.runs.prepare import PreparedRun
from crosslign.runs.recipe import parse_config
from crosslign.types import Completion, Query, Rollout

SEED = 0


@dataclass(frozen=True)
class Configuration:
    """One row of the table.

    Fields:
        shape: whose layers and vocabulary the model has.
        finetuning: all weights, or a LoRA adapter on peft's default layers for the architecture.
        rows, tokens: sequences a step, and completion tokens of each.
        generated: the step begins with sampling the completions; else they are given.
        mode: TRL's `distillation_mode`.
        cuda: runs on a GPU only.
        dtype: of the weights, but for the adapter's.
    """

    name: str
    shape: str
    finetuning: Literal["full", "lora"]
    rows: int
    tokens: int
    generated: bool = False
    mode: str = "full_logits"
    cuda: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"


class Side(Protocol):
    """One optimiser step on one batch; what comes before it (reading, tokenising) is not timed."""

    def step(self, batch: Sequence[Rollout]) -> float: ...


def run_config(
    made: Configuration, folder: Path, queries: str, output: Path, languages: Sequence[str] | None = None
) -> RunConfig:
    raw = {
        "model": {
            "path": str(folder),
            "finetuning": made.finetuning,
            "dtype": made.dtype,
            "attn_implementation": "flash_attention_2" if made.cuda and has_flash() else None,
        },
        "data": {
            "tables": [{"path": queries, "label": "unlabelled"}],
            "languages": list(languages) if languages else None,
        },
        "student": {"max_length": 4096},
        "teacher": {"template": "instruct", "max_length": 8192},
        "sampling": {"max_completion_length": made.tokens, "batch_size": made.rows},
        "output_dir": str(output / "ours"),
        "cache_dir": str(output / "cache"),
        "seed": SEED,
        "training": {
            "per_device_train_batch_size": made.rows,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-5,
            "use_cpu": not made.cuda,
        },
    }
    return parse_config(raw)


def has_flash() -> bool:
    from transformers.utils import is_flash_attn_2_available

    return bool(is_flash_attn_2_available())


def batches(run: PreparedRun, made: Configuration, count: int) -> list[list[Rollout]]:
    """Mixed-language queries in the order of training; completions are random ids, all of full length."""
    generator = torch.Generator().manual_seed(SEED)
    found = []
    for number in range(count):
        queries = [run.mixture.draw(0, number * made.rows + i) for i in range(made.rows)]
        ids = torch.randint(10, len(run.tokenizer), (made.rows, made.tokens), generator=generator).tolist()
        found.append([_rollout(run, query, tuple(row)) for query, row in zip(queries, ids, strict=True)])
    return found


def _rollout(run: PreparedRun, query: Query, ids: tuple[int, ...]) -> Rollout:
    return Rollout(
        query, run.contexts.student(query), run.contexts.teacher(query), Completion(ids, True), "student", "student"
    )


class Ours:
    """DistillationTrainer's own step, with DPSW; clipping and AdamW are those of the Trainer."""

    def __init__(self, made: Configuration, run: PreparedRun, model: Any = None) -> None:
        self.trainer = make_trainer(run, assemble(run, load_model(run.source) if model is None else model))
        self.generated = made.generated
        self.optimizer = self.trainer.create_optimizer()
        self.number = 0

    def step(self, batch: Sequence[Rollout]) -> float:
        trainer = self.trainer
        rollouts = list(batch)
        if self.generated:
            rollouts = trainer.collector.collect([r.query for r in batch], self.number)
        self.number += 1
        common = trainer.scorer.common_start(rollouts)
        count = torch.tensor(len(rollouts), device=trainer.args.device)
        loss = trainer.training_step(trainer.model, {"rollouts": rollouts, "common": common}, count)
        _update(trainer, self.optimizer)
        return float(loss)


class Theirs:
    """SDFTTrainer's own step (sampling, padding, both forwards, loss, backward), fed with our token ids."""

    def __init__(self, made: Configuration, run: PreparedRun, output: Path, model: Any = None) -> None:
        from datasets import Dataset
        from trl.experimental.sdft import SDFTConfig

        model = load_model(run.source) if model is None else model
        settings = SDFTConfig(
            output_dir=str(output / "theirs"),
            per_device_train_batch_size=made.rows,
            gradient_accumulation_steps=1,
            num_generations=1,
            max_prompt_length=None,
            max_completion_length=made.tokens,
            distillation_mode=made.mode,
            distillation_alpha=1.0,  # reverse KL
            teacher_model_kind="base",
            learning_rate=1e-5,
            adam_epsilon=run.arguments.adam_epsilon,
            use_cpu=not made.cuda,
            bf16=made.dtype == "bfloat16",
            gradient_checkpointing=False,
            report_to="none",
            seed=SEED,
        )
        self.trainer = _fed_with_ids()(
            model=model,
            args=settings,
            train_dataset=Dataset.from_list([{"prompt": "", "privileged_context": ""}] * made.rows),
            processing_class=run.tokenizer,
            peft_config=_same_lora(run) if made.finetuning == "lora" else None,
        )
        self.trainer.fixed = not made.generated
        self.trainer.current_gradient_accumulation_steps = 1
        self.optimizer = self.trainer.create_optimizer()

    def step(self, batch: Sequence[Rollout]) -> float:
        rows = [
            {"prompt": r.student_context.token_ids, "privileged_context": r.teacher_context.token_ids} for r in batch
        ]
        self.trainer.completions = [list(r.completion.token_ids) for r in batch]
        loss = self.trainer.training_step(self.trainer.model, rows, None)
        _update(self.trainer, self.optimizer)
        return float(loss)


def _update(trainer: Any, optimizer: torch.optim.Optimizer) -> None:
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
    optimizer.step()
    trainer.model.zero_grad()


def _same_lora(run: PreparedRun) -> Any:
    from peft import LoraConfig

    lora = run.config.model.lora
    return LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=0.0, task_type="CAUSAL_LM")


def _fed_with_ids() -> Any:
    """SDFTTrainer whose prompts are token ids already, and whose completions may be given."""
    from trl.experimental.sdft import SDFTTrainer

    class FedWithIds(SDFTTrainer):
        fixed = True
        completions: Sequence[list[int]] = ()

        def _tokenize_prompts(self, prompts: Any) -> Any:
            return [list(p) for p in prompts]

        def _generate(self, prompt_ids: Any) -> Any:
            return (prompt_ids, self.completions) if self.fixed else super()._generate(prompt_ids)

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.teacher_context_builder._compose_teacher_prompt = lambda prompt, privileged: privileged

    return FedWithIds


def quiet() -> None:
    for name in ("transformers", "trl", "accelerate", "crosslign"):
        logging.getLogger(name).setLevel(logging.ERROR)
