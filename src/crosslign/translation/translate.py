"""A query table in more languages: translate, check, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from crosslign.data.schema import QueryTable
from crosslign.languages import english_name, likely_form
from crosslign.rollouts.progress import progress
from crosslign.storage import cache_folder, locked
from crosslign.translation.base import Translation, Translator
from crosslign.translation.cache import TranslationCache
from crosslign.translation.checks import MIN_ROWS, Checked, Pair, check_translations
from crosslign.translation.output import Translated, TranslateRequest, check_output, write
from crosslign.types import Announce, CrosslignError, Interrupted, silent


def translate_table(
    table: QueryTable, request: TranslateRequest, translator: Translator, announce: Announce = silent
) -> Translated:
    """Translate the source texts of a table into every language that is asked for, check, and write the files.

    Everything that can be checked is checked before the first translation. Translations are kept in the cache as they
    come, so that the same call goes on after an interruption; files are written at the end, the table last.

    Raises CrosslignError for a language that the table has or the translator lacks, an output that must not be
    written, a translator that fails or gives another number of translations than texts.
    """
    source = table.source_language
    check_languages(table, request.languages)
    for language in request.languages:
        translator.check(source, language)
        if request.back is not None:
            request.back.check(language, source)
    check_output(table, request)
    _announce(table, translator, request, announce)
    folder = cache_folder(request.cache)
    texts = {row.id: row.texts[source] for row in table.rows}
    found: dict[str, list[Checked]] = {}
    with locked(request.output.with_name(f".{request.output.name}.lock")):
        cache = TranslationCache(folder, translator)
        for language in request.languages:
            made = translate_texts(list(texts.values()), source, language, translator, cache, announce)
            pairs = [Pair(key, text, made[text]) for key, text in texts.items()]
            if request.back is not None:
                pairs = _with_way_back(pairs, source, language, request.back, folder, announce)
            found[language] = check_translations(pairs, source, language)
        translated = Translated(found)
        write(table, request, translated, translator)
    return translated


def _announce(table: QueryTable, translator: Translator, request: TranslateRequest, announce: Announce) -> None:
    """Who translates, under which licence, and what cannot be checked."""
    for one in (translator, request.back):
        if one is not None and (licence := one.identity().get("licence")):
            announce(f"translator {one.name}: {one.identity().get('model')}, licence of its family: {licence}")
    if len(table.rows) < MIN_ROWS:
        announce(f"{table.name}: has fewer than {MIN_ROWS} rows, so lengths are not compared")


def check_languages(table: QueryTable, languages: Sequence[str]) -> None:
    """Raise CrosslignError for no language, one twice or unknown, and one that the table has already."""
    if not languages:
        raise CrosslignError("--to: name at least one language, for example --to sw,bn.")
    there = {likely_form(code): code for code in (table.source_language, *table.languages)}
    asked: dict[str, str] = {}
    for code in languages:
        english_name(code)
        if code == "id":
            raise CrosslignError("--to id: 'id' is the column of row ids; for Indonesian use the code 'ind'.")
        form = likely_form(code)
        if form in there:
            raise CrosslignError(
                f"{table.name}: has a column for {code} ({english_name(code)}) already, {there[form]!r}. Leave it out "
                "of --to; to translate it again, remove the column from a copy of the table."
            )
        if form in asked:
            raise CrosslignError(f"--to: {asked[form]!r} and {code!r} are the same language. Name one of them.")
        asked[form] = code


def translate_texts(
    texts: Sequence[str],
    source: str,
    target: str,
    translator: Translator,
    cache: TranslationCache,
    announce: Announce,
) -> dict[str, Translation]:
    """The translation of every text, from the cache where it has it.

    Raises CrosslignError for a translator that fails or gives another number of translations than texts.
    """
    wanted = list(dict.fromkeys(texts))
    done = {text: known for text in wanted if (known := cache.get(text, source, target)) is not None}
    missing = sorted((text for text in wanted if text not in done), key=lambda text: (-len(text), text))
    what = f"{source} to {target}"
    if done:
        announce(f"{what}: {len(done)} of {len(wanted)} translations are there already")
    if not missing:
        return done
    with progress(len(missing), f"{translator.name}, {what}", "text") as bar:

        def keep(index: int, translation: Translation) -> None:
            if not 0 <= index < len(missing) or missing[index] in done:
                raise _wrong_number(translator, f"text {index} of {len(missing)} a second time, or none of them")
            done[missing[index]] = translation
            cache.put(missing[index], source, target, translation)
            bar.update(1)

        _run(lambda: translator.translate(missing, source, target, keep), translator, done, len(wanted))
    if len(done) < len(wanted):
        raise _wrong_number(
            translator, f"{len(missing) - (len(wanted) - len(done))} translations for {len(missing)} texts"
        )
    return done


def _wrong_number(translator: Translator, what: str) -> CrosslignError:
    return CrosslignError(
        f"translator {translator.name!r} gave {what}: it must give one for each. What it gave is kept; use another "
        "translator, or report this to its authors."
    )


def _run(work: Callable[[], None], translator: Translator, done: Mapping[str, Translation], number: int) -> None:
    """Do the work; an interruption, and whatever a plug-in raises, says what is kept."""
    try:
        work()
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted. {len(done)} of {number} translations are kept: the same command goes on there."
        ) from None
    except (CrosslignError, OSError):
        raise
    except Exception as error:  # a user's package may fail in any way
        raise CrosslignError(f"translator {translator.name!r} failed: {type(error).__name__}: {error}") from error


def _with_way_back(
    pairs: Sequence[Pair], source: str, target: str, back: Translator, folder: Path, announce: Announce
) -> list[Pair]:
    there = [pair.translation.text for pair in pairs if pair.translation.text.strip()]
    made = translate_texts(there, target, source, back, TranslationCache(folder, back), announce)
    return [replace(pair, back=made.get(pair.translation.text)) for pair in pairs]
