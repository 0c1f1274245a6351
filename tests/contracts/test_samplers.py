"""The contract of every sampler, as the `Sampler` protocol states it, and what `TransformersSampler` adds to it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_llama
from fake_vllm import FakeVllm
from peft import LoraConfig

from crosslign.models import FrozenTeacher, add_lora, token_ids
from crosslign.rollouts import (
    PublishedAdapter,
    PublishedWeights,
    Sampler,
    SamplingParameters,
    ScriptedSampler,
    TransformersSampler,
    VllmSampler,
    VllmServer,
    derive_seed,
)
from crosslign.types import Completion

TOKENIZER = byte_tokenizer()
STOP = TOKENIZER.eos_token_id
FORBIDDEN = tuple(range(len(TOKENIZER), 272))
# Lengths 1 to 90, out of order, two prompts equal.
PROMPTS = [[65], list(range(3, 93)), [70, 71, 72], [65], list(range(100, 140)), [9, 8, 7, 6, 5]]


@dataclass
class Subject:
    """One sampler under test, and the model it runs, if it has one."""

    sampler: Sampler
    model: Any = None
    random: bool = True


def policy(model: Any) -> Callable[[], Any]:
    return lambda: nullcontext(model)


def transformers_sampler(make: Callable[[], Any], **options: Any) -> TransformersSampler:
    return TransformersSampler(
        make,
        **{
            "stop_token_ids": [STOP],
            "pad_token_id": STOP,
            "forbidden_token_ids": FORBIDDEN,
            "batch_size": 4,
            **options,
        },
    )


def scripted() -> Subject:
    return Subject(ScriptedSampler(STOP, len(TOKENIZER)))


def with_script() -> Subject:
    # Of any length, none at all included, and with a stop token of its own in the middle.
    return Subject(ScriptedSampler(STOP, len(TOKENIZER), script=lambda p: [*p, STOP, *p][len(p) % 3 :]), random=False)


def full_model() -> Subject:
    model = tiny_llama()
    return Subject(transformers_sampler(policy(model)), model)


def lora_model() -> Any:
    model = add_lora(tiny_llama(), LoraConfig(r=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return model


def frozen_teacher() -> Subject:
    model = lora_model()
    return Subject(transformers_sampler(FrozenTeacher(model).view), model)


def lora_student() -> Subject:
    model = lora_model()
    return Subject(transformers_sampler(policy(model)), model)


def vllm_sampler(model: Any, publish: Callable[[VllmServer], Callable[[], str]] | None = None) -> VllmSampler:
    """By a server that ends with the tests, and has the tiny model."""
    server = VllmServer(FakeVllm(tiny_llama()).root, "base")
    ids = token_ids(TOKENIZER, model)
    return VllmSampler(server, ids, vocabulary=272, publish=None if publish is None else publish(server))


def vllm_base() -> Subject:
    return Subject(vllm_sampler(tiny_llama()))


def vllm_adapter() -> Subject:
    model = add_lora(tiny_llama(), LoraConfig(r=4))
    folder = Path(tempfile.mkdtemp())
    sampler = vllm_sampler(model, lambda server: PublishedAdapter(server, model, folder, "run"))
    model.load_state_dict(lora_model().state_dict())
    return Subject(sampler)


def vllm_weights() -> Subject:
    model = tiny_llama()
    folder = Path(tempfile.mkdtemp())
    sampler = vllm_sampler(model, lambda server: PublishedWeights(server, model, folder, "run"))
    model.load_state_dict(tiny_llama(seed=1).state_dict())
    return Subject(sampler)


OWN = (scripted, with_script, full_model, frozen_teacher, lora_student)
SERVED = (vllm_base, vllm_adapter, vllm_weights)
SUBJECTS = {f.__name__: f for f in (*OWN, *SERVED)}
LIMITS = [1, 4, 12]


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return SUBJECTS[request.param]()


@pytest.fixture(scope="module", params=["full_model", "frozen_teacher", "lora_student"])
def with_model(request: pytest.FixtureRequest) -> Subject:
    return SUBJECTS[request.param]()


def limited(limit: int = 6, **changes: Any) -> SamplingParameters:
    return SamplingParameters(max_completion_length=limit, **changes)


def test_every_sampler_keeps_the_protocol(subject: Subject) -> None:
    assert isinstance(subject.sampler, Sampler)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_one_completion_for_each_prompt_that_ends_with_a_stop_token_exactly_if_not_truncated(
    subject: Subject, limit: int, temperature: float
) -> None:
    completions = subject.sampler.sample(PROMPTS, limited(limit, temperature=temperature), seed=5)
    assert len(completions) == len(PROMPTS)
    for completion in completions:
        assert isinstance(completion, Completion)
        assert 1 <= len(completion.token_ids) <= limit
        assert all(type(t) is int and 0 <= t < len(TOKENIZER) for t in completion.token_ids)
        assert STOP not in completion.token_ids[:-1]
        assert (completion.token_ids[-1] == STOP) == (not completion.truncated)
        if completion.truncated:
            assert len(completion.token_ids) == limit


def test_no_prompts_give_no_completions(subject: Subject) -> None:
    assert subject.sampler.sample([], limited(), seed=0) == []


def test_completions_come_in_the_order_of_the_prompts(subject: Subject) -> None:
    greedy = limited(temperature=0)
    forwards = subject.sampler.sample(PROMPTS, greedy, seed=1)
    assert subject.sampler.sample(PROMPTS[::-1], greedy, seed=1) == forwards[::-1]
    assert forwards[0] == forwards[3]  # equal prompts
    assert len(set(forwards)) > 2  # so that the order can show


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_the_same_seed_gives_the_same_completions(subject: Subject, temperature: float) -> None:
    parameters = limited(temperature=temperature)
    first = subject.sampler.sample(PROMPTS, parameters, seed=11)
    torch.rand(3)  # the caller's random state has no influence
    assert subject.sampler.sample(PROMPTS, parameters, seed=11) == first


def test_another_seed_gives_other_completions_at_temperature_1(subject: Subject) -> None:
    first = subject.sampler.sample(PROMPTS, limited(), seed=1)
    second = subject.sampler.sample(PROMPTS, limited(), seed=2)
    assert (first != second) == subject.random


def test_greedy_completions_do_not_depend_on_the_seed(subject: Subject) -> None:
    greedy = limited(temperature=0)
    assert subject.sampler.sample(PROMPTS, greedy, seed=1) == subject.sampler.sample(PROMPTS, greedy, seed=2)


def test_the_callers_random_state_is_left_as_it_was(subject: Subject) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    subject.sampler.sample(PROMPTS, limited(), seed=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_left_as_it_was(with_model: Subject, training: bool) -> None:
    with_model.model.train(training)
    modes = []
    hook = with_model.model.get_input_embeddings().register_forward_hook(lambda m, i, o: modes.append(m.training))
    with_model.sampler.sample(PROMPTS, limited(2), seed=3)
    hook.remove()
    assert set(modes) == {False}
    assert {m.training for m in with_model.model.modules()} == {training}


def test_the_mode_is_restored_also_when_sampling_fails() -> None:
    model = tiny_llama().train()
    with pytest.raises(IndexError):
        transformers_sampler(policy(model)).sample([[9999]], limited(), seed=0)
    assert model.training


def test_sampling_records_no_gradient_and_leaves_none(with_model: Subject) -> None:
    enabled = []
    embeddings = with_model.model.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda *_: enabled.append(torch.is_grad_enabled()))
    with_model.sampler.sample(PROMPTS, limited(2), seed=3)
    hook.remove()
    assert set(enabled) == {False}
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in with_model.model.parameters())


# The same model gives the same, whoever samples from it.


@pytest.mark.parametrize(
    ("here", "served"),
    [(full_model, vllm_base), (lora_student, vllm_adapter), (frozen_teacher, vllm_base)],
)
def test_a_server_samples_greedily_what_this_process_does(
    here: Callable[[], Subject], served: Callable[[], Subject]
) -> None:
    greedy = limited(10, temperature=0)
    assert served().sampler.sample(PROMPTS, greedy, seed=0) == here().sampler.sample(PROMPTS, greedy, seed=0)


# TransformersSampler


def by_hand(model: Any, prompt: Sequence[int], limit: int, stop: Sequence[int] = (STOP,)) -> Completion:
    """Greedy decoding of one prompt: no batch, no padding, no cache."""
    ids, new = list(prompt), []
    while len(new) < limit:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        logits[list(FORBIDDEN)] = -torch.inf
        token = int(logits.argmax())
        ids.append(token)
        new.append(token)
        if token in stop:
            return Completion(tuple(new), truncated=False)
    return Completion(tuple(new), truncated=True)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama()


@pytest.fixture(scope="module")
def expected(model: Any) -> list[Completion]:
    """Greedy completions of PROMPTS with every sixth id as a stop token, so that rows end at different lengths."""
    completions = [by_hand(model, p, 10, ENDS) for p in PROMPTS]
    assert len({len(c.token_ids) for c in completions}) > 2
    return completions


ENDS = tuple(range(0, len(TOKENIZER), 6))


@pytest.mark.parametrize("pad", [STOP, 6, 77], ids=["pad is eos", "pad is another stop", "pad is a plain token"])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 6, 100])
def test_greedy_equals_decoding_by_hand_whatever_the_batch_and_the_padding(
    model: Any, expected: list[Completion], pad: int, batch_size: int
) -> None:
    sampler = transformers_sampler(policy(model), stop_token_ids=ENDS, pad_token_id=pad, batch_size=batch_size)
    assert sampler.sample(PROMPTS, limited(10, temperature=0), seed=0) == expected


def test_the_teacher_view_samples_from_the_base_and_the_student_from_the_adapted_model() -> None:
    model = lora_model()
    greedy = limited(8, temperature=0)
    base = [by_hand(tiny_llama(), p, 8) for p in PROMPTS]
    adapted = [by_hand(model, p, 8) for p in PROMPTS]
    assert base != adapted
    teacher = FrozenTeacher(model)
    assert transformers_sampler(teacher.view).sample(PROMPTS, greedy, seed=0) == base
    assert transformers_sampler(policy(model)).sample(PROMPTS, greedy, seed=0) == adapted
    assert all(p.requires_grad for n, p in model.named_parameters() if "lora_" in n)


def test_forbidden_ids_are_never_sampled_even_if_the_model_wants_nothing_else() -> None:
    model = tiny_llama(tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[list(FORBIDDEN)] *= 1000
    for temperature in (0.0, 1.0):
        parameters = limited(20, temperature=temperature)
        free = transformers_sampler(policy(model), forbidden_token_ids=()).sample(PROMPTS, parameters, seed=0)
        assert any(t in FORBIDDEN for c in free for t in c.token_ids)
        for completion in transformers_sampler(policy(model)).sample(PROMPTS, parameters, seed=0):
            assert not set(completion.token_ids) & set(FORBIDDEN)


def test_token_ids_of_the_tokenizer_make_a_sampler(model: Any) -> None:
    ids = token_ids(TOKENIZER, model)
    assert ids.forbidden == FORBIDDEN
    sampler = TransformersSampler(
        policy(model), stop_token_ids=ids.stop, pad_token_id=ids.pad, forbidden_token_ids=ids.forbidden
    )
    assert sampler.sample(PROMPTS, limited(3), seed=0) == transformers_sampler(policy(model), batch_size=16).sample(
        PROMPTS, limited(3), seed=0
    )


GENERATION_CONFIGS: dict[str, dict[str, Any]] = {
    "sharpened": {"do_sample": True, "top_k": 1, "top_p": 0.5, "temperature": 0.1, "repetition_penalty": 5.0},
    "min_p": {"min_p": 0.9},
    "min_new_tokens": {"min_new_tokens": 6},
    "min_length": {"min_length": 1000},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "suppress_tokens": {"suppress_tokens": list(range(1, 250))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(1, 250))},
    "bad_words_ids": {"bad_words_ids": [[t] for t in range(1, 250)]},
    "sequence_bias": {"sequence_bias": [[[5], 1000.0]]},
    "forced_eos_token_id": {"forced_eos_token_id": 5},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (0, 50.0)},
    "typical_p": {"typical_p": 0.1},
    "epsilon_cutoff": {"epsilon_cutoff": 0.3},
    "guidance_scale": {"guidance_scale": 3.0},
    "stop_strings": {"stop_strings": ["a"]},
    "max_time": {"max_time": 0.0},
    "another end": {"eos_token_id": list(range(1, 200)), "pad_token_id": 3},
    "beams": {"num_beams": 3},
    "returned as a dictionary": {"return_dict_in_generate": True, "output_scores": True},
}


def hot_and_cold(model: Any) -> list[list[Completion]]:
    """Completions with and without ids that are forbidden, greedy and drawn."""
    return [
        transformers_sampler(policy(model), forbidden_token_ids=forbidden).sample(
            PROMPTS, limited(8, temperature=temperature), seed=4
        )
        for forbidden in (FORBIDDEN, ())
        for temperature in (0.0, 1.0)
    ]


@pytest.fixture(scope="module")
def plain(model: Any) -> list[list[Completion]]:
    return hot_and_cold(model)


@pytest.mark.parametrize("name", GENERATION_CONFIGS)
def test_the_generation_config_of_the_model_does_not_leak_in_and_is_left_alone(
    name: str, plain: list[list[Completion]]
) -> None:
    model = tiny_llama()
    for field, value in GENERATION_CONFIGS[name].items():
        setattr(model.generation_config, field, value)
    before = model.generation_config.to_dict()
    assert hot_and_cold(model) == plain
    assert model.generation_config.to_dict() == before


def test_the_generation_config_does_not_leak_into_a_lora_model_either() -> None:
    plain = transformers_sampler(policy(lora_model()), forbidden_token_ids=())
    model = lora_model()
    model.get_base_model().generation_config.update(min_new_tokens=6, suppress_tokens=list(range(1, 250)))
    before = model.get_base_model().generation_config.to_dict()
    sampler = transformers_sampler(policy(model), forbidden_token_ids=())
    assert sampler.sample(PROMPTS, limited(8), seed=4) == plain.sample(PROMPTS, limited(8), seed=4)
    assert model.get_base_model().generation_config.to_dict() == before


def test_top_k_and_top_p_restrict_sampling(model: Any) -> None:
    greedy = transformers_sampler(policy(model)).sample(PROMPTS, limited(temperature=0), seed=0)
    for narrow in (limited(top_k=1), limited(top_p=1e-6), limited(temperature=0.01)):
        assert transformers_sampler(policy(model)).sample(PROMPTS, narrow, seed=0) == greedy


@pytest.mark.parametrize(("served", "draws", "most"), [(False, 2000, 0.15), (True, 600, 0.25)])
def test_at_temperature_1_the_first_token_follows_the_models_own_distribution(
    model: Any, served: bool, draws: int, most: float
) -> None:
    prompt = [70, 71, 72]
    sampler = vllm_sampler(model) if served else transformers_sampler(policy(model), batch_size=draws)
    first = [c.token_ids[0] for c in sampler.sample([prompt] * draws, limited(1), seed=0)]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    logits[list(FORBIDDEN)] = -torch.inf
    probability = logits.softmax(-1)
    share = torch.bincount(torch.tensor(first), minlength=272).double() / draws
    # Of the likeliest tokens down to those that top_k = 50, a common default, would leave out.
    assert (share - probability).abs().sum() / 2 < most
    tail = probability.sort(descending=True).indices[50:]
    assert probability[tail].sum() > 0.02
    assert share[tail].sum() == pytest.approx(probability[tail].sum().item(), rel=0.5)


def test_generation_stops_when_all_rows_have_ended() -> None:
    model = tiny_llama()
    sampler = transformers_sampler(policy(model), stop_token_ids=ENDS, batch_size=100)
    sampler.sample(PROMPTS, limited(1, temperature=0), seed=0)  # tries first whether prompts can go without padding
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    completions = sampler.sample(PROMPTS, limited(400, temperature=0), seed=0)
    longest = max(len(c.token_ids) for c in completions)
    assert longest < 400
    assert len(calls) == longest


def test_each_batch_runs_once_with_the_longest_prompts_first() -> None:
    model = tiny_llama()
    shapes: list[tuple[int, ...]] = []
    sampler = transformers_sampler(policy(model), batch_size=2)
    sampler.sample(PROMPTS, limited(1), seed=0)  # tries first whether prompts can go without padding
    model.get_input_embeddings().register_forward_hook(lambda m, i, o: shapes.append(tuple(i[0].shape)))
    sampler.sample(PROMPTS, limited(1), seed=0)
    # Of 90 and 40 tokens; of 5 and 3; of 1 and 1. The last tokens of a batch run together, what is before them apart.
    assert shapes == [(1, 89), (1, 39), (2, 1), (2, 4), (2, 1), (2, 1)]


def test_a_stop_token_at_the_limit_is_no_truncation(model: Any, expected: list[Completion]) -> None:
    for prompt, completion in zip(PROMPTS, expected, strict=True):
        if not completion.truncated:
            sampler = transformers_sampler(policy(model), stop_token_ids=ENDS)
            at_limit = limited(len(completion.token_ids), temperature=0)
            assert sampler.sample([prompt], at_limit, seed=0) == [completion]


def test_batches_of_one_call_are_sampled_with_different_random_numbers(model: Any) -> None:
    first, second = transformers_sampler(policy(model), batch_size=1).sample([[70, 71]] * 2, limited(12), seed=0)
    assert first != second


def test_the_policy_is_entered_once_and_left_again() -> None:
    events = []

    @contextmanager
    def watched() -> Iterator[Any]:
        events.append("in")
        yield tiny_llama()
        events.append("out")

    transformers_sampler(watched, batch_size=1).sample(PROMPTS, limited(1), seed=0)
    assert events == ["in", "out"]


def test_a_sampler_without_stop_tokens_is_an_error(model: Any) -> None:
    with pytest.raises(ValueError, match="at least one stop token"):
        transformers_sampler(policy(model), stop_token_ids=[])


def test_the_scripted_sampler_follows_its_script_and_remembers_its_calls() -> None:
    sampler = ScriptedSampler(STOP, len(TOKENIZER), script=lambda p: [p[0] + 1] * 3)
    assert sampler.sample([[5], [7]], limited(4), seed=0) == [
        Completion((6, 6, 6, STOP), truncated=False),
        Completion((8, 8, 8, STOP), truncated=False),
    ]
    assert sampler.sample([[5]], limited(3), seed=0) == [Completion((6, 6, 6), truncated=True)]
    assert sampler.calls == [[(5,), (7,)], [(5,)]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, r"temperature must be 0 \(greedy\) or from 0.01 to 100, not -0.1"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], not 0.0"),
        ({"top_p": 1.1}, r"top_p must lie in \(0, 1\], not 1.1"),
        ({"top_k": -1}, "top_k must be at least 0, not -1"),
        ({"max_completion_length": 0}, "max_completion_length must be 1 to 10000000, not 0"),
    ],
)
def test_sampling_parameters_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingParameters(**options)


def test_derived_seeds_are_stable_distinct_and_fit_a_generator() -> None:
    assert derive_seed(0, "student", 3) == 2152641005613732141
    parts = [(), (0,), (1,), ("a",), ("a", 0), (0, "a"), (0, 0)]
    assert len({derive_seed(*p) for p in parts}) == len(parts)
    for i in range(50):
        torch.Generator().manual_seed(derive_seed(i))
        assert 0 <= derive_seed(i) < 2**63
