"""Utility by lm-eval: native digits, local files, the model as it was before, errors."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
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
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig

from crosslign.evaluation import utility_tasks
from crosslign.evaluation.utility import evaluate, utility
from crosslign.evaluation.utility_tasks import UtilityTask
from crosslign.types import CrosslignError

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


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture
def maths(tmp_path: Path) -> Path:
    return write_rows(
        tmp_path / "maths.jsonl", [{"question": f"row {i}", "answer_number": a} for i, a in enumerate(ANSWERS)]
    )


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
def test_the_stock_extraction_scores_native_digits_0_and_ours_100(language: str, maths: Path, tmp_path: Path) -> None:
    zero, sentence = SENTENCES[language]
    write = native(zero)
    lm = Scripted(right(lambda number: sentence.format(write(number))))

    stock_file = utility_tasks.tasks_folder() / "mgsm" / "native_cot" / f"mgsm_native_cot_{language}.yaml"
    rows = [{"question": f"row {i}", "answer": None, "answer_number": a} for i, a in enumerate(ANSWERS)]
    data = write_rows(tmp_path / "stock.jsonl", rows)
    folder = tmp_path / "stock"
    folder.mkdir()
    (folder / "stock.yaml").write_text(
        f"include: {stock_file}\ntask: stock\ndataset_path: json\ndataset_name: null\ntraining_split: null\n"
        f"dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {tmp_path / 'cache'}}}\n",
        encoding="utf-8",
    )
    loaded = TaskManager(include_path=str(folder), include_defaults=False).load(["stock"])
    stock = evaluator.evaluate(lm, loaded, bootstrap_iters=0, apply_chat_template=True)
    assert {k: v for k, v in stock["results"]["stock"].items() if "exact_match," in k} == {
        "exact_match,strict-match": 0,
        "exact_match,flexible-extract": 0,
    }

    ours = evaluate(lm, [UtilityTask("mgsm", [language], {language: maths})])
    assert ours["mgsm"][language]["value"] == 100
    assert ours["mgsm"][language]["n"] == len(ANSWERS)


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
def test_right_is_right_and_wrong_is_wrong_in_any_digits(
    write: Callable[[int], str], value: float, maths: Path
) -> None:
    result = evaluate(Scripted(right(write)), [UtilityTask("maths", ["bn"], {"bn": maths}, "mgsm")])
    assert result["maths"]["bn"]["value"] == value


def test_the_prompt_is_the_benchmarks_in_the_language_or_else_in_english(maths: Path) -> None:
    lm = Scripted(right(str))
    evaluate(
        lm,
        [UtilityTask("mgsm", ["bn", "ar"], {"bn": maths, "ar": maths}), UtilityTask("afrimgsm", ["sw"], {"sw": maths})],
    )
    first = [lm.prompts[i * len(ANSWERS)] for i in range(3)]
    assert first == [
        "<user>প্রশ্ন: row 0\nধাপে ধাপে উত্তর:",
        "<user>Question: row 0\nStep-by-Step Answer:",
        "<user>Question: row 0\nStep-by-Step Answer:",
    ]


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("mmmlu", ["Question", "A", "B", "C", "D", "Answer"]),
        ("global_mmlu", ["question", "option_a", "option_b", "option_c", "option_d", "answer"]),
        ("global_mmlu_full", ["question", "option_a", "option_b", "option_c", "option_d", "answer"]),
    ],
)
def test_multiple_choice_counts_the_likeliest_option(name: str, columns: list[str], tmp_path: Path) -> None:
    rows = [dict(zip(columns, ["what?", "one", "two", "three", "four", a], strict=True)) for a in "ABCACDDA"]
    file = write_rows(tmp_path / "options.jsonl", rows)
    lm = Scripted(choose="A")
    result = evaluate(lm, [UtilityTask(name, ["sw"], {"sw": file})])[name]["sw"]
    assert (result["metric"], result["value"], result["n"]) == ("acc", 37.5, 8)
    assert "A. one\nB. two\nC. three\nD. four" in lm.prompts[0]


def test_a_limit_takes_rows_from_everywhere(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "many.jsonl", [{"question": f"[{i}]", "answer_number": 1} for i in range(20)])
    lm = Scripted()
    evaluate(lm, [UtilityTask("mgsm", ["en"], {"en": file})], limit=4)
    assert [p.split("[")[1].split("]")[0] for p in lm.prompts] == ["0", "5", "10", "15"]
    assert evaluate(lm, [UtilityTask("mgsm", ["en"], {"en": file})], limit=1000)["mgsm"]["en"]["n"] == 20


# The model in memory


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("utility")
    table = folder / "table.csv"
    table.write_text("id,answer,en,bn\na,1,one?,এক?\nb,২,two?,\nc,3,three?,তিন?\n", encoding="utf-8")
    files = utility_tasks.question_files(table, folder / "files", ["en", "bn"])
    answers = folder / "answers.jsonl"
    task = UtilityTask("maths", ["en", "bn"], files, "mgsm")
    result = utility(tiny_llama(), byte_tokenizer(), [task], max_new_tokens=6, batch_size=2, answers=answers)
    return result, [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]


def test_a_model_in_memory_is_measured(answered: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    result, rows = answered
    assert {code: cell["n"] for code, cell in result["maths"].items()} == {"en": 3, "bn": 2}
    assert [(r["language"], r["index"], r["target"]) for r in rows] == [
        ("en", 0, "1"), ("en", 1, "2"), ("en", 2, "3"), ("bn", 0, "1"), ("bn", 1, "3"),
    ]  # fmt: skip
    for code, cell in result["maths"].items():
        correct = [r["correct"] for r in rows if r["language"] == code]
        assert cell["value"] == 100 * sum(correct) / len(correct)
        assert cell["low"] <= cell["value"] <= cell["high"]
        assert cell["metric"] == "exact_match"
    assert all(isinstance(r["completion"], str) for r in rows)


def test_the_answers_are_what_the_model_says_greedily(maths: Path, tmp_path: Path) -> None:
    """An independent computation of one answer, token by token."""
    model, tokenizer, answers = tiny_llama(), byte_tokenizer(), tmp_path / "answers.jsonl"
    with torch.no_grad():
        model.lm_head.weight[-1] *= 5  # a row that no token belongs to would often win
    utility(model, tokenizer, [UtilityTask("mgsm", ["en"], {"en": maths})], limit=1, max_new_tokens=5, answers=answers)
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
def test_model_and_tokenizer_are_as_before(adapter: bool, maths: Path) -> None:
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
    utility(model, tokenizer, [UtilityTask("mgsm", ["en"], {"en": maths})], limit=2, max_new_tokens=4)
    assert [m.training for m in model.modules()] == modes
    assert (model.get_base_model() if adapter else model).generation_config is config
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert tokenizer.padding_side == padding
    loss = model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss
    loss.backward()


def test_the_models_own_generation_settings_do_not_count(maths: Path, tmp_path: Path) -> None:
    texts = []
    for penalty in (1.0, 9.0):
        model = tiny_llama()
        model.generation_config.repetition_penalty = penalty
        answers = tmp_path / f"{penalty}.jsonl"
        task = UtilityTask("mgsm", ["en"], {"en": maths})
        utility(model, byte_tokenizer(), [task], max_new_tokens=12, answers=answers)
        texts.append(answers.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]


def test_a_tokenizer_without_padding_stays_without(maths: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    utility(tiny_llama(), tokenizer, [UtilityTask("mgsm", ["en"], {"en": maths})], max_new_tokens=2)
    assert tokenizer.pad_token is None


@pytest.mark.parametrize("written_by_template", [True, False])
@pytest.mark.parametrize("choice", [True, False])
def test_there_is_never_a_second_begin_of_sequence_token(
    written_by_template: bool, choice: bool, maths: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        row = {"question": "?", "option_a": "1", "option_b": "2", "option_c": "3", "option_d": "4", "answer": "A"}
        task = UtilityTask("global_mmlu", ["en"], {"en": write_rows(tmp_path / "choice.jsonl", [row])})
    else:
        task = UtilityTask("mgsm", ["en"], {"en": maths})
    utility(model, tokenizer, [task], limit=1, max_new_tokens=2)
    assert (seen[0] == id_).sum(dim=1).tolist() == [int(written_by_template)] * len(seen[0])


# Files that are generated


@pytest.mark.parametrize("name", utility_tasks.BENCHMARKS)
def test_stock_tasks_resolve_and_normalise_digits_first(name: str, tmp_path: Path) -> None:
    languages = utility_tasks.stock_languages(name)
    assert len(languages) >= 11
    generated = utility_tasks.write_tasks([UtilityTask(name, languages)], tmp_path, max_new_tokens=77)
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
        assert any(m["metric"] == task.benchmark.metric for m in config["metric_list"])
        assert "process_docs" not in config


@pytest.mark.parametrize(
    ("name", "code"), [("afrimgsm", "sw"), ("afrimgsm", "zu"), ("mmmlu", "pt-BR"), ("mgsm", "zh-Hans")]
)
def test_languages_are_found_in_every_spelling(name: str, code: str, tmp_path: Path) -> None:
    assert utility_tasks.write_tasks([UtilityTask(name, [code])], tmp_path, max_new_tokens=9)[0].language == code


def test_a_table_becomes_one_file_for_each_language(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text('\ufeffid,answer,en,bn\na,১৮,q,প্র\nb,3.0,r,\nc,"1,200",s,প\n', encoding="utf-8")
    files = utility_tasks.question_files(table, tmp_path / "new" / "folder", ["en", "bn"])
    rows = {
        code: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for code, file in files.items()
    }
    assert rows["bn"] == [
        {"id": "a", "question": "প্র", "answer_number": "18"},
        {"id": "c", "question": "প", "answer_number": "1,200"},
    ]
    assert [r["answer_number"] for r in rows["en"]] == ["18", "3", "1,200"]


# Errors


def expect(match: str, call: Callable[[], Any]) -> None:
    with pytest.raises(CrosslignError, match=match):
        call()


def test_wrong_tables_are_named(tmp_path: Path) -> None:
    def convert(text: str, languages: tuple[str, ...] = ("en",)) -> Callable[[], Any]:
        (tmp_path / "t.csv").write_text(text, encoding="utf-8")
        return lambda: utility_tasks.question_files(tmp_path / "t.csv", tmp_path / "out", languages)

    expect("no column 'answer'", convert("id,en\na,q\n"))
    expect("no column 'sw'", convert("id,answer,en\na,1,q\n", ("sw",)))
    expect(r"row 2, answer: expected a number, found 'many'", convert("id,answer,en\na,1,q\nb,many,q\n"))
    (tmp_path / "t.jsonl").write_text('{"id": 1, "answer": 2, "en": "q"}\n{"id": 2, "en": "q"}\n', encoding="utf-8")
    expect(
        "row 2, answer: expected a number, found ''",
        lambda: utility_tasks.question_files(tmp_path / "t.jsonl", tmp_path / "out", ["en"]),
    )
    expect("no row has a text in column 'en'", convert("id,answer,en\na,1,\n"))
    expect(
        "cannot be read: No such file", lambda: utility_tasks.question_files(tmp_path / "none.csv", tmp_path, ["en"])
    )


def test_wrong_local_files_are_named(tmp_path: Path) -> None:
    def run(rows: list[dict[str, Any]], name: str = "mgsm") -> Callable[[], Any]:
        file = write_rows(tmp_path / "rows.jsonl", rows)
        return lambda: evaluate(Scripted(), [UtilityTask(name, ["bn"], {"bn": file})])

    expect("no column 'answer_number'", run([{"question": "?", "answer": 3}]))
    expect(
        "row 2, question: is empty", run([{"question": "?", "answer_number": 1}, {"question": " ", "answer_number": 1}])
    )
    expect("row 1, answer_number: expected a number, found ''", run([{"question": "?", "answer_number": None}]))
    options = {"question": "?", "option_a": "1", "option_b": "2", "option_c": "3", "option_d": "4"}
    expect("row 1, answer: expected one of A, B, C, D, found 'E'", run([{**options, "answer": "E"}], "global_mmlu"))
    missing = {"bn": tmp_path / "none.jsonl"}
    expect(r"none.jsonl: cannot be read", lambda: evaluate(Scripted(), [UtilityTask("mgsm", ["bn"], missing)]))
    expect("no file for language 'en'", lambda: evaluate(Scripted(), [UtilityTask("mgsm", ["en"], missing)]))


def test_what_a_benchmark_lacks_is_said(maths: Path) -> None:
    expect("no benchmark 'mgms'. Did you mean 'mgsm'", lambda: evaluate(Scripted(), [UtilityTask("mgms", ["en"])]))
    expect(
        "'mgsm' has no language 'jv'. lm-eval's has: bn, de",
        lambda: evaluate(Scripted(), [UtilityTask("mgsm", ["jv"])]),
    )
    twice = [UtilityTask("mgsm", ["en"], {"en": maths})] * 2
    expect("two tasks are named 'mgsm'", lambda: evaluate(Scripted(), twice))
    expect("limit is 0", lambda: evaluate(Scripted(), twice[:1], limit=0))


def test_stock_data_without_a_network_say_what_to_do() -> None:
    expect(
        r"'mgsm', bn: the hub data set '\S+/mgsm' could not be loaded .* give local files",
        lambda: evaluate(Scripted(), [UtilityTask("mgsm", ["bn"])]),
    )


def test_without_lm_eval_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utility_tasks, "find_spec", lambda name: None)
    expect(r"crosslign\[utility\]", lambda: utility(tiny_llama(), byte_tokenizer(), []))
    expect(r"crosslign\[utility\]", lambda: utility_tasks.stock_languages("mgsm"))


def test_an_older_lm_eval_without_the_benchmark_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(utility_tasks, "tasks_folder", lambda: tmp_path)
    expect(r"lm-eval \S+ has no 'mmmlu'", lambda: utility_tasks.stock_languages("mmmlu"))


def test_prompts_are_not_cut(maths: Path, tmp_path: Path) -> None:
    task = [UtilityTask("mgsm", ["en"], {"en": maths})]
    small = tiny_llama(max_position_embeddings=48)
    expect("takes 48 tokens in all", lambda: utility(small, byte_tokenizer(), task, max_new_tokens=48))
    expect(
        "a prompt has 55 tokens; .* 11 more than the 48",
        lambda: utility(small, byte_tokenizer(), task, max_new_tokens=4),
    )
    row = {"question": "?" * 40, "option_a": "1", "option_b": "2", "option_c": "3", "option_d": "4", "answer": "A"}
    choice = [UtilityTask("global_mmlu", ["en"], {"en": write_rows(tmp_path / "choice.jsonl", [row])})]
    expect("more than the 48", lambda: utility(small, byte_tokenizer(), choice, max_new_tokens=4))


def test_a_tokenizer_without_a_chat_template_is_refused(maths: Path) -> None:
    task = [UtilityTask("mgsm", ["en"], {"en": maths})]
    expect("no chat template", lambda: utility(tiny_llama(), byte_tokenizer(None), task))


def test_what_is_measured_is_announced_and_no_file_is_left(
    maths: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "of-the-user")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    told: list[str] = []
    evaluate(Scripted(), [UtilityTask("mgsm", ["en"], {"en": maths})], limit=2, announce=told.append)
    assert told == [f"mgsm, en: 2 of 4 rows of {maths}"]
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not (tmp_path / "of-the-user").exists()


def test_the_interval_of_a_result_is_wilsons_in_percent(tmp_path: Path) -> None:
    z = 1.959963984540054
    columns = ["Question", "A", "B", "C", "D", "Answer"]
    for count, n in ((0, 5), (3, 8), (20, 20)):
        answers = ["A"] * count + ["B"] * (n - count)
        rows = [dict(zip(columns, ["what?", "1", "2", "3", "4", a], strict=True)) for a in answers]
        file = write_rows(tmp_path / f"{count}.jsonl", rows)
        found = evaluate(Scripted(choose="A"), [UtilityTask("mmmlu", ["sw"], {"sw": file})])["mmmlu"]["sw"]
        p = count / n
        middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        expected = [100 * (middle - half) / (1 + z * z / n), 100 * (middle + half) / (1 + z * z / n)]
        assert [found["low"], found["high"]] == pytest.approx(expected, abs=1e-9)
