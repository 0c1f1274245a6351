"""The estimate of a run's memory, part by part, beside real tensors and numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_llama
from helpers import cli_train, no_weights
from peft import LoraConfig
from transformers import DynamicCache, Qwen3MoeConfig, Qwen3MoeForCausalLM

from crosslign.models import ModelSource, add_lora, causal_lm, freeze, load_skeleton
from crosslign.models.passes.batching import Batching
from crosslign.objective.cpu.kernel import BlockKernel
from crosslign.objective.head import PlainHead
from crosslign.objective.kernel import Options
from crosslign.objective.products import Precision
from crosslign.runs.memory.advice import fitting, memory_table, savings
from crosslign.runs.memory.estimate import NF4, SENT, Setup, estimate, kept_by_layer, key_value_bytes
from crosslign.runs.memory.inputs import Needs, needs_of, sharding_of
from crosslign.runs.memory.shape import ModelShape, shape_of
from crosslign.runs.prepare import prepare
from crosslign.runs.recipe import parse_config
from crosslign.types import CrosslignError

FULL = Setup("cpu", 4, 4, 4, False, (30, 20), (50, 40), completion=10, prompt=30, written=10, rollouts=2)
LORA = dataclasses.replace(FULL, teacher=0, lora=True)


def part(shape: ModelShape, setup: Setup, name: str, moment: str = "") -> int:
    return sum(p.bytes for p in estimate(shape, setup).parts if (p.name, p.moment) == (name, moment))


def lora(model: Any, rank: int = 4) -> Any:
    return add_lora(model, LoraConfig(r=rank, target_modules="all-linear"))


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return shape_of(tiny_llama())


@pytest.mark.parametrize("finetuning", ["full", "lora"])
def test_a_model_without_weights_has_the_real_ones_sizes(model_folder: Path, finetuning: str) -> None:
    empty, real = load_skeleton(ModelSource(str(model_folder))), tiny_llama()
    assert all(p.is_meta for p in empty.parameters())
    if finetuning == "lora":
        empty, real = lora(empty), lora(real)
    found = shape_of(empty)
    assert found == shape_of(real)
    base = [p for name, p in real.named_parameters() if ".lora_" not in name]
    assert found.weights == sum(p.numel() for p in base)
    assert found.trained == sum(p.numel() for p in real.parameters() if p.requires_grad)
    assert (found.layers, found.head, found.tied, found.query, found.key_value) == (2, 272 * 32, False, 32, 16)
    assert found.linear == 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)


def test_tied_and_frozen_weights() -> None:
    model = tiny_llama(tie_word_embeddings=True)
    freeze(model, ["embed_tokens", "layers.0"])
    found = shape_of(model)
    assert found.tied
    assert not found.head_trained
    assert found.weights == shape_of(tiny_llama()).weights - found.head
    assert found.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("weight", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("finetuning", ["full", "lora"])
def test_what_a_layer_keeps_is_what_autograd_saves(
    finetuning: str, mixed: bool, weight: torch.dtype, attention: str
) -> None:
    def saved(layers: int) -> tuple[int, ModelShape]:
        """Bytes of the tensors that a forward pass saves, weights aside."""
        model: Any = tiny_llama(num_hidden_layers=layers, attn_implementation=attention).to(weight).train()
        model = lora(model) if finetuning == "lora" else model
        sizes = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            sizes.setdefault(storage.data_ptr(), storage.nbytes())
            kept.append(tensor)  # so that no storage takes the place of another
            return tensor

        kept: list[torch.Tensor] = []
        ids = torch.arange(rows * length).view(rows, length) % 200
        precision = torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext()
        with precision, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            causal_lm(model).get_decoder()(input_ids=ids, use_cache=False)
        return sum(sizes.values()), shape_of(model)

    rows, length = 2, 64
    (two, _), (four, shape) = saved(2), saved(4)
    size = weight.itemsize
    setup = dataclasses.replace(
        FULL,
        weight=size,
        compute=2 if mixed else size,
        mixed=mixed,
        lora=finetuning == "lora",
        eager=attention == "eager",
    )
    layer = kept_by_layer(shape, setup, length) * rows * length
    if mixed and size == 4:
        layer += shape.linear / shape.layers * 2  # the weights in the other type
    assert layer == pytest.approx((four - two) / 2, rel=0.05)


def test_keys_and_values_are_those_of_a_real_cache(shape: ModelShape) -> None:
    model, cache = tiny_llama(), DynamicCache()
    with torch.no_grad():
        model(input_ids=torch.zeros(3, 7, dtype=torch.long), past_key_values=cache, use_cache=True)
    real = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    assert 3 * 7 * key_value_bytes(shape, 4) == real
    gpu = dataclasses.replace(FULL, device="cuda", prompt=5, written=2, rollouts=3)
    assert part(shape, gpu, "keys and values", "sampling") == real


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("adamw_torch_fused", torch.optim.AdamW),
        ("sgd", torch.optim.SGD),
        ("adagrad", torch.optim.Adagrad),
        ("rmsprop", torch.optim.RMSprop),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_optimizer_has_what_torchs_has(
    shape: ModelShape, name: str, make: Callable[..., torch.optim.Optimizer], dtype: torch.dtype
) -> None:
    model = tiny_llama().to(dtype)
    optimizer = make(model.parameters(), lr=1e-3)
    model(input_ids=torch.zeros(1, 3, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    # A step's number stands beside each weight.
    real = sum(v.nbytes for state in optimizer.state.values() for v in state.values() if v.numel() > 1)
    setup = dataclasses.replace(FULL, optimizer=name, weight=dtype.itemsize)
    assert part(shape, setup, "optimizer") == real
    assert part(shape, setup, "gradients", "step") == sum(
        p.grad.nbytes for p in model.parameters() if p.grad is not None
    )


def test_other_optimizers_by_hand(shape: ModelShape) -> None:
    def bytes_of(name: str) -> int:
        return part(shape, dataclasses.replace(FULL, optimizer=name), "optimizer")

    assert bytes_of("adamw_8bit") == bytes_of("paged_adamw_8bit") == int(shape.trained * 2 * 1.015625)
    assert bytes_of("adafactor") == 0
    assert bytes_of("lion_32bit") == shape.trained * 4
    assert bytes_of("ademamix") == shape.trained * 12


def test_the_chunk_is_the_kernels_memory() -> None:
    vocabulary, tokens = 49_152, 20
    head = PlainHead(torch.empty(vocabulary, 4), None, 1.0, None)
    kernel = BlockKernel(head, head, Options(), Precision.of(torch.empty(1, 4)), tokens)
    small = shape_of(tiny_llama(vocab_size=vocabulary))
    setup = dataclasses.replace(LORA, completion=tokens // 2)
    assert part(small, setup, "logits of a chunk", "step") == kernel.memory.nbytes
    many = dataclasses.replace(setup, completion=4000, students=(1,))
    assert part(small, many, "logits of a chunk", "step") == pytest.approx(150 * 2**20, rel=0.06)
    whole = dataclasses.replace(many, device="cuda")
    assert part(small, whole, "logits of a chunk", "step") == pytest.approx(3 * 768 * 2**20, rel=0.06)


def test_rows_share_passes_as_in_training(shape: ModelShape) -> None:
    contexts = (300, 290, 180, 170, 20)
    lengths = [length + 10 for length in contexts]
    groups = Batching(0).groups(lengths)
    tokens = max(len(rows) * lengths[rows[0]] for rows in groups)
    assert tokens < len(lengths) * lengths[0]
    setup = dataclasses.replace(LORA, students=contexts)
    layers = kept_by_layer(shape, setup, 310) * shape.layers + 3 * 32 * 4 + 3 * 48 * 4
    assert part(shape, setup, "activations", "step") == int(tokens * layers)
    gpu = dataclasses.replace(setup, device="cuda")
    assert part(shape, gpu, "activations", "step") == int(5 * 310 * layers)
    # With checkpointing each layer's input, and one layer.
    less = dataclasses.replace(gpu, checkpointing=True)
    layers = 2 * 32 * 4 + kept_by_layer(shape, setup, 310) + 3 * 32 * 4 + 3 * 48 * 4
    assert part(shape, less, "activations", "step") == int(5 * 310 * layers)


def test_four_bits_by_hand(shape: ModelShape) -> None:
    setup = dataclasses.replace(LORA, nf4=True, weight=2, compute=2, mixed=True)
    packed = int(shape.linear * NF4 + (shape.weights - shape.linear) * 2) + shape.trained * 4
    assert part(shape, setup, "weights") == pytest.approx(packed, abs=1)
    assert pytest.approx(0.516, abs=1e-3) == NF4


def test_what_sharding_divides(shape: ModelShape) -> None:
    """In units of the model's weights in float32: AdamW, gradients, teacher and weights of full fine-tuning."""
    names = (("weights", ""), ("teacher", ""), ("optimizer", ""), ("gradients", "step"))
    whole = shape.weights * 4

    def units(sharding: Any, **changes: Any) -> list[float]:
        setup = dataclasses.replace(FULL, sharding=sharding, processes=4, **changes)
        return [part(shape, setup, *name) / whole for name in names]

    assert units("none") == [1, 1, 2, 1]
    assert units("ddp") == [1, 1, 2, 2]  # its buckets
    assert units("fsdp") == [0.25, 0.25, 0.5, 0.25]
    assert units("zero1") == [1, 1, 0.5, 1]
    assert units("zero2") == [1, 1, 0.5, 1.25]  # what is sent
    assert units("zero3") == [0.25, 0.25, 0.5, 1.25]
    assert units("zero3", offload_optimizer=True) == [0.25, 0.25, 0, 1.25]
    assert units("zero3", offload_weights=True) == [0, 0, 0.5, 1.25]
    # In half precision DeepSpeed's optimizer keeps float32 weights too, and accelerate's FSDP trains in float32.
    half: dict[str, Any] = {"weight": 2, "teacher": 2, "compute": 2, "mixed": True}
    assert units("zero3", **half) == [0.125, 0.125, 0.75, 0.625]
    assert units("fsdp", **half) == [0.25, 0.125, 0.5, 0.25]


