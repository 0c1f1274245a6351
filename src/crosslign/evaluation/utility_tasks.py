"""What utility is measured on: lm-eval's stock benchmarks and local tables of questions, as generated task files.

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

The first two take the last number of the completion as the answer, the others the likeliest of A, B, C and D.
MGSM's other variants are left out: `en_cot` asks for the steps in English, which measures the source language, and
`direct` wants the number at once, which chat models ignore. The subjects of a language are one task here, without the
line that names the subject; accuracy over all questions is what lm-eval's groups report too. All are zero-shot.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from crosslign.data.load import TableSpec, its_columns, read_records
from crosslign.languages import same_language
from crosslign.storage import line_of
from crosslign.types import CrosslignError, nearest

DIGITS_FILTER = "crosslign_digits"
NUMBER = re.compile(r"-?[0-9][0-9,]*(?:\.[0-9]+)?")
_DIGIT = re.compile(r"\d")  # every decimal digit of Unicode: Bengali, Thai, Arabic-Indic, fullwidth and 60 more
# Between digits only: elsewhere they are punctuation of the text.
_DECIMAL_SIGN = re.compile(r"(?<=[0-9])[\u066B\uFF0E](?=[0-9])")  # Arabic decimal separator, fullwidth full stop
_THOUSANDS_SIGN = re.compile(r"(?<=[0-9])[\u066C\u060C\uFF0C](?=[0-9])")  # Arabic thousands, Arabic and fullwidth comma
# French, Russian and others group digits with a space; only the ones that do not break lines are beyond doubt.
_GROUPING_SPACE = re.compile(r"(?<=[0-9])[\u00A0\u2009\u202F](?=[0-9]{3}(?![0-9]))")
_MINUS = re.compile(r"[\u2212\uFF0D](?=[0-9])")


@dataclass(frozen=True)
class Benchmark:
    """A stock benchmark of lm-eval.

    Fields:
        files: its files, one for each language, below lm-eval's task folder; their `dataset_name` says which language.
        metric, extraction: the value of a sample that is averaged, and the filter that it comes from.
        includes: the file to include, if not the language's own, which selects the rows of one subject.
        from_table: whether a local table of questions can take the place of its data: its answers are numbers.
    """

    files: str
    metric: str = "acc"
    extraction: str = "none"
    includes: str | None = None
    from_table: bool = False


_MATHS: Mapping[str, Any] = {"metric": "exact_match", "extraction": "flexible-extract", "from_table": True}
BENCHMARKS: Mapping[str, Benchmark] = {
    "mgsm": Benchmark("mgsm/native_cot/mgsm_native_cot_*.yaml", **_MATHS),
    "afrimgsm": Benchmark("afrimgsm/direct_cot/prompt_1/afrimgsm_cot_*.yaml", **_MATHS),
    "mmmlu": Benchmark("openai-mmmlu/default/mmmlu_*_anatomy.yaml", includes="_default_template_yaml"),
    "global_mmlu": Benchmark("global_mmlu/default/*/_*_template_yaml"),
}


@dataclass(frozen=True)
class GeneratedTask:
    """One task file for lm-eval: a benchmark in one language. `source` says in words where its rows come from."""

    name: str
    benchmark: str
    language: str
    source: str

    @property
    def stock(self) -> Benchmark:
        return BENCHMARKS[self.benchmark]


def stock_files(benchmark: str) -> dict[str, Path]:
    """Language, as lm-eval spells it, to the stock file of a benchmark in the installed lm-eval.

    Raises CrosslignError if there is no such benchmark, lm-eval is not installed, or its version lacks the benchmark.
    """
    if benchmark not in BENCHMARKS:
        raise CrosslignError(f"utility: no benchmark {benchmark!r}. {nearest(benchmark, BENCHMARKS)}")
    pattern = BENCHMARKS[benchmark].files
    # MMMLU writes BN_BD, Afri-MGSM swa.
    found = {_read(path)["dataset_name"].split("_")[0].lower(): path for path in sorted(tasks_folder().glob(pattern))}
    if not found:
        raise CrosslignError(
            f"the installed lm-eval {version('lm-eval')} has no {benchmark!r} ({pattern}). Update it: pip install -U "
            "'crosslign[utility]'."
        )
    return found


def write_tasks(
    benchmarks: Sequence[str],
    languages: Sequence[str],
    tables: Mapping[str, str],
    folder: Path,
    *,
    max_new_tokens: int,
) -> list[GeneratedTask]:
    """Write a task file for each benchmark and language into `folder`, with the rows of local tables beside it.

    Args:
        languages: codes; region and script do not matter, so zh-Hans finds zh.
        tables: benchmark to a local parallel table (`id, answer, en, zh, ...`) that is read instead of the hub's data.

    Raises CrosslignError if a benchmark is twice there or lacks a language, or a table is missing or wrong.
    """
    generated = []
    for benchmark in benchmarks:
        if benchmarks.count(benchmark) > 1:
            raise CrosslignError(f"utility: {benchmark!r} is there twice.")
        files = stock_files(benchmark)
        table = tables.get(benchmark)
        if table is not None and not BENCHMARKS[benchmark].from_table:
            able = ", ".join(name for name, one in BENCHMARKS.items() if one.from_table)
            raise CrosslignError(f"utility: {benchmark!r} has options, which no table gives; it works for {able}.")
        questions = {} if table is None else _questions(table, languages)
        for language in dict.fromkeys(languages):
            name = f"crosslign_{benchmark}_{language}"
            known = same_language(language, files)
            if table is not None:
                rows_file = folder / f"{name}.jsonl"
                rows_file.write_text("".join(map(line_of, questions[language])), encoding="utf-8")
                # In a language that the benchmark lacks, the English prompt; Afri-MGSM's is the same in all.
                file = files[known or same_language("en", files) or next(iter(files))]
                config, source = _of_file(rows_file), table
            elif known is not None:
                file = files[known]
                config = {"dataset_name": _read(file)["dataset_name"]}
                source = f"the hub data set {_read(file)['dataset_path']!r}"
            else:
                raise CrosslignError(
                    f"utility task {benchmark!r} has no language {language!r}. lm-eval's has: {', '.join(files)}. "
                    "Leave it out, or give a local table."
                )
            included = file.parent / (BENCHMARKS[benchmark].includes or file.name)
            config |= {"task": name, "include": str(included), **_overridden(_read(included), max_new_tokens)}
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
            generated.append(GeneratedTask(name, benchmark, language, source))
    return generated


def _questions(table: str, languages: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of a parallel table in each language, in MGSM's shape; those without a text there are left out."""
    records, names = read_records(TableSpec(table))
    for column in ("answer", *languages):
        if column not in names:
            raise CrosslignError(f"{table}: no column {column!r}. {its_columns(names, column)}")
    rows: dict[str, list[dict[str, Any]]] = {language: [] for language in languages}
    for number, record in records:
        answer = "" if record["answer"] is None else ascii_numbers(str(record["answer"])).strip()
        if not NUMBER.fullmatch(answer):
            raise CrosslignError(f"{table}, row {number}, answer: expected a number, found {answer[:40]!r}.")
        for language in rows:
            text = record.get(language)
            if text is not None and not isinstance(text, str):
                raise CrosslignError(f"{table}, row {number}, {language}: expected text, found {type(text).__name__}.")
            if question := (text or "").strip():
                # The metric drops punctuation, so that 18.0 would be compared as 180. Stock prompts look at `answer`,
                # the worked solution, which test rows do not have.
                plain = re.sub(r"\.0+$", "", answer)
                rows[language].append({"question": question, "answer_number": plain, "answer": None})
    for language in rows:
        if not rows[language]:
            raise CrosslignError(f"{table}: no row has a text in column {language!r}.")
    return rows


