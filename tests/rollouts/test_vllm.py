"""Sampling by a vLLM server: what is asked, what comes back wrong, and how weights reach the server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_llama
from fake_endpoint import AT_ONCE, Answer
from fake_vllm import ROOT, FakeVllm, Spoil, refused, said
from peft import LoraConfig

from crosslign.models import add_lora, token_ids
from crosslign.rollouts import (
    PublishedAdapter,
    PublishedWeights,
    SamplingParameters,
    VllmSampler,
    VllmServer,
    derive_seed,
)
from crosslign.rollouts.vllm import TRIES, ServerError
from crosslign.types import CrosslignError

IDS = token_ids(byte_tokenizer(), tiny_llama())
PROMPTS = [[65, 66], [70, 71, 72], [65, 66]]
SHORT = SamplingParameters(max_completion_length=5)
COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama()


@pytest.fixture
def fake(model: Any) -> Iterator[FakeVllm]:
    with FakeVllm(model) as server:
        yield server


def client(fake: FakeVllm, **options: Any) -> VllmServer:
    return VllmServer(fake.root, "base", **{"retries": 1, "command": "THE COMMAND", **options})


def sampler(fake: FakeVllm, **options: Any) -> VllmSampler:
    return VllmSampler(client(fake, **options), IDS, vocabulary=272, batch_size=2)


def spoiled(change: Callable[[dict[str, Any]], Any], times: int = 1000) -> Spoil:
    """The first so many completions of the second prompt get another body, made of the right one's."""
    made = []

    def spoil(path: str, body: Any, earlier: int) -> Answer | None:
        if path != COMPLETIONS or body["prompt"] != PROMPTS[1] or len(made) == times:
            return None
        made.append(body)
        length = body["max_tokens"]
        choice = {"index": 0, "token_ids": [7] * length, "prompt_token_ids": body["prompt"]}
        return said(change({"choices": [choice]}))

    return spoil


