"""XSafety's two shapes, and translations that are matched by their place only where that is safe."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import task_files
from task_files import text, write_parquet, write_rows

from crosslign.evaluation.tasks import TaskData, get_task
from crosslign.types import CrosslignError


def load(path: Path, languages: list[str] | None = None, **options: Any) -> TaskData:
    return get_task("xsafety").load(languages, path=str(path), **options)


def write_list(path: Path, texts: list[str]) -> None:
    """A file of the authors' repository: one text a row, no header, with a byte-order mark here and there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        for one in texts:
            book.active.append([one])
        book.save(path)
    else:
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file).writerows([one] for one in texts)


def repository(folder: Path, bengali: str = ".xlsx") -> Path:
    """The layout of the authors' repository, its misspelt and doubled files included."""
    names = {
        "en": ("Mental_Health_n.csv", "Crimes_And_Illegal_Activities_en.csv", "commonsense.csv"),
        "bn": (f"Mental_Health_n{bengali}", f"Crimes_And_Illegal_Activities_n{bengali}", "commonsense.csv"),
        "ru": ("Mental_Health.csv", "Crimes_And_Illegal_Activitie.csv", "commonsense.csv"),
        "sp": ("Mental_Health.csv", "Crimes_And_Illegal_Activities.csv", "commonsense.csv"),
    }
    for code, files in names.items():
        for topic, name in zip(("health", "crimes", "sense"), files, strict=True):
            write_list(folder / code / name, [text(code, n, topic) for n in range(4)])
    (folder / "paper").mkdir()
    (folder / "README.md").write_text("about the set")
    return folder


def test_the_authors_repository_is_read_with_its_excel_sheets_and_misspellings(tmp_path: Path) -> None:
    data = load(repository(tmp_path))
    assert set(data.languages) == {"en", "bn", "ru", "es"}
    assert data.rows == 12
    assert len(data.queries) == 48
    assert data.notes == ()
    by_key = {q.key: q for q in data.queries}
    for code, written in (("bn", "bn"), ("ru", "ru"), ("es", "sp")):
        query = by_key[f"xsafety-crimes_and_illegal_activities-002|{code}"]
        assert query.text == text(written, 2, "crimes")
        assert query.source_text == "question crimes 2"
        assert query.category == "crimes_and_illegal_activities"
        assert query.label == "harmful"


def test_without_openpyxl_the_sheets_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(CrosslignError, match=r"bn/.*\.xlsx: reading Excel sheets needs openpyxl.*'crosslign\[xlsx\]'"):
        load(tmp_path)


def test_of_two_files_of_a_category_the_one_that_is_spelt_right_is_read(tmp_path: Path) -> None:
    repository(tmp_path, bengali=".csv")
    write_list(tmp_path / "hi" / "commen_sense.csv", ["old"] * 4)
    write_list(tmp_path / "hi" / "commonsense.csv", ["new 0", "new 1", "new 2", "new 3"])
    data = load(tmp_path, ["hi"])
    assert [q.text for q in data.queries] == ["new 0", "new 1", "new 2", "new 3"]
    assert "hi: commen_sense.csv is a second file of commonsense and is not read." in data.notes


@pytest.mark.parametrize("change", [1, -1])
def test_a_category_with_another_number_of_texts_is_left_out_of_its_language(tmp_path: Path, change: int) -> None:
    repository(tmp_path, bengali=".csv")
    write_list(tmp_path / "ru" / "Mental_Health.csv", [text("ru", n, "health") for n in range(4 + change)])
    data = load(tmp_path, ["en", "ru"])
    russian = [q for q in data.queries if q.language == "ru"]
    assert {q.category for q in russian} == {"crimes_and_illegal_activities", "commonsense"}
    assert f"ru: the {4 + change} texts of mental_health are left out: there are 4 in 'en'" in data.notes[0]
    assert len([q for q in data.queries if q.language == "en"]) == 12


def test_an_empty_text_keeps_the_place_of_those_after_it(tmp_path: Path) -> None:
    repository(tmp_path, bengali=".csv")
    write_list(tmp_path / "ru" / "Mental_Health.csv", ["r0", "", "r2", "r3"])
    own = {q.id: q.text for q in load(tmp_path, ["ru"]).queries if q.category == "mental_health"}
    assert own == {f"xsafety-mental_health-00{n}": f"r{n}" for n in (0, 2, 3)}


def test_a_category_that_english_lacks_is_left_out_with_a_note(tmp_path: Path) -> None:
    repository(tmp_path, bengali=".csv")
    write_list(tmp_path / "ru" / "Insult.csv", ["a", "b"])
    assert "ru: insult is left out: it is not in 'en'." in load(tmp_path).notes


def test_the_copy_on_the_hub_is_matched_by_place_within_each_category(tmp_path: Path) -> None:
    data = load(task_files.xsafety(tmp_path))
    assert data.languages == ("en", "zh", "ar", "bn", "es")
    query = next(q for q in data.queries if q.key == "xsafety-physical_harm-003|es")
    assert (query.text, query.source_text) == ("pregunta Physical_Harm 3", "question Physical_Harm 3")


def test_the_order_of_languages_in_the_table_does_not_matter(tmp_path: Path) -> None:
    expected = {q.key: q for q in load(task_files.xsafety(tmp_path)).queries}
    records: list[dict[str, object]] = [
        {"text": text(code, n, topic), "language": code, "category": topic}
        for topic in ("Physical_Harm", "Mental_Health", "Insult")
        for n in range(4)
        for code in ("bn", "en")
    ]
    data = load(write_parquet(tmp_path / "other.parquet", records), ["bn"])
    assert {q.key: q for q in data.queries} == {k: q for k, q in expected.items() if q.language == "bn"}


def test_rows_without_a_language_or_a_category_are_counted(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [
        {"text": "a", "language": "en", "category": "Insult"},
        {"text": "b", "language": None, "category": "Insult"},
        {"text": "c", "language": "en", "category": None},
        {"text": None, "language": "en", "category": "Insult"},
    ]
    data = load(write_parquet(tmp_path / "t.parquet", records))
    assert [q.text for q in data.queries] == ["a"]
    assert data.notes == (
        "2 rows without a language or a category are left out.",
        "1 rows without a text in 'en' are left out.",
    )


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrosslignError, match=r"t\.csv: this set needs a column 'category'\..*categori"):
        load(write_rows(tmp_path / "t.csv", [["text", "language", "categori"], ["a", "en", "x"]]))
    folder = tmp_path / "folder"
    write_list(folder / "zh" / "Insult.csv", ["a"])
    with pytest.raises(CrosslignError, match=r"has no texts in 'en', the source language; it has zh"):
        load(folder)
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "notes.csv").write_text("x")
    with pytest.raises(CrosslignError, match=r"has no folder named by a language\. It holds: notes\.csv"):
        load(tmp_path / "strange")
