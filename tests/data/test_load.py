"""Reading tables: four formats give one table; every bad input has a message that names its place."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROWS, write_csv

from crosslign.data.load import TableSpec, load_table, read_records, require_table, summarise
from crosslign.data.schema import DataError, QueryTable
from crosslign.types import CrosslignError

# Cells that break naive readers: quotes, commas, tabs, line ends of every kind inside a text, missing translations.
HARD = [
    {"key": "a", "label": "harmful", "en": 'one\nline, "two"\tand', "sw": "moja\r\nmbili", "bn": "এক\u2028দুই"},
    {"key": "b", "label": "benign", "en": "{braces} 'and' \\n", "sw": "", "bn": "\u0085 তিন"},
    {"key": "c", "label": "", "en": "x" * 200_000, "sw": "ndefu", "bn": ""},
]
COLUMNS = {"id": "key"}


def delimited(rows: list[dict[str, str]], delimiter: str, bom: bytes = b"") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return bom + text.getvalue().encode()


def json_lines(rows: list[dict[str, str]], bom: bytes = b"") -> bytes:
    """Empty cells become null in one row and are left out in the others, as exporters do."""
    lines = []
    for number, row in enumerate(rows):
        kept = {k: v or None for k, v in row.items() if v or number == 0}
        lines.append(json.dumps(kept, ensure_ascii=False))
    return bom + ("\n".join(lines) + "\n\n").encode()


def parquet(rows: list[dict[str, str]]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{k: v or None for k, v in r.items()} for r in rows]), sink)
    return sink.getvalue()


BOM = b"\xef\xbb\xbf"
FORMATS: dict[str, Callable[[list[dict[str, str]]], bytes]] = {
    "plain.csv": lambda rows: delimited(rows, ","),
    "bom.csv": lambda rows: delimited(rows, ",", BOM),
    "upper.CSV": lambda rows: delimited(rows, ","),
    "plain.tsv": lambda rows: delimited(rows, "\t"),
    "bom.tsv": lambda rows: delimited(rows, "\t", BOM),
    "plain.jsonl": json_lines,
    "bom.jsonl": lambda rows: json_lines(rows, BOM),
    "plain.parquet": parquet,
}


def load(path: Path | str, languages: list[str] | None = None, **options: Any) -> QueryTable:
    return require_table(TableSpec(str(path), **options), "en", languages)


def user_sees(data: bytes | str, tmp_path: Path, name: str = "t.csv", **options: Any) -> str:
    """The error text for a file's contents, with the folder cut off."""
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(CrosslignError) as caught:
        load(path, **options)
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_table(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FORMATS[name](HARD))
    rows = load(path, columns=COLUMNS, label="unlabelled").rows
    assert [(r.number, r.id, r.label, r.category) for r in rows] == [
        (1, "a", "harmful", None), (2, "b", "benign", None), (3, "c", "unlabelled", None),
    ]  # fmt: skip
    assert [dict(r.texts) for r in rows] == [
        {k: v.strip() for k, v in r.items() if v and k in ("en", "sw", "bn")} for r in HARD
    ]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet"])
def test_ids_are_the_same_in_every_format_also_zero(tmp_path: Path, name: str) -> None:
    rows = [{"id": n, "en": f"text {n}"} for n in range(3)]
    path = tmp_path / name
    if name == "t.parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif name == "t.jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        path.write_bytes(delimited(rows, "," if name == "t.csv" else "\t"))
    assert [r.id for r in load(path).rows] == ["0", "1", "2"]


def test_languages_default_to_all_columns_that_are_languages(table_file: Path) -> None:
    assert load(table_file).languages == ("en", "sw", "bn")
    assert load(table_file, ["bn"]).languages == ("bn",)


def test_columns_are_mapped_by_name_and_headers_are_trimmed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("row_id, prompt ,kind,topic,Swahili text\n7,hello,benign,greeting,habari\n")
    columns = {"id": "row_id", "en": "prompt", "label": "kind", "category": "topic", "sw": "Swahili text"}
    (row,) = load(path, columns=columns).rows
    assert (row.id, row.label, row.category) == ("7", "benign", "greeting")
    assert row.texts == {"en": "hello", "sw": "habari"}


