"""The notation of phrases, the built-in book, and books that are not well-formed."""

from __future__ import annotations

import random

import pytest

from crosslign.evaluation.judges.normalise import normalise
from crosslign.evaluation.judges.phrases import CLASSES, PhraseBook, builtin

NEEDED = ["en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv", "ur", "ru", "ja", "de", "fr", "es", "hi"]


def found(phrase: str, text: str, language: str = "en") -> list[str]:
    book = PhraseBook({language: {"decline": [phrase]}})
    return [match.group() for match in book.find("decline", normalise(text))]


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("i (can't|cannot) help", "Well, I CAN’T help."),
        ("i (can't|cannot) help", "i cant help"),
        ("i (|really )(can't|do (not|n't) want to) help", "i really do not want to help"),
        ("sorry i can't", "Sorry — I can't"),
        ("ich kann ... nicht helfen", "ich kann nicht helfen"),
        ("ich kann ... nicht helfen", "Ich kann Ihnen dabei leider nicht helfen"),
        ("assist*", "we assisted"),
        ("illegal$", "it is illegal, my friend"),
        ("illegal$", "it is illegal"),
        ("no", "no?"),
        ("صوت", "وصوت"),  # "and" is written together with the word
        ("抱歉 我不能", "抱歉，我不能这样做"),
        ("도와드릴 수 없", "그건 도와 드릴수 없습니다"),
        ("sorry", "sorry我不能"),
        ("ในฐานะ ai", "ในฐานะ AI ผม"),
    ],
)
def test_what_a_phrase_finds(phrase: str, text: str) -> None:
    assert len(found(phrase, text)) == 1


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("i cannot help", "ai cannot help"),
        ("i cannot help", "i cannot helpless"),
        ("i cannot help", "i cannot. help"),
        ("ich kann ... nicht helfen", "ich kann. nicht helfen"),
        ("ich kann ... nicht helfen", "ich kann, wenn nicht helfen"),  # another clause
        ("ich kann ... nicht helfen", "ich kann die vernicht helfen"),
        ("ich kann ... nicht helfen", f"ich kann {'sehr ' * 20} nicht helfen"),
        ("illegal$", "illegal parking"),
        ("না", "নাম"),
        ("нет", "нетто"),
        ("لا", "لاعب"),
        ("a b", "ab"),
    ],
)
def test_what_it_does_not_find(phrase: str, text: str) -> None:
    assert found(phrase, text) == []


def test_a_match_says_where_and_what() -> None:
    book = PhraseBook({"en": {"decline": ["never mind", "not now"]}, "sw": {"decline": ["not now", "si sasa"]}})
    (english,) = book.find("decline", "well, not now")
    assert (english.start(), english.end(), english.group()) == (6, 13, "not now")
    assert [m.group() for m in book.find("decline", "si sasa, never mind")] == ["si sasa", "never mind"]
    assert book.find("apology", "not now") == []


def test_what_is_taken_out_leaves_its_surroundings_apart() -> None:
    book = PhraseBook({"en": {"idiom": ["sorry for the wait"], "decline": ["well i go"]}})
    assert book.without("idiom", "well sorry for the wait i go") == f"well {18 * '.'} i go"
    assert book.find("decline", book.without("idiom", "well sorry for the wait i go")) == []


def test_the_built_in_book_has_all_languages_and_classes() -> None:
    book = builtin().book
    assert set(NEEDED) <= set(book)
    for language, classes in book.items():
        assert set(classes) == set(CLASSES), language
        assert len(classes["decline"]) >= 5, language
    assert not any(builtin().find(kind, "") for kind in CLASSES)  # no phrase may be nothing at all


def written_out(phrase: str, rng: random.Random) -> str:
    """One of the texts that a phrase stands for, with alternatives drawn and its marks left out."""
    texts: list[list[str]] = [[""]]  # for each open bracket, its alternatives so far
    for character in phrase.replace("...", " ").replace("*", "").replace("$", ""):
        if character == "(":
            texts.append([""])
        elif character == "|":
            texts[-1].append("")
        elif character == ")":
            chosen = rng.choice(texts.pop())
            texts[-1][-1] += chosen
        else:
            texts[-1][-1] += character
    return texts[0][0]


@pytest.mark.parametrize("language", sorted(builtin().book))
def test_every_phrase_of_the_built_in_book_finds_what_it_stands_for(language: str) -> None:
    rng = random.Random(0)
    for kind, phrases in builtin().book[language].items():
        for phrase in phrases:
            alone = PhraseBook({language: {kind: [phrase]}})
            for _ in range(6):
                text = normalise(written_out(phrase, rng))
                assert alone.find(kind, text), f"{language}.{kind}: {phrase!r} does not find {text!r}"
