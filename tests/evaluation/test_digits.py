"""Native digits and separators become ASCII; everything else stays."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslign.evaluation.utility_tasks import ascii_numbers


@pytest.mark.parametrize(
    ("native", "plain"),
    [
        ("১৮", "18"),  # Bengali
        ("१८", "18"),  # Devanagari
        ("๑๘", "18"),  # Thai
        ("١٨", "18"),  # Arabic-Indic
        ("۱۸", "18"),  # extended Arabic-Indic: Persian, Urdu
        ("౧౮", "18"),  # Telugu
        ("１８", "18"),  # fullwidth
        ("꧑꧘", "18"),  # Javanese
        ("١٬٢٣٤٫٥", "1,234.5"),
        ("۱۲۳٫۴", "123.4"),
        ("১,২৩৪", "1,234"),
        ("１，２３４．５", "1,234.5"),
        ("١،٢٣٤", "1,234"),
        ("1\u202f800", "1800"),
        ("12\u00a0345\u00a0678", "12345678"),
        ("−১৮", "-18"),
        ("－１８", "-18"),
        ("উত্তর ১৮।", "উত্তর 18।"),
        ("答案是１８。", "答案是18。"),
    ],
)
def test_numbers_become_ascii(native: str, plain: str) -> None:
    assert ascii_numbers(native) == plain


@pytest.mark.parametrize(
    "text", ["تفاح، برتقال", "一，二．三", "10\u00a0%", "3\u00a0a 4\u202f12", "十八 XVIII", "a−b", "", "\0\ud800"]
)
def test_what_is_no_number_stays(text: str) -> None:
    assert ascii_numbers(text) == text


@given(st.integers(0, 10**9), st.sampled_from([0x0660, 0x06F0, 0x0966, 0x09E6, 0x0E50, 0x0C66, 0xFF10, 0xA9D0, 0x1040]))
def test_any_number_in_any_digits_is_read(number: int, zero: int) -> None:
    native = "".join(chr(zero + int(d)) for d in str(number))
    assert ascii_numbers(f"x {native} y") == f"x {number} y"


@given(st.text(max_size=100))
def test_twice_is_once_and_no_other_digit_is_left(text: str) -> None:
    once = ascii_numbers(text)
    assert ascii_numbers(once) == once
    assert not any(unicodedata.category(c) == "Nd" and not c.isascii() for c in once)
