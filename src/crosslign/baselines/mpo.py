"""Multilingual reward-gap optimization (MPO): the gap of a target language is moved to that of the source language.

    gap_S(x)   = mean(w | x) - mean(l | x)                 of the student, in the target language
    gap_0(x*)  = mean(w* | x*) - mean(l* | x*)             of the frozen model, in the source language
    loss = (beta gap_S(x) - gap_0(x*))^2 + |h_S(x*) - h_0(x*)|^2 / H

with mean(y | x) = log p(y | x) / |y|; (w*, l*) the same pair of answers in the source language; h the mean of the last
hidden states on the source-language pair. The second term keeps the source language as it was.

Zhao et al. 2025, MPO: Multilingual Safety Alignment via Reward Gap Optimization, arXiv 2505.16869, and its published
code, from which are: likelihoods divided by length, beta = 1.5 (Qwen2.5), both terms weighted alike, the mean over
positions in h. There the pairs are a safe and an unsafe answer, translated from the source language by another system,
all weights are trained (learning rate 6e-7, 2 epochs), and h is a mean over the prompt and the padding of the batch
too. Here the pairs are those of `baselines.preferences`, of harmless queries too, both answers are said again in the
source language by a translator or by the model itself (`baselines.again`), and h is a mean over the answer's tokens,
which padding does not change. A model that refuses to repeat an unsafe answer makes the source's gap smaller than it
is: how much that costs is not known. Of harmless queries the source's gap may favour the refusal, which is short and
likely: a 0.5B model then refused nearly everything (benchmarks/real.md). A pair of which one comes out empty, or both
alike, says nothing of the source language, and is left out. So are the source language's own queries: there the first
term would move the student's gap to the frozen one's 1 / beta, away from where it is.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from crosslign.baselines import losses
from crosslign.baselines.again import SaysAgain, fitting, source_query, text_of
from crosslign.baselines.base import Answer, Example, Material, registry
from crosslign.baselines.preference import CHOSEN, REJECTED, check_numbers
from crosslign.baselines.trainer import ExampleMethod, Scores
from crosslign.types import Completion, CrosslignError, Query

logger = logging.getLogger(__name__)

SOURCE = slice(2, 4)  # answers: chosen, rejected, and both in the source language


@registry.register("mpo")
@dataclass(frozen=True)
class Mpo(SaysAgain, ExampleMethod):
    """See the module. `retention` weighs the second term; 0 leaves it out."""

    beta: float = 1.5
    retention: float = 1.0
    to_source = True
    judged = True
    hidden = True
    about = "multilingual reward-gap optimization (MPO) on pairs of the frozen model's own answers"

    def __post_init__(self) -> None:
        check_numbers(beta=self.beta)
        check_numbers(zero=True, retention=self.retention)

    def examples(self, material: Material) -> Sequence[Example]:
        pairs = [p for p in material.preferences() if p.query.language != p.query.source_language]
        source: dict[str, list[Completion]] = {}  # chosen and rejected in the source language, where they can be said
        queries = [p.query for p in pairs]
        codes = [query.source_language for query in queries]
        for kind, answers in (("chosen", [p.chosen for p in pairs]), ("rejected", [p.rejected for p in pairs])):
            made = self.said_again(material, queries, answers, codes, f"{kind} answers in the source language")
            for i, completion in made.items():
                source.setdefault(queries[i].key, []).append(completion)
        source = {key: pair for key, pair in source.items() if _differ([text_of(material, c) for c in pair])}
        _check_said(queries, source)
        found = []
        for p in pairs:
            own, english = (fitting(partial(material.contexts.student, q)) for q in (p.query, source_query(p.query)))
            if own is not None and english is not None and p.query.key in source:
                rows = [(own, c) for c in (p.chosen, p.rejected)] + [(english, c) for c in source[p.query.key]]
                found.append(Example(p.query, tuple(Answer(x.token_ids, c.token_ids) for x, c in rows)))
        return found

    def loss(self, scores: Scores) -> Tensor:
        assert scores.frozen_log_probs is not None
        assert scores.states is not None
        assert scores.frozen_states is not None
        means = scores.means
        frozen = (scores.frozen_log_probs / scores.lengths)[:, SOURCE]
        gap = losses.reward_gap(means[:, CHOSEN] - means[:, REJECTED], frozen[:, 0] - frozen[:, 1], self.beta)
        return gap + self.retention * losses.retention(scores.states[:, SOURCE], scores.frozen_states[:, SOURCE])


def _check_said(queries: Sequence[Query], source: Collection[str]) -> None:
    """Say of which pairs there is none in the source language, by language and label; `source` has the keys of those
    that are there. Raises CrosslignError if a language has lost all pairs of a label."""
    had = Counter((query.language, query.label) for query in queries)
    left = Counter((query.language, query.label) for query in queries if query.key in source)
    lost = [
        f"{language} {label} {n - left[language, label]} of {n}"
        for (language, label), n in had.items()
        if left[language, label] < n
    ]
    if not lost:
        return
    said = f"said again in {queries[0].source_language}, an answer is empty or too long, or both are alike"
    if gone := [f"{language} {label}" for language, label in had if not left[language, label]]:
        raise CrosslignError(
            f"method mpo: no pair is left in {', '.join(gone)}: {said}. Take another method, another model, or leave "
            "these queries out."
        )
    logger.warning("mpo: pairs are left out (%s): %s.", ", ".join(lost), said)


def _differ(pair: Sequence[str]) -> bool:
    """Whether both answers are there, and are two."""
    return len(pair) == 2 and pair[0] != pair[1]
