"""Methods that learn from pairs of answers; `baselines.preferences` says which answer of a query is the better one.

Data: a query as a user sends it, with the chosen and the rejected answer, both written by the frozen model itself.
Equations and sources are those of `baselines.losses`. TRL has DPO, robust DPO and KTO in its stable part and the others
not at all or in `trl.experimental`, so all of them are rows of one trainer here. Slow tests compare the first two
with TRL's.

Not known: what a paper on multilingual safety chose for these options, where it compares with such a method. The
defaults are the methods' own; learning rate and steps are the recipe's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from crosslign.baselines import losses
from crosslign.baselines.base import Answer, Example, Material, registry
from crosslign.baselines.trainer import ExampleMethod, Scores

_PAIRS = "pairs of the frozen model's own answers, the safe one of the teacher's context chosen"
CHOSEN, REJECTED, UNRELATED = range(3)


def check_numbers(most: float = 1e6, *, zero: bool = False, **values: float) -> None:
    """Raise ValueError for one that is no number from 0 to below `most`; 0 itself only where `zero` says so."""
    for name, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not (0 < value < most or (zero and value == 0)):
            least = "from 0" if zero else "above 0"
            raise ValueError(f"{name} must be a number {least} to below {most:g}, not {value!r}")


class Pairwise(ExampleMethod):
    """What these methods share: the data."""

    judged = True

    def examples(self, material: Material) -> Sequence[Example]:
        return paired(material)


def paired(material: Material) -> list[Example]:
    """Chosen and rejected answer of each query that has them."""
    found = []
    for preference in material.preferences():
        prompt = material.contexts.student(preference.query).token_ids
        completions = (preference.chosen, preference.rejected)
        found.append(Example(preference.query, tuple(Answer(prompt, c.token_ids) for c in completions)))
    return found


def _unrelated(pairs: Sequence[Example]) -> list[Example]:
    """For each pair the next one of another query, in the same language if there is one; the last are followed by the
    first. One query alone has no other: then it is the pair itself."""
    by_language: dict[str, list[int]] = {}
    for place, pair in enumerate(pairs):
        by_language.setdefault(pair.query.language, []).append(place)

    def other(place: int) -> int:
        own = by_language[pairs[place].query.language]
        for places in (own, range(len(pairs))):
            later = [n for n in places if n > place] + [n for n in places if n < place]
            found = next((n for n in later if pairs[n].query.id != pairs[place].query.id), None)
            if found is not None:
                return found
        return place

    return [pairs[other(place)] for place in range(len(pairs))]


@registry.register("dpo")
@dataclass(frozen=True)
class Dpo(Pairwise):
    """Direct Preference Optimization: `losses.dpo`. `beta` as in its paper's experiments on dialogue."""

    beta: float = 0.1
    about = f"direct preference optimization (DPO) on {_PAIRS}"

    def __post_init__(self) -> None:
        check_numbers(beta=self.beta)

    def loss(self, scores: Scores) -> Tensor:
        ratios = scores.ratios
        return losses.dpo(ratios[:, CHOSEN], ratios[:, REJECTED], self.beta)


@registry.register("rdpo")
@dataclass(frozen=True)
class RobustDpo(Pairwise):
    """Robust DPO: `losses.robust_dpo`. `flipped` is the share of pairs that the judge has the wrong way round."""

    beta: float = 0.1
    flipped: float = 0.1
    about = f"robust direct preference optimization on {_PAIRS}"

    def __post_init__(self) -> None:
        check_numbers(beta=self.beta)
        check_numbers(0.5, zero=True, flipped=self.flipped)

    def loss(self, scores: Scores) -> Tensor:
        ratios = scores.ratios
        return losses.robust_dpo(ratios[:, CHOSEN], ratios[:, REJECTED], self.beta, self.flipped)


@registry.register("r_dpo")
@dataclass(frozen=True)
class LengthRegularisedDpo(Pairwise):
    """Length-regularised DPO: `losses.length_regularised_dpo`. `alpha` is a token's price; its paper tried several."""

    beta: float = 0.1
    alpha: float = 0.01
    about = f"length-regularised direct preference optimization on {_PAIRS}"

    def __post_init__(self) -> None:
        check_numbers(beta=self.beta)
        check_numbers(zero=True, alpha=self.alpha)

    def loss(self, scores: Scores) -> Tensor:
        ratios = scores.ratios
        longer = (scores.lengths[:, CHOSEN] - scores.lengths[:, REJECTED]).float()
        return losses.length_regularised_dpo(ratios[:, CHOSEN], ratios[:, REJECTED], longer, self.beta, self.alpha)


@registry.register("orpo")
@dataclass(frozen=True)
class Orpo(Pairwise):
    """Odds-ratio preference optimization: `losses.orpo`. `weight` as in its paper's runs with Mistral-7B."""

    weight: float = 0.1
    reference = False
    about = f"odds-ratio preference optimization (ORPO) on {_PAIRS}"

    def __post_init__(self) -> None:
        check_numbers(weight=self.weight)

    def loss(self, scores: Scores) -> Tensor:
        means = scores.means
        return losses.orpo(means[:, CHOSEN], means[:, REJECTED], self.weight)


@registry.register("simpo")
@dataclass(frozen=True)
class Simpo(Pairwise):
    """Simple preference optimization: `losses.simpo`. Its paper searched `beta` from 2, `margin` from 0.3 to 1.6."""

    beta: float = 2.0
    margin: float = 1.0
    reference = False
    about = f"simple preference optimization (SimPO) on {_PAIRS}"

    def __post_init__(self) -> None:
        check_numbers(beta=self.beta)
        check_numbers(zero=True, margin=self.margin)

    def loss(self, scores: Scores) -> Tensor:
        means = scores.means
        return losses.simpo(means[:, CHOSEN], means[:, REJECTED], self.beta, self.margin)


@registry.register("kto")
@dataclass(frozen=True)
class Kto(Pairwise):
    """Kahneman-Tversky optimization: `losses.kto`, each pair taken apart into a good and a bad answer.

    The unrelated answer of a query is the chosen one of another query's pair, the next in the same language if there is
    one. The reference point is a micro-batch's mean, so a step depends a little on how its window is cut into
    micro-batches, as in TRL.
    """

    beta: float = 0.1
    desirable: float = 1.0
    undesirable: float = 1.0
    about = f"Kahneman-Tversky optimization (KTO) on {_PAIRS}"

    def __post_init__(self) -> None:
        check_numbers(beta=self.beta, desirable=self.desirable, undesirable=self.undesirable)

    def examples(self, material: Material) -> Sequence[Example]:
        pairs = paired(material)
        return [
            Example(p.query, (*p.answers, Answer(p.answers[CHOSEN].prompt, other.answers[CHOSEN].completion)))
            for p, other in zip(pairs, _unrelated(pairs), strict=True)
        ]

    def loss(self, scores: Scores) -> Tensor:
        ratios = scores.ratios
        return losses.kto(
            ratios[:, CHOSEN], ratios[:, REJECTED], ratios[:, UNRELATED], self.beta, self.desirable, self.undesirable
        )
