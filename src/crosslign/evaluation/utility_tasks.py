"""What utility is measured on: lm-eval's stock benchmarks and local files of their shape, as generated task files.

lm-eval describes a task by a YAML file. For every benchmark and language one is generated that includes the stock file
by its path and overrides where the data come from, how long answers may be, and what is done to them before the answer
is read: native digits become ASCII first, because the stock patterns look for `[0-9]` and would report a model that
answers ১৮ instead of 18 as one that cannot calculate.

Names, languages and prompts are read from the installed lm-eval. The variants:

| name             | lm-eval's name            | prompt                                               |
|------------------|---------------------------|------------------------------------------------------|
| mgsm             | mgsm_native_cot_XX        | question, "step-by-step answer" in the same language |
| afrimgsm         | afrimgsm_cot_XXX_prompt_1 | question, "Step-by-Step Answer"                      |
| mmmlu            | mmmlu_XX_YY               | question and options, all subjects                   |
| global_mmlu      | global_mmlu_XX            | question and options of the Lite set, all categories |
| global_mmlu_full | global_mmlu_full_XX       | question and options, all subjects                   |

The first two take the last number of the completion as the answer, the others the likeliest of A, B, C and D.
MGSM's other variants are left out: `en_cot` asks for the steps in English, which measures the source language, and
`direct` wants the number at once, which chat models ignore. The subjects of a language are one task here, without the
line that names the subject; accuracy over all questions is what lm-eval's groups report too. All are zero-shot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from crosslign.data.load import TableSpec, read_records
from crosslign.evaluation.digits import ascii_numbers
from crosslign.languages import same_language
from crosslign.types import CrosslignError, nearest

DIGITS_FILTER = "crosslign_digits"
_NUMBER = re.compile(r"-?[0-9][0-9,]*(?:\.[0-9]+)?")
_LETTER = re.compile(r"[ABCD]")
_PROMPT_LANGUAGE = "en"  # whose prompt serves local rows in a language that the stock benchmark has no prompt for


@dataclass(frozen=True)
class Benchmark:
    """A stock benchmark of lm-eval.

    Fields:
        files: its files, one for each language, below lm-eval's task folder; their `dataset_name` says which language.
        includes: the file to include, if not the language's own, which selects the rows of one subject.
        metric, extraction: the value of a sample that is averaged, and the filter that it comes from.
        columns: what a local row must have; the last is the answer, which `answer` must match.
    """

    files: str
    metric: str
    extraction: str
    columns: tuple[str, ...]
    answer: re.Pattern[str]
    includes: str | None = None


_MATHS = ("exact_match", "flexible-extract", ("question", "answer_number"), _NUMBER)
_OPTIONS = ("question", "option_a", "option_b", "option_c", "option_d", "answer")
BENCHMARKS: Mapping[str, Benchmark] = {
    "mgsm": Benchmark("mgsm/native_cot/mgsm_native_cot_*.yaml", *_MATHS),
    "afrimgsm": Benchmark("afrimgsm/direct_cot/prompt_1/afrimgsm_cot_*.yaml", *_MATHS),
    "mmmlu": Benchmark(
        "openai-mmmlu/default/mmmlu_*_anatomy.yaml",
        "acc",
        "none",
        ("Question", "A", "B", "C", "D", "Answer"),
        _LETTER,
        includes="_default_template_yaml",
    ),
    "global_mmlu": Benchmark("global_mmlu/default/*/_*_template_yaml", "acc", "none", _OPTIONS, _LETTER),
    "global_mmlu_full": Benchmark("global_mmlu/full/*/_*_template_yaml", "acc", "none", _OPTIONS, _LETTER),
}


@dataclass(frozen=True)
class UtilityTask:
    """A benchmark in some languages, with stock data of the hub or local files.

    Fields:
        name: its name in the results; a benchmark's (`BENCHMARKS`), or any if `benchmark` is given.
        languages: codes; region and script do not matter, so zh-Hans finds zh.
        files: language to a local file of rows (CSV, TSV, JSONL, Parquet) with the benchmark's columns: `question` and
            `answer_number` for mgsm and afrimgsm, `Question, A, B, C, D, Answer` for mmmlu, `question, option_a, ...,
            option_d, answer` for global_mmlu. Empty: the hub's data.
        benchmark: whose prompt, extraction and metric local files have.
    """

    name: str
    languages: Sequence[str]
    files: Mapping[str, str | Path] = field(default_factory=dict)
    benchmark: str | None = None

    def stock(self) -> Benchmark:
        """Raises CrosslignError if there is no such benchmark."""
        name = self.benchmark or self.name
        if name not in BENCHMARKS:
            raise CrosslignError(f"utility task {self.name!r}: no benchmark {name!r}. {nearest(name, BENCHMARKS)}")
        return BENCHMARKS[name]


@dataclass(frozen=True)
class GeneratedTask:
    """One task file for lm-eval: a benchmark in one language."""

    name: str
    task: UtilityTask
    language: str
    benchmark: Benchmark
    source: str  # where the rows come from, for error messages


def stock_languages(benchmark: str) -> list[str]:
    """The languages of a stock benchmark in the installed lm-eval, as lm-eval spells them.

    Raises CrosslignError if lm-eval is not installed, or has no such benchmark.
    """
    return list(_stock_files(UtilityTask(benchmark, ()).stock(), benchmark))


def write_tasks(tasks: Sequence[UtilityTask], folder: Path, *, max_new_tokens: int) -> list[GeneratedTask]:
    """Write a task file for each task and language into `folder`, with the rows of local files beside it.

    Raises CrosslignError if a task is twice there, lacks a language, or a local file is missing or wrong.
    """
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise CrosslignError(f"utility: two tasks are named {name!r}. Give one another name and set `benchmark`.")
    generated = []
    for index, task in enumerate(tasks):
        stock = task.stock()
        stock_files = _stock_files(stock, task.benchmark or task.name)
        for language in dict.fromkeys(task.languages):
            name = f"crosslign_{index}_{language}"  # a task's own name may be no file name
            config, source = _config(task, stock, stock_files, language, folder / f"{name}.jsonl")
            _override(config, max_new_tokens)
            text = yaml.safe_dump({"task": name, **config}, allow_unicode=True, sort_keys=False)
            (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
            generated.append(GeneratedTask(name, task, language, stock, source))
    return generated


def question_files(table: str | Path, folder: Path, languages: Sequence[str]) -> dict[str, Path]:
    """A parallel table (columns `id, answer, en, zh, ...`) as one file for each language, for `UtilityTask.files`.

    The files (JSONL, `id, question, answer_number`) have the shape of MGSM. Rows without a text in a language are left
    out of its file. Answers may be written in native digits.

    Raises CrosslignError if the table cannot be read, lacks a column, or an answer is no number.
    """
    records, names = read_records(TableSpec(str(table)))
    _require_columns(str(table), names, ("id", "answer", *languages))
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for language in languages:
        rows = [
            {
                "id": record.get("id"),
                "question": str(record[language]).strip(),
                "answer_number": _answer(record.get("answer"), _NUMBER, str(table), number, "answer"),
            }
            for number, record in records
            if str(record.get(language) or "").strip()
        ]
        if not rows:
            raise CrosslignError(f"{table}: no row has a text in column {language!r}.")
        files[language] = folder / f"{language}.jsonl"
        _write_rows(files[language], rows)
    return files


def _config(
    task: UtilityTask, stock: Benchmark, stock_files: Mapping[str, Path], language: str, rows_file: Path
) -> tuple[dict[str, Any], str]:
    """What the generated file says of prompt and data, and where the data come from in words."""
    known = same_language(language, stock_files)
    if not task.files:
        if known is None:
            raise CrosslignError(
                f"utility task {task.name!r} has no language {language!r}. lm-eval's has: {', '.join(stock_files)}. "
                "Leave it out, or give a local file."
            )
        file = stock_files[known]
        config = {"include": str(_included(file, stock)), "dataset_name": _read(file)["dataset_name"]}
        return config, f"the hub data set {_read(file)['dataset_path']!r}"
    if language not in task.files:
        raise CrosslignError(
            f"utility task {task.name!r}: no file for language {language!r}; there are files for "
            f"{', '.join(task.files)}."
        )
    path = str(task.files[language])
    _write_rows(rows_file, _local_rows(path, stock))
    return {
        "include": str(_included(stock_files[known or _english(stock_files)], stock)),
        "dataset_path": "json",
        "dataset_name": None,
        # The cache beside the rows: one of a temporary file would be left in the user's own.
        "dataset_kwargs": {"data_files": {"test": str(rows_file)}, "cache_dir": str(rows_file.parent / "cache")},
        "training_split": None,
        "fewshot_split": None,
        "test_split": "test",
    }, path


def _override(config: dict[str, Any], max_new_tokens: int) -> None:
    """Longer answers than lm-eval's 256 tokens, and ASCII digits before the answer is read, where there is text."""
    stock = _read(Path(config["include"]))
    if stock["output_type"] != "generate_until":
        return
    config["generation_kwargs"] = {**stock["generation_kwargs"], "max_gen_toks": max_new_tokens}
    config["filter_list"] = [
        {**entry, "filter": [{"function": DIGITS_FILTER}, *entry["filter"]]} for entry in stock["filter_list"]
    ]


