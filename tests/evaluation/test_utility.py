"""Utility by lm-eval: native digits, local files, the model as it was before, errors."""

from __future__ import annotations

import copy
import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from conftest import CHATML, byte_tokenizer, tiny_llama
from lm_eval import evaluator
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from peft import LoraConfig, get_peft_model
from scipy.stats import binomtest
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig

from crosslign.evaluation import utility_tasks
from crosslign.evaluation.utility import FILE, UtilityRequest, check_utility, measure, utility, utility_stage
from crosslign.evaluation.utility_tasks import BENCHMARKS, stock_files, tasks_folder, write_tasks
from crosslign.types import CrosslignError, silent

ANSWERS = [18, 3, 540, 1200]


class Scripted(LM):
    """Says what `reply` gives for a prompt, and finds the option that `choose` names likeliest."""

    tokenizer_name = "scripted"

    def __init__(self, reply: Callable[[str], str] = str, choose: str = "A") -> None:
        super().__init__()
        self.reply, self.choose = reply, choose
        self.prompts: list[str] = []

    def generate_until(self, requests: list[Any], **kwargs: Any) -> list[str]:
        self.prompts += [r.args[0] for r in requests]
        return [self.reply(r.args[0]) for r in requests]

    def loglikelihood(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        self.prompts += [r.args[0] for r in requests]
        return [(0.0 if r.args[1].strip() == self.choose else -9.0, False) for r in requests]

    def loglikelihood_rolling(self, requests: list[Any], **kwargs: Any) -> Any:
        raise NotImplementedError

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return "".join(f"<{m['role']}>{m['content']}" for m in chat_history)


def write_table(path: Path, texts: Sequence[str], answers: Sequence[object], languages: Sequence[str]) -> str:
    """A parallel table with the same text in every language."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "answer", *languages])
        writer.writerows([i, a, *[t] * len(languages)] for i, (t, a) in enumerate(zip(texts, answers, strict=True)))
    return str(path)


@pytest.fixture
def maths(tmp_path: Path) -> str:
    texts = [f"row {i}" for i in range(len(ANSWERS))]
    return write_table(tmp_path / "maths.csv", texts, ANSWERS, ["en", "ar", "bn", "sw", "te", "th", "zh"])


def local(table: str, name: str = "mgsm", **options: Any) -> UtilityRequest:
    return UtilityRequest([name], {name: table}, **options)


OPTIONS = ("question", "option_a", "option_b", "option_c", "option_d", "answer")


def hub(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The hub's data sets are these rows; returns which were asked for, as they are."""
    asked: list[tuple[str, str]] = []

    def load_dataset(path: str, name: str, **_: Any) -> datasets.DatasetDict:
        asked.append((path, name))
        return datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split in ("test", "dev")})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def right(write: Callable[[int], str]) -> Callable[[str], str]:
    """The right answer to each row of `maths`, written by `write`."""
    return lambda prompt: write(next(a for i, a in enumerate(ANSWERS) if f"row {i}" in prompt))


def native(zero: str) -> Callable[[int], str]:
    return lambda number: "".join(chr(ord(zero) + int(d)) for d in str(number))


SENTENCES = {
    "bn": ("০", "উত্তর হল {}।"),
    "th": ("๐", "คำตอบคือ {}"),
    "te": ("౦", "సమాధానం {}."),
    "zh": ("０", "答案是 {}。"),
}


