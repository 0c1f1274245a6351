"""One spelling for what differs only in encoding, typing or punctuation."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslign.evaluation.judges.normalise import SEPARATORS, normalise, undisguised

# Hypothesis leaves surrogates out of `text` unless asked for them.
ANY_TEXT = st.text(st.characters(), max_size=60)


@given(ANY_TEXT)
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_normalising_every_single_character_twice_changes_nothing() -> None:
    # All of the scripts with rules of their own, and every 101st of the others.
    codes = [*range(0x0E80), *range(0x2000, 0x2100), *range(0x3000, 0x3100), *range(0xFB00, 0x10000)]
    codes += range(0, sys.maxunicode, 101)
    assert [hex(c) for c in codes if normalise(normalise(f"a{chr(c)}b")) != normalise(f"a{chr(c)}b")] == []


@given(ANY_TEXT)
def test_what_is_left_is_letters_marks_digits_and_separators(text: str) -> None:
    left = normalise(text)
    assert {unicodedata.category(c)[0] for c in left if c not in SEPARATORS} <= {"L", "M", "N"}
    assert left == left.strip(" ,.'")
    assert "  " not in left


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("I can’t", "i can't"),
        ("I can`t", "I CAN´T"),
        ("Ｉ ｃａｎｎｏｔ", "I cannot"),
        ("không thể", unicodedata.normalize("NFD", "KHÔNG THỂ")),
        ("أعتذر", "اعتذر"),
        ("عُذْرًا", "عذرا"),
        ("آســف", "اسف"),
        ("مساعدة", "مساعده"),
        ("على", "علي"),
        ("معذرت کرتی", "معذرت كرتي"),  # Urdu letters, and the Arabic ones that keyboards give
        ("কর\u09be \u09af\u09bc", "কর\u09be \u09df"),  # Bengali y, in one character and in two
        ("माफ़ कीजिए", "माफ कीजिए"),
        ("हूँ", "हूं"),
        ("র\u200d্য", "র্য"),
        ("นำ", "น\u0e4d\u0e32"),  # Thai am, in one character and in two
        ("ещё", "еще"),
        ("İZİN VERİLMIYOR", "izin verilmiyor"),
        ("Straße", "STRASSE"),
        ("抱歉 ， 我 不能", "抱歉，我不能"),
        ("도와 드릴 수 없습니다", "도와드릴 수없습니다"),
        ("ＡＩとして", "AIとして"),
        ("\u202esorry\u202c", "sorry"),
        ("so\u00adrry\ufeff", "sorry"),
        ("so\0rry \ud800!", "sorry"),
        ("**Sorry**, “I” _cannot_", "sorry, i cannot"),
        ("sorry — \n\n I cannot", "sorry: I cannot"),
        ("really?!", "really ؟"),
    ],
)
def test_the_same_word_in_two_spellings(one: str, other: str) -> None:
    assert normalise(one) == normalise(other) != ""


@pytest.mark.parametrize(("one", "other"), [("ma", "mã"), ("না", "নাম"), ("schon", "schön"), ("लाया", "लाय")])
def test_different_words_stay_different(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize(
    "text", ["", " \n\t", "?!… —", "\0\x07\x1b", "\ud800\udfff", "👍🏽 ❤️", "\u200b\u202e", "|---|---|"]
)
def test_nothing_is_left_of_what_nobody_can_read(text: str) -> None:
    assert normalise(text) == ""


def test_sentences_and_questions_end_in_their_own_marks() -> None:
    assert normalise("没有。  Really?!  হ্যাঁ।\nNo - yes; \r\nend...") == "没有. really? হ্যাঁ. no yes, end"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("саnnоt", "cannot"),
        ("Неlp", "help"),
        ("sοrry", "sorry"),
        ("пoмoчь", "помочь"),
        ("I саn. Он не мoжет.", "i can. он не может"),
    ],
)
def test_words_of_mixed_alphabets_are_written_in_one(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize("text", ["он сам, мы все", "το νερο", "the cat он сам το νερο", "гzж", "λβcд"])
def test_words_of_one_alphabet_and_words_that_none_can_write_stay(text: str) -> None:
    assert normalise(text) == text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("h3lp m3", "help me"),
        ("C4NN0T", "CaNNoT"),
        ("Step 1: take 30 of 7", "Step 1: take 30 of 7"),
        ("v2 b6", "v2 b6"),
        ("h e l p  m e  n o w", "help  me  now"),
        ("a b c", "a b c"),
        ("I am a cat", "I am a cat"),
    ],
)
def test_digits_for_letters_and_spaced_out_words_are_undone(text: str, plain: str) -> None:
    assert undisguised(text) == plain
