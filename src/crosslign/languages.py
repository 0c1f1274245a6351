"""Language codes (BCP-47) and their English names, from the `langcodes` library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import langcodes
from langcodes.tag_parser import LanguageTagError

from crosslign.types import CrosslignError


@lru_cache(maxsize=512)
def english_name(code: str) -> str:
    """English name of a BCP-47 language code: `english_name("sw") == "Swahili"`.

    Raises CrosslignError if the code is malformed or names no known language.
    """
    language = _parse(code)
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


def telling_names(codes: Iterable[str]) -> dict[str, str]:
    """A name for each code that tells it from the others: its English name, or else the code itself.

    The code stands for itself if it names no known language, is one for private use ("art-x-low1", whose English name
    is only "Artificial languages"), or has the same name as another of the codes.
    """
    names = {code: english_name(code) if is_language(code) and not _parse(code).private else code for code in codes}
    shared = Counter(names.values())
    return {code: name if shared[name] == 1 else code for code, name in names.items()}


def same_language(code: str, codes: Iterable[str]) -> str | None:
    """The one of `codes` that names the language of `code`, region and script apart; None if there is none.

    `same_language("pt-BR", ["es", "pt"]) == "pt"`; so are `ind` and `id`, `sw` and `swa`, `cmn` and `zh`, `nb` and
    `no`, but neither `ms` and `id` nor `yue` and `zh` (CLDR's language distance, of at most 1).

    Raises CrosslignError if `code` is malformed.
    """
    codes = list(codes)
    if code in codes:
        return code
    base = _parse(code).language
    if base is None:  # a code for private use
        return None
    near = sorted((langcodes.tag_distance(base, _parse(other).language or "und"), other) for other in codes)
    return near[0][1] if near and near[0][0] <= 1 else None


def likely_form(code: str) -> str:
    """A language with its likely script and region: `zh`, `zh-Hans`, `zh_CN` and `cmn` are all "zh-Hans-CN".

    Raises CrosslignError if `code` is malformed.
    """
    _parse(code)
    return str(langcodes.Language.get(langcodes.standardize_tag(code, macro=True)).maximize().to_tag())


def likely_script(code: str) -> str | None:
    """The ISO 15924 code of the script of a language, such as "Beng" for `bn`; None where nothing is known of it.

    Raises CrosslignError if `code` is malformed.
    """
    given = _parse(code)
    if given.script is not None:
        return given.script
    likely = langcodes.Language.get(likely_form(code))
    # CLDR takes what it does not know for text in Latin letters from the USA.
    unknown = likely.language != "en" and likely.script == "Latn" and likely.territory in ("US", "ZZ")
    return None if unknown else likely.script


# Macrolanguages whose codes in translation models langcodes does not relate to theirs: Pashto, Quechua, Fula, and
# M2M100's own name of Northern Sotho.
_MODEL_CODES = {"ps": "pbt", "qu": "quy", "ff": "fuv", "nso": "ns"}


def matching_code(code: str, codes: Iterable[str]) -> str | None:
    """The one of a model's own `codes` that means the language of `code`; None if there is none.

    Own codes may be written with "_" and hold a script or a region: `matching_code("sw", ["swh_Latn"]) == "swh_Latn"`,
    and for `ar` it is `arb_Arab`, for `zh-TW` `zho_Hant`. A script that `code` names, or that its region implies, must
    be met. Of several the nearest to it counts.

    Raises CrosslignError if `code` is malformed.
    """
    wanted, script = _parse(code), likely_script(code)
    must = script if wanted.script or wanted.territory else None
    found = []
    for own in codes:
        try:
            other = _parse(own.replace("_", "-"))
        except CrosslignError:
            continue  # a name that is no language code, as some of Opus-MT's are
        base = other.language or "und"
        if same_language(code, [base]) is None and _MODEL_CODES.get(wanted.language or "") != base:
            continue
        theirs = likely_script(other.to_tag())
        if must is not None and not _same_script(theirs, must):
            continue
        away = langcodes.tag_distance(wanted.to_tag(), other.to_tag())
        found.append((not _same_script(theirs, script), base != wanted.language, away, len(own), own))
    return min(found)[-1] if found else None


def _same_script(one: str | None, other: str | None) -> bool:
    """Whether two scripts are the same, as far as they are known; Korean text may be called Hang or Kore."""
    return one is None or other is None or one == other or {one, other} == {"Hang", "Kore"}


def nearest_languages(code: str, codes: Iterable[str], most: int = 3) -> list[str]:
    """Those of `codes` whose languages are nearest to that of `code` (CLDR's distance), the nearest first."""
    wanted = _parse(code).to_tag()
    known = [own for own in codes if is_language(own.replace("_", "-"))]
    return sorted(known, key=lambda own: (langcodes.tag_distance(wanted, own.replace("_", "-")), own))[:most]


@lru_cache(maxsize=2048)
def _parse(code: str) -> langcodes.Language:
    try:
        return langcodes.Language.get(code)
    except LanguageTagError as error:
        raise CrosslignError(f"{code!r} is not a language code ({error}). Use BCP-47, for example 'pt-BR'.") from error
