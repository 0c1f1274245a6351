"""The testbed's judge by name, for commands that name judges; apart from it, since the registry asks for torch."""

from __future__ import annotations

from crosslign.evaluation.judges.registry import registry
from crosslign.testbed.judge import ExactJudge
from crosslign.testbed.world import World

POLITE = "polite-"


@registry.register("testbed")
def of_seed(argument: str = "0") -> ExactJudge:
    """The judge `testbed:SEED`, of the world with this seed; `testbed:polite-SEED`, of the one with long replies.

    Raises ValueError for what is no number.
    """
    return ExactJudge(World(seed=int(argument.removeprefix(POLITE)), polite=argument.startswith(POLITE)))
