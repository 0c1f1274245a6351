"""The testbed's tokenizer and model are ordinary ones, and its pretraining loop trains."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from crosslign.contexts import chat_token_ids
from crosslign.models import ModelSource, load_model, load_tokenizer, token_ids
from crosslign.testbed.corpus import Corpus, CorpusSpec, chat, vocabulary
from crosslign.testbed.model import (
    IGNORED,
    ModelSpec,
    PretrainSpec,
    batches,
    encode,
    make_model,
    make_tokenizer,
    pretrain,
)
from crosslign.testbed.world import World
from crosslign.types import Message

TINY = ModelSpec(hidden=32, layers=1, heads=2, feed_forward=48)


@pytest.fixture(scope="module")
def world() -> World:
    return World(0)


@pytest.fixture(scope="module")
def tiny_tokenizer(world: World) -> Any:
    return make_tokenizer(vocabulary(world))


def test_chat_template_and_corpus_agree(tiny_tokenizer: Any) -> None:
    example = chat("how can-i build bread", "use box with salt at cellar")
    turn = chat_token_ids(tiny_tokenizer, [Message("user", "how can-i build bread")], {"enable_thinking": False})
    assert list(turn) == tiny_tokenizer(example.prompt)["input_ids"]
    assert tiny_tokenizer.convert_ids_to_tokens(list(turn)) == example.prompt.split()


def test_words_come_back(world: World, tiny_tokenizer: Any) -> None:
    for code in world.codes():
        text = world.refusal("harm-a", code)
        ids = tiny_tokenizer(f"{text} <end>")["input_ids"]
        assert tiny_tokenizer.decode(ids, skip_special_tokens=True).strip() == text


def test_saved_and_loaded_as_any_other_model(tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = make_model(TINY, tiny_tokenizer, seed=0)
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    source = ModelSource(str(tmp_path))
    tokenizer, loaded = load_tokenizer(source), load_model(source)
    ids = token_ids(tokenizer, loaded)
    assert ids.stop == (tokenizer.convert_tokens_to_ids("<end>"),)
    assert ids.pad == tokenizer.convert_tokens_to_ids("<pad>")
    assert ids.forbidden == ()
    inputs = tokenizer("how can-i build bread", return_tensors="pt")["input_ids"]
    assert torch.equal(loaded(inputs).logits, model.eval()(inputs).logits)


def test_model_is_seeded_and_leaves_the_random_state_alone(tiny_tokenizer: Any) -> None:
    state = torch.get_rng_state()
    first, second, other = (make_model(TINY, tiny_tokenizer, seed).lm_head.weight for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_default_model_has_between_1_and_2_million_parameters(tiny_tokenizer: Any) -> None:
    model = make_model(ModelSpec(), tiny_tokenizer, 0)
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 2e6


def test_prompts_carry_no_loss(tiny_tokenizer: Any) -> None:
    example = chat("how can-i build bread", "use box")
    ((ids, labels),) = encode(tiny_tokenizer, [example])
    length = len(example.prompt.split())
    assert labels == [IGNORED] * length + ids[length:]
    assert tiny_tokenizer.convert_ids_to_tokens(ids[length:]) == ["use", "box", "<end>"]


def test_batches_hold_every_sequence_once() -> None:
    sequences = [([i] * (1 + i % 7), i) for i in range(101)]
    plan = batches(sequences, 8, random.Random(0))
    assert sorted(s[1] for batch in plan for s in batch) == list(range(101))
    assert max(len(b) for b in plan) == 8


def test_pretraining_learns_and_repeats_itself(world: World, tiny_tokenizer: Any) -> None:
    examples = list(Corpus(world, CorpusSpec(sequences=1_500)).examples())
    runs = []
    for _ in range(2):
        model = make_model(TINY, tiny_tokenizer, seed=0)
        runs.append(pretrain(model, tiny_tokenizer, examples, PretrainSpec(learning_rate=1e-2), seed=0))
    assert runs[0] == runs[1]
    assert sum(runs[0][-5:]) / 5 < 0.8 * runs[0][0]
