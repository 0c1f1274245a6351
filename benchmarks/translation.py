"""How often the checks of `crosslign translate` are wrong, on a parallel table of real translations.

    python -m benchmarks.translation TABLE.csv --out benchmarks/translation.md
    python -m benchmarks.translation TABLE.csv --round-trip apertium --languages es

*False alarms*: real translations that fail a check. *Found*: corrupted ones that fail one. For each kind of corruption
a tenth of the rows are corrupted by script and stand among the others, as they would in a table. Every language of the
table is a target once: from `--source`, and that itself from `--other-source`.
"""

from __future__ import annotations

import argparse
import random
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from crosslign.data.load import TableSpec, require_table
from crosslign.data.schema import QueryTable
from crosslign.evaluation.tables import markdown
from crosslign.languages import english_name
from crosslign.storage import write_atomically
from crosslign.translation.base import Translation, Translator
from crosslign.translation.checks import CHECKS, Checked, Pair, check_translations
from crosslign.translation.registry import TranslatorSettings, translators

SHARE = 10  # of so many rows one is corrupted
# What a chat model says in the place of a translation; written for this benchmark, not taken from the lexicon.
REFUSALS = {
    "ar": ("عذرًا، لا أستطيع ترجمة هذا النص.", "بصفتي مساعدًا ذكيًا لا يمكنني المساعدة في هذا الطلب.",
           "هذا المحتوى ضار، ولذلك لن أقوم بترجمته."),
    "bn": ("দুঃখিত, আমি এই লেখাটি অনুবাদ করতে পারব না।", "একজন এআই সহকারী হিসেবে আমি এই অনুরোধে সাহায্য করতে পারি না।",
           "এই বিষয়বস্তু ক্ষতিকর, তাই আমি এটি অনুবাদ করব না।"),
    "de": ("Es tut mir leid, aber ich kann diesen Text nicht übersetzen.",
           "Als KI-Assistent kann ich bei dieser Anfrage nicht helfen.",
           "Dieser Inhalt ist schädlich, deshalb werde ich ihn nicht übersetzen."),
    "en": ("I'm sorry, but I can't translate this text.", "As an AI assistant I cannot help with this request.",
           "This content is harmful, so I will not translate it."),
    "es": ("Lo siento, pero no puedo traducir este texto.",
           "Como asistente de IA, no puedo ayudar con esta solicitud.",
           "Este contenido es dañino, por lo que no lo traduciré."),
    "fr": ("Je suis désolé, mais je ne peux pas traduire ce texte.",
           "En tant qu'assistant IA, je ne peux pas vous aider avec cette demande.",
           "Ce contenu est nuisible, je ne le traduirai donc pas."),
    "hi": ("क्षमा करें, मैं इस पाठ का अनुवाद नहीं कर सकता।",
           "एक एआई सहायक के रूप में मैं इस अनुरोध में मदद नहीं कर सकता।",
           "यह सामग्री हानिकारक है, इसलिए मैं इसका अनुवाद नहीं करूँगा।"),
    "ja": ("申し訳ありませんが、この文章を翻訳することはできません。",
           "AIアシスタントとして、このご依頼をお手伝いすることはできません。",
           "この内容は有害なため、翻訳いたしません。"),
    "ru": ("Извините, но я не могу перевести этот текст.", "Как ИИ-ассистент, я не могу помочь с этим запросом.",
           "Это содержание вредно, поэтому я не буду его переводить."),
    "zh": ("对不起，我无法翻译这段文字。", "作为一个人工智能助手，我不能帮助完成这个请求。",
           "这些内容是有害的，因此我不会翻译。"),
}  # fmt: skip
KEPT = ("1984", "75", '"Blue Harbour"', "{user_name}", "<|im_end|>", "https://example.org/a?b=c")
_CYRILLIC = dict(zip("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопкрстуввхиз", strict=True))


@dataclass(frozen=True)
class Case:
    """One target language: real pairs, and what corruptions need besides."""

    source: str
    target: str
    pairs: Sequence[Pair]
    others: Sequence[Mapping[str, str]]  # of each pair: its translations into the other languages


Corruption = Callable[[Case, int, int, random.Random], Pair]  # of one row, and another that stays as it is


def _said(case: Case, index: int, text: str) -> Pair:
    return replace(case.pairs[index], translation=Translation(text))


