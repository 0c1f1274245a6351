"""Where the texts of a table come from: a JSON file beside it, `TABLE.provenance.json`.

`crosslign translate` writes it, `crosslign validate` shows it, and a training run's record keeps it:

    table_sha256   of the table as it was written
    source         {table, rows, fingerprint, language}: what was translated
    languages      code -> {translator, when, rows, passed, reasons, round_trip}
    checks         the thresholds of the checks
    versions       of what took part
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosslign.storage import file_sha256, write_atomically
from crosslign.types import CrosslignError, excerpt
from crosslign.untrusted import read_json

SHA256, EDITED = "table_sha256", "edited_since"


def side_file(table: Path) -> Path:
    return table.with_name(f"{table.name}.provenance.json")


def read_provenance(table: Path) -> dict[str, Any] | None:
    """What the file beside a table says, with `edited_since` where the table is another than the one it is about; None
    if there is none.

    Raises CrosslignError if it cannot be read, or is no such file.
    """
    side = side_file(table)
    if not side.exists():
        return None
    found = read_json(side)
    languages = found.get("languages")
    if not isinstance(languages, dict) or not all(isinstance(entry, dict) for entry in languages.values()):
        raise CrosslignError(f"{side}: says of no language where its texts come from. Remove it, or translate again.")
    return {**found, EDITED: found.get(SHA256) != file_sha256(table)}


def write_provenance(table: Path, content: Mapping[str, Any]) -> None:
    write_atomically(side_file(table), json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def describe(provenance: Mapping[str, Any]) -> list[str]:
    """Lines for a person. The file may have been edited: nothing in it is trusted to be of its kind."""
    lines = []
    for code, entry in provenance["languages"].items():
        translator = entry.get("translator")
        maker = translator if isinstance(translator, dict) else {}
        names = [str(maker[key]) for key in ("kind", "model", "table", "version") if key in maker]
        counts = f"{entry.get('passed', '?')} of {entry.get('rows', '?')} passed the checks"
        who = excerpt(" ".join(names), 100) or "unknown"
        lines.append(f"{code}: translated by {who}, {entry.get('when', 'unknown when')}; {counts}")
    if provenance.get(EDITED):
        lines.append("The table was edited since.")
    return lines
