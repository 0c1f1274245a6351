"""What a model has said, said again in another language by the model itself: no translator, no other model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from crosslign.baselines.base import Material
from crosslign.contexts import ContextOverflow
from crosslign.languages import english_name
from crosslign.types import Completion, Context, Message, Query

AGAIN = "Give the same answer again, in {language}. Write nothing but the answer."


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
    """Each answer to its query, in its language, by its index; one whose context is too long, or that comes out empty,
    is missing: nothing is learned from silence.

    The model sees the query, its answer as its own turn, and `AGAIN`.
    """

    def context(query: Query, answer: Completion, language: str) -> Context:
        asked = dataclasses.replace(query, text=AGAIN.format(language=english_name(language)))
        said = material.contexts.without_marks(text_of(material, answer))
        return material.contexts.student(asked, (Message("user", query.text), Message("assistant", said)))

    rows = zip(queries, answers, languages, strict=True)
    made = written(material, [partial(context, *row) for row in rows], what)
    return {i: completion for i, completion in made.items() if text_of(material, completion)}