@pytest.mark.parametrize("language", SENTENCES)
def test_the_stock_extraction_scores_native_digits_0_and_ours_100(
    language: str, maths: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zero, sentence = SENTENCES[language]
    lm = Scripted(right(lambda number: sentence.format(native(zero)(number))))

    stock_file = tasks_folder() / "mgsm" / "native_cot" / f"mgsm_native_cot_{language}.yaml"
    (tmp_path / "stock.yaml").write_text(f"include: {stock_file}\ntask: stock\ntraining_split: null\n")
    with monkeypatch.context() as patch:
        hub(patch, [{"question": f"row {i}", "answer": None, "answer_number": a} for i, a in enumerate(ANSWERS)])
        loaded = TaskManager(include_path=str(tmp_path), include_defaults=False).load(["stock"])
    stock = evaluator.evaluate(lm, loaded, bootstrap_iters=0, apply_chat_template=True)
    assert {k: v for k, v in stock["results"]["stock"].items() if "exact_match," in k} == {
        "exact_match,strict-match": 0,
        "exact_match,flexible-extract": 0,
    }

    ours = measure(lm, local(maths), [language])["mgsm"][language]
    assert (ours["value"], ours["n"]) == (100, len(ANSWERS))


@pytest.mark.parametrize(
    ("write", "value"),
    [
        (str, 100),
        (lambda n: f"12 + 6 = {n}.", 100),
        (lambda n: f"{n:,}", 100),
        (lambda n: f"المجموع {native('٠')(n)}", 100),
        (lambda n: f"کل {native('۰')(n)}", 100),
        (lambda n: "١٬٢٠٠" if n == 1200 else str(n), 100),
        (lambda n: native("০")(n + 1), 0),
        (lambda n: native("০")(n) if n in {18, 3} else "জানি না", 50),
        (lambda n: "", 0),
        (lambda n: "\0\ud800", 0),
    ],
)
def test_right_is_right_and_wrong_is_wrong_in_any_digits(write: Callable[[int], str], value: float, maths: str) -> None:
    assert measure(Scripted(right(write)), local(maths), ["bn"])["mgsm"]["bn"]["value"] == value


def test_the_prompt_is_the_benchmarks_in_the_language_or_else_in_english(maths: str) -> None:
    lm = Scripted(right(str))
    measure(lm, UtilityRequest(["mgsm", "afrimgsm"], {"mgsm": maths, "afrimgsm": maths}), ["bn", "ar"])
    assert lm.prompts[:: len(ANSWERS)] == [
        "<user>প্রশ্ন: row 0\nধাপে ধাপে উত্তর:",
        "<user>Question: row 0\nStep-by-Step Answer:",
        "<user>Question: row 0\nStep-by-Step Answer:",
        "<user>Question: row 0\nStep-by-Step Answer:",
    ]


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("mmmlu", ["Question", "A", "B", "C", "D", "Answer"]),
        ("global_mmlu", OPTIONS),
    ],
)
def test_multiple_choice_counts_the_likeliest_option(
    name: str, columns: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hub(
        monkeypatch, [dict(zip(columns, ["what?", "one", "two", "three", "four", a], strict=True)) for a in "ABCACDDA"]
    )
    lm = Scripted(choose="A")
    result = measure(lm, UtilityRequest([name]), ["sw"])[name]["sw"]
    assert (result["metric"], result["value"], result["n"]) == ("acc", 37.5, 8)
    assert "A. one\nB. two\nC. three\nD. four" in lm.prompts[0]
    assert {code.lower()[:2] for _, code in asked} == {"sw"}


def test_a_limit_takes_rows_from_everywhere(tmp_path: Path) -> None:
    table = write_table(tmp_path / "many.csv", [f"[{i}]" for i in range(20)], [1] * 20, ["en"])
    lm = Scripted()
    measure(lm, local(table, limit=4), ["en"])
    assert [p.split("[")[1].split("]")[0] for p in lm.prompts] == ["0", "5", "10", "15"]
    assert measure(lm, local(table, limit=1000), ["en"])["mgsm"]["en"]["n"] == 20


# The model in memory


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("utility")
    table, answers = folder / "table.csv", folder / "answers.jsonl"
    table.write_text("id,answer,en,bn\na,1,one?,এক?\nb,২,two?,\nc,3.0,three?,তিন?\n", encoding="utf-8-sig")
    request = local(str(table), max_new_tokens=6, batch_size=2)
    result = utility(tiny_llama(), byte_tokenizer(), request, ["en", "bn"], answers=answers)
    return result, [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]


def test_a_model_in_memory_is_measured(answered: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    result, rows = answered
    assert [(r["language"], r["index"], r["target"]) for r in rows] == [
        ("en", 0, "1"), ("en", 1, "2"), ("en", 2, "3"), ("bn", 0, "1"), ("bn", 1, "3"),
    ]  # fmt: skip
    for code, cell in result["mgsm"].items():
        correct = [r["correct"] for r in rows if r["language"] == code]
        assert cell["n"] == len(correct)
        assert cell["value"] == 100 * sum(correct) / len(correct)
        assert cell["low"] <= cell["value"] <= cell["high"]
        assert cell["metric"] == "exact_match"
    assert all(isinstance(r["completion"], str) for r in rows)


def test_the_answers_are_what_the_model_says_greedily(maths: str, tmp_path: Path) -> None:
    """An independent computation of one answer, token by token."""
    model, tokenizer, answers = tiny_llama(), byte_tokenizer(), tmp_path / "answers.jsonl"
    with torch.no_grad():
        model.lm_head.weight[-1] *= 5  # a row that no token belongs to would often win
    utility(model, tokenizer, local(maths, limit=1, max_new_tokens=5), ["en"], answers=answers)
    prompt = "<|im_start|>user\nQuestion: row 0\nStep-by-Step Answer:<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    said: list[int] = []
    while len(said) < 5:
        scores = model(torch.tensor([ids + said])).logits[0, -1]
        scores[len(tokenizer) :] = -math.inf  # rows of the model that the tokenizer has no token for
        said.append(int(scores.argmax()))
        if said[-1] == tokenizer.eos_token_id:
            break
    assert json.loads(answers.read_text(encoding="utf-8"))["completion"] == tokenizer.decode(
        said, skip_special_tokens=True
    )


@pytest.mark.parametrize("adapter", [False, True])
def test_model_and_tokenizer_are_as_before(adapter: bool, maths: str) -> None:
    model, tokenizer = tiny_llama(tie_word_embeddings=True), byte_tokenizer()
    config = GenerationConfig(repetition_penalty=5.0, eos_token_id=0)
    model.generation_config = config
    if adapter:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    model.train()
    model.get_input_embeddings().eval()  # a mode of its own
    modes = [m.training for m in model.modules()]
    weights = copy.deepcopy(model.state_dict())
    rng, padding = torch.get_rng_state(), tokenizer.padding_side
    utility(model, tokenizer, local(maths, limit=2, max_new_tokens=4), ["en"])
    assert [m.training for m in model.modules()] == modes
    assert (model.get_base_model() if adapter else model).generation_config is config
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert tokenizer.padding_side == padding
    loss = model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss
    loss.backward()


def test_the_models_own_generation_settings_do_not_count(maths: str, tmp_path: Path) -> None:
    texts = []
    for penalty in (1.0, 9.0):
        model = tiny_llama()
        model.generation_config.repetition_penalty = penalty
        answers = tmp_path / f"{penalty}.jsonl"
        utility(model, byte_tokenizer(), local(maths, max_new_tokens=12), ["en"], answers=answers)
        texts.append(answers.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]


def test_a_tokenizer_without_padding_stays_without(maths: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    utility(tiny_llama(), tokenizer, local(maths, max_new_tokens=2), ["en"])
    assert tokenizer.pad_token is None


@pytest.mark.parametrize("written_by_template", [True, False])
@pytest.mark.parametrize("choice", [True, False])
def test_there_is_never_a_second_begin_of_sequence_token(
    written_by_template: bool, choice: bool, maths: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bos = "<|endoftext|>"
    tokenizer = byte_tokenizer(bos + CHATML if written_by_template else CHATML)
    tokenizer.bos_token = bos
    id_ = tokenizer.convert_tokens_to_ids(bos)
    tokenizer._tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, id_)])
    assert tokenizer("x")["input_ids"][0] == id_  # as Llama's tokenizer does
    seen: list[torch.Tensor] = []
    model = tiny_llama()
    forward = type(model).forward

    def spy(self: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(input_ids)
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", spy)
    if choice:
        hub(monkeypatch, [dict(zip(OPTIONS, "?1234A", strict=True))])
        request = UtilityRequest(["global_mmlu"], max_new_tokens=2)
    else:
        request = local(maths, limit=1, max_new_tokens=2)
    utility(model, tokenizer, request, ["en"])
    assert (seen[0] == id_).sum(dim=1).tolist() == [int(written_by_template)] * len(seen[0])


def test_a_template_that_asks_for_today_gets_the_fixed_date_of_all_contexts(
    maths: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "{{ strftime_now('%Y-%m-%d') }}" + CHATML
    tokenizer, model, seen = byte_tokenizer(template), tiny_llama(), []
    forward = type(model).forward

    def spy(self: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(tokenizer.decode(input_ids[0]))
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", spy)
    utility(model, tokenizer, local(maths, limit=1, max_new_tokens=2), ["en"])
    assert seen[0].startswith("2024-07-26<|im_start|>user")
    assert tokenizer.chat_template == template


# Files that are generated


@pytest.mark.parametrize("name", BENCHMARKS)
def test_stock_tasks_resolve_and_normalise_digits_first(name: str, tmp_path: Path) -> None:
    languages = list(stock_files(name))
    assert len(languages) >= 11
    generated = write_tasks([name], languages, {}, tmp_path, max_new_tokens=77)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    assert {g.name for g in generated} <= set(manager.all_tasks)
    for task in generated:
        config = manager.task_index[task.name].cfg
        assert config["dataset_path"].count("/") == 1
        assert config["dataset_name"].lower().startswith(task.language)
        if config["output_type"] == "generate_until":
            assert all(f["filter"][0] == {"function": "crosslign_digits"} for f in config["filter_list"])
            assert all(f["filter"][1]["function"] == "regex" for f in config["filter_list"])
            assert config["generation_kwargs"]["max_gen_toks"] == 77
            assert config["generation_kwargs"]["until"]
        assert any(m["metric"] == task.stock.metric for m in config["metric_list"])
        assert "process_docs" not in config


@pytest.mark.parametrize(
    ("name", "code"), [("afrimgsm", "sw"), ("afrimgsm", "zu"), ("mmmlu", "pt-BR"), ("mgsm", "zh-Hans")]
)
def test_languages_are_found_in_every_spelling(name: str, code: str, tmp_path: Path) -> None:
    assert write_tasks([name], [code], {}, tmp_path, max_new_tokens=9)[0].language == code


# Errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,en\na,q\n", "no column 'answer'. Its columns: id, en"),
        ("id,answer,sw\na,1,q\n", "no column 'en'"),
        ("id,answer,en\na,1,q\nb,many,q\n", "row 2, answer: expected a number, found 'many'"),
        ("id,answer,en\na,,q\n", "row 1, answer: expected a number, found ''"),
        ("id,answer,en\na,1,\n", "no row has a text in column 'en'"),
        (None, "cannot be read: No such file"),
    ],
)
def test_wrong_tables_are_named(tmp_path: Path, text: str | None, message: str) -> None:
    table = tmp_path / "t.csv"
    if text is not None:
        table.write_text(text, encoding="utf-8")
    with pytest.raises(CrosslignError, match=rf"t\.csv.*{message}"):
        check_utility(local(str(table)), ["en"])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (UtilityRequest(["mgms"]), "no benchmark 'mgms'. Did you mean 'mgsm'"),
        (UtilityRequest(["mgsm"]), "'mgsm' has no language 'jv'. lm-eval's has: bn, de"),
        (UtilityRequest(["mgsm", "mgsm"]), "'mgsm' is there twice"),
        (UtilityRequest(["mgsm"], {"mmmlu": "t.csv"}), "'mmmlu' is not in --utility"),
        (UtilityRequest(["mmmlu"], {"mmmlu": "t.csv"}), "has options, .* it works for mgsm, afrimgsm"),
        (UtilityRequest(["mgsm"], limit=0), "--utility-limit: 0"),
    ],
)
def test_what_cannot_be_measured_is_said(request_: UtilityRequest, message: str) -> None:
    with pytest.raises(CrosslignError, match=message):
        check_utility(request_, ["jv"])


