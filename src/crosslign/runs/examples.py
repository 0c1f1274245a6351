"""What a method learns from: made of the run's queries before training, kept in its folder, read by `--resume`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object

from crosslign.baselines import Answer, Example, Preference
from crosslign.baselines.again import text_of
from crosslign.evaluation.rates import JudgedRow
from crosslign.runs.build import Distillation
from crosslign.runs.folder import EXAMPLES, RECORD, RunFolder
from crosslign.runs.gate.measure import Answering, Writing
from crosslign.runs.preferences import checked_counts, judged_pairs
from crosslign.runs.prepare import PreparedRun, trained_queries, without
from crosslign.storage import Row, cache_folder, digest, key_of, read_rows
from crosslign.translation.cache import TranslationCache
from crosslign.translation.translate import translate_texts
from crosslign.types import Announce, Completion, Context, CrosslignError, Query, silent


@dataclass(frozen=True)
class Examples:
    """A method's examples by `Query.key`.

    Fields:
        record: for the entry `method` of run.json.
        rows: for examples.jsonl; their texts are a model's, untrusted.
    """

    by_key: Mapping[str, Example] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Row] = ()


class RunMaterial:
    """The run's queries, and its frozen model to write with; see `baselines.base.Material`."""

    def __init__(self, run: PreparedRun, made: Distillation, announce: Announce = silent) -> None:
        self.run, self.made, self.announce = run, made, announce
        self.queries: Sequence[Query] = trained_queries(run.tables, run.languages)
        self.contexts = run.contexts
        self._writing = Writing(run, made)

    def write(self, contexts: Sequence[Context], what: str) -> list[Completion]:
        return self._writing.sample(contexts, what)

    def teacher(self) -> dict[str, Completion]:
        judgements = self._writing.judgements(self.contexts, self.queries, "judgement")
        made = self._writing.teacher_contexts(self.contexts, self.queries, judgements)
        contexts = [context for context in made if context is not None]
        completions = self.write(contexts, "teacher")
        return {c.query.key: completion for c, completion in zip(contexts, completions, strict=True)}

    def translate(self, answers: Sequence[Completion], source: str, target: str) -> list[Completion | None]:
        translator, tokenizer = self.run.translator, self.run.tokenizer
        assert translator is not None  # made where the method names one
        cache = TranslationCache(cache_folder(self.run.config.cache_dir), translator)
        texts = [text_of(self, answer) for answer in answers]
        found = translate_texts([text for text in texts if text], source, target, translator, cache, self.announce)
        made: list[Completion | None] = []
        for answer, text in zip(answers, texts, strict=True):
            whole = text != "" and not found[text].error and not found[text].truncated
            said = found[text].text if whole else ""
            said = self.contexts.without_marks(said).strip()
            end = () if answer.truncated else answer.token_ids[-1:]
            ids = (*tokenizer(said, add_special_tokens=False)["input_ids"], *end)
            fits = len(ids) <= self.run.config.sampling.max_completion_length
            made.append(Completion(ids, answer.truncated) if said and fits else None)
        return made

    def judge(self, queries: Sequence[Query], completions: Sequence[Completion]) -> list[JudgedRow]:
        assert self.run.gate_judge is not None  # made where the method says that it needs one
        answering = Answering(self.run, self.made, self.run.gate_judge)
        return answering.judged(queries, completions, "answers")

    def preferences(self) -> list[Preference]:
        pairs = judged_pairs(self.run, self.made, self.queries)
        checked_counts(self.run, pairs, self.announce)
        return [pair.preference for pair in pairs if pair.preference is not None]


def collect_examples(run: PreparedRun, made: Distillation, announce: Announce = silent) -> tuple[PreparedRun, Examples]:
    """The examples of the run's method, and the run without the queries that have none.

    Nothing is written but the cache. A resumed run reads what it has found at its start. As at the gate, every process
    of a distributed run makes them, and the first one's hold for all.

    Raises CrosslignError if no query has an example, or the examples of a resumed run are not there any more.
    """
    name = run.config.method.name
    if run.checkpoint is not None:
        found: Sequence[Example] | None = _read(run)
    else:
        parts = [run.method.examples(RunMaterial(run, made, announce))]
        broadcast_object_list(parts)
        made.collector.teacher.cache.exchange(gather_object, writes=run.is_main)
        found = parts[0]
    if found is None:
        return run, Examples()
    if not found:
        raise CrosslignError(
            f"method {name!r} has found nothing to learn from in {len(trained_queries(run.tables, run.languages))} "
            "queries. Look at what student and teacher answer with `crosslign probe RECIPE --out DIR`."
        )
    by_key = {example.query.key: example for example in found}
    gone = [q.key for q in trained_queries(run.tables, run.languages) if q.key not in by_key]
    counts = Counter((e.query.language, e.query.label) for e in found)
    rows = [_row(example, run.tokenizer) for example in found]
    by_language: dict[str, dict[str, int]] = {}
    for (language, label), number in sorted(counts.items()):
        by_language.setdefault(language, {})[label] = number
    said = "; ".join(
        f"{code} {', '.join(f'{n} {label}' for label, n in labels.items())}" for code, labels in by_language.items()
    )
    announce(f"method {name}: {len(found)} examples ({said}); {len(gone)} queries have none and are left out")
    record: dict[str, Any] = {"examples": by_language, "left_out": len(gone), "sha256": digest(rows)}
    if run.translator is not None:
        record["translator"] = dict(run.translator.identity())
    return without(run, gone) if gone else run, Examples(by_key, record, rows)


def _row(example: Example, tokenizer: Any) -> Row:
    query = example.query
    return {
        "id": query.id,
        "language": query.language,
        "label": query.label,
        "answers": [
            {
                "text": tokenizer.decode(list(answer.completion), skip_special_tokens=True),
                "prompt": list(answer.prompt),
                "completion": list(answer.completion),
            }
            for answer in example.answers
        ],
    }


def _read(run: PreparedRun) -> list[Example] | None:
    """What an interrupted run has written; None for a method without examples."""
    known = run.folder.record().get("method", {})
    if "sha256" not in known:
        return None
    place = run.folder.path / EXAMPLES
    rows = list(read_rows(place)) if place.exists() else []
    if digest(rows) != known["sha256"]:
        raise CrosslignError(
            f"{place}: is not as {RECORD} says that the run has written it, so the run cannot go on with it. Start "
            "anew with --overwrite."
        )
    queries = {query.key: query for query in trained_queries(run.tables, run.languages)}
    return [
        Example(
            queries[key_of(row)],
            tuple(Answer(tuple(a["prompt"]), tuple(a["completion"])) for a in row["answers"]),
        )
        for row in rows
    ]


def write_examples(folder: RunFolder, examples: Examples) -> None:
    for row in examples.rows:
        folder.append(EXAMPLES, row)
