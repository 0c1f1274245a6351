"""Files of the shapes that the published sets have, with harmless texts in place of theirs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet

BOM = b"\xef\xbb\xbf"
MULTIJAIL_COLUMNS = ("id", "source", "en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv", "tags")
WORDS = {"en": "question", "zh": "问题", "ar": "سؤال", "bn": "প্রশ্ন", "sw": "swali", "de": "Frage", "es": "pregunta"}


def text(language: str, number: int, topic: str = "") -> str:
    """A harmless text that is another in each language and row."""
    return f"{WORDS.get(language, language + '-word')} {topic} {number}".replace("  ", " ")


def write_rows(path: Path, rows: Sequence[Sequence[object]], bom: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    path.write_bytes(bom + path.read_bytes())
    return path


def write_lines(path: Path, records: Sequence[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return path


def write_parquet(path: Path, records: Sequence[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records)), path)
    return path


def multijail(folder: Path, rows: int = 12) -> Path:
    """A column a language, a byte-order mark, tags that are a list in text."""
    body = []
    for n in range(rows):
        cells = {"id": n, "source": "placeholder", "tags": f"['topic {n % 3}', 'other']"}
        body.append([cells.get(c, text(c, n)) for c in MULTIJAIL_COLUMNS])
    return write_rows(folder / "MultiJail.csv", [MULTIJAIL_COLUMNS, *body], BOM)


def pku(folder: Path, rows: int = 12) -> Path:
    """JSON lines; the English prompt has no code in its name."""
    return write_lines(
        folder / "prompts.jsonl",
        [{"prompt": text("en", n), "prompt_zh": text("zh", n), "prompt_sw": text("sw", n)} for n in range(rows)],
    )


def advbench(folder: Path, rows: int = 12) -> Path:
    languages = ("en", "zh", "sw", "bn")
    return write_rows(
        folder / "advbench_x.csv", [languages, *([text(code, n) for code in languages] for n in range(rows))]
    )


def polyguard(folder: Path, rows: int = 12) -> Path:
    """A row a text; languages by their English names; ids shared by translations."""
    records = [
        {
            "prompt": text(code, n),
            "prompt_harm_label": "harmful" if n % 2 else "unharmful",
            "prompt_label": "unsafe" if n % 2 else "safe",
            "subcategory": f"topic {n % 3}",
            "id": n,
            "language": name,
        }
        for name, code in (("English", "en"), ("Arabic", "ar"), ("German", "de"), ("Spanish", "es"))
        for n in range(rows)
    ]
    return write_parquet(folder / "data" / "test-00000-of-00001.parquet", records)


def xstest(folder: Path, rows: int = 12) -> Path:
    body = [
        [n, text("en", n), "contrast_homonyms" if n % 2 else "homonyms", "unsafe" if n % 2 else "safe", "word", ""]
        for n in range(rows)
    ]
    return write_rows(folder / "xstest_prompts.csv", [("id", "prompt", "type", "label", "focus", "note"), *body])


def or_bench(folder: Path, rows: int = 12) -> Path:
    body = [[text("en", n), f"topic {n % 3}"] for n in range(rows)]
    return write_rows(folder / "or-bench-hard-1k.csv", [("prompt", "category"), *body])


def aya(folder: Path, rows: int = 12) -> Path:
    """A file for each language; the English one has no translations."""
    files = {"eng": "en", "arb": "ar", "tgl": "tl", "fra": "fr", "hin": "hi", "rus": "ru", "srp": "sr", "spa": "es"}
    for name, code in files.items():
        write_lines(
            folder / f"aya_{name}.jsonl",
            [
                {
                    "prompt": text(code, n, "own"),
                    "language": name,
                    "harm_category": '["Topic A", "Topic B"]',
                    "global_or_local": "global",
                    "literal_translation": "" if code == "en" else f"{code} literally {n}",
                    "semantic_translation": f"{code} freely {n}",
                }
                for n in range(rows)
            ],
        )
    return folder


def xsafety(folder: Path, rows: int = 4) -> Path:
    """The copy on the hub: a row a text, no ids, the authors' code for Spanish, suffixes in the categories."""
    records = [
        {
            "text": text("es" if code == "sp" else code, n, category),
            "language": code,
            "category": f"{category}_n" if code == "en" else category,
        }
        for code in ("en", "zh", "ar", "bn", "sp")
        for category in ("Mental_Health", "Physical_Harm", "Insult")
        for n in range(rows)
    ]
    return write_parquet(folder / "data" / "test-00000-of-00001.parquet", records)


WRITERS: dict[str, Callable[..., Path]] = {
    "multijail": multijail,
    "multijail_intentional": multijail,
    "pku_saferlhf_multilingual": pku,
    "advbench_x": advbench,
    "polyguard_prompts": polyguard,
    "xstest": xstest,
    "or_bench": or_bench,
    "aya_redteaming": aya,
    "xsafety": xsafety,
}