def test_stock_data_without_a_network_say_what_to_do() -> None:
    with pytest.raises(CrosslignError, match=r"'mgsm', bn: the hub data set '\S+/mgsm' could not be loaded .* table"):
        measure(Scripted(), UtilityRequest(["mgsm"]), ["bn"])


def test_without_lm_eval_or_with_an_older_one_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(utility_tasks, "tasks_folder", lambda: tmp_path)
    with pytest.raises(CrosslignError, match=r"lm-eval \S+ has no 'mmmlu'"):
        stock_files("mmmlu")
    monkeypatch.undo()
    monkeypatch.setattr(utility_tasks, "find_spec", lambda name: None)
    with pytest.raises(CrosslignError, match=r"crosslign\[utility\]"):
        check_utility(UtilityRequest(["mgsm"]), ["en"])


def test_prompts_are_not_cut(maths: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(request: UtilityRequest, message: str) -> None:
        with pytest.raises(CrosslignError, match=message):
            utility(tiny_llama(max_position_embeddings=48), byte_tokenizer(), request, ["en"])

    refused(local(maths, max_new_tokens=48), "takes 48 tokens in all")
    refused(local(maths, max_new_tokens=4), "a prompt has 55 tokens; .* 11 more than the 48")
    hub(monkeypatch, [dict(zip(OPTIONS, ["?" * 40, "1", "2", "3", "4", "A"], strict=True))])
    refused(UtilityRequest(["global_mmlu"], max_new_tokens=4), "more than the 48")


def test_a_tokenizer_without_a_chat_template_is_refused(maths: str) -> None:
    with pytest.raises(CrosslignError, match="no chat template"):
        utility(tiny_llama(), byte_tokenizer(None), local(maths), ["en"])


def test_what_is_measured_is_announced_and_no_file_is_left(
    maths: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "of-the-user")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    told: list[str] = []
    measure(Scripted(), local(maths, limit=2), ["en"], announce=told.append)
    assert told == [f"mgsm, en: 2 of 4 rows of {maths}"]
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not (tmp_path / "of-the-user").exists()


@pytest.mark.parametrize(("count", "n"), [(0, 5), (3, 8), (20, 20)])
def test_the_interval_of_a_result_is_wilsons_in_percent(count: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, [dict(zip(OPTIONS, f"?1234{a}", strict=True)) for a in "A" * count + "B" * (n - count)])
    found = measure(Scripted(choose="A"), UtilityRequest(["global_mmlu"]), ["sw"])["global_mmlu"]["sw"]
    interval = binomtest(count, n).proportion_ci(method="wilson")
    assert [found["low"], found["high"]] == pytest.approx([100 * interval.low, 100 * interval.high], abs=1e-9)


def test_a_text_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"answer": 1, "en": {"a": 1}}\n')
    with pytest.raises(CrosslignError, match=r"t\.jsonl, row 1, en: expected text, found dict"):
        check_utility(local(str(tmp_path / "t.jsonl")), ["en"])