def _stock_files(stock: Benchmark, name: str) -> dict[str, Path]:
    """Language to stock file. MMMLU writes BN_BD, Afri-MGSM swa."""
    root = tasks_folder()
    files = {_read(path)["dataset_name"].split("_")[0].lower(): path for path in sorted(root.glob(stock.files))}
    if not files:
        raise CrosslignError(
            f"the installed lm-eval {version('lm-eval')} has no {name!r} ({stock.files}). Update it: pip install -U "
            "'crosslign[utility]'."
        )
    return files


def tasks_folder() -> Path:
    """lm-eval's own tasks. Raises CrosslignError if lm-eval is not installed."""
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise CrosslignError(
            "utility is measured with lm-eval, which is not installed: pip install 'crosslign[utility]'."
        )
    return Path(spec.origin).parent / "tasks"


def _english(stock_files: Mapping[str, Path]) -> str:
    """English, or the first language where the files differ in nothing but the rows."""
    return same_language(_PROMPT_LANGUAGE, stock_files) or next(iter(stock_files))


def _included(file: Path, stock: Benchmark) -> Path:
    return file if stock.includes is None else file.parent / stock.includes


class _Loader(yaml.SafeLoader):
    """Reads task files without running what their `!function` tags name."""


_Loader.add_constructor("!function", lambda loader, node: None)


