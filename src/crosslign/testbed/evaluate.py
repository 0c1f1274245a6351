"""What a model answers in each language, before, with the teacher's context and after; judged exactly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from crosslign.contexts import ContextBuilder
from crosslign.rollouts import SamplingParameters, sampler_of
from crosslign.testbed.judge import ExactJudge, Judgement, rates
from crosslign.testbed.tables import SETS, SetName, Tables
from crosslign.testbed.world import GROUPS, Group
from crosslign.types import Query, Role

MAX_COMPLETION_LENGTH = 32  # the longest right answer has 6 words, a polite one 22, and then the turn ends
MAX_JUDGEMENT_LENGTH = 6
Rates = dict[str, float | int | None]


@dataclass(frozen=True, slots=True)
class Reply:
    """One evaluated query with its completion."""

    set: SetName
    group: Group
    query: Query
    completion: str
    judgement: Judgement
    truncated: bool = False


def evaluate(
    model: Any,
    contexts: ContextBuilder,
    tables: Tables,
    judge: ExactJudge,
    *,
    role: Role = "student",
    languages: Sequence[str] | None = None,
    sets: Sequence[SetName] = SETS,
    batch_size: int = 128,
) -> list[Reply]:
    """Greedy completions of the evaluation sets in the given languages (None: all), judged.

    With the role "teacher" the model writes its judgement first and answers from the teacher's context.
    """
    codes = tables.world.codes() if languages is None else languages
    items = [
        (name, row.request.concept, tables.query(row, code))
        for name in sets
        for row in tables.evaluation[name]
        for code in codes
    ]
    complete = _completer(model, contexts.tokenizer, batch_size)
    queries = [query for _, _, query in items]
    if role == "student":
        prompts = [contexts.student(q) for q in queries]
    else:
        judgements = complete([contexts.judgement(q).token_ids for q in queries], MAX_JUDGEMENT_LENGTH)
        verdicts = [text for text, _ in judgements]
        prompts = [contexts.teacher(q, v) for q, v in zip(queries, verdicts, strict=True)]
    completions = complete([p.token_ids for p in prompts], MAX_COMPLETION_LENGTH)
    return [
        Reply(name, tables.world.groups[q.language], q, text, judge.judgement(text, concept, q.language), truncated)
        for (name, concept, q), (text, truncated) in zip(items, completions, strict=True)
    ]


def _completer(
    model: Any, tokenizer: Any, batch_size: int
) -> Callable[[Sequence[Sequence[int]], int], list[tuple[str, bool]]]:
    """Prompts and the longest completion -> text, and whether it was cut, of each."""
    sampler = sampler_of(model, tokenizer, batch_size)

    def complete(prompts: Sequence[Sequence[int]], length: int) -> list[tuple[str, bool]]:
        parameters = SamplingParameters(temperature=0, max_completion_length=length)
        unique = list(dict.fromkeys(map(tuple, prompts)))  # a judgement's prompt is the same for all languages of a row
        texts = {
            prompt: (tokenizer.decode(list(c.token_ids), skip_special_tokens=True).strip(), c.truncated)
            for prompt, c in zip(unique, sampler.sample(unique, parameters, seed=0), strict=True)
        }
        return [texts[tuple(p)] for p in prompts]

    return complete


def by_group(replies: Sequence[Reply]) -> dict[str, Rates]:
    """Group -> rates; harmful requests are those of the plain set (see `by_set` for the others)."""
    return {group: _rates([r for r in replies if r.group == group]) for group in GROUPS}


def by_language(replies: Sequence[Reply]) -> dict[str, Rates]:
    """Language -> rates, as in `by_group`."""
    codes = dict.fromkeys(r.query.language for r in replies)
    return {code: _rates([r for r in replies if r.query.language == code]) for code in codes}


def by_set(replies: Sequence[Reply]) -> dict[str, dict[str, Rates]]:
    """Set -> group -> rates on that set alone."""
    return {
        name: {
            group: _rates([r for r in replies if r.set == name and r.group == group], harmful=name) for group in GROUPS
        }
        for name in SETS
    }


def _rates(replies: Sequence[Reply], harmful: SetName = "harmful") -> Rates:
    kept: dict[str, list[Judgement]] = defaultdict(list)
    for reply in replies:
        if reply.set == harmful and reply.query.label == "harmful":
            kept["harmful"].append(reply.judgement)
        elif reply.query.label != "harmful":
            kept[reply.set].append(reply.judgement)
    return rates(kept)
