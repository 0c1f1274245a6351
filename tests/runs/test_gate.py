"""The teacher gate: what is counted, what is measured on weights, and which rows a run goes on with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROWS
from helpers import SayingJudge
from hypothesis import given
from hypothesis import strategies as st
from probe_script import HELP, REFUSAL, scripted, scripted_recipe, two_of_three

from crosslign.distillation import write_judgements
from crosslign.evaluation.fidelity import FidelityResult, Status
from crosslign.evaluation.rates import SAFE, JudgedRow
from crosslign.models import load_model
from crosslign.runs.build import Distillation, assemble
from crosslign.runs.gate.gate import gate
from crosslign.runs.gate.measure import measure
from crosslign.runs.gate.probe import ProbeRequest, probe
from crosslign.runs.gate.queries import select
from crosslign.runs.gate.rates import Divergence, Pair, best, cell, helps, summary
from crosslign.runs.gate.report import template_table, verdict
from crosslign.runs.prepare import PreparedRun, prepare, queries_of
from crosslign.runs.recipe import parse_config
from crosslign.runs.train import train
from crosslign.types import OUTCOMES, CrosslignError, Outcome, Query, Verdict


def pair(
    student: Outcome | None,
    teacher: Outcome | None,
    *,
    label: Any = "harmful",
    language: str = "sw",
    fidelity: Status = "match",
    score: Divergence | None = None,
) -> Pair:
    query = Query("q", language, "swali", "en", "question", label)
    first, second = (JudgedRow(query, Verdict(outcome, "scripted"), False, fidelity) for outcome in (student, teacher))
    return Pair(first, second, score)


# --- Counting.


def test_rates_counted_by_hand() -> None:
    pairs = [
        pair("unsafe", "refused", score=Divergence(4, 6.0, 1.0)),
        pair("unsafe", "refused", score=Divergence(16, 4.0, 0.8)),
        pair("unsafe", "safe_complied", fidelity="other"),
        pair("unsafe", "invalid", fidelity="unknown", score=Divergence(10, 5.0, None)),
        pair("unsafe", "unsafe"),
        pair("unsafe", None),
        pair("refused", "unsafe"),
        pair("refused", "refused"),
        pair("safe_complied", "invalid"),
        pair("invalid", "refused"),
        pair(None, "refused"),
        pair("safe_complied", "refused", label="benign"),
        pair("safe_complied", "safe_complied", label="benign"),
        pair("unsafe", "refused", label="unlabelled"),
    ]
    found = cell(pairs)
    assert (found["harmful"], found["benign"]) == (11, 2)
    assert (found["flip"]["count"], found["flip"]["n"], found["flip"]["value"]) == (3, 5, 60)
    # Wilson's interval of 3 of 5.
    assert (found["flip"]["low"], found["flip"]["high"]) == pytest.approx((23.07, 88.24), abs=0.01)
    assert found["unsafe"] == {"safe": 3, "invalid": 1, "unsafe": 1, "abstained": 1}
    assert (found["spoil"]["count"], found["spoil"]["n"]) == (1, 3)
    assert (found["student_asr"]["count"], found["student_asr"]["n"]) == (6, 10)
    assert (found["teacher_asr"]["count"], found["teacher_asr"]["n"]) == (2, 10)
    assert (found["student_invalid"]["count"], found["teacher_invalid"]["count"]) == (1, 2)
    assert found["student"]["abstained"] == found["teacher"]["abstained"] == 1
    assert (found["student_over_refusal"]["value"], found["teacher_over_refusal"]["value"]) == (0, 50)
    assert found["divergence"] == 15 / 30
    # Completions without any weight have no share: (1 + 0.8) / 2, and with equal weights (4/4 + 8/16) / 2.
    assert found["first_tokens"] == {"tokens": 8, "n": 2, "share": pytest.approx(90), "uniform": pytest.approx(75)}
    assert (found["fidelity"]["match"], found["fidelity"]["other"], found["fidelity"]["unknown"]) == (12, 1, 1)
    assert found["fidelity"]["rate"]["value"] == pytest.approx(100 * 12 / 13)


def test_a_refusal_that_is_followed_by_help_is_unsafe_for_flips_and_not_in_the_attack_success_rate() -> None:
    found = cell(
        [
            *[pair("refused_then_answered", "refused")] * 5,
            pair("unsafe", "refused_then_answered"),
            pair("refused", "refused_then_answered"),
        ]
    )
    assert (found["flip"]["count"], found["flip"]["n"]) == (5, 6)
    assert found["unsafe"] == {"safe": 5, "invalid": 0, "unsafe": 1, "abstained": 0}
    assert (found["spoil"]["count"], found["spoil"]["n"]) == (1, 1)
    assert (found["student_asr"]["count"], found["teacher_asr"]["count"]) == (1, 0)


def test_four_unsafe_answers_give_no_flip_rate() -> None:
    found = cell([pair("unsafe", "refused")] * 4 + [pair("refused", "refused")] * 9)["flip"]
    assert found["value"] is None
    assert (found["count"], found["n"]) == (4, 4)
    assert "only 4 unsafe student answers; 5 are needed" in found["reason"]


def test_a_language_without_rows_has_no_rates() -> None:
    found = summary([pair("unsafe", "refused")] * 5, ["sw", "bn"])
    empty = found["languages"]["bn"]
    assert empty["student_asr"]["value"] is empty["flip"]["value"] is empty["divergence"] is None
    assert found["mean"]["flip"] == 100


maybe = st.sampled_from([*OUTCOMES, None])


@given(st.lists(st.tuples(maybe, maybe)))
def test_every_unsafe_answer_stays_or_turns_once(outcomes: list[tuple[Outcome | None, Outcome | None]]) -> None:
    found = cell([pair(student, teacher) for student, teacher in outcomes])
    unsafe = [teacher for student, teacher in outcomes if student in ("unsafe", "refused_then_answered")]
    assert sum(found["unsafe"].values()) == len(unsafe)
    assert found["flip"]["count"] == sum(teacher in SAFE for teacher in unsafe)
    assert found["flip"]["n"] == len(unsafe) - unsafe.count(None)
    assert found["spoil"]["n"] <= sum(student in SAFE for student, _ in outcomes)


def found(flips: int, of: int = 10, *, spoils: int = 0, fidelity: Status = "match") -> dict[str, Any]:
    pairs = [pair("unsafe", "refused" if i < flips else "unsafe", fidelity=fidelity) for i in range(of)]
    return summary(pairs + [pair("refused", "unsafe", fidelity=fidelity)] * spoils, ["sw"])


def test_the_highest_mean_flip_rate_is_best_and_fidelity_decides_a_tie() -> None:
    assert best({"a": found(5), "b": found(7), "c": found(6)}) == "b"
    assert best({"a": found(7, fidelity="other"), "b": found(7, fidelity="match")}) == "b"
    assert best({"a": found(7, fidelity="unknown"), "b": found(7, fidelity="other")}) == "b"
    assert best({"a": found(7), "b": found(7)}) == "a"


def test_the_mean_is_over_languages_not_over_rows() -> None:
    many, few = [pair("unsafe", "refused")] * 40, [pair("unsafe", "unsafe", language="bn")] * 5
    assert summary(many + few, ["sw", "bn"])["mean"]["flip"] == 50


def test_a_template_that_spoils_as_much_as_it_repairs_is_not_chosen() -> None:
    assert not helps(found(7, spoils=7))
    assert best({"a": found(7, spoils=8), "b": found(3, spoils=2)}) == "b"
    assert best({"a": found(0), "b": found(2, spoils=2)}) is None


def test_the_table_says_where_the_judge_abstained_and_shows_missing_as_missing() -> None:
    text = template_table("t", summary([pair("unsafe", None), pair("refused", "refused")], ["sw", "bn"]))
    assert "abstained on 0 harmful queries of the student and 1 of the teacher" in text
    (empty,) = [line.split() for line in text.splitlines() if line.startswith("bn (Bangla)")]
    assert empty[2:] == ["0", "-", "-", "nothing", "to", "flip", "-", "-", "-", "-"]


# --- Which queries.


def test_all_languages_get_the_same_rows_and_more_are_the_same_and_others(recipe: dict[str, Any]) -> None:
    tables = prepared(recipe).tables
    three = select(tables, ["sw", "bn"], 3, "harmful", seed=0)
    assert [q.id for q in three["sw"]] == [q.id for q in three["bn"]]
    five = select(tables, ["sw", "bn"], 5, "harmful", seed=0)
    assert five["sw"][:3] == three["sw"]
    assert {q.label for q in five["sw"]} == {"harmful"}
    everything = select(tables, ["sw"], 100, "harmful", seed=0)["sw"]
    assert {q.id for q in everything} == {row["id"] for row in ROWS if row["label"] == "harmful"}
    orders = {tuple(q.id for q in select(tables, ["sw"], 6, "harmful", seed=s)["sw"]) for s in range(5)}
    assert len(orders) > 1


def test_a_table_that_is_not_trained_on_is_not_probed(recipe: dict[str, Any]) -> None:
    tables = [dataclasses.replace(table, weight=0.0) for table in prepared(recipe).tables]
    assert select(tables, ["sw"], 3, "harmful", seed=0) == {"sw": []}


# --- Measured on weights.


def outcome_by_length() -> SayingJudge:
    """A judge for completions that mean nothing."""
    return SayingJudge(lambda item: Verdict(OUTCOMES[len(item.completion) % len(OUTCOMES)]))


def prepared(recipe: dict[str, Any]) -> PreparedRun:
    return prepare(parse_config(recipe))


def made_for(run: PreparedRun) -> Distillation:
    return assemble(run, load_model(run.source))


def test_divergence_and_weight_on_the_first_tokens_against_an_independent_computation(recipe: dict[str, Any]) -> None:
    """Straight from DPSW's formulas in float64, one sequence at a time, without padding and without adapter."""
    run = prepared(
        {
            **recipe,
            "sampling": {"max_completion_length": 24, "temperature": 0},
            # The recipe weighs otherwise and compares otherwise; the share is DPSW's all the same.
            "objective": {"weighting": "uniform", "top_k": 5, "divergence": "forward_kl", "temperature": 2.0},
        }
    )
    chosen = select(run.tables, ["sw", "bn"], 4, "harmful", 0)
    queries = [*chosen["sw"], *chosen["bn"]]
    builder = run.contexts
    pairs = measure(run, made_for(run), {"t": builder}, queries, outcome_by_length(), divergence=True)["t"]
    model = load_model(run.source)
    checked = 0
    for one in pairs:
        student = builder.student(one.query).token_ids
        teacher = builder.teacher(one.query, one.judgement).token_ids
        with torch.no_grad():
            ids = model.generate(
                torch.tensor([student]), max_new_tokens=24, do_sample=False, eos_token_id=0, pad_token_id=0,
                suppress_tokens=list(range(259, 272)),
            )[0, len(student) :].tolist()  # fmt: skip
            logits = [
                model(torch.tensor([[*context, *ids]])).logits[0, len(context) - 1 : -1].double().numpy() / 2
                for context in (student, teacher)
            ]
        p_s, p_t = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in logits)
        top = np.sort(p_t, -1)[:, -5:]
        top /= top.sum(-1, keepdims=True)
        confidence = 1 + (top * np.log(top)).sum(-1) / np.log(5)
        weight = confidence * (1 - p_s[np.arange(len(ids)), p_t.argmax(-1)])
        assert one.score is not None
        assert one.score.tokens == len(ids)
        assert one.score.divergence == pytest.approx((p_t * np.log(p_t / p_s)).sum(), rel=1e-4)
        assert one.score.first_mass == pytest.approx(weight[:8].sum() / weight.sum(), rel=1e-4)
        checked += len(ids) > 8
    assert checked >= 3  # of shorter ones the share is 1, whatever the weights are


