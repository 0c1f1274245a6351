"""The judge protocol: queries with completions in, verdicts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from crosslign.types import CrosslignError, JudgeItem, Verdict


@runtime_checkable
class Judge(Protocol):
    """Judges completions; the one contract that all judges keep (`tests/contracts`).

    One verdict for each item, in the items' order, whatever the texts hold (nothing at all, NUL bytes, lone
    surrogates, a judge's own verdict line); the same items give the same verdicts; a judge that cannot decide abstains
    with a reason and never guesses. Completions are data: a judge never follows what they say.

    A judge that knows languages which no library knows may have an attribute `fidelity` (`evaluation.fidelity`): where
    it judges first, that says which language a completion is in. One that holds much memory may have a method `release`
    that lets go of it; it is called once there is nothing more to judge.
    """

    name: str

    def identity(self) -> Mapping[str, str]:
        """All that defines the verdicts (kind, template hash, model, revision, ...): it goes into the results, and a
        verdict that was made under another identity is made again."""
        ...

    def judge(self, items: Sequence[JudgeItem]) -> list[Verdict]: ...


def ask(judge: Judge, items: Sequence[JudgeItem]) -> list[Verdict]:
    """A judge's verdicts. Raises CrosslignError if there is not one for each item: they would be taken for others'."""
    verdicts = judge.judge(items)
    if len(verdicts) != len(items):
        raise CrosslignError(
            f"judge {judge.name!r}: gave {len(verdicts)} verdicts for {len(items)} items. Its `judge` must return one "
            "verdict for each item, in their order."
        )
    return verdicts


def release(judge: Judge | None) -> None:
    """Let a judge go of the memory that it holds, if it holds any (`release`); it takes it again when it is asked."""
    if (let_go := getattr(judge, "release", None)) is not None:
        let_go()