def _of_file(rows: Path) -> dict[str, Any]:
    """What a task file says of data that are a local file."""
    return {
        "dataset_path": "json",
        "dataset_name": None,
        # The cache beside the rows: one of a temporary file would be left in the user's own.
        "dataset_kwargs": {"data_files": {"test": str(rows)}, "cache_dir": str(rows.parent / "cache")},
        "training_split": None,
        "fewshot_split": None,
        "test_split": "test",
    }


def _overridden(stock: Mapping[str, Any], max_new_tokens: int) -> dict[str, Any]:
    """Longer answers than lm-eval's 256 tokens, and ASCII digits before the answer is read, where there is text."""
    if stock["output_type"] != "generate_until":
        return {}
    return {
        "generation_kwargs": {**stock["generation_kwargs"], "max_gen_toks": max_new_tokens},
        "filter_list": [
            {**entry, "filter": [{"function": DIGITS_FILTER}, *entry["filter"]]} for entry in stock["filter_list"]
        ],
    }


def tasks_folder() -> Path:
    """lm-eval's own tasks. Raises CrosslignError if lm-eval is not installed."""
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise CrosslignError(
            "utility is measured with lm-eval, which is not installed: pip install 'crosslign[utility]'."
        )
    return Path(spec.origin).parent / "tasks"


def ascii_numbers(text: str) -> str:
    """The text with all decimal digits as 0-9 and the separators of numbers as `.` and `,`; nothing else changes.

    `ascii_numbers("উত্তর ১৮")` is "উত্তর 18", `ascii_numbers("١٬٢٣٤٫٥")` is "1,234.5". Numerals that are no decimal
    digits (十八, XVIII) stay.
    """
    text = _DIGIT.sub(lambda found: str(unicodedata.decimal(found[0])), text)
    text = _DECIMAL_SIGN.sub(".", text)
    text = _THOUSANDS_SIGN.sub(",", text)
    text = _GROUPING_SPACE.sub("", text)
    return _MINUS.sub("-", text)


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
