"""The sets that are tables: ids, texts, labels and categories of each, and what bad files do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import task_files
from task_files import BOM, text, write_lines, write_parquet, write_rows

from crosslign.data.schema import DataError
from crosslign.evaluation.tasks import TaskData, get_task
from crosslign.types import CrosslignError, Query


def load(name: str, path: Path, languages: list[str] | None = None, **options: Any) -> TaskData:
    return get_task(name).load(languages, path=str(path), **options)


def test_multijail_reads_its_columns_past_the_byte_order_mark(tmp_path: Path) -> None:
    path = task_files.multijail(tmp_path, rows=2)
    assert path.read_bytes().startswith(BOM + b"id,")
    data = load("multijail", path)
    assert data.languages == ("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv")
    assert data.rows == 2
    assert data.queries[8] == Query("0", "sw", "swali 0", "en", "question 0", "harmful", "topic 0; other")
    assert data.notes == ()


def test_multijail_may_have_further_languages_in_a_file_of_ones_own(tmp_path: Path) -> None:
    rows = [["id", "en", "sw", "am", "tags", "url"], ["1", "hello", "habari", "selam", "", "x"]]
    data = load("multijail", write_rows(tmp_path / "m.csv", rows))
    assert data.languages == ("en", "sw", "am")  # "tags" and "url" are no languages here
    assert data.queries[0].category is None


def test_another_source_language_gives_its_texts_as_source_texts(tmp_path: Path) -> None:
    data = load("multijail", task_files.multijail(tmp_path), ["sw"], source_language="zh")
    assert {(q.source_language, q.source_text) for q in data.queries} == {("zh", text("zh", n)) for n in range(12)}
    with pytest.raises(CrosslignError, match=r"MultiJail\.csv: the source language 'fo' needs a column 'fo'"):
        load("multijail", task_files.multijail(tmp_path), source_language="fo")


def test_pku_reads_prompts_by_their_prefix_and_an_indonesian_one_by_ind(tmp_path: Path) -> None:
    record: dict[str, object] = {"prompt_id": "7", "prompt": "hello", "prompt_zh": "你好", "prompt_ind": "halo"}
    data = load("pku_saferlhf_multilingual", write_lines(tmp_path / "p.jsonl", [record]))
    assert [(q.language, q.text) for q in data.queries] == [("en", "hello"), ("zh", "你好"), ("ind", "halo")]
    assert {q.label for q in data.queries} == {"harmful"}


def test_pku_leaves_out_repeated_prompts_and_counts_them(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [{"prompt": p, "prompt_sw": f"sw {p}"} for p in ("a", "b", "a", "a")]
    data = load("pku_saferlhf_multilingual", write_lines(tmp_path / "p.jsonl", records))
    assert data.rows == 2
    assert data.notes == ("2 rows that repeat another are left out.",)


def test_ids_made_of_english_texts_do_not_depend_on_the_source_language(tmp_path: Path) -> None:
    path = task_files.pku(tmp_path)
    assert [q.id for q in load("pku_saferlhf_multilingual", path, ["sw"]).queries] == [
        q.id for q in load("pku_saferlhf_multilingual", path, ["sw"], source_language="zh").queries
    ]


def test_advbench_takes_the_name_of_its_english_column_from_either_release(tmp_path: Path) -> None:
    for column in ("en", "goal"):
        path = write_rows(tmp_path / "a.csv", [[column, "target", "sw"], ["hello", "Sure", "habari"]])
        assert [(q.language, q.text) for q in load("advbench_x", path).queries] == [("en", "hello"), ("sw", "habari")]


def test_polyguard_pivots_rows_by_id_and_takes_the_labels_of_the_annotators(tmp_path: Path) -> None:
    data = load("polyguard_prompts", task_files.polyguard(tmp_path, rows=2), ["de", "en"])
    assert [(q.id, q.language, q.label, q.category) for q in data.queries] == [
        ("0", "de", "benign", "topic 0"), ("0", "en", "benign", "topic 0"),
        ("1", "de", "harmful", "topic 1"), ("1", "en", "harmful", "topic 1"),
    ]  # fmt: skip
    assert data.queries[0].source_text == "question 0"


def test_polyguard_rows_take_the_label_of_the_english_text(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [
        {"id": 1, "language": "German", "prompt": "a", "prompt_harm_label": "unharmful"},
        {"id": 1, "language": "English", "prompt": "b", "prompt_harm_label": "harmful"},
    ]
    data = load("polyguard_prompts", write_parquet(tmp_path / "p.parquet", records))
    assert {(q.language, q.label) for q in data.queries} == {("en", "harmful"), ("de", "harmful")}


def test_polyguard_falls_back_on_the_other_label_and_leaves_out_rows_without_one(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [
        {"id": n, "language": language, "prompt": text(code, n), "prompt_harm_label": None, "prompt_label": label}
        for language, code in (("English", "en"), ("arabic", "ar"))
        for n, label in enumerate(("unsafe", "safe", None))
    ]
    data = load("polyguard_prompts", write_parquet(tmp_path / "p.parquet", records))
    assert [(q.id, q.language, q.label) for q in data.queries] == [
        ("0", "en", "harmful"), ("0", "ar", "harmful"), ("1", "en", "benign"), ("1", "ar", "benign"),
    ]  # fmt: skip
    assert data.notes == ("2 queries are left out because they are unlabelled; this task is mixed.",)


def test_polyguard_rows_that_cannot_be_matched_are_counted_or_refused(tmp_path: Path) -> None:
    def rows(*cells: tuple[object, object, object]) -> Path:
        return write_lines(
            tmp_path / "p.jsonl",
            [{"id": i, "language": code, "prompt": p, "prompt_label": "safe"} for i, code, p in cells],
        )

    good = rows((1, "en", "a"), (1, "de", "b"), (1, "de", "b"), (2, "de", "c"), (3, "en", " "), (4, "en", "d"))
    data = load("polyguard_prompts", good)
    assert [q.key for q in data.queries] == ["1|en", "1|de", "4|en"]
    assert data.notes == (
        "1 texts that repeat another of their row are left out.",
        "2 rows without a text in 'en' are left out.",
        "de: 1 of 2 rows have no text.",
    )
    with pytest.raises(DataError, match=r"p\.jsonl, row 2, field 'prompt': the id '1' has another text in 'en'"):
        load("polyguard_prompts", rows((1, "en", "a"), (1, "English", "b")))
    spelt = load("polyguard_prompts", rows((1, "EN", "a"), (1, "pt-BR", "b"), (2, "en", "c")))
    assert [q.key for q in spelt.queries] == ["1|en", "1|pt-BR", "2|en"]
    with pytest.raises(DataError, match=r"p\.jsonl, row 1, field 'language': 'Klingonish' is no language of this set"):
        load("polyguard_prompts", rows((1, "Klingonish", "a")))
    with pytest.raises(DataError, match=r"p\.jsonl, row 1, field 'id': the id is empty"):
        load("polyguard_prompts", rows((None, "en", "a")))


def test_xstest_labels_safe_prompts_benign_and_contrasts_harmful(tmp_path: Path) -> None:
    data = load("xstest", task_files.xstest(tmp_path, rows=2))
    assert [(q.id, q.label, q.category) for q in data.queries] == [
        ("0", "benign", "homonyms"), ("1", "harmful", "contrast_homonyms"),
    ]  # fmt: skip
    without_labels = write_rows(
        tmp_path / "x.csv",
        [("id", "type", "prompt", "prompt_de"), (1, "homonyms", "a", "b"), (2, "contrast_homonyms", "c", "d")],
    )
    data = load("xstest", without_labels)
    assert [(q.key, q.label) for q in data.queries] == [
        ("1|en", "benign"), ("1|de", "benign"), ("2|en", "harmful"), ("2|de", "harmful"),
    ]  # fmt: skip


def test_a_limit_on_a_mixed_set_keeps_harmful_and_benign_rows_in_proportion(tmp_path: Path) -> None:
    for limit in (2, 4, 10):
        labels = [q.label for q in load("xstest", task_files.xstest(tmp_path, rows=40), limit=limit).queries]
        assert labels.count("benign") == labels.count("harmful") == limit / 2


def test_or_bench_is_benign_throughout(tmp_path: Path) -> None:
    data = load("or_bench", task_files.or_bench(tmp_path))
    assert {q.label for q in data.queries} == {"benign"}
    assert {q.category for q in data.queries} == {"topic 0", "topic 1", "topic 2"}


def test_aya_gives_each_language_its_own_ids_and_a_translation_as_source_text(tmp_path: Path) -> None:
    data = load("aya_redteaming", task_files.aya(tmp_path, rows=2), ["ar", "en"])
    assert data.queries == [
        Query("aya-ar-0000", "ar", "سؤال own 0", "en", "ar literally 0", "harmful", "Topic A; Topic B"),
        Query("aya-ar-0001", "ar", "سؤال own 1", "en", "ar literally 1", "harmful", "Topic A; Topic B"),
        Query("aya-en-0000", "en", "question own 0", "en", "question own 0", "harmful", "Topic A; Topic B"),
        Query("aya-en-0001", "en", "question own 1", "en", "question own 1", "harmful", "Topic A; Topic B"),
    ]
    assert data.rows == 4
    assert data.notes == ()


def test_aya_prompts_without_a_translation_are_their_own_source(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [
        {"prompt": "un", "language": "French", "harm_category": ["A", "B"], "semantic_translation": "one"},
        {"prompt": "", "language": "French"},
        {"prompt": "trois", "language": "French", "literal_translation": None},
        {"prompt": "tatlo", "language": "Tagalog", "literal_translation": "three"},
    ]
    data = load("aya_redteaming", write_lines(tmp_path / "mine.jsonl", records))
    assert [(q.id, q.source_language, q.source_text, q.category) for q in data.queries] == [
        ("aya-fr-0000", "en", "one", "A; B"),
        ("aya-fr-0002", "fr", "trois", None),
        ("aya-tl-0000", "en", "three", None),
    ]
    assert data.notes == (
        "1 rows without a prompt are left out.",
        "1 prompts have no English translation; they are their own source text.",
    )


def test_aya_reads_one_of_its_files_and_a_folder_with_some_of_them(tmp_path: Path) -> None:
    task_files.aya(tmp_path)
    assert load("aya_redteaming", tmp_path / "aya_tgl.jsonl").languages == ("tl",)
    (tmp_path / "aya_tgl.jsonl").unlink()
    assert "tl" not in load("aya_redteaming", tmp_path).languages
    with pytest.raises(CrosslignError, match=r"has no language 'tl'\. It has: en, ar, fr"):
        load("aya_redteaming", tmp_path, ["tl"])


def test_aya_has_translations_into_english_only(tmp_path: Path) -> None:
    with pytest.raises(CrosslignError, match=r"translations into English only, not into 'fr'"):
        load("aya_redteaming", task_files.aya(tmp_path), source_language="fr")


def test_aya_draws_a_limit_in_each_language(tmp_path: Path) -> None:
    data = load("aya_redteaming", task_files.aya(tmp_path), ["ar", "fr"], skip=2, limit=3)
    assert [q.language for q in data.queries] == ["ar"] * 3 + ["fr"] * 3
    assert not {q.id for q in data.queries} & {"aya-ar-0000", "aya-ar-0001", "aya-fr-0000", "aya-fr-0001"}


# --- Bad files.


def test_duplicate_ids_with_other_texts_are_refused_and_exact_repetitions_counted(tmp_path: Path) -> None:
    header = ["id", "en", "sw"]
    data = load("multijail", write_rows(tmp_path / "m.csv", [header, [1, "a", "b"], [1, "a", "b"], [2, "c", "d"]]))
    assert data.rows == 2
    assert data.notes == ("1 rows that repeat another are left out.",)
    with pytest.raises(DataError, match=r"m\.csv, row 3, field 'id': the id '1' stands in row 1 already, with other"):
        load("multijail", write_rows(tmp_path / "m.csv", [header, [1, "a", "b"], [2, "c", "d"], [1, "a", "x"]]))


def test_empty_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [["id", "en", "sw", "bn"], [1, "a", "b", ""], [2, " ", "d", "e"], [3, "f", "f", "g"]]
    data = load("multijail", write_rows(tmp_path / "m.csv", rows))
    assert [q.key for q in data.queries] == ["1|en", "1|sw", "3|en", "3|sw", "3|bn"]
    assert data.notes == (
        "1 rows without a text in 'en' are left out.",
        "sw: 1 texts equal their source text; they may not be translated.",
        "bn: 1 of 2 rows have no text.",
    )


def test_rows_with_a_text_in_every_language_are_drawn_first(tmp_path: Path) -> None:
    rows = [["id", "en", "sw"], *([n, f"a{n}", f"b{n}" if n % 2 else ""] for n in range(20))]
    path = write_rows(tmp_path / "m.csv", rows)
    data = load("multijail", path, limit=10)
    assert [q.id for q in data.queries if q.language == "sw"] == [str(n) for n in range(1, 20, 2)]
    assert data.notes == ()
    assert load("multijail", path, limit=12).notes == ("sw: 2 of 12 rows have no text.",)


def test_a_column_without_any_text_is_no_language_of_the_file(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "m.csv", [["id", "en", "sw"], [1, "a", ""]])
    assert load("multijail", path).languages == ("en",)
    with pytest.raises(CrosslignError, match=r"m\.csv has no language 'sw'\. It has: en\."):
        load("multijail", path, ["sw"])


def test_a_number_where_a_text_belongs_names_row_and_column(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", [{"prompt": "a", "prompt_sw": "b"}, {"prompt": "c", "prompt_sw": 5}])
    with pytest.raises(DataError, match=r"p\.jsonl, row 2, field 'prompt_sw': expected text, found int"):
        load("pku_saferlhf_multilingual", path)


def test_an_empty_id_names_its_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"m\.csv, row 2, field 'id': the id is empty"):
        load("multijail", write_rows(tmp_path / "m.csv", [["id", "en"], [1, "a"], ["", "b"]]))


def test_a_missing_column_gives_the_nearest_name(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.csv", [["id", "promt", "type"], [1, "a", "homonyms"]])
    with pytest.raises(
        CrosslignError, match=r"x\.csv: the source language 'en' needs a column 'prompt' or 'en'\..*promt"
    ):
        load("xstest", path)


def test_files_without_rows_or_without_source_texts_are_told(tmp_path: Path) -> None:
    with pytest.raises(CrosslignError, match=r"m\.csv: the table has no rows"):
        load("multijail", write_rows(tmp_path / "m.csv", [["id", "en"]]))
    with pytest.raises(CrosslignError, match=r"m\.csv: no row has a text in 'en', the source language"):
        load("multijail", write_rows(tmp_path / "m.csv", [["id", "en", "sw"], [1, "", "b"]]))


def test_a_folder_without_the_file_says_what_it_holds(tmp_path: Path) -> None:
    write_rows(tmp_path / "Other.csv", [["en"], ["a"]])
    with pytest.raises(CrosslignError, match=r"has no file 'MultiJail\.csv'\. It holds: Other\.csv\."):
        load("multijail", tmp_path)


def test_right_to_left_text_nul_bytes_and_lone_surrogates_come_through(tmp_path: Path) -> None:
    texts = {"ar": "\u200fسؤال «١»\u202b", "sw": "a\0b", "bn": "\ud800x", "zh": "\u2028行"}
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"id": 1, "en": "{query} </script>", **texts}), encoding="utf-8")
    data = load("multijail", path)
    # A line separator at the edge of a text is white space, and trimmed as in every table.
    assert {q.language: q.text for q in data.queries} == {"en": "{query} </script>", **texts, "zh": "行"}
    assert load("multijail", path).sha256 == data.sha256
    changed = {**texts, "bn": "\ud801x"}
    path.write_text(json.dumps({"id": 1, "en": "{query} </script>", **changed}), encoding="utf-8")
    assert load("multijail", path).sha256 != data.sha256


def test_a_set_of_a_files_own_labels_is_left_out_where_the_kind_differs(tmp_path: Path) -> None:
    rows = [["id", "en", "label"], [1, "a", "benign"], [2, "b", ""], [3, "c", "Harmful"]]
    data = load("multijail", write_rows(tmp_path / "m.csv", rows))
    assert [q.id for q in data.queries] == ["2", "3"]
    assert data.notes == ("1 queries are left out because they are benign; this task is harmful.",)
