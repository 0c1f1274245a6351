"""What `crosslign translate` writes: the table, what was rejected, and where the texts come from."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from crosslign.data.files import DELIMITERS, written_table
from crosslign.data.provenance import SHA256, side_file, write_provenance
from crosslign.data.schema import QueryTable
from crosslign.evaluation.tables import aligned
from crosslign.languages import english_name
from crosslign.ownership import check_output_file, read_mark
from crosslign.storage import Row, versions, write_atomically
from crosslign.translation.base import Translator
from crosslign.translation.checks import CHECKS, MEASURES, THRESHOLDS, Checked
from crosslign.types import CrosslignError
from crosslign.untrusted import no_formula

REJECTED = "rejected.csv"
FORMATS = (*DELIMITERS, ".jsonl")
REJECTED_COLUMNS = ("id", "target", "reason", "source", "translation", "error",
                    *(f"measured_{name}" for name in MEASURES), "translated_back")  # fmt: skip


@dataclass(frozen=True)
class TranslateRequest:
    """What to make, and where.

    Fields:
        languages: to translate into.
        output: the table, .csv, .tsv or .jsonl.
        rejected: translations that fail a check; None: `rejected.csv` beside the table.
        back: translates the translations back, for the check `round_trip`; None for no such check.
        cache: folder of translations that were made; None: the user's cache.
    """

    languages: Sequence[str]
    output: Path
    rejected: Path | None = None
    back: Translator | None = None
    cache: str | None = None
    overwrite: bool = False

    @property
    def rejected_file(self) -> Path:
        return self.output.with_name(REJECTED) if self.rejected is None else self.rejected


@dataclass(frozen=True)
class Translated:
    """What was made: each language's rows with what was found."""

    languages: Mapping[str, Sequence[Checked]] = field(repr=False)

    def passed(self, language: str) -> int:
        return sum(not row.failed for row in self.languages[language])

    def reasons(self, language: str) -> dict[str, int]:
        counts = Counter(name for row in self.languages[language] for name in row.failed)
        return {name: counts[name] for name in CHECKS if counts[name]}

    def summary(self) -> str:
        """A line for each language: how many passed, and how many failed which check."""
        rows = [["language", "rows", "passed", "rejected", "because of"]]
        for language, checked in self.languages.items():
            passed = self.passed(language)
            reasons = ", ".join(f"{name} {count}" for name, count in self.reasons(language).items())
            name = f"{language} ({english_name(language)})"
            rows.append([name, str(len(checked)), str(passed), str(len(checked) - passed), reasons])
        return aligned(rows, left=(0, 4))


def check_output(table: QueryTable, request: TranslateRequest) -> None:
    """Raise CrosslignError if one of the files must not be written. Changes nothing."""
    output, rejected, side = request.output, request.rejected_file, side_file(request.output)
    if output.suffix.lower() not in FORMATS:
        raise CrosslignError(f"--out: {output} must end in {', '.join(FORMATS)}.")
    if rejected.suffix.lower() != ".csv" or rejected.absolute() == output.absolute():
        raise CrosslignError(f"--rejected: {rejected} must be another file than --out, and end in .csv.")
    if Path(table.name).exists() and output.exists() and output.samefile(table.name):
        raise CrosslignError(f"--out: {output} is the table that is read. Choose another --out.")
    mark = read_mark(side)
    for path in (side, output):
        check_output_file(path, ours=SHA256 in mark)
    # Another table in this folder may have rejected rows of its own.
    check_output_file(rejected, ours=mark.get("rejected") == rejected.name, flag="--rejected")
    if output.exists() and not request.overwrite:
        raise CrosslignError(f"{output}: exists. Choose another --out, or replace it with --overwrite.")


def write(table: QueryTable, request: TranslateRequest, translated: Translated, translator: Translator) -> None:
    """Write the three files; the table comes last, so that where it is, the others are whole."""
    rows, rejected = _table_rows(table, translated), _rejected_rows(translated)
    data = written_table(rows, list(rows[0]), request.output.suffix.lower())
    languages = dict(table.provenance["languages"]) if table.provenance is not None else {}
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    for language, checked in translated.languages.items():
        languages[language] = {
            "translator": dict(translator.identity()),
            "when": now,
            "rows": len(checked),
            "passed": translated.passed(language),
            "reasons": translated.reasons(language),
            "round_trip": None if request.back is None else dict(request.back.identity()),
        }
    content = {
        SHA256: hashlib.sha256(data).hexdigest(),
        "rejected": request.rejected_file.name,
        "source": {
            "table": Path(table.name).name,
            "rows": len(table.rows),
            "fingerprint": table.fingerprint(),
            "language": table.source_language,
        },
        "languages": languages,
        "checks": THRESHOLDS,
        "versions": versions(),
    }
    write_provenance(request.output, content)
    safe = [{name: no_formula(cell) for name, cell in row.items()} for row in rejected]
    write_atomically(request.rejected_file, written_table(safe, REJECTED_COLUMNS, ".csv"))
    write_atomically(request.output, data)


def _table_rows(table: QueryTable, translated: Translated) -> list[Row]:
    """The table's rows with a text for each new language, "" where it failed, and beside it what was found."""
    new = {language: {c.pair.id: c for c in checked} for language, checked in translated.languages.items()}
    there = list(dict.fromkeys((table.source_language, *table.languages)))
    rows = []
    for row in table.rows:
        out: Row = {"id": row.id, "label": row.label, "category": row.category or ""}
        out |= {language: row.texts.get(language, "") for language in there}
        for language, checked in new.items():
            found = checked[row.id]
            measures = "; ".join(f"{name} {value}" for name, value in found.measures().items() if value)
            out[language] = "" if found.failed else found.pair.translation.text.strip()
            out[f"check:{language}"] = f"failed: {', '.join(found.failed)}" if found.failed else f"passed: {measures}"
        rows.append(out)
    return rows


def _rejected_rows(translated: Translated) -> list[Row]:
    """A row for each translation that failed, with its reasons and everything that was measured."""
    return [
        {
            "id": found.pair.id,
            "target": language,
            "reason": ", ".join(found.failed),
            "source": found.pair.source,
            "translation": found.pair.translation.text,
            "error": found.pair.translation.error,
            **{f"measured_{name}": value for name, value in found.measures().items()},
            "translated_back": found.pair.back.text if found.pair.back is not None else "",
        }
        for language, checked in translated.languages.items()
        for found in checked
        if found.failed
    ]
