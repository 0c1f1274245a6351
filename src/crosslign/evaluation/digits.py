"""Numbers written with native digits, in ASCII: what reads answers out of completions usually knows `[0-9]` only."""

from __future__ import annotations

import re
import unicodedata

_DIGIT = re.compile(r"\d")  # every decimal digit of Unicode: Bengali, Thai, Arabic-Indic, fullwidth and 60 more
# Between digits only: elsewhere they are punctuation of the text.
_DECIMAL_SIGN = re.compile(r"(?<=[0-9])[\u066B\uFF0E](?=[0-9])")  # Arabic decimal separator, fullwidth full stop
_THOUSANDS_SIGN = re.compile(r"(?<=[0-9])[\u066C\u060C\uFF0C](?=[0-9])")  # Arabic thousands, Arabic and fullwidth comma
# French, Russian and others group digits with a space; only the ones that do not break lines are beyond doubt.
_GROUPING_SPACE = re.compile(r"(?<=[0-9])[\u00A0\u2009\u202F](?=[0-9]{3}(?![0-9]))")
_MINUS = re.compile(r"[\u2212\uFF0D](?=[0-9])")


def ascii_numbers(text: str) -> str:
    """The text with all decimal digits as 0-9 and the separators of numbers as `.` and `,`; nothing else changes.

    `ascii_numbers("উত্তর ১৮")` is "উত্তর 18", `ascii_numbers("١٬٢٣٤٫٥")` is "1,234.5". Numerals that are no decimal
    digits (十八, XVIII) stay.
    """
    text = _DIGIT.sub(lambda found: str(unicodedata.decimal(found[0])), text)
    text = _DECIMAL_SIGN.sub(".", text)
    text = _THOUSANDS_SIGN.sub(",", text)
    text = _GROUPING_SPACE.sub("", text)
    return _MINUS.sub("-", text)