def test_a_sharded_model_is_whole_while_it_is_loaded_and_sampled_from(shape: ModelShape) -> None:
    setup = dataclasses.replace(LORA, sharding="fsdp", processes=4)
    assert part(shape, setup, "whole model", "sampling") == shape.weights * 4
    served = dataclasses.replace(setup, rollouts=0)
    found = estimate(shape, served)
    assert not found.of("sampling")
    loaded = found.of("") + found.of("loading")
    assert loaded == shape.weights * 4 + next(p.bytes for p in found.parts if p.name == "libraries")
    # Full fine-tuning loads the teacher's copy too; in one process neither is divided.
    full = estimate(shape, dataclasses.replace(FULL, sharding="zero3", processes=100))
    assert full.of("loading") == pytest.approx(shape.weights * 4 * (2 - 0.01 * 4), rel=0.01)


def test_data_parallelism_starts_by_sending_all_weights_in_two_packets(shape: ModelShape) -> None:
    setup = dataclasses.replace(LORA, sharding="ddp", processes=2)
    sent = "weights that are sent", "start of DDP"
    large = dataclasses.replace(shape, weights=10**9, embedding=10**8, head=10**7)
    assert part(large, setup, *sent) == pytest.approx(2 * SENT + 4e8 - large.trained * 8)  # before the optimizer's
    assert part(shape, setup, *sent) == max(shape.weights * 4 - shape.trained * 8, 0)  # of fewer there is one
    assert not estimate(shape, dataclasses.replace(setup, sharding="none")).of("start of DDP")


