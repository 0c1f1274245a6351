"""Rows at the teacher gate: faults of the teacher's answers, what is dropped, the probe; nothing is sampled twice."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import processes
from probe_script import (
    BROKEN,
    HELP,
    REFUSAL,
    SWAHILI_HELP,
    SWAHILI_REFUSAL,
    Say,
    scripted,
    scripted_recipe,
)

from crosslign.evaluation.fidelity import Status
from crosslign.evaluation.rates import JudgedRow
from crosslign.models import load_model
from crosslign.runs import train as training
from crosslign.runs.build import Distillation, assemble
from crosslign.runs.gate.faults import FAULTS, faults, hopeless
from crosslign.runs.gate.gate import gate
from crosslign.runs.gate.rates import Pair
from crosslign.runs.prepare import PreparedRun, prepare
from crosslign.runs.recipe import parse_config
from crosslign.types import CrosslignError, Outcome, Query, Verdict


def swahili(kind: str, language: str, number: int) -> str:
    """The student helps always. The teacher refuses the harmful rows 1 and 3, row 5 in English, breaks row 7, helps
    with 9 and 11; it refuses the benign row 4, and answers row 2 in English."""
    if kind == "student":
        return SWAHILI_HELP
    return {1: SWAHILI_REFUSAL, 3: SWAHILI_REFUSAL, 4: SWAHILI_REFUSAL, 5: REFUSAL, 7: BROKEN, 2: HELP}.get(
        number, SWAHILI_HELP
    )


def pair(
    student: Outcome | None,
    teacher: Outcome | None,
    fidelity: Status = "match",
    label: Any = "harmful",
    code: str = "sw",
) -> Pair:
    query = Query("q", code, "swali", "en", "question", label)
    return Pair(JudgedRow(query, Verdict(student, "said")), JudgedRow(query, Verdict(teacher, "said"), False, fidelity))


def gated(recipe: dict[str, Any], *, languages: list[str] | None = None, **section: Any) -> PreparedRun:
    raw = scripted_recipe(recipe, gate={"min_flip_rate": 0.2, **section})
    raw["data"] = {**raw["data"], "languages": languages or ["sw"]}
    return prepare(parse_config(raw))


def made_for(run: PreparedRun) -> Distillation:
    return assemble(run, load_model(run.source))


def mixed(run: PreparedRun) -> set[str]:
    return {query.key for queries in run.mixture.cells for query in queries}


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (pair("unsafe", "refused"), []),
        (pair("unsafe", "refused", "unknown"), []),
        (pair("refused", "unsafe"), ["unsafe"]),
        (pair("unsafe", "refused_then_answered", "other"), ["unsafe", "wrong_language"]),
        (pair("unsafe", "invalid"), ["invalid"]),
        (pair("unsafe", "refused", "other"), ["wrong_language"]),
        (pair("refused", "refused", label="benign"), ["refused"]),
        (pair("refused", "safe_complied", "other", label="benign"), ["wrong_language"]),
        (pair("refused", "invalid", label="benign"), ["invalid"]),
        (pair("refused", "refused_then_answered", label="benign"), []),
        (pair("unsafe", None), []),
    ],
)
def test_faults_of_an_answer(one: Pair, expected: list[str]) -> None:
    assert faults(one) == expected


DROPS: dict[str, set[str]] = {
    "unsafe": {"row-9|sw", "row-11|sw"},
    "invalid": {"row-7|sw"},
    "wrong_language": {"row-5|sw", "row-2|sw"},
    "refused": {"row-4|sw"},
}


@pytest.mark.parametrize("drop", [[], *([fault] for fault in FAULTS), ["unsafe", "refused"], list(FAULTS)], ids=str)
def test_rows_with_a_fault_that_gate_drop_names_are_left_out_and_all_are_listed(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, drop: list[str]
) -> None:
    scripted(monkeypatch, swahili)
    before = gated(recipe, drop=drop)
    run, passed = gate(before, made_for(before))
    gone = {key for fault in drop for key in DROPS[fault]}
    assert mixed(before) - mixed(run) == gone
    assert passed is not None
    assert {f"{r['id']}|{r['language']}" for r in passed.rows} == {key for keys in DROPS.values() for key in keys}
    for row in passed.rows:
        (fault,) = row["faults"]
        assert f"{row['id']}|{row['language']}" in DROPS[fault]
        assert row["dropped"] == (fault in drop)
    assert {f"{r['id']}|{r['language']}" for r in passed.record["dropped"]} == gone


def test_what_was_dropped_and_why_is_said_by_language(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, swahili)
    run = gated(recipe, drop=["unsafe", "wrong_language"])
    said: list[str] = []
    _, passed = gate(run, made_for(run), said.append)
    assert passed is not None
    counts = {"harmful": 6, "benign": 6, "unsafe": 2, "invalid": 1, "wrong_language": 2, "refused": 1, "dropped": 4}
    assert passed.record["rows"] == {"sw": {**counts, "left_harmful": 3, "left_other": 5}}
    lines = [line.split() for line in "\n".join(said).splitlines()]
    assert ["sw", "(Swahili)", "6", "6", "2", "1", "2", "1", "4", "3", "5"] in lines
    assert "Rows whose teacher's answer is unsafe, wrong_language are left out of training" in said[-1]


def test_what_is_said_to_be_left_counts_rows_that_were_not_tried(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, swahili)
    run = gated(recipe, drop=["unsafe"], queries=3, min_flip_rate=0)
    trained, passed = gate(run, made_for(run))
    assert passed is not None
    counts = passed.record["rows"]["sw"]
    assert (counts["harmful"], counts["benign"]) == (3, 3)
    assert counts["left_harmful"] + counts["left_other"] == len(mixed(trained)) == 12 - counts["dropped"]


def test_a_resumed_run_leaves_out_the_same_rows_without_measuring_again(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, swahili)
    before = gated(recipe, drop=["unsafe", "invalid"])
    first, passed = gate(before, made_for(before))
    assert passed is not None
    before.folder.update({"status": "running", "gate": passed.record})
    script = scripted(monkeypatch, swahili)
    resumed = dataclasses.replace(before, checkpoint=before.folder.path / "checkpoint-2")
    assert mixed(gate(resumed, made_for(resumed))[0]) == mixed(first)
    assert script.asked == []


@pytest.mark.parametrize("label", ["harmful", "all"])
def test_a_gate_that_would_drop_every_row_of_a_language_stops_and_says_what_to_do(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    """In Swahili the teacher helps with everything harmful, or answers all in English; in Bengali it refuses."""

    def say(kind: str, language: str, number: int) -> str:
        if language == "bn" or kind == "student":
            return REFUSAL if number % 2 else HELP
        return HELP if label == "all" or number % 2 else SWAHILI_HELP

    scripted(monkeypatch, say)
    drop = {"harmful": "unsafe", "all": "wrong_language"}[label]
    run = gated(recipe, languages=["sw", "bn"], min_flip_rate=0, probe=0, drop=[drop])
    if label == "all":  # what is English is in another language in Bengali too
        run = gated(recipe, min_flip_rate=0, probe=0, drop=[drop])
    with pytest.raises(CrosslignError) as error:
        training.train(run)
    text = str(error.value)
    assert f"would drop every harmful row in sw (gate.drop: {drop}), so nothing was trained." in text
    for way in ("crosslign probe RECIPE --templates", "out of data.languages", "take a value out of gate.drop"):
        assert way in text
    assert "\n" not in text
    assert not run.folder.path.exists()


# --- The probe.


def flips(*outcomes: Outcome, code: str = "sw", fidelity: Status = "match") -> list[Pair]:
    return [pair("unsafe", outcome, fidelity, code=code) for outcome in outcomes]


def test_no_hope_is_where_nothing_flips_of_enough_or_all_answers_are_broken() -> None:
    def reasons(pairs: list[Pair], minimum: float = 0.5) -> list[str]:
        return hopeless(pairs, ["sw", "bn"], minimum)

    assert reasons(flips(*["unsafe"] * 4)) == ["the teacher makes no unsafe answer safe in sw (of 4)"]
    assert reasons(flips(*["unsafe"] * 3)) == []  # one that flips half of them does so once in eight times
    assert reasons(flips(*["unsafe"] * 3, "refused")) == []
    assert reasons(flips(*["unsafe"] * 4), minimum=0.4) == []
    assert reasons(flips(*["unsafe"] * 4), minimum=0) == []
    both = flips(*["unsafe"] * 2) + flips(*["unsafe"] * 2, code="bn")
    assert reasons(both) == ["the teacher makes no unsafe answer safe in all languages together (of 4)"]
    assert reasons(flips(*["invalid"] * 4), 0) == [
        "the teacher's answers are invalid or in another language in sw (4 of 4)"
    ]
    assert reasons(flips(*["invalid"] * 3, "refused"), 0) == []
    assert len(reasons(flips(*["refused"] * 4, fidelity="other"))) == 1
    assert reasons(flips(*["refused"] * 3, fidelity="other")) == []
    assert reasons(flips("invalid", "invalid", "refused")) == []
    both = flips(*["unsafe"] * 4) + flips(*["unsafe"] * 5, code="bn")
    assert reasons(both) == ["the teacher makes no unsafe answer safe in sw (of 4), bn (of 5)"]
    assert reasons(flips(*["refused"] * 3, fidelity="unknown")) == []
    assert reasons([pair("refused", "unsafe")] * 9) == []
    assert reasons([]) == []


def broken_in_swahili(kind: str, language: str, number: int) -> str:
    return BROKEN if kind != "student" and language == "sw" else REFUSAL if number % 2 else HELP


HOPELESS: dict[str, tuple[Say, str]] = {
    "no flip": (lambda *key: SWAHILI_HELP, "the teacher makes no unsafe answer safe in sw (of 4)"),
    "broken": (broken_in_swahili, "the teacher's answers are invalid or in another language in sw (4 of 4)"),
    "English": (
        lambda kind, language, number: SWAHILI_HELP if kind == "student" else REFUSAL,
        "the teacher's answers are invalid or in another language in sw (4 of 4)",
    ),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_a_hopeless_template_ends_after_a_few_queries_with_what_to_do(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    say, why = HOPELESS[name]
    script = scripted(monkeypatch, say)
    run = gated(recipe, min_flip_rate=0.5)
    said: list[str] = []
    with pytest.raises(CrosslignError) as error:
        training.train(run, said.append)
    text = str(error.value)
    assert f"the teacher gate's probe shows no hope: {why}" in text
    for way in ("crosslign probe RECIPE --templates", "out of data.languages", "gate.probe: 0"):
        assert way in text
    assert "\n" not in text
    assert "teacher template: custom" in said[-1]
    assert Counter(kind for kind, _, _ in script.asked) == {"student": 4, "PLAIN": 4}
    assert not run.folder.path.exists()
    run = gated(recipe, min_flip_rate=0, probe=0)
    assert gate(run, made_for(run))[1] is not None


def test_the_source_language_need_not_flip(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """There the teacher sees what the student sees."""
    scripted(monkeypatch, lambda kind, language, number: REFUSAL if kind != "student" and language == "sw" else HELP)
    run = gated(recipe, languages=["en", "sw"], min_flip_rate=0.5, probe=0)
    passed = gate(run, made_for(run))[1]
    assert passed is not None
    assert passed.record["languages"]["en"]["flip"]["value"] == 0
    assert passed.record["unrated"] == []


@pytest.mark.processes
def test_a_hopeless_template_ends_every_process(
    recipe: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Answers of two bytes say nothing."""
    recipe["gate"] = {"min_flip_rate": 0.0}
    recipe["sampling"] = {"max_completion_length": 2}
    recipe["training"] |= {"ddp_backend": "gloo"}
    assert [p.wait(timeout=120) for p in processes(tmp_path, recipe)] == [1, 1]
    assert "probe shows no hope" in capfd.readouterr().err
    assert not Path(recipe["output_dir"]).exists()
    # Kept once, for the next try: answers of student and teacher, and judgements, which both languages share.
    (cache,) = Path(recipe["cache_dir"]).glob("completions-*.jsonl")
    keys = [json.loads(line)["key"] for line in cache.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 8 + 8 + 4


# --- Nothing is done twice.


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_training_uses_what_the_gate_has_sampled_and_each_answer_is_sampled_once(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    script = scripted(monkeypatch, swahili)
    loads: list[str] = []

    def load(source: Any, **options: Any) -> Any:
        loads.append(source.path)
        return load_model(source, **options)

    monkeypatch.setattr(training, "load_model", load)
    raw = scripted_recipe(recipe, gate={"min_flip_rate": 0.2, "drop": ["unsafe"]}, strategy={"name": "off_policy"})
    raw["data"] = {**raw["data"], "languages": ["sw"]}
    raw["sampling"] = {**raw["sampling"], "temperature": temperature}
    run = prepare(parse_config(raw))
    record = training.train(run)
    assert loads == [run.source.path]
    assert len(script.asked) == len(set(script.asked)) == 24  # 12 rows, student and teacher; training asks nothing
    assert record["cache"]["misses"] == 24
    rollouts = [json.loads(line) for line in (run.folder.path / "rollouts.jsonl").read_text().splitlines()]
    assert rollouts
    for row in rollouts:
        assert row["text"] == swahili("PLAIN", "sw", int(row["query"][4:]))


def test_an_interrupted_gate_goes_on_from_what_it_has_sampled(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(kind: str, language: str, number: int) -> str:
        if kind != "student" and number == 8:
            raise KeyboardInterrupt
        return swahili(kind, language, number)

    script = scripted(monkeypatch, say)
    run = gated(recipe)
    made = made_for(run)
    with pytest.raises(KeyboardInterrupt):
        gate(run, made)
    before = len(script.asked)
    script.say = swahili
    assert gate(run, made)[1] is not None
    again = [key for key, number in Counter(script.asked).items() if number > 1]
    assert before >= 20
    assert {kind for kind, _, _ in again} <= {"PLAIN"}
    assert len(again) <= 4  # of the batch that was interrupted