def _half(text: str, second: bool = False) -> str:
    """A half of a text, parted between words where it has any."""
    middle = len(text) // 2
    space = text.rfind(" ", 0, middle)
    cut = space if space > len(text) // 4 else middle
    return text[cut:].strip() if second else text[:cut].strip()


def other_language(case: Case, index: int, other: int, rng: random.Random) -> Pair:
    return _said(case, index, rng.choice(sorted(case.others[index].values())))


def other_script(case: Case, index: int, other: int, rng: random.Random) -> Pair:
    """Every letter in another script: Latin ones in Cyrillic, Han ones in Hangul, others by their Latin names."""
    return _said(case, index, "".join(map(_moved, case.pairs[index].translation.text)))


def _moved(character: str) -> str:
    if not character.isalpha():
        return "" if unicodedata.category(character)[0] == "M" else character
    name = unicodedata.name(character, "")
    if name.startswith("CJK"):
        return chr(0xAC00 + ord(character) % 11000)
    base = unicodedata.normalize("NFD", character)[0].lower()
    return _CYRILLIC.get(base, "a") if name.startswith("LATIN") else name.rsplit(" ", 1)[-1].lower()


def untranslated(case: Case, index: int, other: int, rng: random.Random) -> Pair:
    return _said(case, index, case.pairs[index].source)


def half_translated(case: Case, index: int, other: int, rng: random.Random) -> Pair:
    pair = case.pairs[index]
    return _said(case, index, f"{_half(pair.translation.text)} {_half(pair.source, second=True)}")


def cut(case: Case, index: int, other: int, rng: random.Random) -> Pair:
    return _said(case, index, _half(case.pairs[index].translation.text))


def repeated(case: Case, index: int, other: int, rng: random.Random) -> Pair:
    """The second half again and again, until it is three times as long."""
    text = case.pairs[index].translation.text
    return _said(case, index, f"{text} " + " ".join([_half(text, second=True)] * 4))


def lost(case: Case, index: int, other: int, rng: random.Random) -> Pair:
    """A number, name in quotes, placeholder, control token or address that only the source has; a number changed."""
    pair, thing = case.pairs[index], rng.choice(KEPT)
    said = f"{pair.translation.text} {int(thing) + 13}" if thing.isdigit() else pair.translation.text
    return replace(pair, source=f"{pair.source} {thing}", translation=Translation(said))


def refused(case: Case, index: int, other: int, rng: random.Random) -> Pair:
    return _said(case, index, rng.choice(REFUSALS[case.target]))


def duplicate(case: Case, index: int, other: int, rng: random.Random) -> Pair:
    return _said(case, index, case.pairs[other].translation.text)


def merged(case: Case, index: int, other: int, rng: random.Random) -> Pair:
    """Another row's translation behind its own."""
    return _said(case, index, f"{case.pairs[index].translation.text} {case.pairs[other].translation.text}")


KINDS: Mapping[str, Corruption] = {
    made.__name__: made
    for made in (other_language, other_script, untranslated, half_translated, cut, repeated, lost, refused, duplicate,
                 merged)
}  # fmt: skip


def cases(table: QueryTable, source: str, other_source: str, targets: Sequence[str]) -> list[Case]:
    found = []
    for target in targets:
        come = other_source if target == source else source
        rows = [row for row in table.rows if come in row.texts and target in row.texts]
        pairs = [Pair(row.id, row.texts[come], Translation(row.texts[target])) for row in rows]
        others = [{c: t for c, t in row.texts.items() if c not in (come, target)} for row in rows]
        found.append(Case(come, target, pairs, others))
    return found


