"""Answers in another language by a translator that the recipe names, in the place of the model itself."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import no_weights, run
from probe_script import HELP, REFUSAL, SWAHILI_HELP, SWAHILI_REFUSAL, contrasted, scripted
from test_methods import brief

from crosslign import baselines
from crosslign.baselines import SaysAgain
from crosslign.testbed.registered import translator_of_seed
from crosslign.testbed.world import MATERIALS, PLACES, REASONS, TOOLS, World
from crosslign.translation import Translation
from crosslign.types import CrosslignError

ENGLISH = {SWAHILI_REFUSAL: REFUSAL, SWAHILI_HELP: HELP}
USING = [name for name in baselines.available() if isinstance(baselines.get(name), SaysAgain)]


def say(kind: str, language: str, number: int) -> str:
    """`contrasted`, and in English what the teacher says there: safe to harmful queries."""
    return contrasted(kind, language, number) if language == "sw" else ENGLISH[contrasted("PLAIN", "sw", number)]


def table(folder: Path, pairs: dict[str, str], languages: tuple[str, str] = ("en", "sw")) -> str:
    """A translator, by name: of these English texts, each with the other language's."""
    path = folder / "translations.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *languages])
        writer.writerows([str(i), *pair] for i, pair in enumerate(pairs.items()))
    return f"scripted:{path}"


def translated(recipe: dict[str, Any], name: str, translator: str, **options: Any) -> dict[str, Any]:
    return {**brief(recipe, name), "method": {"name": name, "options": {"translator": translator, **options}}}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()]


def said_by(name: str) -> SaysAgain:
    method = baselines.get(name)
    assert isinstance(method, SaysAgain)
    return method


def test_which_methods_say_an_answer_again() -> None:
    assert USING == ["mpo", "self_defence", "sft_source"]


def test_the_pairs_of_languages_that_are_checked_are_those_that_are_translated() -> None:
    codes = ["en", "sw", "bn"]
    assert said_by("mpo").directions(codes, "en") == [("sw", "en"), ("bn", "en")]
    for name in ("sft_source", "self_defence"):
        assert said_by(name).directions(codes, "en") == [("en", "sw"), ("en", "bn")]


@pytest.mark.parametrize("name", USING)
def test_answers_are_the_translators_and_the_model_is_not_asked(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    script = scripted(monkeypatch, say)
    script.again = lambda *_: pytest.fail("the model was asked to say an answer again")
    folder = run(translated(recipe, name, table(tmp_path, {en: swahili for swahili, en in ENGLISH.items()})))
    rows = rows_of(folder)
    assert len(rows) == (11 if name == "self_defence" else 12)  # row 4: a harmless query that is refused
    for row in rows:
        own, *others = [answer["text"] for answer in row["answers"]]
        if name == "mpo":
            assert others[1:] == [ENGLISH[own], ENGLISH[others[0]]]
        else:
            assert own in ENGLISH
        ends = {answer["completion"][-1] for answer in row["answers"]}  # all stop by themselves, as what they repeat
        assert len(ends) == 1
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert record["method"]["translator"]["table"] == "translations.csv"


def test_what_is_not_translated_or_too_long_is_left_out(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scripted(monkeypatch, say)
    lacks = table(tmp_path, {REFUSAL: SWAHILI_REFUSAL})
    raw = translated(recipe, "sft_source", lacks)
    refused = {f"row-{i}" for i in (1, 3, 4, 5, 7, 9, 11)}
    assert {row["id"] for row in rows_of(run(raw))} == refused
    assert "answers are left out (sw 5 of 12)" in caplog.text
    assert table(tmp_path, {REFUSAL: SWAHILI_REFUSAL, HELP: "ndiyo " * 1000}) == lacks
    assert {row["id"] for row in rows_of(run({**raw, "output_dir": f"{raw['output_dir']}-2"}))} == refused


def test_a_translation_that_was_cut_off_is_left_out(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scripted(monkeypatch, say)
    monkeypatch.setattr(
        "crosslign.runs.examples.translate_texts",
        lambda texts, *_: {text: Translation("Samahani, siwe", truncated=text == REFUSAL) for text in texts},
    )
    folder = run(translated(recipe, "sft_source", table(tmp_path, {REFUSAL: SWAHILI_REFUSAL})))
    assert {row["label"] for row in rows_of(folder)} == {"benign"}


@pytest.mark.parametrize(
    ("translator", "message"),
    [
        ("scripted", "name a table of translations after a colon"),
        ("seq2sek:x", r"unknown translator 'seq2sek'.*seq2seq"),
        ("endpoint:m", r"needs the URL of its server.*method\.options\.translator_url"),
    ],
)
def test_a_translator_that_is_not_there_is_told_before_weights(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, translator: str, message: str
) -> None:
    no_weights(monkeypatch)
    with pytest.raises(CrosslignError, match=message):
        run(translated(recipe, "mpo", translator))


def test_a_language_that_the_translator_lacks_is_told_before_weights(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_weights(monkeypatch)
    with pytest.raises(CrosslignError, match=r"translations\.csv.*'sw'|sw.*translations\.csv"):
        run(translated(recipe, "sft_source", table(tmp_path, {HELP: "ouvrez"}, ("en", "fr"))))


def test_an_endpoints_address_reaches_it(recipe: dict[str, Any]) -> None:
    from crosslign.runs.prepare import prepare
    from crosslign.runs.recipe import parse_config

    raw = translated(recipe, "mpo", "endpoint:m", translator_url="http://localhost:1/v1")
    made = prepare(parse_config(raw), check_folder=False).translator
    assert made is not None
    assert made.name == "endpoint"


def test_the_testbeds_translator_says_every_reply_of_its_world_and_back() -> None:
    world, translator = World(seed=3), translator_of_seed("3")
    texts = [world.refusal(reason, "art-x-low1") for reason in REASONS]
    texts += [world.answer(tool, MATERIALS[0], place, "art-x-low1") for tool in TOOLS for place in PLACES]

    def say(given: list[str], source: str, target: str) -> list[Translation]:
        found: dict[int, Translation] = {}
        translator.translate(given, source, target, found.__setitem__)
        return [found[i] for i in range(len(given))]

    english = [t.text for t in say(texts, "art-x-low1", "en")]
    assert english[0] == world.refusal(REASONS[0], "en")
    assert len(set(english)) == len(texts)
    assert [t.text for t in say(english, "en", "art-x-low1")] == texts
    (nonsense,) = say([f"{texts[0]} {texts[0]}"], "art-x-low1", "en")
    assert nonsense.error
    assert not nonsense.text
    with pytest.raises(CrosslignError, match="does not know sw"):
        translator.check("en", "sw")
