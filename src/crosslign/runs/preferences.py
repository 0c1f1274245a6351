"""Preference pairs of a recipe's queries: both answers of the frozen model, judged by the gate's code, and chosen.

`crosslign preferences` writes them for other trainers, of all rows: no gate is run, so also of those that `gate.drop`
would leave out. The methods that learn from pairs make theirs, in the same way, of the rows that the gate has left.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from crosslign.baselines import Preference
from crosslign.baselines.preferences import (
    Choice,
    Counts,
    check_counts,
    choices,
    counted,
    counts_text,
    without_harmless,
)
from crosslign.models import load_model
from crosslign.ownership import check_output_folder, read_mark
from crosslign.runs.build import Distillation, assemble
from crosslign.runs.config import JudgeConfig, RunConfig
from crosslign.runs.evaluate import checked_judges
from crosslign.runs.gate.measure import Writing, measure
from crosslign.runs.gate.rates import Pair
from crosslign.runs.gate.report import proxy_note
from crosslign.runs.prepare import PreparedRun, describe_tables, prepare, trained_queries
from crosslign.storage import Row, line_of, versions, write_atomically
from crosslign.types import Announce, Completion, Context, CrosslignError, Query, Role, silent

RECORD, PAIRS = "preferences.json", "preferences.jsonl"
SCHEMA_VERSION = 1
Format = Literal["trl", "ms-swift"]
FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True, slots=True)
class Written:
    """An answer, as tokens and as text."""

    completion: Completion
    text: str


@dataclass(frozen=True)
class JudgedPair:
    """A query's two answers with their contexts, what was chosen, and the teacher's answer that it borrows."""

    pair: Pair
    choice: Choice
    contexts: dict[Role, Context]
    answers: dict[Role, Written]
    borrowed: Written | None

    @property
    def chosen_and_rejected(self) -> tuple[Written, Written] | None:
        chosen = self.choice.chosen
        if chosen is None:
            return None
        other: Role = "student" if chosen == "teacher" else "teacher"
        return self.answers[chosen], self.borrowed or self.answers[other]

    @property
    def preference(self) -> Preference | None:
        found = self.chosen_and_rejected
        return None if found is None else Preference(self.pair.query, *(answer.completion for answer in found))


def judged_pairs(run: PreparedRun, made: Distillation, queries: Sequence[Query]) -> list[JudgedPair]:
    """Both answers to each query, as the gate samples and judges them, and which is better."""
    assert run.gate_judge is not None
    pairs = measure(run, made, {run.contexts.template.name: run.contexts}, queries, run.gate_judge)
    (found,) = pairs.values()
    contexts: dict[Role, list[Context]] = {
        "student": [run.contexts.student(pair.query) for pair in found],
        "teacher": [run.contexts.teacher(pair.query, pair.judgement) for pair in found],
    }
    writing = Writing(run, made)
    # The cache has them: they were judged a moment ago.
    completions = {role: writing.sample(contexts[role], role) for role in contexts}
    answers: list[dict[Role, Written]] = [
        {
            "student": Written(completions["student"][i], pair.student.completion),
            "teacher": Written(completions["teacher"][i], pair.teacher.completion),
        }
        for i, pair in enumerate(found)
    ]
    return [
        JudgedPair(
            pair,
            choice,
            {role: contexts[role][i] for role in contexts},
            answers[i],
            None if choice.lender is None else answers[choice.lender]["teacher"],
        )
        for i, (pair, choice) in enumerate(zip(found, choices([(p.student, p.teacher) for p in found]), strict=True))
    ]


def checked_counts(run: PreparedRun, pairs: Sequence[JudgedPair], announce: Announce) -> Counts:
    """How many pairs there are, by language, which is announced with who has judged.

    Raises CrosslignError as `check_counts` does.
    """
    assert run.gate_judge is not None
    counts = counted(((p.pair.student, p.choice) for p in pairs), run.languages)
    announce(f"pairs, by the judge {run.gate_judge.name}:\n{counts_text(counts)}")
    if note := proxy_note(run.gate_judge.identity()):
        announce(note)
    if safe := check_counts(counts, run.config.data.source_language):
        announce(f"no pair of harmful queries, since the model is safe there already: {', '.join(safe)}")
    if alone := without_harmless(counts):
        announce(
            f"no pair of harmless queries in {', '.join(alone)}: what learns there sees only which answer to a harmful "
            "one is better, often a refusal. Add harmless queries, such as builtin:benign."
        )
    return counts


@dataclass(frozen=True)
class PreferencesRequest:
    """What `crosslign preferences` was asked for; `judge` None: the one of the recipe's gate."""

    out: Path
    format: Format = "trl"
    judge: JudgeConfig | None = None
    overwrite: bool = False