def test_a_total_is_what_is_kept_and_the_largest_moment(shape: ModelShape) -> None:
    found = estimate(shape, FULL)
    moments = {p.moment for p in found.parts} - {""}
    assert found.total == found.of("") + max(found.of(moment) for moment in moments)
    assert found.of(found.peak) == max(found.of(moment) for moment in moments)
    more = estimate(shape, dataclasses.replace(FULL, rollouts=100_000))
    assert more.peak == "sampling"


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({}, ("ddp", False, False)),
        ({"fsdp": "full_shard"}, ("fsdp", False, False)),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, ("zero2", False, False)),
        (
            {"deepspeed": {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}},
            ("zero3", True, False),
        ),
    ],
)
def test_sharding_is_read_from_the_recipe(training: dict[str, Any], expected: tuple[Any, ...], tmp_path: Path) -> None:
    assert sharding_of(training, 2) == expected
    if "deepspeed" in training:
        file = tmp_path / "zero.json"
        file.write_text(str(training["deepspeed"]).replace("'", '"'))
        assert sharding_of({"deepspeed": str(file)}, 2) == expected
    with pytest.raises(CrosslignError, match="stage from 0 to 3"):
        sharding_of({"deepspeed": {"zero_optimization": {"stage": 7}}}, 2)


def test_the_contexts_are_the_runs_own(recipe: dict[str, Any]) -> None:
    run = prepare(parse_config(recipe))
    setup = needs_of(run).setup
    queries = [q for t in run.tables for q in t.queries(run.languages)]
    students = sorted((len(run.contexts.student(q).token_ids) for q in queries), reverse=True)
    assert setup.students == tuple(students[:2])
    judged = max(len(run.contexts.judgement(q).token_ids) for q in queries)
    assert (setup.prompt, setup.written) == (judged, 6)  # longer than a student's prompt and 8 tokens
    assert setup.teachers[0] == max(len(run.contexts.teacher(q, "").token_ids) for q in queries) + 6
    assert (setup.rollouts, setup.accumulation, setup.device) == (4, 2, "cpu")


