"""Excel sheets (.xlsx), through openpyxl, which is an optional extra."""

from __future__ import annotations

import io
from typing import Any

from crosslign.types import CrosslignError


def read_sheet(data: bytes, name: str) -> list[list[str]]:
    """The cells of the first sheet as text, empty cells as "", trailing empty rows left out.

    A formula counts as the value that Excel saved for it. Raises CrosslignError, naming `name`, if openpyxl is missing
    or the bytes are no sheet.
    """
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise CrosslignError(
            f"{name}: reading Excel sheets needs openpyxl, which is not installed. Install it with "
            "`pip install 'crosslign[xlsx]'`, or save the sheet as CSV (UTF-8) and name that file."
        ) from error
    try:
        book = load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        rows = [[_text(value) for value in row] for row in book.worksheets[0].iter_rows(values_only=True)]
    except Exception as error:  # openpyxl raises many kinds for a file that is cut off or no workbook
        raise CrosslignError(f"{name}: cannot be read as an Excel sheet: {error}") from error
    while rows and not any(rows[-1]):
        rows.pop()
    return rows


def _text(value: Any) -> str:
    if value is None:
        return ""
    # Excel keeps every number as a float; 5.0 was written as 5.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
