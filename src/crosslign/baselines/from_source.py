"""Supervised methods whose answers come from the source language, where the model is safe already.

Data: the frozen model's own answer to the source-language query, said again in the query's language by a translator or,
so that no method sees more than another, by the model itself (`baselines.again`). Both papers used a translation
system, and answers of other models in places. A language that the model cannot write is not learned so: what comes out
empty is left out, and counted in a warning.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from crosslign.baselines.again import SaysAgain, source_query, written
from crosslign.baselines.base import Example, Material, registry
from crosslign.baselines.supervised import Supervised, answered
from crosslign.evaluation.rates import SAFE
from crosslign.types import Completion, Query

logger = logging.getLogger(__name__)


class FromSource(SaysAgain, Supervised):
    """What these methods share; `fit` says which answers are learned from."""

    def fit(self, material: Material, asked: Sequence[Query], answers: Sequence[Completion]) -> Sequence[bool]:
        return [True] * len(asked)

    def examples(self, material: Material) -> Sequence[Example]:
        asked = list({query.id: source_query(query) for query in material.queries}.values())
        contexts = [partial(material.contexts.student, query) for query in asked]
        made = written(material, contexts, "answers in the source language")
        asked = [asked[i] for i in made]
        fit = self.fit(material, asked, list(made.values()))
        own = {query.id: answer for query, answer, good in zip(asked, made.values(), fit, strict=True) if good}
        kept = [query for query in material.queries if query.id in own]
        others = [query for query in kept if query.language != query.source_language]
        again = self.said_again(
            material,
            [source_query(query) for query in others],
            [own[query.id] for query in others],
            [query.language for query in others],
            "the same in the query's language",
        )
        _tell_lost(others, again)
        answers = {query.key: own[query.id] for query in kept if query.language == query.source_language}
        answers |= {others[i].key: completion for i, completion in again.items()}
        return [answered(material, query, answers[query.key]) for query in kept if query.key in answers]


def _tell_lost(queries: Sequence[Query], again: Collection[int]) -> None:
    """Say in which languages answers could not be said again; `again` has the indices of those that could."""
    had = Counter(query.language for query in queries)
    left = Counter(queries[i].language for i in again)
    if lost := [f"{language} {n - left[language]} of {n}" for language, n in had.items() if left[language] < n]:
        said = "said again in the query's language, they are empty or too long"
        logger.warning("answers are left out (%s): %s.", ", ".join(lost), said)


@registry.register("sft_source")
@dataclass(frozen=True)
class SourceAnswers(FromSource):
    """Self-distillation from resource-rich languages: the model's own source-language answer, whatever it is.

    Zhang et al. 2024, Enhancing Multilingual Capabilities of LLMs through Self-Distillation from Resource-Rich
    Languages (SDRRL), arXiv 2402.12204. Of it the idea alone: code-switching and its external parallel texts are left
    out.
    """

    about = "supervised fine-tuning on the frozen model's own source-language answers, said again in the language"


@registry.register("self_defence")
@dataclass(frozen=True)
class SelfDefence(FromSource):
    """Self-Defence: safe answers to harmful source-language queries and helpful ones to benign queries, translated.

    The source-language pairs themselves are learned if `data.languages` has the source language.

    Deng et al. 2023, Multilingual Jailbreak Challenges in Large Language Models, arXiv 2310.06474, section 4. There the
    model writes the queries too; here they are those of the tables. How many pairs of which kind was best is not known.
    """

    judged = True
    about = "supervised fine-tuning on the frozen model's safe source-language answers, said again in the language"

    def fit(self, material: Material, asked: Sequence[Query], answers: Sequence[Completion]) -> Sequence[bool]:
        good = {"benign": ("safe_complied",)}
        return [row.verdict.outcome in good.get(row.query.label, SAFE) for row in material.judge(asked, answers)]