@cache
def _read(path: Path) -> Mapping[str, Any]:
    """A task file with what it includes; its own keys win."""
    config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    includes = config.pop("include", [])
    merged: dict[str, Any] = {}
    for name in [includes] if isinstance(includes, str) else includes:
        merged |= _read(path.parent / name)
    return merged | config


def _local_rows(path: str, stock: Benchmark) -> list[dict[str, Any]]:
    records, names = read_records(TableSpec(path))
    _require_columns(path, names, stock.columns)
    *texts, answer = stock.columns
    rows: list[dict[str, Any]] = []
    for number, record in records:
        row: dict[str, Any] = {}
        for column in texts:
            row[column] = str(record.get(column) if record.get(column) is not None else "").strip()
            if not row[column]:
                raise CrosslignError(f"{path}, row {number}, {column}: is empty.")
        row[answer] = _answer(record.get(answer), stock.answer, path, number, answer)
        # Stock prompts of MGSM look at `answer`, the worked solution, which test rows do not have.
        rows.append(row if answer == "answer" else {**row, "answer": None})
    if not rows:
        raise CrosslignError(f"{path}: has no rows.")
    return rows


def _answer(value: object, pattern: re.Pattern[str], path: str, row: int, column: str) -> str:
    text = ascii_numbers(str(value if value is not None else "")).strip()
    if not pattern.fullmatch(text):
        what = "a number" if pattern is _NUMBER else "one of A, B, C, D"
        raise CrosslignError(f"{path}, row {row}, {column}: expected {what}, found {text[:40]!r}.")
    # The metric drops punctuation, so that 18.0 would be compared as 180.
    return re.sub(r"\.0+$", "", text)


def _require_columns(path: str, names: Sequence[str], columns: Sequence[str]) -> None:
    for column in columns:
        if column not in names:
            raise CrosslignError(f"{path}: no column {column!r}. {nearest(column, names)}")


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
