"""Language codes (BCP-47) and their English names, from the `langcodes` library."""

from __future__ import annotations

from functools import lru_cache

import langcodes
from langcodes.tag_parser import LanguageTagError

from crosslign.types import CrosslignError


@lru_cache(maxsize=512)
def english_name(code: str) -> str:
    """English name of a BCP-47 language code: `english_name("sw") == "Swahili"`.

    Raises CrosslignError if the code is malformed or names no known language.
    """
    try:
        language = langcodes.Language.get(code)
    except LanguageTagError as error:
        raise CrosslignError(f"{code!r} is not a language code ({error}). Use BCP-47, for example 'pt-BR'.") from error
    name = language.display_name("en")
    if not language.is_valid() or "Unknown" in name:  # codes for private use are valid, but name nothing
        raise CrosslignError(f"{code!r} names no known language. Use a BCP-47 / ISO 639 code such as 'bn'.")
    return name


def is_language(code: str) -> bool:
    """True if `code` is a well-formed code of a known language."""
    try:
        english_name(code)
    except CrosslignError:
        return False
    return True
