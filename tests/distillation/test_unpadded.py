"""A step in groups, with a shared prefix or packed, is the step of the padded batch: loss, metrics and gradients.

The oracle pads by hand, takes the model's own logits at the completion's positions and calls the reference objective.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from architectures import SMALL, Biased, build
from conftest import VOCABULARY, tiny_llama
from torch import Tensor

from crosslign.distillation.metrics import StepMetrics
from crosslign.models.passes.batching import Batching
from crosslign.objective import weighted_divergence
from crosslign.rollouts import ScriptedSampler
from crosslign.runs.build import assemble, make_trainer
from crosslign.runs.prepare import prepare
from crosslign.runs.recipe import parse_config
from crosslign.types import Completion, Context, Query, Rollout


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    if name == "Biased":
        return Biased(tiny_llama().config).eval()
    sliding = {"layer_types": ["sliding_attention", "full_attention"]} if name.startswith("Gemma3") else {}
    return build(name, vocab_size=VOCABULARY, max_position_embeddings=256, **sliding)


def trainer_of(recipe: dict[str, Any], model: Any, **training: Any) -> Any:
    """Full fine-tuning, so that every parameter has a gradient; student and teacher are apart."""
    raw = {
        **recipe,
        "model": {**recipe["model"], "finetuning": "full"},
        "training": {**recipe["training"], **training},
    }
    prepared = prepare(parse_config(raw), overwrite=True)
    trainer = make_trainer(prepared, assemble(prepared, model))
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(1.1)
    return trainer


# Token counts of student contexts, teacher contexts after their common start, and completions.
LENGTHS = ((40, 9, 7), (12, 30, 12), (3, 14, 1), (11, 2, 0), (25, 25, 9), (12, 11, 6))
COMMON = 12


def rollouts_of(trainer: Any) -> list[Rollout]:
    generator = torch.Generator().manual_seed(1)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, VOCABULARY, (count,), generator=generator).tolist())

    start = ids(COMMON)
    rollouts = []
    for number, (student, teacher, completion) in enumerate(LENGTHS):
        query = trainer.mixture.draw(0, number)
        contexts = (
            Context(query, "student", (), ids(student)),
            Context(query, "teacher", (), (*start, *ids(teacher))),
        )
        rollouts.append(Rollout(query, *contexts, Completion(ids(completion), False), "teacher", "teacher"))
    return rollouts


def test_rollouts_without_a_token_need_no_common_start(recipe: dict[str, Any]) -> None:
    """Queries that were too long stand in a window as one-token contexts."""
    scorer = trainer_of(recipe, model_of("Llama")).scorer
    query = Query("q", "sw", "swali", "en", "question")
    nothing = Context(query, "student", (), (0,))
    rollout = Rollout(query, nothing, nothing, Completion((), False), "student", "student")
    states = scorer.teacher_hidden([rollout, rollout], common=(5, 6, 7))
    assert [tuple(state.shape) for state in states] == [(0, 32)] * 2


def logits(model: Any, contexts: Sequence[Context], completions: Sequence[tuple[int, ...]]) -> Tensor:
    """The model's own logits before each completion token, all rows in one padded batch."""
    rows = [
        [*c.token_ids, *y][: len(c.token_ids) + max(len(y) - 1, 0)] for c, y in zip(contexts, completions, strict=True)
    ]
    width = max(map(len, rows))
    ids = torch.tensor([r + [0] * (width - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
    every = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    longest = max(map(len, completions))
    at = [[min(len(c.token_ids) - 1 + t, width - 1) for t in range(longest)] for c in contexts]
    return torch.stack([row[torch.tensor(positions)] for row, positions in zip(every, at, strict=True)])


def padded(trainer: Any, rollouts: Sequence[Rollout]) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
    """The oracle: loss, gradients and log line of one padded batch."""
    completions = [r.completion.token_ids for r in rollouts]
    longest = max(map(len, completions))
    mask = torch.tensor([[t < len(y) for t in range(longest)] for y in completions])
    with torch.no_grad(), trainer.scorer.teacher.view() as teacher:
        theirs = logits(teacher, [r.teacher_context for r in rollouts], completions)
    result = weighted_divergence(
        logits(trainer.model, [r.student_context for r in rollouts], completions), theirs, mask
    )
    trainer.model.zero_grad()
    result.loss.backward()
    gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    line = StepMetrics(trainer.metrics.languages)
    line.add(rollouts, result, mask)
    return result.loss.detach(), gradients, line.flush(lambda t: t)


def assert_same_step(trainer: Any, rollouts: Sequence[Rollout]) -> None:
    loss, gradients, line = padded(trainer, rollouts)
    count = torch.tensor(sum(bool(r.completion.token_ids) for r in rollouts))
    common = trainer.scorer.common_start(rollouts)
    ours = trainer.training_step(trainer.model, {"rollouts": list(rollouts), "common": common}, count)
    assert ours.item() == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in trainer.model.named_parameters():
        error = (parameter.grad - gradients[name]).norm() / gradients[name].norm()
        assert error < 1e-5, name
    logged = trainer.metrics.flush(lambda t: t)
    for name, value in line.items():
        if not name.startswith("seconds_"):
            assert logged[name] == pytest.approx(value, rel=1e-5), name


def use(trainer: Any, batching: Batching) -> None:
    trainer.scorer.batching = batching


FAMILIES = ["Llama", "Llama, tied", "Qwen2", "Qwen3", "Gemma3 (text)", "Biased"]


@pytest.mark.parametrize("name", FAMILIES)
def test_groups_of_similar_length_are_the_padded_step(recipe: dict[str, Any], name: str) -> None:
    trainer = trainer_of(recipe, model_of(name))
    rollouts = rollouts_of(trainer)
    # The sliding window is shorter than the rows, and the model that cannot be split has no prefix.
    reused = name not in ("Gemma3 (text)", "Biased")
    assert (len(trainer.scorer.common_start(rollouts)) == COMMON) == reused
    for group_cost in (0, 8):
        use(trainer, dataclasses.replace(trainer.scorer.batching, group_cost=group_cost, max_tokens=80))
        assert len(trainer.scorer.batching.groups([n for n, *_ in LENGTHS])) > 2
        assert_same_step(trainer, rollouts)


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_sequences_are_the_padded_step(recipe: dict[str, Any], name: str) -> None:
    """What varlen flash attention gets, here under the block-diagonal mask that transformers makes of positions."""
    trainer = trainer_of(recipe, model_of(name))
    trainer.scorer.prefix = None
    use(trainer, dataclasses.replace(trainer.scorer.batching, packed=True, split=False))
    rows: list[tuple[int, ...]] = []
    trainer.model.get_input_embeddings().register_forward_hook(lambda m, i, o: rows.append(tuple(i[0].shape)))
    rollouts = rollouts_of(trainer)
    assert_same_step(trainer, rollouts)
    assert rows[-1] == (1, sum(s + max(c - 1, 0) for s, _, c in LENGTHS if c))


def test_no_state_is_taken_where_the_common_start_is_not(recipe: dict[str, Any]) -> None:
    trainer = trainer_of(recipe, model_of("Llama"))
    rollouts = rollouts_of(trainer)
    with pytest.raises(ValueError, match="does not begin with"):
        trainer.scorer.teacher_hidden(rollouts, (1, 2, 3))
    assert trainer.scorer.common_start(rollouts[:1]) == ()
    # A context that is its window's common start keeps its last token: its state predicts the first completion token.
    alike = [dataclasses.replace(r, teacher_context=rollouts[0].teacher_context) for r in rollouts]
    assert trainer.scorer.common_start(alike) == rollouts[0].teacher_context.token_ids[:-1]
    assert_same_step(trainer, alike)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_teachers_prefix_is_reused_under_lora_and_checkpointing(
    recipe: dict[str, Any], checkpointing: bool
) -> None:
    prepared = prepare(parse_config(recipe), overwrite=True)
    trainer = make_trainer(prepared, assemble(prepared, model_of("Llama")))
    if checkpointing:
        trainer.model.gradient_checkpointing_enable()
        trainer.model.enable_input_require_grads()
    trainer.model.train()
    rollouts = rollouts_of(trainer)
    shared = trainer.scorer.teacher_hidden(rollouts, trainer.scorer.common_start(rollouts))
    whole = trainer.scorer.teacher_hidden(rollouts)
    assert [len(s) for s in shared] == [c for *_, c in LENGTHS]
    for ours, theirs in zip(shared, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    count = torch.tensor(5)
    trainer.training_step(trainer.model, {"rollouts": rollouts, "common": ()}, count)
    plain = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    common = trainer.scorer.common_start(rollouts)
    trainer.training_step(trainer.model, {"rollouts": rollouts, "common": common}, count)
    for name, gradient in plain.items():
        torch.testing.assert_close(dict(trainer.model.named_parameters())[name].grad, gradient, rtol=1e-4, atol=1e-6)


def test_only_the_last_backward_of_a_micro_batch_synchronises(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(recipe, model_of("Llama"))
    use(trainer, dataclasses.replace(trainer.scorer.batching, group_cost=0))
    events: list[str] = []

    @contextmanager
    def no_sync(model: Any) -> Any:
        events.append("off")
        yield
        events.append("on")

    backward = trainer.accelerator.backward
    monkeypatch.setattr(trainer.accelerator, "no_sync", no_sync)
    monkeypatch.setattr(
        trainer.accelerator, "backward", lambda loss, **kwargs: (events.append("backward"), backward(loss, **kwargs))
    )
    trainer.training_step(trainer.model, {"rollouts": rollouts_of(trainer)[:3]}, torch.tensor(3))
    assert events == ["off", "backward", "on"] * 2 + ["backward"]


def test_a_micro_batch_without_tokens_still_takes_part(recipe: dict[str, Any]) -> None:
    trainer = trainer_of(recipe, model_of("Llama"))
    empty = [r for r in rollouts_of(trainer) if not r.completion.token_ids]
    loss = trainer.training_step(trainer.model, {"rollouts": empty * 3}, torch.tensor(2))
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in trainer.model.model.layers.parameters())


def seeming(model: Any, device: str, attention: str) -> Any:
    """The model, as if it were on this device with this attention."""
    model.config._attn_implementation = attention
    weight = SimpleNamespace(device=torch.device(device))
    model.get_input_embeddings = lambda: SimpleNamespace(weight=weight)
    return model


@pytest.mark.parametrize(
    ("device", "attention", "packed", "split"),
    [
        ("cpu", "sdpa", False, True),
        ("cpu", "eager", False, True),
        ("cuda", "flash_attention_2", True, False),
        ("cuda", "sdpa", False, False),
    ],
)
def test_device_and_attention_decide_how_rows_are_batched(
    device: str, attention: str, packed: bool, split: bool
) -> None:
    made = Batching.of(seeming(model_of("Llama"), device, attention), 0)
    assert (made.packed, made.split) == (packed, split)
    assert (len(made.groups([100, 3])) == 2) == split


@pytest.mark.parametrize(
    ("family", "packed"),
    [
        ("Qwen2", True),
        ("Gemma3", True),  # sliding_attention and full_attention
        ("Qwen3_5", False),  # linear_attention and full_attention
        ("Qwen3Next", False),
        ("FalconH1", False),
        ("Lfm2", False),
        ("Mamba", False),
        ("Jamba", False),
    ],
)
def test_rows_are_packed_only_where_every_layer_is_attention(family: str, packed: bool) -> None:
    config = getattr(transformers, f"{family}TextConfig", None) or getattr(transformers, f"{family}Config")
    small = {**SMALL, "num_hidden_layers": 4, "num_experts": 4, "moe_intermediate_size": 8}
    if family == "Lfm2":
        small["layer_types"] = ["conv", "full_attention"] * 2
    with torch.device("meta"):
        model = getattr(transformers, f"{family}ForCausalLM")(config(**small))
    assert Batching.of(seeming(model, "cuda", "flash_attention_2"), 0).packed == packed


@pytest.mark.parametrize("family", ["Rwkv", "xLSTM"])
def test_recurrent_models_that_name_no_layers_have_no_flash_attention(family: str) -> None:
    config = getattr(transformers, f"{family}Config")()
    assert getattr(config, "layer_types", None) is None
    config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="Flash Attention 2"), torch.device("meta"):
        getattr(transformers, f"{family}ForCausalLM")(config)


def test_the_rollouts_of_a_window_are_sampled_in_one_call(recipe: dict[str, Any]) -> None:
    trainer = trainer_of(recipe, tiny_llama(), per_device_train_batch_size=2, gradient_accumulation_steps=3)
    sampler = ScriptedSampler(0, 200)
    trainer.collector.student = sampler
    trainer.train()
    assert [len(call) for call in sampler.calls] == [6] * 4
