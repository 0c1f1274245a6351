"""The command translate."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosslign.cli.common import comma_list, quiet_libraries, say, show, whole
from crosslign.cli.tables import table_arguments, table_spec

TRANSLATE_EPILOG = """\
  crosslign translate queries.csv --to sw,jv,bn --out table.csv
  crosslign translate queries.csv --to sw --translator seq2seq:facebook/nllb-200-distilled-600M --out table.csv
  crosslign translate queries.csv --to sw --translator endpoint:MODEL --url http://localhost:8000/v1 \\
      --round-trip same --out table.csv
  crosslign translate queries.csv --to es --translator apertium --out table.csv
  crosslign translate queries.csv --to sw --translator scripted:by_people.csv --out table.csv

Translators:

  seq2seq[:MODEL]     a translation model: MADLAD-400 (default), NLLB-200 (not for commercial use), M2M100, Opus-MT
  endpoint:MODEL      a chat model behind an OpenAI-compatible server (--url)
  apertium            Apertium's command line, where it is installed
  scripted:TABLE      the translations of a parallel table, for example by people
  and any that an installed package adds

Every translation is checked. Those that fail go to rejected.csv with the reason, and leave an empty cell in the table.
TABLE.provenance.json says who translated. The same command goes on after an interruption. See docs/translate.md.
"""
# Flags that are fields of TranslatorSettings.
SETTINGS = ("url", "api_key_env", "concurrency", "retries", "dtype", "batch_size", "beams")
SAME = "same"


def add_commands(commands: Any) -> None:
    """Add translate to the parser's commands."""
    translate = commands.add_parser(
        "translate",
        help="a query table in more languages",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=TRANSLATE_EPILOG,
        description="Translate the queries of a table, check every translation, and write a table of them all.",
    )
    translate.add_argument("table", help="query table, as for validate")
    table_arguments(translate.add_argument_group("table"))
    translate.add_argument(
        "--to", required=True, type=comma_list, metavar="sw,jv,...", help="languages to translate to"
    )
    translate.add_argument("--out", required=True, type=Path, metavar="FILE", help="table to write: .csv, .tsv, .jsonl")
    translate.add_argument(
        "--rejected", type=Path, metavar="FILE", help="translations that fail (default: rejected.csv beside --out)"
    )
    translate.add_argument("--overwrite", action="store_true", help="replace a table that translate wrote")
    translate.add_argument("--cache-dir", metavar="DIR", help="where translations are kept (default: the user's cache)")
    group = translate.add_argument_group("translator")
    group.add_argument("--translator", default="seq2seq", metavar="NAME[:WHAT]", help="see below (default: seq2seq)")
    group.add_argument(
        "--round-trip",
        metavar="NAME[:WHAT]",
        help=f"check the way back by this translator, {SAME!r} for the same one",
    )
    group.add_argument("--translator-revision", metavar="REVISION", help="seq2seq: branch, tag or commit on the hub")
    group.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    group.add_argument(
        "--batch-size", type=whole(1), default=16, metavar="N", help="seq2seq: texts at once (default: 16)"
    )
    group.add_argument("--beams", type=whole(1, 64), default=4, metavar="N", help="seq2seq: beam search (default: 4)")
    group.add_argument("--url", help="endpoint: its URL, such as http://localhost:8000/v1")
    group.add_argument(
        "--api-key-env",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="endpoint: environment variable with the key (default: OPENAI_API_KEY)",
    )
    group.add_argument(
        "--concurrency", type=whole(1, 10_000), default=8, metavar="N", help="endpoint: requests at once"
    )
    group.add_argument(
        "--retries", type=whole(0, 1000), default=10, metavar="N", help="endpoint: tries after the first (default: 10)"
    )
    translate.set_defaults(run=_translate)


def _translate(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    from crosslign.data.load import require_table
    from crosslign.translation import Translator, TranslatorSettings, translators
    from crosslign.translation.output import TranslateRequest
    from crosslign.translation.translate import translate_table

    quiet_libraries(arguments.verbose)
    table = require_table(table_spec(arguments), arguments.source_language, None)
    settings = TranslatorSettings(
        revision=arguments.translator_revision, **{name: getattr(arguments, name) for name in SETTINGS}
    )
    translator = translators.from_spec(arguments.translator, Translator, settings=settings)
    back = None
    if arguments.round_trip is not None:
        same = arguments.round_trip == SAME
        back = translator if same else translators.from_spec(arguments.round_trip, Translator, settings=settings)
    request = TranslateRequest(
        tuple(arguments.to), arguments.out, arguments.rejected, back, arguments.cache_dir, arguments.overwrite
    )
    translated = translate_table(table, request, translator, say)
    show(translated.summary())
    rejected = sum(len(rows) - translated.passed(language) for language, rows in translated.languages.items())
    say(f"{arguments.out}: {len(table.rows)} rows. {request.rejected_file}: {rejected} translations that failed.")
    empty = [language for language in translated.languages if not translated.passed(language)]
    if empty:
        say(f"crosslign: no translation into {', '.join(empty)} passed. The reasons stand in {request.rejected_file}.")
    return 1 if empty else 0
