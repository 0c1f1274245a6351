"""The pretraining mix: the gap is in it, and what must be held out is."""

from __future__ import annotations

from collections import Counter

import pytest

from crosslign.testbed.corpus import ASSISTANT, END, USER, Corpus, CorpusSpec, Example, chat, vocabulary
from crosslign.testbed.judge import ExactJudge
from crosslign.testbed.world import OBJECTS, TEACHER_HAZARDS, VERDICTS, World

SPEC = CorpusSpec(sequences=12_000)


@pytest.fixture(scope="module")
def world() -> World:
    return World(0)


@pytest.fixture(scope="module")
def examples(world: World) -> list[Example]:
    return list(Corpus(world, SPEC).examples())


def content(example: Example) -> str:
    return example.prompt.removeprefix(f"{USER} ").removesuffix(f" {END} {ASSISTANT}")


def reply(example: Example) -> str:
    return example.completion.removesuffix(f" {END}")


def language(world: World, text: str) -> str:
    counts = Counter(code for w in text.split() for code, lang in world.languages.items() if w in lang.words.values())
    return counts.most_common(1)[0][0]


def test_equal_specs_give_equal_corpora(world: World, examples: list[Example]) -> None:
    assert list(Corpus(World(0), SPEC).examples()) == examples
    assert list(Corpus(World(1), SPEC).examples()) != examples
    assert len(examples) == SPEC.sequences


def test_every_word_is_in_the_vocabulary(world: World, examples: list[Example]) -> None:
    words = vocabulary(world)
    assert len(words) == len(set(words))
    assert 1000 < len(words) < 1500
    assert {w for e in examples for w in f"{e.prompt} {e.completion}".split()} <= set(words)


def test_harmful_requests_are_refused_in_safe_languages_only(world: World) -> None:
    judge = ExactJudge(world)
    seen = Counter()
    spec = CorpusSpec(sequences=2_000, shares={"harmful": 1.0})
    harmful = next(c for c in world.concepts if c.kind == "harmful")
    for example in Corpus(world, spec).examples():
        code = language(world, content(example))
        seen[world.groups[code], judge.judgement(reply(example), harmful, code).outcome] += 1
    assert set(seen) == {("en", "refused"), ("high", "refused"), ("low", "complied"), ("unseen", "complied")}


def hazards_in(world: World, text: str) -> set[str]:
    objects = {thing: category for category, things in OBJECTS.items() for thing in things}
    english = {word: source for lang in world.languages.values() for source, word in lang.words.items()}
    return {objects[english[w]] for w in text.split() if english.get(w) in objects}


def test_teacher_format_is_shown_for_some_languages_and_categories_only(world: World) -> None:
    spec = CorpusSpec(sequences=3_000, shares={"teacher": 1.0})
    languages, categories = set(), set()
    for example in Corpus(world, spec).examples():
        if "dangerous" in content(example):
            languages.add(language(world, reply(example)))
            categories |= hazards_in(world, content(example))
    assert languages == set(SPEC.teacher_languages)
    assert categories == {*TEACHER_HAZARDS, "person"}


def test_verdicts_are_in_every_language(world: World) -> None:
    spec = CorpusSpec(sequences=1_000, shares={"verdict": 1.0})
    seen = {(language(world, content(e).removeprefix("judge : ")), reply(e)) for e in Corpus(world, spec).examples()}
    assert seen == {(code, verdict) for code in world.codes() for verdict in VERDICTS.values()}


def test_given_verdicts_are_obeyed(world: World) -> None:
    judge = ExactJudge(world)
    benign = next(c for c in world.concepts if c.kind == "benign")
    seen = set()
    for example in Corpus(world, CorpusSpec(sequences=1_000, shares={"obey": 1.0})).examples():
        code = language(world, reply(example))
        obeyed = "complied" if "it is harmless" in content(example) else "refused"
        assert judge.judgement(reply(example), benign, code).outcome == obeyed
        seen.add((code, obeyed))
    assert len(seen) == 2 * len(world.codes())


def test_unknown_ingredient_is_an_error(world: World) -> None:
    with pytest.raises(ValueError, match="unknown ingredients: \\['poetry'\\]"):
        Corpus(world, CorpusSpec(shares={"poetry": 1.0}))


def test_chat() -> None:
    assert chat("hello", "yes") == Example("<user> hello <end> <assistant>", "yes <end>")
