"""Text from outside on its way to a terminal, and work that may not end."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslign.untrusted import shown

ANY_TEXT = st.text(st.characters(exclude_categories=()))
BIDI = {"RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI", "FSI", "PDI"}


@given(ANY_TEXT, st.booleans())
def test_nothing_in_shown_text_commands_a_terminal(text: str, one_line: bool) -> None:
    result = shown(text, one_line=one_line)
    for character in result:
        allowed = "" if one_line else "\n\t"
        assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") or character in allowed
        assert unicodedata.bidirectional(character) not in BIDI
    assert shown(result, one_line=one_line) == result
    result.encode("utf-8")
    if one_line:
        assert len(result.splitlines()) <= 1


@given(st.text(st.characters(exclude_categories=("C", "Zl", "Zp"))))
def test_printable_text_of_every_script_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text


@pytest.mark.parametrize("text", ["क्‍ष हिन्दी", "می‌خواهم", "👩‍👩‍👧 👍🏽", "ไทย 中文 العربية עברית", "a\tb\nc"])
def test_joiners_stay(text: str) -> None:
    assert shown(text) == text