def choice(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda right: {"choices": [{**right["choices"][0], **fields}]}


def test_every_field_that_changes_a_distribution_is_named(fake: FakeVllm) -> None:
    parameters = SamplingParameters(temperature=0.7, top_p=0.9, top_k=5, max_completion_length=3)
    sampler(fake).sample(PROMPTS, parameters, seed=3)
    bodies = sorted(fake.bodies(COMPLETIONS), key=lambda body: body["seed"])
    assert sorted((b["seed"], b["prompt"]) for b in bodies) == sorted(
        (derive_seed(3, place), prompt) for place, prompt in enumerate(PROMPTS)
    )
    assert {k: v for k, v in bodies[0].items() if k not in ("prompt", "seed")} == {
        "model": "base",
        "n": 1,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": 3,
        "ignore_eos": True,
        "stop_token_ids": [0],
        "logit_bias": {str(t): -100.0 for t in range(259, 272)},
        "add_special_tokens": False,
        "skip_special_tokens": False,
        "return_token_ids": True,
        "stream": False,
    }


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another prompt": (choice(prompt_token_ids=[1, 2]), "another prompt than the one that was sent"),
    "no prompt": (choice(prompt_token_ids=None), "another prompt than the one that was sent"),
    "no row": (lambda right: {"choices": []}, "0 completions of one prompt"),
    "two rows": (lambda right: {"choices": right["choices"] * 2}, "2 completions of one prompt"),
    "a row of another place": (choice(index=1), "1 completions of one prompt"),
    "no tokens": (choice(token_ids=[]), "0 tokens, where 1 to 5"),
    "tokens that are null": (choice(token_ids=None), "no ids"),
    "too many tokens": (choice(token_ids=[7] * 6), "6 tokens, where 1 to 5"),
    "an id beyond the model's": (choice(token_ids=[7, 272]), "no ids of the model's 272 tokens"),
    "an id below 0": (choice(token_ids=[-1]), "no ids"),
    "an id that is no number": (choice(token_ids=[7, True]), "no ids"),
    "a forbidden id": (choice(token_ids=[7, 260, 0]), "a token that the tokenizer does not have"),
    "too short": (choice(token_ids=[7, 8], finish_reason="abort"), "breaks off after 2 tokens ('abort')"),
    "no field": (lambda right: {"choices": [{"index": 0}]}, "KeyError"),
    "no choices": (lambda right: {"object": "error"}, "KeyError"),
    "a list": (lambda right: [], "no JSON object"),
    "choices of another kind": (lambda right: {"choices": 5}, "TypeError"),
    "a choice of another kind": (lambda right: {"choices": ["x"]}, "AttributeError"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_reply_that_is_not_what_was_asked_for_is_asked_for_again_and_then_an_error(model: Any, name: str) -> None:
    change, words = WRONG[name]
    with FakeVllm(model, spoil=spoiled(change)) as fake, pytest.raises(CrosslignError) as caught:
        sampler(fake).sample(PROMPTS, SHORT, seed=0)
    text = str(caught.value)
    assert words in text
    assert "Nothing was trained on it" in text
    assert fake.root in text
    assert "\n" not in text
    assert sum(body["prompt"] == PROMPTS[1] for body in fake.bodies(COMPLETIONS)) == TRIES


@pytest.mark.parametrize("name", ["another prompt", "no row", "too many tokens"])
def test_a_reply_that_is_wrong_once_changes_nothing(model: Any, fake: FakeVllm, name: str) -> None:
    with FakeVllm(model, spoil=spoiled(WRONG[name][0], times=TRIES - 1)) as other:
        assert sampler(other).sample(PROMPTS, SHORT, seed=0) == sampler(fake).sample(PROMPTS, SHORT, seed=0)


def test_what_comes_after_a_stop_token_is_cut_off(model: Any) -> None:
    with FakeVllm(model, spoil=spoiled(choice(token_ids=[7, 0, 9]))) as fake:
        completion = sampler(fake).sample(PROMPTS, SHORT, seed=0)[1]
    assert (completion.token_ids, completion.truncated) == ((7, 0), False)


TROUBLE: dict[str, tuple[Answer, str]] = {
    "bad request": (refused(400, "too long"), "status 400: too long"),
    "gone": (refused(404, "The model `base` does not exist"), "Was it started anew since"),
    "broken": (refused(500, "EngineDeadError"), "status 500: EngineDeadError"),
    "silent": (Answer(drop=True), "Is it running"),
    "slow": (Answer(hang=True), "no whole reply within 0.5 s"),
    "drips": (Answer(body=b"x", endless=0.1), "no whole reply within 0.5 s"),
    "elsewhere": (Answer(302, headers={"Location": "http://127.0.0.1:1/x"}), "redirects to http://127.0.0.1:1"),
    "no JSON": (Answer(body=b"<html>"), "JSONDecodeError"),
    "deep": (Answer(body=b"[" * 100_000), "RecursionError"),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_with_the_server_is_one_line_that_says_where_what_and_how_to_start_it(model: Any, name: str) -> None:
    answer, words = TROUBLE[name]
    with FakeVllm(model, spoil=lambda path, body, earlier: answer if earlier else None) as fake:
        started = time.monotonic()
        with pytest.raises(CrosslignError) as caught:
            sampler(fake, timeout=0.5).sample(PROMPTS, SHORT, seed=0)
    text = str(caught.value)
    assert words in text
    assert f"vLLM server {fake.root}" in text
    assert text.endswith("Start it with: THE COMMAND")
    assert "\n" not in text
    assert time.monotonic() - started < 5


def test_no_server_at_all() -> None:
    with pytest.raises(CrosslignError, match="Is it running"):
        VllmServer("http://127.0.0.1:1", "base", retries=0).check(10)


@pytest.mark.parametrize("answer", [Answer(503, b"{}", AT_ONCE), Answer(drop=True)])
def test_passing_trouble_is_tried_again(model: Any, fake: FakeVllm, answer: Answer) -> None:
    with FakeVllm(model, spoil=lambda path, body, earlier: None if earlier else answer) as other:
        assert sampler(other).sample(PROMPTS, SHORT, seed=0) == sampler(fake).sample(PROMPTS, SHORT, seed=0)


@pytest.mark.parametrize("url", ["{}", "{}/", "{}/v1", "{}/v1/"])
def test_the_url_may_end_in_v1(fake: FakeVllm, url: str) -> None:
    VllmServer(url.format(fake.root), "base").check(10)


def test_the_check_before_weights(fake: FakeVllm) -> None:
    client(fake).check(5000)
    with pytest.raises(CrosslignError, match=r"does not serve the model 'other'; its models: base.*THE COMMAND"):
        VllmServer(fake.root, "other", command="THE COMMAND").check(10)
    with pytest.raises(CrosslignError, match=r"longest sequence is 5000 tokens.* may have 5001.*THE COMMAND"):
        client(fake).check(5001)


@pytest.mark.parametrize(
    "body", [{}, {"data": 5}, {"data": [{}]}, {"data": [{"id": 5}]}, {"data": [{"id": "base", "max_model_len": "x"}]}]
)
def test_a_list_of_models_that_is_none(model: Any, body: Any) -> None:
    with (
        FakeVllm(model, spoil=lambda path, *_: said(body) if path == "/v1/models" else None) as fake,
        pytest.raises(CrosslignError, match="cannot be used"),
    ):
        client(fake).check(10)


def changed(model: Any, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "norm" in name:
                parameter.normal_(0.5, 0.3)


@pytest.fixture
def student(fake: FakeVllm, tmp_path: Path) -> tuple[Any, PublishedAdapter]:
    model = add_lora(tiny_llama(), LoraConfig(r=4))
    return model, PublishedAdapter(client(fake), model, tmp_path / "served", "run")


def test_the_student_before_its_first_step_is_the_servers_own_model(
    fake: FakeVllm, student: tuple[Any, PublishedAdapter], tmp_path: Path
) -> None:
    assert student[1]() == "base"
    assert fake.asked == []
    assert not (tmp_path / "served").exists()


def test_each_state_is_an_adapter_of_its_own_and_old_ones_go(
    fake: FakeVllm, student: tuple[Any, PublishedAdapter], tmp_path: Path
) -> None:
    model, publish = student
    names = []
    for seed in range(4):
        changed(model, seed)
        names.append(publish())
        assert publish() == names[-1]  # loaded once
        kept = names[-2:]
        assert sorted(fake.adapters) == sorted(kept)
        assert sorted(p.name for p in (tmp_path / "served").iterdir()) == sorted(kept)
        modes = [p.stat().st_mode for p in (tmp_path / "served").rglob("*")]
        assert {mode & 0o044 for mode in modes} == {0o044}  # the server may be another user's
    assert len(set(names)) == 4
    bodies = fake.bodies("/v1/load_lora_adapter")
    assert [set(body) for body in bodies] == [{"lora_name", "lora_path"}] * 4  # never in place
    assert all(Path(body["lora_path"]).is_absolute() for body in bodies)
    publish.release()
    assert fake.adapters == {}
    assert not (tmp_path / "served").exists()


def test_what_an_interrupted_run_left_goes_and_what_is_anothers_stays(
    fake: FakeVllm, student: tuple[Any, PublishedAdapter], tmp_path: Path
) -> None:
    model, publish = student
    place = tmp_path / "served"
    for name in ("run-old", ".run-old.x1", "another-run"):
        (place / name).mkdir(parents=True)
    fake.adapters |= {"run-old": model, "another-run": model}
    changed(model, 0)
    name = publish()
    assert sorted(fake.adapters) == sorted([name, "another-run"])
    assert sorted(p.name for p in place.iterdir()) == sorted([name, "another-run"])


def test_another_process_that_holds_the_same_weights_loads_nothing_twice(
    fake: FakeVllm, student: tuple[Any, PublishedAdapter], tmp_path: Path
) -> None:
    other = add_lora(tiny_llama(), LoraConfig(r=4))
    second = PublishedAdapter(client(fake), other, tmp_path / "served", "run", is_main=False)
    for model, publish in (student, (other, second)):
        changed(model, 0)
        publish()
    assert fake.paths == ["/v1/load_lora_adapter"]


def test_a_lost_reply_to_loading_does_no_harm(model: Any, tmp_path: Path) -> None:
    def spoil(path: str, body: Any, earlier: int) -> Answer | None:
        if path == "/v1/load_lora_adapter" and not earlier:
            fake.right(path, body)
            return Answer(drop=True)
        return None

    with FakeVllm(model, spoil=spoil) as fake:
        student = add_lora(tiny_llama(), LoraConfig(r=4))
        publish = PublishedAdapter(client(fake), student, tmp_path, "run")
        changed(student, 0)
        assert publish() in fake.adapters


@pytest.mark.parametrize("status", [400, 404, 500])
def test_an_adapter_that_is_refused(model: Any, tmp_path: Path, status: int) -> None:
    with FakeVllm(
        model, spoil=lambda path, *_: refused(status, "rank 4 > 1") if path == "/v1/load_lora_adapter" else None
    ) as fake:
        student = add_lora(tiny_llama(), LoraConfig(r=4))
        publish = PublishedAdapter(client(fake), student, tmp_path, "run")
        changed(student, 0)
        with pytest.raises(ServerError, match=r"refuses the adapter in .*rank 4 > 1.*ALLOW_RUNTIME.*THE COMMAND"):
            publish()


RELOAD = [
    "/pause?mode=wait", "/update_weight_version", "/collective_rpc", "/reset_prefix_cache", "/update_weight_version",
    "/resume",
]  # fmt: skip


def published_weights(fake: FakeVllm, folder: Path, **options: Any) -> tuple[Any, PublishedWeights]:
    model = tiny_llama()
    return model, PublishedWeights(client(fake, timeout=2), model, folder / "served", "run", **options)


def test_full_weights_are_reloaded_between_pause_and_resume(fake: FakeVllm, tmp_path: Path) -> None:
    model, publish = published_weights(fake, tmp_path)
    fake.model, fake.version = tiny_llama(seed=9), "left by another run"
    assert publish() == "base"
    assert fake.paths == RELOAD
    assert fake.bodies("/collective_rpc")[0] == {"method": "reload_weights", "kwargs": {"weights_path": ROOT}}
    assert fake.model is fake.base
    publish()
    assert fake.paths == RELOAD
    changed(model, 0)
    publish()
    assert fake.paths == RELOAD * 2
    served, own = fake.model.state_dict(), model.state_dict()
    assert all(torch.equal(served[name], own[name]) for name in own)
    assert not (tmp_path / "served").exists()
    publish.release()
    assert fake.model is fake.base
    assert fake.version == "default"


@pytest.mark.parametrize("path", RELOAD[1:4])
def test_the_server_goes_on_where_weights_are_refused(model: Any, tmp_path: Path, path: str) -> None:
    with FakeVllm(model, spoil=lambda asked, *_: refused(404, "Not Found") if asked == path else None) as fake:
        _, publish = published_weights(fake, tmp_path)
        with pytest.raises(ServerError, match=r"does not take the weights.*VLLM_SERVER_DEV_MODE"):
            publish()
    assert fake.paths[-1] == "/resume"


def test_weights_that_another_run_has_replaced_are_an_error(fake: FakeVllm, tmp_path: Path) -> None:
    _, publish = published_weights(fake, tmp_path)

    def spoil(path: str, body: Any, earlier: int) -> None:
        if path == COMPLETIONS:
            fake.version = "theirs"

    fake.spoil = spoil
    served = VllmSampler(client(fake), IDS, vocabulary=272, publish=publish, check=publish.check)
    with pytest.raises(ServerError, match="its weights are 'theirs'"):
        served.sample(PROMPTS, SHORT, seed=0)


def test_other_processes_wait_for_the_first_ones_weights(fake: FakeVllm, tmp_path: Path) -> None:
    _, first = published_weights(fake, tmp_path)
    _, second = published_weights(fake, tmp_path, is_main=False)
    late = threading.Timer(0.5, first)
    late.start()
    assert second() == "base"
    late.join()
    assert fake.paths == RELOAD


def test_other_processes_take_a_reload_that_has_not_ended_for_no_other_run(fake: FakeVllm, tmp_path: Path) -> None:
    published = [published_weights(fake, tmp_path), published_weights(fake, tmp_path, is_main=False)]
    for model, publish in published:
        publish()
        changed(model, 0)
    begun = threading.Event()

    def slow(path: str, body: Any, earlier: int) -> None:
        if path == "/collective_rpc":
            begun.set()
            time.sleep(0.5)

    fake.spoil = slow
    late = threading.Thread(target=published[0][1])
    late.start()
    assert begun.wait(5)
    assert published[1][1]() == "base"
    late.join()
    assert fake.paths == RELOAD * 2


def test_other_processes_do_not_wait_for_ever(fake: FakeVllm, tmp_path: Path) -> None:
    _, second = published_weights(fake, tmp_path, is_main=False)
    second.server.timeout = 0.5
    with pytest.raises(ServerError, match="has not loaded the weights"):
        second()


def test_bodies_are_json_that_any_server_reads(fake: FakeVllm) -> None:
    sampler(fake).sample([torch.tensor([65, 66]).tolist()], SHORT, seed=2**63 - 1)
    (body,) = fake.bodies(COMPLETIONS)
    assert 0 <= body["seed"] < 2**63
    json.dumps(body)


def test_weights_whose_loading_was_cut_off_are_given_back_and_anothers_are_left(fake: FakeVllm, tmp_path: Path) -> None:
    model, publish = published_weights(fake, tmp_path)
    publish()
    changed(model, 0)
    fake.spoil = lambda path, body, earlier: refused(500, "died") if path == "/reset_prefix_cache" else None
    with pytest.raises(ServerError):
        publish()
    assert fake.version.endswith("-unfinished")
    with pytest.raises(ServerError, match="of another run"):
        client(fake, timeout=2).check(1)
    fake.spoil = None
    publish.release()
    assert (fake.model is fake.base, fake.version) == (True, "default")
    fake.model, fake.version = tiny_llama(seed=9), "another-run-1"
    publish.release()
    assert fake.version == "another-run-1"
