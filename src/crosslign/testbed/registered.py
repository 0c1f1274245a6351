"""The testbed's judge and translator by name, for commands that name one; apart, since registries ask for torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import product

from crosslign.evaluation.judges.registry import registry
from crosslign.storage import digest
from crosslign.testbed.judge import ExactJudge
from crosslign.testbed.world import MATERIALS, PLACES, REASONS, TOOLS, World
from crosslign.translation import ScriptedTranslator, translators

POLITE = "polite-"


@registry.register("testbed")
def of_seed(argument: str = "0") -> ExactJudge:
    """The judge `testbed:SEED`, of the world with this seed; `testbed:polite-SEED`, of the one with long replies.

    Raises ValueError for what is no number.
    """
    return ExactJudge(_world(argument))


@translators.register("testbed")
def translator_of_seed(argument: str = "0") -> ScriptedTranslator:
    """The translator `testbed:SEED`: every refusal and answer of that world, true or not; it has none of other texts.

    Raises ValueError for what is no number.
    """
    world = _world(argument)

    @lru_cache
    def known(source: str, target: str) -> Mapping[str, str]:
        pairs = [[world.refusal(reason, code) for code in (source, target)] for reason in REASONS]
        facts = product(TOOLS, MATERIALS, PLACES)
        pairs += [[world.answer(*fact, code) for code in (source, target)] for fact in facts]
        return dict(pairs)

    return ScriptedTranslator(
        lambda text, source, target: known(source, target)[" ".join(text.split())],
        targets=world.codes(),
        identity={"world": digest(repr(world))},
    )


def _world(argument: str) -> World:
    return World(seed=int(argument.removeprefix(POLITE)), polite=argument.startswith(POLITE))
