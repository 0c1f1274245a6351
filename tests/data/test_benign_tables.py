"""The harmless queries that ship: complete, in their languages, apart from each other, and nothing like a refusal."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import pytest

from crosslign.data.load import TableSpec, read_records, require_table
from crosslign.data.schema import QueryTable
from crosslign.evaluation.fidelity import LanguageFidelity
from crosslign.evaluation.judges.lexicon import LexiconJudge
from crosslign.evaluation.tasks import get_task
from crosslign.types import CrosslignError, JudgeItem, Query

LANGUAGES = ("en", "zh", "es", "ar", "hi", "bn", "vi", "th", "ind", "sw", "jv", "ru")
SCRIPTS = {"zh": "CJK", "ar": "ARABIC", "hi": "DEVANAGARI", "bn": "BENGALI", "th": "THAI", "ru": "CYRILLIC"}
PLACEHOLDER = re.compile(r"[{}<>\[\]]|\b(TODO|XXX|lorem)\b|\.\.\.|…|\ufffd")
STATEMENTS = "builtin:statements"
ROWS = {"builtin:benign": 174, "builtin:benign-heldout": 96, STATEMENTS: 256}
TABLES: dict[str, QueryTable] = {name: require_table(TableSpec(name), "en", None) for name in ROWS}
EVERY_ROW = [row for table in TABLES.values() for row in table.rows]


def plain(text: str) -> str:
    """The text without case, punctuation, spaces and forms of compatibility."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


@pytest.mark.parametrize("name", ROWS)
def test_a_table_is_complete_and_benign_and_a_third_of_the_requests_looks_harmful(name: str) -> None:
    table = TABLES[name]
    assert (len(table.rows), table.languages, table.warnings) == (ROWS[name], LANGUAGES, ())
    assert set(read_records(TableSpec(name))[1]) == {"id", "category", "label", *LANGUAGES}
    assert all(row.label == "benign" and set(row.texts) == set(LANGUAGES) for row in table.rows)
    categories = Counter(row.category for row in table.rows)
    if name == STATEMENTS:
        assert set(categories) == {"statement"}
        assert not any(row.texts["en"].endswith("?") for row in table.rows)
    else:
        assert set(categories) == {"everyday", "look_alike"}
        assert categories["look_alike"] * 3 >= len(table.rows)


def test_the_tables_share_no_row_and_no_text_and_no_language_repeats_one() -> None:
    ids = [row.id for row in EVERY_ROW]
    assert sorted(id for id in ids if id.startswith("benign")) == [f"benign-{number:03d}" for number in range(1, 271)]
    assert sorted(id for id in ids if id.startswith("statement")) == [f"statement-{n:03d}" for n in range(1, 257)]
    assert len(set(ids)) == len(ids)
    texts = Counter(plain(text) for row in EVERY_ROW for text in row.texts.values())
    assert [text for text, times in texts.items() if times > 1] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_written_in_their_script_without_placeholders(language: str) -> None:
    for row in EVERY_ROW:
        text = row.texts[language]
        assert text == unicodedata.normalize("NFC", text).strip(), row.id
        assert not PLACEHOLDER.search(text), row.id
        letters = [unicodedata.name(character) for character in text if character.isalpha()]
        own = sum(name.startswith(SCRIPTS.get(language, "LATIN")) for name in letters)
        assert own >= 0.6 * len(letters), row.id  # names and code stay in Latin letters


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_identified_as_their_language(language: str) -> None:
    fidelity = LanguageFidelity(LANGUAGES, "en")
    wrong = [row.id for row in EVERY_ROW if fidelity.detect(row.texts[language], language).status != "match"]
    assert len(wrong) <= 0.03 * len(EVERY_ROW), wrong


def test_no_query_sounds_like_a_refusal() -> None:
    """A reply that repeats one, to a harmful request (where the rules are strictest), must not count as refused."""
    items = [
        JudgeItem(Query("other", language, "?", "en", "?", "harmful"), text, truncated=False)
        for row in EVERY_ROW
        for language, text in row.texts.items()
    ]
    refused = [
        item.completion
        for item, verdict in zip(items, LexiconJudge().judge(items), strict=True)
        if verdict.outcome in ("refused", "refused_then_answered")
    ]
    assert refused == []


def test_the_held_out_rows_are_a_task_and_the_training_rows_are_none() -> None:
    data = get_task("builtin:benign-heldout").load()
    assert (data.rows, data.languages, data.kind) == (96, LANGUAGES, "benign")
    with pytest.raises(CrosslignError, match=r"unknown task 'builtin:benign'.*'builtin:benign-heldout'"):
        get_task("builtin:benign")


def test_look_alikes_can_be_counted_beside_the_others() -> None:
    chosen = get_task("table:builtin:benign-heldout", {"where": {"category": ["look_alike"]}}).load(["ar", "ind"])
    assert chosen.rows == 37
    assert {query.category for query in chosen.queries} == {"look_alike"}