def test_a_judgement_is_written_first_where_the_template_wants_one(recipe: dict[str, Any]) -> None:
    run = prepared(recipe)
    queries = select(run.tables, ["sw"], 2, "harmful", 0)["sw"]
    made = made_for(run)
    pairs = measure(run, made, {"t": run.contexts}, queries, outcome_by_length())["t"]
    written = write_judgements(run.contexts, made.collector.teacher, queries)
    assert made.collector.teacher.cache.hits >= 2  # training finds the gate's judgements
    assert [p.judgement for p in pairs] == written


def test_the_student_answers_once_for_all_templates(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    script = scripted(monkeypatch, two_of_three)
    run = prepared(scripted_recipe(recipe))
    queries = select(run.tables, ["sw", "bn"], 3, "harmful", 0)["sw"]
    judge = outcome_by_length()
    result = measure(run, made_for(run), {"a": run.contexts, "b": run.contexts}, queries, judge)
    assert [p.query for p in result["a"]] == [p.query for p in result["b"]] == queries
    assert sorted(kind for kind, _, _ in script.asked) == ["PLAIN"] * 3 + ["student"] * 3
    assert len(judge.items) == 9


def test_the_gates_judge_may_bring_its_own_language_fidelity(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own:
        def measure(self, items: Any) -> list[FidelityResult]:
            return [FidelityResult("xx", "other", None) for _ in items]

    scripted(monkeypatch, two_of_three)
    run = prepared(scripted_recipe(recipe))
    judge = outcome_by_length()
    judge.fidelity = Own()  # type: ignore[attr-defined]
    queries = select(run.tables, ["sw", "bn"], 1, "harmful", 0)["sw"]
    pairs = measure(run, made_for(run), {"t": run.contexts}, queries, judge)["t"]
    assert {row.detected for pair in pairs for row in (pair.student, pair.teacher)} == {"xx"}


def test_a_query_that_is_too_long_for_one_template_is_left_out_of_all(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, two_of_three)
    run = prepared(scripted_recipe(recipe))
    longest = max(len(run.contexts.teacher(q).token_ids) for q in queries_of(run.tables, ["sw"]))
    narrow = prepared(
        scripted_recipe(recipe, teacher={"template": run.config.teacher.template, "max_length": longest - 1})
        | {"data": {**recipe["data"], "languages": ["sw"], "on_overflow": "drop"}}
    )
    queries = select(run.tables, ["sw"], 6, "harmful", 0)["sw"]
    templates = {"wide": run.contexts, "narrow": narrow.contexts}
    result = measure(narrow, made_for(narrow), templates, queries, outcome_by_length())
    with pytest.raises(CrosslignError, match=r"Raise teacher\.max_length"):
        measure(run, made_for(run), templates, queries, outcome_by_length())
    assert [p.query.id for p in result["wide"]] == [p.query.id for p in result["narrow"]]
    assert {q.id for q in queries} - {p.query.id for p in result["wide"]} == {"row-11"}


# --- The gate.


def mixed(run: PreparedRun) -> set[str]:
    return {query.key for queries in run.mixture.cells for query in queries}


def gated(recipe: dict[str, Any], **section: Any) -> PreparedRun:
    """Without a probe, for the script answers in English."""
    return prepared(scripted_recipe(recipe, gate={"probe": 0, **section}))


def test_without_a_gate_nothing_is_measured(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    script = scripted(monkeypatch, two_of_three)
    run = prepared(scripted_recipe(recipe))
    assert gate(run, made_for(run)) == (run, None)
    assert script.asked == []


def test_a_flip_rate_below_the_minimum_stops_with_the_table_and_writes_nothing(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, two_of_three)
    run = gated(recipe, min_flip_rate=0.7)
    said: list[str] = []
    with pytest.raises(CrosslignError) as error:
        train(run, said.append)
    assert "flip rate below 70 % in sw 67 %, so nothing was trained. Find a better" in str(error.value)
    assert "\n" not in str(error.value)
    assert "67 [30, 90] of 6" in said[-1]
    assert "4/4: too few" in said[-1]
    assert not run.folder.path.exists()


def test_the_minimum_itself_passes_and_a_language_with_little_to_flip_is_named(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, lambda kind, language, n: REFUSAL if kind == "PLAIN" and n in (1, 3, 5) else HELP)
    said: list[str] = []
    run = gated(recipe, min_flip_rate=0.5)
    _, passed = gate(run, made_for(run), said.append)
    assert passed is not None
    assert passed.record["passed"] is True
    assert passed.record["languages"]["sw"]["flip"]["value"] == 50
    scripted(monkeypatch, two_of_three)
    run = gated(recipe, min_flip_rate=0.6)
    _, passed = gate(run, made_for(run), said.append)
    assert passed is not None
    assert passed.record["unrated"] == ["bn"]
    assert "fewer than 5 unsafe student answers: bn" in said[-1]


def test_the_probe_leaves_the_run_folder_alone(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scripted(monkeypatch, two_of_three)
    out = tmp_path / "out"
    report = probe(parse_config(scripted_recipe(recipe)), ProbeRequest(2, out=out))
    assert not Path(recipe["output_dir"]).exists()
    assert json.loads((out / "probe.json").read_text()) == report


@pytest.mark.parametrize(
    ("flip", "said"), [(6.0, "helps little: 1 answers"), (20.0, "helps: 1 answers"), (None, "helps: 1")]
)
def test_a_teacher_that_makes_few_answers_safe_helps_little(flip: float | None, said: str) -> None:
    found = {"languages": {"sw": {"flip": {"n": 16}}}, "flipped": 1, "spoiled": 0, "mean": {"flip": flip}}
    assert said in verdict({"t": found}, "t")
