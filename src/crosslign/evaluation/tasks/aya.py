"""Aya red-teaming: prompts that native speakers wrote, so that its languages are no translations of each other.

On the hub it is a file for each language, named by ISO 639-3 (aya_arb.jsonl), with the columns prompt, language,
harm_category (a list), global_or_local, literal_translation, semantic_translation and explanation. A local file may
hold several languages; its column `language` tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crosslign.evaluation.tasks.base import Place, Reading, Source, Task, contents, registry
from crosslign.evaluation.tasks.readers import category_of, language_code, read_table, require_columns, text_of
from crosslign.types import CrosslignError, Query

FILES = {
    "en": "aya_eng.jsonl", "ar": "aya_arb.jsonl", "tl": "aya_tgl.jsonl", "fr": "aya_fra.jsonl", "hi": "aya_hin.jsonl",
    "ru": "aya_rus.jsonl", "sr": "aya_srp.jsonl", "es": "aya_spa.jsonl",
}  # fmt: skip
NAMES = {
    "English": "en", "Arabic": "ar", "Filipino": "tl", "Tagalog": "tl", "French": "fr", "Hindi": "hi",
    "Russian": "ru", "Serbian": "sr", "Spanish": "es",
}  # fmt: skip
TRANSLATIONS = ("literal_translation", "semantic_translation")


@registry.register("aya_redteaming")
def aya_redteaming() -> Task:
    """About 900 harmful prompts in each of eight languages, by native speakers, with translations into English."""
    return Task(
        name="aya_redteaming",
        kind="harmful",
        languages=tuple(FILES),
        source=Source("CohereLabs/aya_redteaming", "5a16fee03c19d681b4f3527b6a750e1ed4d434c7", tuple(FILES.values())),
        licence="Apache-2.0",
        citation="Aakanksha et al., The Multilingual Alignment Prism: Aligning Global and Local Preferences to Reduce "
        "Harm, EMNLP 2024, arXiv 2406.18682",
        reader=read_aya,
        parallel=False,
    )


def read_aya(place: Place, source_language: str, languages: Sequence[str] | None) -> Reading:
    """The queries of the wanted languages; an id is a language and a place in its file ("aya-ar-0007").

    The source text is the literal translation, else the free one; a query that has none is its own source, in its own
    language.
    """
    if source_language != "en":
        raise CrosslignError(f"{place.task}: it has translations into English only, not into {source_language!r}.")
    queries: list[Query] = []
    numbers: dict[str, int] = {}
    empty = alone = 0
    for code, file in _files(place, languages):
        records, names = read_table(file)
        require_columns(file, names, ("prompt",) if code else ("prompt", "language"))
        for number, record in records:
            language = code or language_code(record["language"], NAMES, str(file), number)
            numbers[language] = numbers.get(language, -1) + 1  # empty prompts count, so that ids stay in place
            text = text_of(record.get("prompt"))
            if not text:
                empty += 1
                continue
            translation = next((t for c in TRANSLATIONS if (t := text_of(record.get(c)))), "")
            source = (language, text) if language == "en" or not translation else ("en", translation)
            alone += source[0] != "en"
            queries.append(
                Query(
                    id=f"aya-{language}-{numbers[language]:04d}",
                    language=language,
                    text=text,
                    source_language=source[0],
                    source_text=source[1],
                    label="harmful",
                    category=category_of(record, ("harm_category", "category")) or None,
                )
            )
    notes = []
    if empty:
        notes.append(f"{empty} rows without a prompt are left out.")
    if alone:
        notes.append(f"{alone} prompts have no English translation; they are their own source text.")
    return Reading(queries, tuple(dict.fromkeys(q.language for q in queries)), tuple(notes))


def _files(place: Place, languages: Sequence[str] | None) -> list[tuple[str | None, Path]]:
    """(language, file) pairs; the language is None where the file's column tells it."""
    if place.path is not None and place.path.is_file():
        own = next((code for code, name in FILES.items() if name == place.path.name), None)
        return [(own, place.path)]
    wanted = [code for code in FILES if languages is None or code in languages]
    if place.path is None:
        return [(code, place.file(FILES[code])) for code in wanted]
    found = [(code, place.path / FILES[code]) for code in FILES if (place.path / FILES[code]).is_file()]
    if not found:
        raise CrosslignError(
            f"{place.task}: the folder {place.path} has no file such as {FILES['en']}. {contents(place.path)}"
        )
    return list(found)
