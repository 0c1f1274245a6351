"""What a translation has to keep: numbers by value, quotations, placeholders, addresses, control tokens."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslign.translation.kept import lost

ARABIC, BENGALI = "٠١٢٣٤٥٦٧٨٩", "০১২৩৪৫৬৭৮৯"


@given(st.integers(10, 10**12))
def test_a_number_is_kept_in_every_way_of_writing_it(number: int) -> None:
    source = f"What about {number} of them?"
    grouped = f"{number:,}"
    for written in (
        str(number),
        grouped,
        grouped.replace(",", "."),
        grouped.replace(",", "\u202f"),
        str(number).translate(str.maketrans("0123456789", ARABIC)),
        str(number).translate(str.maketrans("0123456789", BENGALI)),
        f"({number})",
        f"{number}%",
    ):
        assert lost(source, f"也 {written} 也") == []
    assert lost(source, f"也 {number + 1} 也") == [f"number {number}"]
    assert lost(source, "也") == [f"number {number}"]


@pytest.mark.parametrize(
    ("source", "translation"),
    [
        ("It costs $80,000.", "8万ドルです。"),
        ("It costs $80,000.", "价格为8 万美元。"),
        ("500,000 people", "5 लाख लोग"),
        ("It costs 15.00 dollars", "Kuesta 15 dola"),
        ("It costs 12.50 dollars", "Es kostet 12,5 Dollar"),
        ("1,00,000 rupees", "100.000 Rupien"),
        ("from 1:00 PM to 5 PM", "von 13 Uhr bis 17 Uhr"),
        ("2 dozen, 5 miles", "deux douzaines, cinq milles"),
        ('Who is "Bob"?', "Wer ist „Bob“?"),
        ('Who is "the captain"?', "谁是「船长」？"),
        ("Say {name} to <USER> at https://a.b/c.", "Sema {name} kwa <USER> https://a.b/c"),
        ("What does <|im_end|> do?", "<|im_end|> hufanya nini?"),
        ("50% of {x", "asilimia 50 ya {x"),
    ],
)
def test_what_is_kept(source: str, translation: str) -> None:
    assert lost(source, translation) == []


@pytest.mark.parametrize(
    ("source", "translation", "missing"),
    [
        ('Who is "Blue Harbour"?', "Ni nani?", ["quotation Blue Harbour"]),
        ("Tell {name} now", "Dile a {nombre} ahora", ["{name}"]),
        ("Use %s and ${HOME} and [NAME]", "Tumia", ["%s", "${HOME}", "[NAME]"]),
        ("Mail a@b.org", "Escribe", ["a@b.org"]),
        ("See https://a.b/c?d=e", "Ona", ["https://a.b/c?d=e"]),
        ("What is <|im_end|>?", "Ni nini?", ["control token <|im_end|>"]),
        ("What is it?", "Ni nini? </s>", ["added control token </s>"]),
        ("What is it?", "<2sw> Ni nini?", ["added control token <2sw>"]),
        ("What is it?", "Ni\x1b[31m nini?", ["added control character U+001B"]),
        ("In 1984?", "Mnamo 1948?", ["number 1984"]),
    ],
)
def test_what_is_lost_is_named(source: str, translation: str, missing: list[str]) -> None:
    assert lost(source, translation) == missing


@given(st.text())
def test_a_text_keeps_itself_and_no_text_makes_it_raise(text: str) -> None:
    assert lost(text, text) == []
    lost(text, "x")
    lost("x", text)


@pytest.mark.parametrize("piece", ["1,", "1.1", '"', "{", "<", "%(", "a@", "1 ", "http://", "12 345 "])
def test_long_texts_take_time_in_proportion(piece: str) -> None:
    text = piece * 20_000
    start = time.perf_counter()
    lost(text, "x")
    assert time.perf_counter() - start < 5