def write_preferences(config: RunConfig, request: PreferencesRequest, announce: Announce = silent) -> dict[str, Any]:
    """Sample, judge, choose; write `preferences.jsonl` and `preferences.json`, and return what the latter holds.

    All is checked before weights are loaded. What was sampled stays in the cache, so an interrupted call goes on there.

    Raises CrosslignError for a language without a pair, after announcing the counts.
    """
    check_output_folder(request.out, "preferences", read_mark(request.out / RECORD).get("kind") == "preferences")
    present = [name for name in (RECORD, PAIRS) if (request.out / name).exists()]
    if present and not request.overwrite:
        raise CrosslignError(
            f"--out: {request.out} holds {' and '.join(present)} already. Use another folder, or replace it with "
            "--overwrite."
        )
    section = request.judge or (config.gate.judge if config.gate is not None else JudgeConfig())
    (judge,) = checked_judges(section, "--judge", tested=[config.model.path], only=1)
    run = prepare(config.model_copy(update={"gate": None, "evaluation": None}), check_folder=False)
    run.gate_judge = judge
    if request.format == "ms-swift":
        _check_one_turn(run)
    announce(f"loading {run.source.path}")
    made = assemble(run, load_model(run.source, device=run.arguments.device.type))
    try:
        pairs = judged_pairs(run, made, trained_queries(run.tables, run.languages))
    finally:
        made.close(announce)
    counts = checked_counts(run, pairs, announce)
    rows = [_FORMATS[request.format](pair, *found) for pair in pairs if (found := pair.chosen_and_rejected)]
    record = {
        "schema_version": SCHEMA_VERSION,
        "kind": "preferences",
        "model": {"path": run.source.path, "revision": run.source.revision},
        "teacher_fingerprint": made.teacher.fingerprint,
        "data": describe_tables(run.tables),
        "template": run.contexts.template.name,
        "judge": {"name": judge.name, **judge.identity()},
        "sampling": config.sampling.model_dump(exclude={"batch_size"}),
        "seed": config.seed,
        "format": request.format,
        "pairs": len(rows),
        "counts": counts,
        "versions": versions(),
    }
    # The record first: it is what makes the folder ours, if no more comes to be written. No older pairs beside it.
    (request.out / PAIRS).unlink(missing_ok=True)
    write_atomically(request.out / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    write_atomically(request.out / PAIRS, "".join(map(line_of, rows)))
    return record


def _check_one_turn(run: PreparedRun) -> None:
    for template in (run.contexts.template, *run.contexts.own.values()):
        if sum(message.role != "system" for message in template.messages) > 1:
            raise CrosslignError(
                f"--format ms-swift: the teacher template {template.name!r} is a dialogue, and "
                "`teacher_prompt` holds one turn. Use a template of one turn (--teacher.template instruct), or "
                "--format trl."
            )


def _about(pair: JudgedPair) -> Row:
    query = pair.pair.query
    about = {"id": query.id, "language": query.language, "label": query.label, "chosen_by": pair.choice.chosen}
    return {**about, "borrowed": pair.borrowed is not None}


def _chat(context: Context) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in context.messages]


def _trl(pair: JudgedPair, chosen: Written, rejected: Written) -> Row:
    """TRL's conversational preference format."""
    return {
        "prompt": _chat(pair.contexts["student"]),
        "chosen": [{"role": "assistant", "content": chosen.text}],
        "rejected": [{"role": "assistant", "content": rejected.text}],
        **_about(pair),
    }


def _ms_swift(pair: JudgedPair, chosen: Written, rejected: Written) -> Row:
    """ms-swift's `messages`, `rejected_response`, and `teacher_prompt`: what the teacher sees in the last turn's
    place, an instruction of the teacher's alone before it."""
    *before, last = pair.contexts["teacher"].messages
    instructions = [message.content for message in before if message not in pair.contexts["student"].messages]
    return {
        "messages": [*_chat(pair.contexts["student"]), {"role": "assistant", "content": chosen.text}],
        "rejected_response": rejected.text,
        "teacher_prompt": "\n\n".join([*instructions, last.content]),
        **_about(pair),
    }


_FORMATS: dict[Format, Callable[[JudgedPair, Written, Written], Row]] = {"trl": _trl, "ms-swift": _ms_swift}