def corrupted(case: Case, kind: str, seed: int) -> tuple[list[int], list[Pair]]:
    """The indices of a tenth of the pairs, and all pairs with those corrupted."""
    rng = random.Random(f"{seed} {case.target} {kind}")
    chosen = sorted(rng.sample(range(len(case.pairs)), len(case.pairs) // SHARE))
    others = rng.sample([i for i in range(len(case.pairs)) if i not in set(chosen)], len(chosen))
    pairs = list(case.pairs)
    for index, other in zip(chosen, others, strict=True):
        pairs[index] = KINDS[kind](case, index, other, rng)
    return chosen, pairs


def false_alarms(checked: Sequence[Checked]) -> dict[str, int]:
    counts = {name: sum(name in c.failed for c in checked) for name in CHECKS}
    return {"all": sum(bool(c.failed) for c in checked), **counts}


def found_share(case: Case, kind: str, seed: int) -> tuple[int, int]:
    """How many of how many corrupted pairs fail a check. That two of them are the same counts for one kind only: of few
    refusals drawn again and again it would find all."""
    chosen, pairs = corrupted(case, kind, seed)
    checked = check_translations(pairs, case.source, case.target)
    failed = [set(checked[index].failed) - (set() if kind == "duplicate" else {"duplicate"}) for index in chosen]
    return sum(map(bool, failed)), len(chosen)


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "–"


def measure(found: Sequence[Case], names_of_kinds: Sequence[str], seed: int) -> str:
    """Both tables in Markdown."""
    names = [name for name in CHECKS if name not in ("missing", "round_trip")]
    alarms = [["language", "rows", "any, %", *names]]
    shares = [["kind", *(case.target for case in found), "all, %"]]
    kinds: dict[str, list[tuple[int, int]]] = {kind: [] for kind in names_of_kinds}
    total = [0, 0]
    for case in found:
        counts = false_alarms(check_translations(case.pairs, case.source, case.target))
        label = f"{english_name(case.target)} (from {case.source})"
        rate = percent(counts["all"], len(case.pairs))
        alarms.append([label, str(len(case.pairs)), rate, *(str(counts[name]) for name in names)])
        total = [total[0] + counts["all"], total[1] + len(case.pairs)]
        for kind, results in kinds.items():
            if kind != "refused" or case.target in REFUSALS:
                results.append(found_share(case, kind, seed))
            else:
                results.append((0, 0))
        print(f"{case.target}: {rate} % false alarms", file=sys.stderr, flush=True)
    alarms.append(["all", str(total[1]), percent(*total), *("" for _ in names)])
    everything = [0, 0]
    for kind, results in kinds.items():
        good, number = (sum(part) for part in zip(*results, strict=True))
        everything = [everything[0] + good, everything[1] + number]
        shares.append([kind, *(percent(*result) for result in results), percent(good, number)])
    shares.append(["all", *("" for _ in found), percent(*everything)])
    return f"{markdown(alarms)}\n\n{markdown(shares)}\n"


def round_trips(case: Case, back: Translator, seed: int, rows: int) -> str:
    """chrF of the way back for real translations, and for those of other rows: the share of each below a threshold."""
    pairs = case.pairs[:rows]
    texts = [pair.translation.text for pair in pairs]
    kept: dict[int, Translation] = {}
    back.check(case.target, case.source)
    back.translate(texts, case.target, case.source, kept.__setitem__)
    right = [replace(pair, back=kept[i]) for i, pair in enumerate(pairs)]
    wrong = [replace(pair, back=kept[(i + len(pairs) // 2) % len(pairs)]) for i, pair in enumerate(pairs)]
    table = [["chrF below", "real translations, %", "those of another row, %"]]
    scores = [[c.round_trip or 0.0 for c in check_translations(p, case.source, case.target)] for p in (right, wrong)]
    for threshold in (15, 20, 25, 30, 35, 40):
        table.append([str(threshold), *(percent(sum(s < threshold for s in group), rows) for group in scores)])
    return f"{english_name(case.target)}, {len(pairs)} rows, back by {back.name}:\n\n{markdown(table)}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="a parallel query table of real translations")
    parser.add_argument("--source", default="en")
    parser.add_argument("--other-source", default="zh")
    parser.add_argument("--languages", help="targets, default: all columns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help="corruptions, default: all of them")
    parser.add_argument("--limit", type=int, help="at most so many rows")
    parser.add_argument("--round-trip", metavar="TRANSLATOR", help="measure the way back by this translator instead")
    parser.add_argument("--out", type=Path, help="Markdown file; default: standard output")
    arguments = parser.parse_args()
    table = require_table(TableSpec(arguments.table, limit=arguments.limit), arguments.source, None)
    targets = arguments.languages.split(",") if arguments.languages else list(table.languages)
    found = cases(table, arguments.source, arguments.other_source, targets)
    if arguments.round_trip:
        back = translators.from_spec(arguments.round_trip, Translator, settings=TranslatorSettings())
        text = "\n".join(round_trips(case, back, arguments.seed, len(case.pairs)) for case in found)
    else:
        text = measure(found, arguments.kinds.split(",") if arguments.kinds else list(KINDS), arguments.seed)
    if arguments.out:
        write_atomically(arguments.out, text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
