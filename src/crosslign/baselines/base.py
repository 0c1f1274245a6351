"""What a method is: the examples that it makes of a run's queries, and the trainer around them.

A package adds its own through an entry point `crosslign.methods` (see `crosslign.registry`), and a recipe then says
`method: {name: my_method, options: {...}}`. Most methods are an `ExampleMethod` (`baselines.trainer`): they say which
answers a query has, and give a loss of their likelihoods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from transformers import TrainerCallback, TrainingArguments

from crosslign.contexts import ContextBuilder
from crosslign.data.mixture import QueryMixture
from crosslign.distillation import RolloutCollector, RunTrainer, Scorer
from crosslign.distillation.run_trainer import Evaluator
from crosslign.evaluation.rates import JudgedRow
from crosslign.registry import Registry
from crosslign.types import Completion, Context, CrosslignError, Query, Rollout


@dataclass(frozen=True, slots=True)
class Answer:
    """Token ids of a prompt and of a completion of it, neither empty."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """What a method learns from one query: answers in the order in which its loss takes them."""

    query: Query
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers of the frozen model to one query, of which the judge's verdicts say which is better."""

    query: Query
    chosen: Completion
    rejected: Completion


class Material(Protocol):
    """What examples are made of: the run's queries, and the frozen model, which writes through the run's cache.

    `queries` are those that the run trains on, after the gate.
    """

    queries: Sequence[Query]
    contexts: ContextBuilder

    def write(self, contexts: Sequence[Context], what: str) -> list[Completion]:
        """Completions of the frozen model, in order, sampled as the recipe's `sampling` says."""
        ...

    def teacher(self) -> dict[str, Completion]:
        """The teacher's answer to each query, by `Query.key`: the one that the gate has judged, if it has tried it."""
        ...

    def translate(self, answers: Sequence[Completion], source: str, target: str) -> list[Completion | None]:
        """The answers in another language, by the translator that the method names; None where it gives nothing, or
        more tokens than `sampling.max_completion_length`."""
        ...

    def judge(self, queries: Sequence[Query], completions: Sequence[Completion]) -> list[JudgedRow]:
        """Verdicts of the run's judge, with the text of each completion."""
        ...

    def preferences(self) -> list[Preference]:
        """Of each query the student's and the teacher's answer, where one of them is surely better."""
        ...


@dataclass(frozen=True)
class Parts:
    """What a run gives to a method's trainer; see `RunTrainer`.

    Fields:
        on_rollouts, ahead: for a method that samples while it trains (`DistillationTrainer`).
    """

    student: Any
    arguments: TrainingArguments
    mixture: QueryMixture
    collector: RolloutCollector
    scorer: Scorer
    languages: Sequence[str]
    tokenizer: Any
    evaluator: Evaluator | None = None
    callbacks: Sequence[TrainerCallback] = ()
    on_rollouts: Callable[[int, list[Rollout]], None] | None = None
    ahead: bool = False

    def common(self) -> dict[str, Any]:
        """Arguments of every RunTrainer but model, arguments and metrics."""
        return {
            "mixture": self.mixture,
            "collector": self.collector,
            "scorer": self.scorer,
            "evaluator": self.evaluator,
            "processing_class": self.tokenizer,
            "callbacks": list(self.callbacks),
        }


@runtime_checkable
class Method(Protocol):
    """A way to train.

    Attributes:
        about: what it does, in a sentence for a model's card.
        judged: whether its examples need verdicts of a judge.
        sharded: whether it trains weights that lie in parts (FSDP, DeepSpeed).
    """

    about: str
    judged: bool
    sharded: bool

    def examples(self, material: Material) -> Sequence[Example] | None:
        """The examples, at most one a query; a query without one is not trained on. None: it makes what it needs while
        it trains, of all queries. Called once for a run: a resumed one reads what was found."""
        ...

    def trainer(self, parts: Parts, examples: Mapping[str, Example]) -> RunTrainer:
        """The trainer; `examples` by `Query.key`."""
        ...


registry = Registry("method", "crosslign.methods")
available = registry.names


def get(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """Make the method `name`.

    Raises CrosslignError for an unknown name, a package that is missing, an option that the method does not take, or
    something that is no method.
    """
    method = registry.make(name, options)
    if not isinstance(method, Method):
        raise CrosslignError(f"method {name!r}: its package makes a {type(method).__name__}, which is no method.")
    return method