def test_what_is_being_measured_anew_is_no_longer_told(
    tmp_path: Path, maths: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption then leaves neither other settings' rates nor a mark that would keep them."""
    measured = {"mgsm": {"en": {"metric": "exact_match", "value": 25.0, "low": 4.6, "high": 69.9, "n": 4}}}
    monkeypatch.setattr("crosslign.evaluation.utility.utility", lambda *_, **__: measured)
    utility_stage(local(maths), ["en"], lambda: (None, None), {}, {}, tmp_path, silent)

    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("crosslign.evaluation.utility.utility", stop)
    with pytest.raises(KeyboardInterrupt):
        utility_stage(local(maths), ["en"], lambda: (None, None), {"other": "model"}, {}, tmp_path, silent)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("damage", ["50.0", "[[]]", "", "{", "[" * 100_000])
def test_what_was_measured_is_measured_anew_if_its_file_was_edited(
    tmp_path: Path, maths: str, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    measured = {"mgsm": {"en": {"metric": "exact_match", "value": 25.0, "low": 4.6, "high": 69.9, "n": 4}}}
    calls: list[int] = []
    monkeypatch.setattr("crosslign.evaluation.utility.utility", lambda *_, **__: calls.append(1) or measured)

    def stage() -> dict[str, Any]:
        return utility_stage(local(maths), ["en"], lambda: (None, None), {}, {}, tmp_path, silent)

    assert stage() == stage() == measured
    assert len(calls) == 1
    text = (tmp_path / FILE).read_text(encoding="utf-8")
    (tmp_path / FILE).write_text(text.replace("25.0", damage) if damage == "50.0" else damage, encoding="utf-8")
    assert stage() == measured
    assert len(calls) == 2


def test_what_another_lm_eval_measured_is_measured_anew(
    tmp_path: Path, maths: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {"mgsm": {"en": {"metric": "exact_match", "value": 25.0, "low": 4.6, "high": 69.9, "n": 4}}}
    calls: list[int] = []
    monkeypatch.setattr("crosslign.evaluation.utility.utility", lambda *_, **__: calls.append(1) or measured)
    for number, version in enumerate(["0.4.8", "0.4.8", "0.4.9"]):
        monkeypatch.setattr("crosslign.evaluation.utility.version", lambda name, version=version: version)
        utility_stage(local(maths), ["en"], lambda: (None, None), {}, {}, tmp_path, silent)
        assert len(calls) == (1 if number < 2 else 2)
