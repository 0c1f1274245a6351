"""Files as records: CSV, TSV, JSON lines, Parquet, and Excel sheets through openpyxl, which is an optional extra.

A record maps column names to cells. Rows are counted from 1, without the header and without blank lines.
"""

from __future__ import annotations

import codecs
import csv
import io
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from crosslign import untrusted
from crosslign.data.schema import row_error
from crosslign.storage import line_of, plain
from crosslign.types import CrosslignError, cause
from crosslign.untrusted import limit, too_much

Record = tuple[int, Mapping[str, object]]
Records = tuple[list[Record], list[str]]  # and the column names
T = TypeVar("T")


def read_file(path: Path) -> Records:
    """All records of a file, and its column names in the file's order.

    Raises CrosslignError: an unknown suffix, a file that cannot be read or is empty, a row of another length than the
    header, text that is not UTF-8, two columns of one name, more than `untrusted.LIMITS` allow.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        recipe = " A recipe is checked by `crosslign train RECIPE --dry-run`." if suffix in (".yaml", ".yml") else ""
        raise CrosslignError(
            f"{path}: unknown kind of file {suffix!r}; a query table is one of {', '.join(READERS)}.{recipe}"
        )
    records, names = READERS[suffix](read_bytes(path), str(path))
    check_columns(names, str(path))
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise row_error(str(path), None, twice, "two columns have this name.")
    return records, names


def check_rows(number: int, name: str) -> None:
    """Raise CrosslignError if a table may not have so many rows."""
    if number > limit("ROWS"):
        raise too_much(name, f"has {number} rows", "ROWS")


def check_columns(names: Sequence[str], name: str) -> None:
    """Raise CrosslignError if a table may not have so many columns."""
    if len(names) > limit("COLUMNS"):
        raise too_much(name, f"has {len(names)} columns", "COLUMNS")


def _within(rows: Iterable[T], name: str) -> Iterator[T]:
    """The rows, up to the limit; beyond it CrosslignError."""
    most = limit("ROWS")
    for number, row in enumerate(rows):
        if number == most:
            raise too_much(name, "has more rows", "ROWS")
        yield row


def read_texts(path: Path) -> list[str]:
    """The first cell of every row of a .csv, .tsv or .xlsx file that has no header, stripped.

    A row's place is its identity in such a file, so that empty rows stay, as ""; those at the end go. Quoting is read
    leniently: benchmarks that were written by hand have stray quotes. Raises CrosslignError if it cannot be read.
    """
    data = read_bytes(path)
    suffix = path.suffix.lower()
    if suffix == ".xlsx":
        rows = _sheet(data, str(path))
    elif suffix in DELIMITERS:
        try:
            rows = list(_within(_cells(data, str(path), DELIMITERS[suffix]), str(path)))
        except csv.Error as error:
            raise CrosslignError(f"{path}: not a well-formed table: {error}.") from error
    else:
        raise CrosslignError(f"{path}: unknown kind of file {suffix!r}; a list of texts is .csv, .tsv or .xlsx.")
    texts = [row[0].strip() if row else "" for row in rows]
    while texts and not texts[-1]:
        texts.pop()
    return texts


def read_bytes(path: Path) -> bytes:
    """What the file holds. Raises CrosslignError if it cannot be read, is no file, is too large or is empty."""
    data = untrusted.read_bytes(path, "FILE_MB")
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise CrosslignError(f"{path}: the file is empty.")
    return data


def read_delimited(data: bytes, name: str, delimiter: str = ",") -> Records:
    """The records of a CSV or TSV file with a header; `name` is the file's in messages."""
    reader = _cells(data, name, delimiter, strict=True)
    records: list[Record] = []
    try:
        names = [n.strip() for n in next(reader)]
        for cells in _within(filter(None, reader), name):
            if len(cells) != len(names):
                raise row_error(
                    name,
                    len(records) + 1,
                    None,
                    f"{len(cells)} cells, but the header has {len(names)} columns (near line {reader.line_num}). Is a "
                    "comma or quote unescaped?",
                )
            records.append((len(records) + 1, dict(zip(names, cells, strict=True))))
    except csv.Error as error:
        message = f"not a well-formed table: {error} (near line {reader.line_num})."
        raise row_error(name, len(records) + 1, None, message) from error
    return records, names


def _cells(data: bytes, name: str, delimiter: str, *, strict: bool = False) -> Any:
    csv.field_size_limit(limit("CELL_CHARACTERS"))
    return csv.reader(io.StringIO(_decode(data, name), newline=""), delimiter=delimiter, strict=strict)


def _decode(data: bytes, name: str) -> str:
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        message = f"invalid UTF-8 (byte 0x{data[error.start]:02x} in line {line}). Save the file as UTF-8."
        raise row_error(name, None, None, message) from error


def _read_jsonl(data: bytes, name: str) -> Records:
    records: list[Record] = []
    # Not splitlines: a text may hold other line separators than \n.
    for line in _within(filter(str.strip, _decode(data, name).split("\n")), name):
        number = len(records) + 1
        record = untrusted.parse_json(line, f"error: {name}, row {number}")
        if not isinstance(record, dict):
            raise row_error(name, number, None, "expected a JSON object on the line.")
        records.append((number, record))
    return records, list(dict.fromkeys(key for _, record in records for key in record))


