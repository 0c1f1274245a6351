"""Language codes and the English names that stand in teacher templates."""

from __future__ import annotations

import pytest

from crosslign.languages import english_name, is_language, same_language, telling_names
from crosslign.types import CrosslignError


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("en", "English"), ("sw", "Swahili"), ("zh", "Chinese"), ("jv", "Javanese"), ("ind", "Indonesian"),
        ("no", "Norwegian"), ("pt-BR", "Portuguese (Brazil)"), ("zh-Hant", "Chinese (Traditional)"),
        ("yue", "Cantonese"), ("EN", "English"),
    ],
)  # fmt: skip
def test_codes_have_english_names(code: str, name: str) -> None:
    assert english_name(code) == name
    assert is_language(code)


@pytest.mark.parametrize("code", ["", "english", "prompt", "a", "row id", "Unnamed: 0", "toolongtag9", "swahili_text"])
def test_what_is_no_code_is_refused_with_an_example(code: str) -> None:
    with pytest.raises(CrosslignError) as caught:
        english_name(code)
    assert str(caught.value).startswith(f"{code!r} is not a language code")
    assert "for example 'pt-BR'" in str(caught.value)
    assert not is_language(code)


@pytest.mark.parametrize("code", ["qqz", "qq", "text", "name", "und"])
def test_code_of_no_known_language_is_refused_and_never_named_unknown(code: str) -> None:
    with pytest.raises(CrosslignError, match=f"'{code}' names no known language. Use a BCP-47 / ISO 639 code"):
        english_name(code)
    assert not is_language(code)


@pytest.mark.parametrize(
    ("code", "codes", "same"),
    [
        ("sw", ["en", "sw"], "sw"),
        ("pt-BR", ["es", "pt"], "pt"),
        ("zh-Hant-TW", ["ja", "zh"], "zh"),
        ("ind", ["ms", "id"], "id"),
        ("sw", ["swa", "xho"], "swa"),
        ("tw", ["twi"], "twi"),
        ("cmn", ["zh", "yue"], "zh"),
        ("nb", ["nn", "no"], "no"),
        ("fil", ["tl"], "tl"),
        ("pes", ["fa"], "fa"),
        ("ms", ["id", "jv"], None),
        ("jv", ["id"], None),
        ("yue", ["zh"], None),
        ("x-private", ["en"], None),
        ("en", [], None),
    ],
)
def test_the_same_language_in_other_spellings(code: str, codes: list[str], same: str | None) -> None:
    assert same_language(code, codes) == same


def test_a_malformed_code_has_no_same_language() -> None:
    with pytest.raises(CrosslignError, match="not a language code"):
        same_language("not a code", ["en"])


def test_names_tell_languages_apart() -> None:
    """Every code for private use is called "Artificial languages" in English."""
    codes = ["en", "art-x-low1", "art-x-low2", "en-x-simple", "id", "ind", "zh-Hant", "zh-Hans", "qqz"]
    names = telling_names(codes)
    assert list(names) == codes
    assert len(set(names.values())) == len(codes)
    assert [code for code in codes if names[code] != code] == ["en", "zh-Hant", "zh-Hans"]
