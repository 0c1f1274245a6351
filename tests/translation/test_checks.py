"""The checks: right translations pass, each kind of wrong one fails, and no text makes them raise."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from benchmarks.translation import KINDS, REFUSALS, Case, cases, false_alarms, found_share
from hypothesis import given
from hypothesis import strategies as st

from crosslign.data.load import TableSpec, require_table
from crosslign.translation import Translation
from crosslign.translation.checks import CHECKS, MEASURES, Checked, Pair, check_translations


@functools.cache
def case(target: str, source: str = "en") -> Case:
    """The real translations that ship: 60 harmless queries."""
    (found,) = cases(require_table(TableSpec("builtin:benign"), "en", None), "en", source, [target])
    return found


def checked_with(index: int, pair: Pair, target: str = "es") -> Checked:
    pairs = list(case(target).pairs)
    pairs[index] = pair
    return check_translations(pairs, "en", target)[index]


def saying(text: str, target: str = "es", index: int = 7, **more: object) -> Checked:
    pair = case(target).pairs[index]
    return checked_with(index, replace(pair, translation=Translation(text, **more)), target)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["ar", "bn", "es", "hi", "ind", "jv", "ru", "sw", "th", "vi", "zh"])
def test_real_translations_pass(target: str) -> None:
    counts = false_alarms(check_translations(case(target).pairs, "en", target))
    assert counts["all"] <= 0.03 * len(case(target).pairs), counts  # freely written, so more than of XSafety


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_corrupted_translations_are_found(kind: str) -> None:
    found = [found_share(case(target), kind, seed) for target in ("ar", "es", "hi", "zh") for seed in range(5)]
    assert sum(good for good, _ in found) >= (0.75 if kind == "merged" else 0.9) * sum(number for _, number in found)


@pytest.mark.parametrize("target", ["ar", "bn", "es", "hi", "ru", "zh"])
def test_refusals_in_the_target_language_are_found(target: str) -> None:
    for refusal in REFUSALS[target]:
        assert "refused" in saying(refusal, target).failed


def test_a_comment_of_the_translator_is_no_translation() -> None:
    """A sentence of this kind stands in a published set of queries."""
    assert "refused" in saying("Me doy cuenta de que solo quieres una traducción, pero quisiera señalar algo.").failed
    pair = replace(
        case("es").pairs[7], source="Can you translate this?", translation=Translation("¿Puedes traducir esto?")
    )
    assert checked_with(7, pair).failed == ()


def test_each_check_has_its_reason() -> None:
    pair = case("es").pairs[7]
    good = pair.translation.text
    assert checked_with(7, pair).failed == ()
    reasons = {
        "missing": saying("\u200b "),
        "language": saying("Wie kann ich heute Abend ein gutes Essen für meine Familie kochen?"),
        "script": saying("Как мне сегодня вечером приготовить хороший ужин?"),
        "length": saying(f"{good[:-1]} {' '.join(p.translation.text[:-1] for p in case('es').pairs[8:11])}"),
        "untranslated": saying(pair.source),
        "repeated": saying(f"{good} " * 6),
        "cut": saying(good, truncated=True),
        "added": saying(f"{good} {case('es').pairs[9].translation.text}"),
        "lost": checked_with(7, replace(pair, source=f"{pair.source} (1984)")),
        "refused": saying("Lo siento, pero no puedo ayudar con esta solicitud."),
        "answered": saying(f"Aquí tienes los pasos: {good}"),
        "duplicate": saying(case("es").pairs[8].translation.text),
        "round_trip": checked_with(7, replace(pair, back=Translation("Something else was asked here."))),
    }
    assert list(reasons) == list(CHECKS)
    for name, found in reasons.items():
        assert name in found.failed, (name, found)
        assert set(found.measures()) == set(MEASURES)


def test_a_refusal_that_the_source_says_too_is_translated() -> None:
    pair = replace(
        case("es").pairs[7],
        source="I'm sorry, but I can't help with that: who says so?",
        translation=Translation("Lo siento, pero no puedo ayudar con eso: ¿quién lo dice?"),
    )
    assert checked_with(7, pair).failed == ()


def test_a_server_that_refuses_is_no_translation() -> None:
    assert saying("", error="the server refused it: content_filter").failed == ("missing",)


def test_few_rows_have_no_usual_length() -> None:
    (first, *_) = check_translations(case("es").pairs[:5], "en", "es")
    assert first.length is None
    assert first.failed == ()


def test_a_language_without_full_stops_is_not_cut() -> None:
    pairs = [replace(p, translation=Translation(p.translation.text.rstrip(".?!¿¡"))) for p in case("es").pairs]
    assert not any("cut" in found.failed for found in check_translations(pairs, "en", "es"))


@given(st.text(), st.text(min_size=1).filter(str.strip), st.text())
def test_no_text_makes_the_checks_raise(text: str, source: str, back: str) -> None:
    pairs = [*case("es").pairs[:20], Pair("drawn", source, Translation(text), Translation(back))]
    found = check_translations(pairs, "en", "es")[-1]
    assert set(found.failed) <= set(CHECKS)
    "".join(found.measures().values()).encode("utf-8", "backslashreplace")
