"""Untrusted text made safe to look at: what hides itself or reorders its surroundings is shown as a visible mark."""

from __future__ import annotations

import re

_KEPT_CONTROLS = (0x09, 0x0A)
_CONTROL_PICTURES = 0x2400  # U+2400 is the picture of NUL, and the pictures follow in the controls' order
_DELETE, _DELETE_PICTURE = 0x7F, 0x2421
# Letters that belong to real writing stay (joiners, U+200E and U+200F marks, variation selectors); these do not:
_HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f"  # C0 controls and delete; tab and line feed stay
    "\x80-\x9f"  # C1 controls
    "\u202a-\u202e\u2066-\u2069"  # embeddings, overrides and isolates: they reorder text on the screen
    "\ud800-\udfff"  # lone surrogates: not encodable
    "\ufdd0-\ufdef\ufffe\uffff"  # noncharacters
    "\U000e0000-\U000e007f"  # tags: text that no one sees
    "]"
)


def visible(text: str) -> str:
    """The same text with every character that is invisible and active replaced by a visible mark.

    Controls become their pictures ("\\x00" -> "␀"); bidirectional overrides and isolates, lone surrogates,
    noncharacters and tag characters become their numbers ("⟦U+202E⟧"). Line ends become line feeds. The result can
    always be encoded as UTF-8 and holds no character that an HTML parser would change.
    """
    return _HIDDEN.sub(_mark, text.replace("\r\n", "\n"))


def _mark(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20 and code not in _KEPT_CONTROLS:
        return chr(_CONTROL_PICTURES + code)
    if code == _DELETE:
        return chr(_DELETE_PICTURE)
    return f"⟦U+{code:04X}⟧"
