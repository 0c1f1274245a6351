"""What a model has said, said again in another language: by the model itself, or by a translator that a user names."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from crosslign.baselines.base import Material
from crosslign.contexts import ContextOverflow
from crosslign.languages import english_name
from crosslign.types import Completion, Context, Message, Query

AGAIN = "Give the same answer again, in {language}. Write nothing but the answer."


@dataclass(frozen=True, kw_only=True)
class SaysAgain:
    """What methods share that need an answer in another language too.

    `translator` as `crosslign translate` names them, "" for the model itself; `translator_url` of an endpoint;
    `to_source`: from the query's language to the source language, or the other way.
    """

    translator: str = ""
    translator_url: str | None = None
    to_source: ClassVar[bool] = False

    def directions(self, languages: Sequence[str], source: str) -> list[tuple[str, str]]:
        """From which language to which answers are said again."""
        pairs = [(source, language) for language in languages if language != source]
        return [(b, a) for a, b in pairs] if self.to_source else pairs

    def said_again(
        self,
        material: Material,
        queries: Sequence[Query],
        answers: Sequence[Completion],
        languages: Sequence[str],
        what: str,
    ) -> dict[int, Completion]:
        """Each answer to its query, in its language, by its index. One that is too long, or that comes out empty, is
        missing: nothing is learned from silence."""
        if not self.translator:
            return said_again(material, queries, answers, languages, what)
        groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for i, (query, language) in enumerate(zip(queries, languages, strict=True)):
            groups[query.language, language].append(i)
        made: dict[int, Completion] = {}
        for (source, target), rows in groups.items():
            translated = material.translate([answers[i] for i in rows], source, target)
            made |= {i: completion for i, completion in zip(rows, translated, strict=True) if completion is not None}
        return made


def source_query(query: Query) -> Query:
    """The source-language version of a query, as a query of its own."""
    return dataclasses.replace(query, language=query.source_language, text=query.source_text)


def text_of(material: Material, completion: Completion) -> str:
    text: str = material.contexts.tokenizer.decode(list(completion.token_ids), skip_special_tokens=True)
    return text.strip()


def fitting(make: Callable[[], Context]) -> Context | None:
    """The context that is made, or None where it is too long."""
    try:
        return make()
    except ContextOverflow:
        return None


def written(material: Material, contexts: Iterable[Callable[[], Context]], what: str) -> dict[int, Completion]:
    """The frozen model's completion of each context, by its index; one that is too long is missing."""
    made = {i: context for i, make in enumerate(contexts) if (context := fitting(make)) is not None}
    return dict(zip(made, material.write(list(made.values()), what), strict=True))


def said_again(
    material: Material, queries: Sequence[Query], answers: Sequence[Completion], languages: Sequence[str], what: str
) -> dict[int, Completion]:
    """What the model says that sees the query, its answer as its own turn, and `AGAIN`; see `SaysAgain.said_again`."""

    def context(query: Query, answer: Completion, language: str) -> Context:
        asked = dataclasses.replace(query, text=AGAIN.format(language=english_name(language)))
        said = material.contexts.without_marks(text_of(material, answer))
        return material.contexts.student(asked, (Message("user", query.text), Message("assistant", said)))

    rows = zip(queries, answers, languages, strict=True)
    made = written(material, [partial(context, *row) for row in rows], what)
    return {i: completion for i, completion in made.items() if text_of(material, completion)}