def test_a_change_is_offered_for_what_it_saves() -> None:
    large = shape_of(tiny_llama(vocab_size=50_000, hidden_size=512, intermediate_size=2048, num_hidden_layers=8))
    with_lora = dataclasses.replace(large, trained=large.trained // 100, head_trained=False)
    setup = dataclasses.replace(FULL, device="cuda", students=(900,) * 8, teachers=(900,) * 8, rollouts=64)
    before = estimate(large, setup).total
    needs = Needs(large, with_lora, setup)
    found = list(savings(needs, before // 3))
    totals = [before, *(one.total for one in found)]
    assert [a - b for a, b in itertools.pairwise(totals)] == [one.saved for one in found]
    assert totals[-1] <= before // 3 < totals[-2]
    assert not list(savings(needs, before))
    # More devices that divide the weights are no help: `generate` wants the whole model.
    assert not any("fsdp" in text for text, *_ in [*found, *savings(needs, 1000)])
    text = memory_table(needs, before // 3)
    assert "It does not fit" in text
    assert found[0].text in text
    # What is offered can be laid over the recipe, but for what wants another device.
    assert {"model": {"finetuning": "lora"}} in [one.keys for one in found]
    alone = fitting(needs, before // 3)
    assert alone
    assert all(one.keys for one in alone)
    assert alone[-1].total <= before // 3
    assert fitting(needs, before) == []
    assert fitting(needs, 1000) is None
    assert "not enough" in memory_table(needs, 1000)
    assert "not fit" not in memory_table(needs, before)


def test_a_dry_run_says_what_memory_it_needs(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_weights(monkeypatch)
    assert cli_train(tmp_path, recipe, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "memory of the process (CPU)" in out
    for name in ("weights", "optimizer", "activations", "keys and values", "total", "the device has"):
        assert name in out
    recipe["model"]["finetuning"] = "full"
    assert cli_train(tmp_path, recipe, "--dry-run", "--processes", "2", "--gpu-memory", "80") == 0
    out = capsys.readouterr().out
    assert "each of 2 processes (GPU)" in out
    assert "80.00" in out
    assert "teacher  " in out


def test_a_dry_run_finds_out_that_the_model_has_no_such_layers(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe["model"]["lora"]["target_modules"] = ["nothing"]
    assert cli_train(tmp_path, recipe, "--dry-run") == 1
    assert "crosslign: model.lora: Target modules" in capsys.readouterr().err
    recipe["model"] = {"path": recipe["model"]["path"], "finetuning": "full", "frozen": ["nothing"]}
    assert cli_train(tmp_path, recipe, "--dry-run") == 1
    assert "no parameter's name matches 'nothing'" in capsys.readouterr().err


def test_a_dry_run_needs_no_weights_but_training_does(
    recipe: dict[str, Any], model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "configuration"
    folder.mkdir()
    for file in model_folder.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    recipe["model"]["path"] = str(folder)
    assert cli_train(tmp_path, recipe, "--dry-run") == 0
    assert "total" in capsys.readouterr().out
    assert cli_train(tmp_path, recipe) == 1
    assert "has no weights" in capsys.readouterr().err
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 1000000000'))
    assert cli_train(tmp_path, recipe, "--dry-run") == 0
    assert "num_hidden_layers is 1000000000" in capsys.readouterr().out


def test_of_a_mixture_of_experts_the_table_says_that_it_is_too_low(shape: ModelShape) -> None:
    needs = Needs(shape, shape, FULL)
    assert "mixture of experts" not in memory_table(needs, None)
    mixed = dataclasses.replace(shape, experts=True)
    assert "mixture of experts" in memory_table(Needs(mixed, mixed, FULL), None)
    config = Qwen3MoeConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, vocab_size=50,
        moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    assert shape_of(Qwen3MoeForCausalLM(config)).experts
    assert not shape.experts
