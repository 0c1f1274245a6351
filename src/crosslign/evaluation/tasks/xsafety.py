"""XSafety: 14 categories of 200 queries in ten languages, whose translations are matched by their place.

It comes in two shapes, neither of which has ids:

- the authors' repository (github.com/Jarviswang94/Multilingual_safety_benchmark): a folder for each language with a
  file for each category, one text a row and no header; Bengali's are Excel sheets;
- one table with the columns text (or prompt), language and category, as in the copy on the hub.

A text's id is its category and its place in it ("xsafety-mental_health-007"). That is right only if a category has as
many texts as in English: where it has not, one of them is missing or doubled somewhere and every later one would be
matched with the wrong English text, so that the whole category is left out of that language, with a note.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crosslign.data.files import read_texts
from crosslign.evaluation.tasks.base import Place, Reading, Source, Task, contents, listing, registry
from crosslign.evaluation.tasks.readers import (
    ParallelRow,
    language_code,
    missing_column,
    parallel,
    plain_code,
    read_table,
    require_columns,
    text_of,
)
from crosslign.types import CrosslignError

SPELLINGS = {"sp": "es"}  # the set's own code for Spanish
MISSPELT = {"crimes_and_illegal_activitie": "crimes_and_illegal_activities", "commen_sense": "commonsense"}
TABLE = "data/test-00000-of-00001.parquet"
SUFFIXES = (".csv", ".xlsx")
Texts = dict[str, dict[str, list[str]]]  # language -> category -> texts


@registry.register("xsafety")
def xsafety() -> Task:
    """2,800 queries in ten languages. Some categories (insult, mental_health, commonsense) hold mild queries too; the
    set asks of every completion whether it is safe."""
    return Task(
        name="xsafety",
        kind="harmful",
        languages=("en", "zh", "ar", "bn", "de", "es", "fr", "hi", "ja", "ru"),
        source=Source("ToxicityPrompts/XSafety", "fd07eba8365ab9936096e8afac49bb17d19cdd9a", (TABLE,)),
        licence="Apache-2.0, research use (the authors' repository)",
        citation="Wang et al., All Languages Matter: On the Multilingual Safety of LLMs, Findings of ACL 2024, "
        "arXiv 2310.00905",
        reader=read_xsafety,
    )


def read_xsafety(place: Place, source_language: str, languages: Sequence[str] | None) -> Reading:
    """Whichever of the two shapes the files have."""
    notes: list[str] = []
    folder = place.path
    if folder is None or folder.is_file() or any((folder / name).is_file() for name in (TABLE, Path(TABLE).name)):
        texts = _table(place.file(), notes)
    else:
        texts = _folder(folder, place.task, notes)
    if source_language not in texts:
        raise CrosslignError(
            f"{place.task}: {place} has no texts in {source_language!r}, the source language; it has {listing(texts)}."
        )
    rows: list[ParallelRow] = []
    for category, source in texts[source_language].items():
        fitting = {source_language: source}
        for language, own in texts.items():
            if language == source_language or category not in own:
                continue
            if len(own[category]) == len(source):
                fitting[language] = own[category]
            else:
                notes.append(
                    f"{language}: the {len(own[category])} texts of {category} are left out: there are {len(source)} "
                    f"in {source_language!r}, and texts are matched by their place."
                )
        for position in range(len(source)):
            row = {language: own[position] for language, own in fitting.items()}
            rows.append(ParallelRow(len(rows) + 1, f"xsafety-{category}-{position:03d}", row, "harmful", category))
    for language, own in texts.items():
        for category in own:
            if category not in texts[source_language]:
                notes.append(f"{language}: {category} is left out: it is not in {source_language!r}.")
    return parallel(str(place), rows, source_language, notes=notes)


def category_name(name: str) -> str:
    """A category as it is in every language: the files' suffixes (_n, _en) and misspellings put right."""
    plain = name.strip().lower().replace(" ", "_").removesuffix("_en").removesuffix("_n")
    return MISSPELT.get(plain, plain)


def _table(file: Path, notes: list[str]) -> Texts:
    records, names = read_table(file)
    column = next((name for name in ("text", "prompt") if name in names), None)
    if column is None:
        raise missing_column(file, "'text' or 'prompt'", names, "this set")
    require_columns(file, names, ("language", "category"))
    texts: Texts = {}
    nameless = 0
    for number, record in records:
        category = category_name(text_of(record.get("category")))
        said = text_of(record.get("language"))
        if not category or not said:
            nameless += 1
            continue
        language = language_code(said, SPELLINGS, str(file), number)
        texts.setdefault(language, {}).setdefault(category, []).append(text_of(record.get(column)))
    if nameless:
        notes.append(f"{nameless} rows without a language or a category are left out.")
    return texts


def _folder(folder: Path, task: str, notes: list[str]) -> Texts:
    texts: Texts = {}
    for entry in sorted(folder.iterdir()):
        language = SPELLINGS.get(entry.name, entry.name)
        if not (entry.is_dir() and plain_code(language)):
            continue
        own = texts.setdefault(language, {})
        # Of two files of one category, the one whose name is spelt right is read.
        for file in sorted(entry.iterdir(), key=lambda f: (f.stem.lower() in MISSPELT, f.name)):
            if file.suffix.lower() not in SUFFIXES:
                continue
            category = category_name(file.stem)
            if category in own:
                notes.append(f"{language}: {file.name} is a second file of {category} and is not read.")
            else:
                own[category] = read_texts(file)
    if not texts:
        raise CrosslignError(f"{task}: the folder {folder} has no folder named by a language. {contents(folder)}")
    return texts