def test_mapped_column_is_not_read_a_second_time_under_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("en,fr\nhello,habari\n")
    assert load(path, columns={"sw": "fr"}).languages == ("en", "sw")


def test_column_id_holds_ids_and_indonesian_is_read_from_a_column_ind(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,en,ind\n1,hello,halo\n")
    table = load(path, ["ind"])
    assert [(q.id, q.language, q.text) for q in table.queries()] == [("1", "ind", "halo")]
    with pytest.raises(CrosslignError, match=r"'id' is the column of row ids.*'ind'"):
        load(path, ["id"])


def test_a_column_of_blanks_is_no_language_that_the_table_has(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,label,en,sw,bn\na,harmful,question,swali, \nb,harmful,another,lingine,\n")
    assert require_table(TableSpec(str(path)), "en", None).languages == ("en", "sw")


def test_blank_lines_of_csv_and_jsonl_do_not_count_as_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("en\n\na\n\nb\n")
    (tmp_path / "t.jsonl").write_text('\n{"en": "a"}\n\n{"en": "b"}')
    assert [r.number for r in load(tmp_path / "t.csv").rows] == [1, 2]
    assert [r.number for r in load(tmp_path / "t.jsonl").rows] == [1, 2]


def test_where_skip_and_limit_select_rows_that_keep_their_numbers(table_file: Path) -> None:
    rows = load(table_file, where={"label": ["harmful"], "category": ["a", "b"]}, skip=2, limit=3).rows
    assert [r.number for r in rows] == [6, 8, 10]


def test_skip_and_limit_split_a_table_without_sharing_rows(table_file: Path) -> None:
    train, held_back = load(table_file, limit=9), load(table_file, skip=9)
    assert [r.id for r in (*train.rows, *held_back.rows)] == [r["id"] for r in ROWS]


def test_warnings_do_not_keep_a_table_from_loading(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [{"en": "same", "sw": "same"}])
    table, problems = load_table(TableSpec(str(path)))
    assert table is not None
    assert [p.severity for p in problems] == ["warning"]
    assert load(path).warnings == tuple(problems)


# --- Bad files: the text that a user sees.


def test_all_errors_of_a_file_are_told_at_once_with_file_row_and_field(tmp_path: Path) -> None:
    text = "id,label,en,sw\n1,harmful,a,b\n1,harmful,c,d\n3,evil,e,f\n4,benign,,g\n"
    assert user_sees(text, tmp_path).split("\n") == [
        "error: t.csv, row 2, field 'id': the id '1' stands in row 1 already; ids must be unique. "
        "Remove one of the rows.",
        "error: t.csv, row 3, field 'label': unknown label 'evil'; valid: harmful, benign, unlabelled.",
        "error: t.csv, row 4, field 'en': the source text (en) is empty; every row needs one.",
    ]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_wrong_number_of_cells_names_row_line_and_both_counts(tmp_path: Path, suffix: str) -> None:
    comma = "," if suffix == "csv" else "\t"
    text = f'en{comma}sw\n"two\nlines"{comma}b\nc\n'
    assert user_sees(text, tmp_path, f"t.{suffix}") == (
        f"error: t.{suffix}, row 2: 1 cells, but the header has 2 columns (near line 4). Is a comma or quote unescaped?"
    )


def test_unterminated_quote_names_the_row(tmp_path: Path) -> None:
    message = user_sees('en,sw\na,b\n"c,d\ne,f\n', tmp_path)
    assert message.startswith("error: t.csv, row 2: not a well-formed table: unexpected end of data (near line ")


@pytest.mark.parametrize("bom", [b"", BOM], ids=["plain", "bom"])
@pytest.mark.parametrize(
    ("name", "data", "place"),
    [
        ("t.csv", b"en,s\xe9\na,b\n", "(byte 0xe9 in line 1)"),
        ("t.csv", b'en,sw\n"two\nlines",b\n\n\xff,d\n', "(byte 0xff in line 5)"),
        ("t.jsonl", b'\n\n{"en": "a"}\n\xe4\n', "(byte 0xe4 in line 4)"),
    ],
)
def test_invalid_utf8_names_byte_and_line(tmp_path: Path, name: str, data: bytes, place: str, bom: bytes) -> None:
    expected = f"error: {name}: invalid UTF-8 {place}. Save the file as UTF-8."
    assert user_sees(bom + data, tmp_path, name) == expected


def test_utf16_file_is_refused_in_its_first_line(tmp_path: Path) -> None:
    assert user_sees("en,sw\na,b\n".encode("utf-16"), tmp_path).startswith(
        "error: t.csv: invalid UTF-8 (byte 0xff in line 1)"
    )


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl"])
@pytest.mark.parametrize("data", [b"", b"\n \n", BOM, BOM + b"\n"], ids=["nothing", "blank", "bom", "bom-blank"])
def test_empty_file_is_called_empty(tmp_path: Path, name: str, data: bytes) -> None:
    assert user_sees(data, tmp_path, name) == f"{name}: the file is empty."


def test_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert user_sees("id,en,sw\n", tmp_path) == "error: t.csv: the table has no rows."


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    assert user_sees("en,sw,sw\na,b,c\n", tmp_path) == "error: t.csv, field 'sw': two columns have this name."


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_missing_file_is_named(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(CrosslignError, match=rf"no\.{suffix}: cannot be read: No such file or directory\."):
        load(tmp_path / f"no.{suffix}")


def test_missing_path_without_a_known_suffix_says_what_a_table_can_be(tmp_path: Path) -> None:
    with pytest.raises(CrosslignError, match=r"no/such/thing: no such file\. A table is a file .*builtin:demo"):
        load("no/such/thing")
    with pytest.raises(CrosslignError, match=r"builtin:dem: no such file.*builtin:demo"):
        load("builtin:dem")


def test_folder_is_refused_with_the_kinds_of_file_to_name(tmp_path: Path) -> None:
    with pytest.raises(
        CrosslignError, match=r"is a folder; name a file of it \(\.csv, \.tsv, \.jsonl, \.parquet, \.xlsx\)"
    ):
        load(tmp_path)


@pytest.mark.parametrize("name", ["t.json", "t.txt", "t.dat"])
def test_unknown_suffix_is_refused_with_the_valid_ones(tmp_path: Path, name: str) -> None:
    suffix = name[1:]
    assert user_sees("en\na\n", tmp_path, name) == (
        f"{name}: unknown kind of file {suffix!r}; a query table is one of .csv, .tsv, .jsonl, .parquet, .xlsx."
    )


def test_recipe_in_place_of_a_table_is_told_where_to_go(tmp_path: Path) -> None:
    assert user_sees("model: {}\n", tmp_path, "run.yaml").endswith("`crosslign train RECIPE --dry-run`.")


def test_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    assert user_sees("en\na\n", tmp_path, "t.parquet").startswith("t.parquet: cannot be read as Parquet: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [('{"en": "b"', "row 2: not JSON: "), ('["b"]', "row 2: expected a JSON object on the line.")],
)
def test_bad_json_line_names_its_row(tmp_path: Path, line: str, message: str) -> None:
    assert user_sees(f'{{"en": "a"}}\n{line}\n', tmp_path, "t.jsonl").startswith(f"error: t.jsonl, {message}")


def test_number_where_a_text_belongs_names_row_and_field(tmp_path: Path) -> None:
    text = '{"en": "a", "sw": "b"}\n{"en": "c", "sw": 5}\n'
    assert user_sees(text, tmp_path, "t.jsonl") == "error: t.jsonl, row 2, field 'sw': expected text, found int."


def test_wrong_name_in_columns_gives_the_nearest_and_all(tmp_path: Path) -> None:
    assert user_sees("promt,sw\na,b\n", tmp_path, columns={"en": "prompt"}) == (
        "t.csv: columns maps 'en' to 'prompt', which the table does not have. Did you mean 'promt'? "
        "Its columns: promt, sw."
    )


def test_language_without_a_column_says_how_to_map_one(tmp_path: Path) -> None:
    assert user_sees("id,en,swa\n1,a,b\n", tmp_path, languages=["sw"]) == (
        "t.csv: no column for the language 'sw'. Did you mean 'swa'? Its columns: id, en, swa. "
        "If it has another name, map it: columns: {sw: NAME}."
    )


def test_source_language_without_a_column_is_called_source_language(tmp_path: Path) -> None:
    message = user_sees("prompt,sw\na,b\n", tmp_path)
    assert message.startswith("t.csv: no column for the source language 'en'. Its columns: prompt, sw.")
    assert "columns: {en: NAME}" in message


@pytest.mark.parametrize(
    "options", [{"where": {"label": ["evil"]}}, {"skip": 12}, {"where": {"category": ["a"]}, "skip": 6}]
)
def test_selection_that_leaves_nothing_says_so(table_file: Path, options: dict[str, Any]) -> None:
    with pytest.raises(
        CrosslignError, match=r"queries\.csv: no row is left after where, skip and limit \(the table has 12\)"
    ):
        load(table_file, **options)


def test_where_of_a_column_that_is_not_there_lists_the_columns(table_file: Path) -> None:
    with pytest.raises(
        CrosslignError, match=r"where names the column 'topic'\. Its columns: id, label, category, en, sw, bn"
    ):
        load(table_file, where={"topic": ["x"]})


# --- Hub datasets.


class Hub:
    """Stands in for datasets.load_dataset: notes its arguments, answers with a real Dataset or an exception."""

    def __init__(self, answer: list[dict[str, Any]] | Exception) -> None:
        self.answer = answer
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> datasets.Dataset:
        self.calls.append((args, kwargs))
        if isinstance(self.answer, Exception):
            raise self.answer
        return datasets.Dataset.from_list(self.answer)


def test_hub_dataset_is_loaded_with_everything_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub([{"id": 0, "en": "hello", "sw": "habari"}, {"id": 1, "en": "bye", "sw": None}])
    monkeypatch.setattr(datasets, "load_dataset", hub)
    table = load("owner/queries", revision="abc123", split="test", config_name="full")
    assert hub.calls == [(("owner/queries", "full"), {"split": "test", "revision": "abc123"})]
    assert table.name == "owner/queries"
    assert [(r.number, r.id, dict(r.texts)) for r in table.rows] == [
        (1, "0", {"en": "hello", "sw": "habari"}), (2, "1", {"en": "bye"}),
    ]  # fmt: skip
    load("queries")  # which is the train split of the main revision
    assert hub.calls[1:] == [(("queries", None), {"split": "train", "revision": None})]


def test_problem_in_a_hub_dataset_names_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", Hub([{"en": "a"}, {"en": ""}]))
    with pytest.raises(DataError, match="error: owner/queries, row 2, field 'en': the source text"):
        load("owner/queries")


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (FileNotFoundError("no such dataset\nlong traceback"), "FileNotFoundError: no such dataset)"),
        (ConnectionError(), "ConnectionError: no message)"),
    ],
)
def test_hub_failure_gives_the_cause_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception, shown: str
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", Hub(error))
    with pytest.raises(CrosslignError) as caught:
        load("owner/queris")
    message = str(caught.value)
    assert message.startswith("owner/queris: no file of this name here, and the hub dataset could not be loaded (")
    assert shown in message
    assert "\n" not in message
    for hint in ("config_name, split and revision", "hf auth login", "download the file"):
        assert hint in message


def test_file_of_the_same_name_is_preferred_to_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = Hub([{"en": "from the hub"}])
    monkeypatch.setattr(datasets, "load_dataset", hub)
    monkeypatch.chdir(tmp_path)
    Path("queries.csv").write_text("en\nfrom the file\n")
    assert load("queries.csv").rows[0].texts["en"] == "from the file"
    assert hub.calls == []


def test_read_records_gives_columns_in_order_of_first_appearance(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"en": "a"}\n{"sw": "c", "en": "b", "bn": "d"}\n')
    records, names = read_records(TableSpec(str(path)))
    assert names == ["en", "sw", "bn"]
    assert records == [(1, {"en": "a"}), (2, {"sw": "c", "en": "b", "bn": "d"})]


def test_summary_counts_rows_labels_categories_and_lengths(tmp_path: Path) -> None:
    rows = [
        {"label": "benign" if n > 2 else "harmful", "category": "x" if n else "", "en": "a" * (n + 1), "sw": "b" * n}
        for n in range(10)
    ]
    summary = summarise(load(write_csv(tmp_path / "t.csv", rows)))
    assert summary["rows"] == 10
    assert summary["labels"] == {"benign": 7, "harmful": 3}
    assert summary["categories"] == {"x": 9, "(none)": 1}
    assert summary["languages"]["en"] == {"texts": 10, "p5": 1, "p50": 6, "p95": 10, "max": 10}
    assert summary["languages"]["sw"]["texts"] == 9


# --- Warnings about columns and texts that are probably mistakes


def warned(text: str, tmp_path: Path, languages: list[str] | None = None, **spec: Any) -> list[str]:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    table, problems = load_table(TableSpec(str(tmp_path / "t.csv"), **spec), "en", languages)
    assert table is not None
    assert list(table.warnings) == problems
    return [str(problem).removeprefix(f"warning: {tmp_path}/t.csv, ") for problem in problems]


def test_a_text_that_cannot_be_seen_is_warned_of(tmp_path: Path) -> None:
    found = warned("en,sw\nq,\u200b\u200d\ufeff\nr,\u2063 \u200e\n\u2060,t\n", tmp_path)
    assert found == [
        "row 1, field 'sw': the text has no visible character.",
        "row 2, field 'sw': the text has no visible character.",
        "row 3, field 'en': the text has no visible character.",
    ]


@pytest.mark.parametrize(
    ("codes", "same"),
    [
        (["zh", "zh-Hans", "zh_CN"], {"zh-Hans": "zh", "zh_CN": "zh"}),
        (["sw", "swa"], {"swa": "sw"}),
        (["cmn", "zh"], {"zh": "cmn"}),
        (["pt-BR", "pt"], {"pt": "pt-BR"}),
        (["pt-BR", "pt-PT", "zh", "zh-Hant", "yue", "sr", "sr-Latn", "art-x-low1", "art-x-low2"], {}),
    ],
)
def test_columns_of_one_language_are_warned_of(tmp_path: Path, codes: list[str], same: dict[str, str]) -> None:
    names = ["en", *codes]
    text = f"{','.join(names)}\n{','.join(f'text {i}' for i in range(len(names)))}\n"
    wanted = [
        f"field {code!r}: the same language as {first!r}: is one of them a mistake?" for code, first in same.items()
    ]
    assert warned(text, tmp_path) == wanted
    assert warned(text, tmp_path, codes) == wanted


@pytest.mark.parametrize("name", ["con", "nul", "aux", "prn", "src", "tgt", "txt", "url"])
def test_a_column_whose_name_is_a_language_by_chance_is_warned_of(tmp_path: Path, name: str) -> None:
    text = f"en,{name}\nq,r\n"
    [warning] = warned(text, tmp_path)
    assert warning.startswith(f"field {name!r}: is read as texts in ")
    assert warned(text, tmp_path, [name]) == []  # a user who names it means it
    assert warned(text, tmp_path, ["en"]) == []
    assert warned(f"en,{name},sw\nq,,t\n", tmp_path) == []  # an empty column is not read


@pytest.mark.parametrize("name", ["../x", "a/b", "not a language", "", "x" * 10_000, "\x1b[2J", "en\n"])
def test_columns_are_named_for_languages_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "t.csv").write_text("en,x\nq,r\n", encoding="utf-8")
    with pytest.raises(CrosslignError, match="language"):
        load_table(TableSpec(str(tmp_path / "t.csv"), columns={name: "x"}))


def test_errors_about_a_table_of_long_names_stay_short(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",".join(f"{i}{'n' * 10_000}" for i in range(500)) + "\n", encoding="utf-8")
    with pytest.raises(CrosslignError) as error:
        load_table(TableSpec(str(tmp_path / "t.csv")))
    assert len(str(error.value)) < 5000


def test_a_hub_dataset_has_the_limits_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    data = datasets.Dataset.from_dict({"id": ["1", "2", "3"], "en": ["a", "b", "c"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: data)
    spec = TableSpec("owner/name")
    assert len(read_records(spec)[0]) == 3
    for name, value in (("ROWS", "2"), ("COLUMNS", "1")):
        with monkeypatch.context() as patch:
            patch.setenv(f"CROSSLIGN_MAX_{name}", value)
            with pytest.raises(CrosslignError, match=f"^owner/name: has 3? ?.*CROSSLIGN_MAX_{name}"):
                read_records(spec)