def _read_parquet(data: bytes, name: str) -> Records:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(data))
        parts = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        check_rows(max(file.metadata.num_rows, sum(part.num_rows for part in parts)), name)
        _check_unpacked(sum(part.total_byte_size for part in parts), name)
        names = list(file.schema_arrow.names)
        check_columns(names, name)
        rows: list[Mapping[str, object]] = []
        size = 0
        # In small batches: a text that is stored once may stand in every row.
        for batch in file.iter_batches(batch_size=64):
            columns = [c.dictionary_decode() if isinstance(c, pyarrow.DictionaryArray) else c for c in batch.columns]
            batch = pyarrow.RecordBatch.from_arrays(columns, names)
            size += batch.nbytes
            _check_unpacked(size, name)
            rows += batch.to_pylist()
            check_rows(len(rows), name)
    except CrosslignError:
        raise
    except Exception as error:  # pyarrow raises many kinds for a file that is cut off or not Parquet
        raise CrosslignError(f"{name}: cannot be read as Parquet: {cause(error)}") from error
    return list(enumerate(rows, start=1)), names


def _check_unpacked(size: int, name: str) -> None:
    if size > limit("UNPACKED_MB") * 1_000_000:
        raise too_much(name, f"has {size // 1_000_000} MB when it is unpacked", "UNPACKED_MB")


def _read_sheet(data: bytes, name: str) -> Records:
    rows = [row for row in _sheet(data, name) if any(row)]
    if not rows:
        raise CrosslignError(f"{name}: the file is empty.")
    names = [n.strip() for n in rows[0]]
    records: list[Record] = []
    for number, row in enumerate(rows[1:], 1):
        if len(row) > len(names):
            raise row_error(name, number, None, f"{len(row)} cells, but the header has {len(names)} columns.")
        # read-only sheets give short rows where the cells at their end are empty
        records.append((number, dict(zip(names, [*row, *[""] * (len(names) - len(row))], strict=True))))
    return records, names


def _sheet(data: bytes, name: str) -> list[list[str]]:
    """The cells of the first sheet as text, empty cells as "". A formula counts as the value that Excel saved for it.

    Raises CrosslignError if openpyxl is missing or the bytes are no sheet.
    """
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise CrosslignError(
            f"{name}: reading Excel sheets needs openpyxl, which is not installed. Install it with "
            "`pip install 'crosslign[xlsx]'`, or save the sheet as CSV (UTF-8) and name that file."
        ) from error
    rows: list[list[str]] = []
    size = 0
    try:
        # A member cannot unpack to more than its entry says.
        _check_unpacked(sum(part.file_size for part in zipfile.ZipFile(io.BytesIO(data)).infolist()), name)
        sheet = load_workbook(io.BytesIO(data), read_only=True, data_only=True).worksheets[0]
        sheet.reset_dimensions()  # rows are as wide as their cells, not as the file says
        for values in _within(sheet.iter_rows(values_only=True), name):
            row = [_cell_text(value) for value in values]
            size += sum(len(text) + 8 for text in row)
            _check_unpacked(size, name)
            while row and not row[-1].strip():  # formatted but empty columns at the right
                row.pop()
            check_columns(row, name)
            rows.append(row)
    except CrosslignError:
        raise
    except Exception as error:  # openpyxl raises many kinds for a file that is cut off or no workbook
        raise CrosslignError(f"{name}: cannot be read as an Excel sheet: {cause(error)}") from error
    return rows


def _cell_text(value: Any) -> str:
    if value is None:
        return ""
    # Excel keeps every number as a float; 5.0 was written as 5.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def written_table(rows: Sequence[Mapping[str, Any]], names: Sequence[str], suffix: str) -> bytes:
    """Rows as the content of a .csv, .tsv or .jsonl file with these columns; JSON lines leave out empty cells."""
    if suffix not in DELIMITERS:
        return "".join(line_of({name: cell for name, cell in row.items() if cell}) for row in rows).encode()
    text = io.StringIO()
    # Python before 3.11.9 and 3.12.3 does not quote a lone "\r", which it reads as the end of a row.
    cells = (*names, *(cell for row in rows for cell in row.values()))
    quoting: Any = csv.QUOTE_ALL if any("\r" in str(cell) for cell in cells) else csv.QUOTE_MINIMAL
    writer = csv.DictWriter(text, names, delimiter=DELIMITERS[suffix], lineterminator="\n", quoting=quoting)
    writer.writeheader()
    writer.writerows(rows)
    return plain(text.getvalue()).encode()


DELIMITERS = {".csv": ",", ".tsv": "\t"}
READERS: dict[str, Callable[[bytes, str], Records]] = {
    ".csv": read_delimited,
    ".tsv": lambda data, name: read_delimited(data, name, "\t"),
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".xlsx": _read_sheet,
}
