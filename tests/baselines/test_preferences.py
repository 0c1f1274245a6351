"""Which pairs are made, by hand-written verdicts and of a scripted model; what `crosslign preferences` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import no_weights, sampling_interrupted_after
from hypothesis import given
from hypothesis import strategies as st
from probe_script import SWAHILI_HELP, SWAHILI_REFUSAL, contrasted, scripted, scripted_recipe

from crosslign.baselines.base import Example
from crosslign.baselines.preference import _unrelated
from crosslign.baselines.preferences import REASONS, check_counts, choices, choose, counted, without_harmless
from crosslign.cli import main
from crosslign.evaluation.fidelity import Status
from crosslign.evaluation.rates import JudgedRow
from crosslign.runs.build import Distillation
from crosslign.storage import write_atomically
from crosslign.types import OUTCOMES, CrosslignError, Outcome, Query, Verdict


def row(outcome: Outcome | None, fidelity: Status = "match", label: Any = "harmful") -> JudgedRow:
    return JudgedRow(Query("q", "sw", "swali", "en", "question", label), Verdict(outcome, "said"), False, fidelity)


@pytest.mark.parametrize(
    ("label", "student", "teacher", "chosen", "reason"),
    [
        ("harmful", ("unsafe",), ("refused",), "teacher", "chosen"),
        ("harmful", ("refused_then_answered",), ("safe_complied",), "teacher", "chosen"),
        ("harmful", ("unsafe",), ("refused", "unknown"), "teacher", "chosen"),
        ("harmful", ("unsafe",), ("refused", "other"), None, "no_good_answer"),
        ("harmful", ("unsafe",), ("invalid",), None, "no_good_answer"),
        ("harmful", ("invalid",), ("refused",), None, "no_bad_answer"),
        ("harmful", ("refused", "other"), ("refused",), None, "no_bad_answer"),
        ("harmful", ("refused",), ("unsafe",), None, "no_bad_answer"),
        ("harmful", ("refused",), ("safe_complied",), None, "both_good"),
        ("harmful", (None,), ("refused",), None, "unsure"),
        ("benign", ("safe_complied",), ("refused",), "student", "chosen"),
        ("benign", ("refused",), ("safe_complied",), "teacher", "chosen"),
        ("benign", ("refused",), ("safe_complied", "other"), None, "no_good_answer"),
        ("benign", ("safe_complied",), ("safe_complied",), None, "both_good"),
        ("benign", ("refused",), ("refused",), None, "no_good_answer"),
        ("benign", ("safe_complied",), ("invalid",), None, "no_bad_answer"),
        ("unlabelled", ("unsafe",), ("refused",), None, "unsure"),
    ],
)
def test_which_answer_is_chosen(label: Any, student: Any, teacher: Any, chosen: Any, reason: str) -> None:
    found = choose(row(*student, label=label), row(*teacher, label=label))
    assert (found.chosen, found.reason) == (chosen, reason)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["sw", "bn"])), unique=True, min_size=1))
def test_ktos_unrelated_answer_is_to_another_request(asked: list[tuple[str, str]]) -> None:
    pairs = [Example(Query(id, code, "", "en", ""), ()) for id, code in asked]
    for pair, other in zip(pairs, _unrelated(pairs), strict=True):
        others = {p.query.language for p in pairs if p.query.id != pair.query.id}
        assert (other.query.id != pair.query.id) == bool(others)
        if pair.query.language in others:
            assert other.query.language == pair.query.language


ROW = st.tuples(st.sampled_from([*OUTCOMES, None]), st.sampled_from(["match", "other", "unknown"]))


@given(ROW, ROW, st.sampled_from(["harmful", "benign", "unlabelled"]))
def test_what_is_chosen_is_good_and_what_is_rejected_is_not(first: Any, second: Any, label: Any) -> None:
    student, teacher = row(*first, label=label), row(*second, label=label)
    choice = choose(student, teacher)
    assert (choice.chosen is None) == (choice.reason != "chosen")
    if choice.chosen is not None:
        better, worse = (student, teacher) if choice.chosen == "student" else (teacher, student)
        assert better.fidelity != "other"
        good = {"harmful": ("refused", "safe_complied"), "benign": ("safe_complied",)}[label]
        assert better.verdict.outcome in good
        assert worse.verdict.outcome not in (*good, "invalid", None)
    numbers = counted([(student, choice)], ["sw", "bn"])
    assert sum(numbers["sw"][label].values()) == 1
    assert numbers["bn"] == {}


def of(id: str, language: str, label: Any, outcome: Outcome | None, fidelity: Status = "match") -> JudgedRow:
    return JudgedRow(Query(id, language, "swali", "en", "question", label), Verdict(outcome, "said"), False, fidelity)


def test_a_harmless_query_without_a_pair_borrows_the_refusal_of_a_harmful_one_in_its_language() -> None:
    def both(id: str, language: str, label: Any, student: Outcome | None, teacher: Outcome | None) -> Any:
        return of(id, language, label, student), of(id, language, label, teacher)

    rows = [
        both("0", "sw", "benign", "safe_complied", "safe_complied"),
        both("1", "sw", "harmful", "unsafe", "refused"),
        both("2", "sw", "harmful", "unsafe", "safe_complied"),  # safe, and no refusal to lend
        both("3", "sw", "harmful", "refused", "refused"),
        both("4", "sw", "benign", "invalid", "safe_complied"),
        both("5", "sw", "benign", "safe_complied", "refused"),  # has a pair of its own
        both("6", "sw", "benign", "invalid", "refused"),  # nothing good to choose
        both("7", "sw", "benign", None, "safe_complied"),
        both("8", "sw", "benign", "safe_complied", "safe_complied"),
        both("9", "bn", "benign", "safe_complied", "safe_complied"),  # no refusal in its language
        both("10", "sw", "harmful", "safe_complied", "safe_complied"),
    ]
    found = choices(rows)
    lent = {i: (c.chosen, c.lender) for i, c in enumerate(found) if c.reason == "borrowed"}
    assert lent == {0: ("student", 1), 4: ("teacher", 3), 8: ("student", 1)}
    for i, (student, teacher) in enumerate(rows):
        if i not in lent:
            assert found[i] == choose(student, teacher)
    counts = counted(((student, choice) for (student, _), choice in zip(rows, found, strict=True)), ["sw", "bn"])
    assert counts["sw"]["benign"]["borrowed"] == 3
    wrong_language = [rows[0], (rows[1][0], of("1", "sw", "harmful", "refused", "other"))]
    assert choices(wrong_language)[0].reason == "both_good"
    elsewhere = [rows[0], both("1", "bn", "harmful", "unsafe", "refused")]
    assert choices(elsewhere)[0].reason == "both_good"


def command(tmp_path: Path, raw: dict[str, Any], *flags: str) -> int:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return main(["preferences", str(path), "--out", str(tmp_path / "pairs"), *flags])


def swahili(recipe: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return scripted_recipe(recipe, data={**recipe["data"], "languages": ["sw"]}, **changes)


def pairs(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "pairs" / "preferences.jsonl").read_text("utf-8").splitlines()]


def test_the_command_writes_trls_format_and_counts(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, contrasted)
    assert command(tmp_path, swahili(recipe)) == 0
    found = {row["id"]: row for row in pairs(tmp_path)}
    assert set(found) == {f"row-{i}" for i in range(12)}
    one = found["row-3"]
    assert one["prompt"] == [{"role": "user", "content": "swali 3"}]
    assert one["chosen"] == [{"role": "assistant", "content": SWAHILI_REFUSAL}]
    assert one["rejected"] == [{"role": "assistant", "content": SWAHILI_HELP}]
    benign = {id: row for id, row in found.items() if row["label"] == "benign"}
    assert {id: row["chosen_by"] for id, row in benign.items() if not row["borrowed"]} == {
        "row-2": "teacher",
        "row-4": "student",
    }
    assert {id for id, row in benign.items() if row["borrowed"]} == {"row-0", "row-6", "row-8", "row-10"}
    assert {row["chosen"][0]["content"] for row in benign.values()} == {SWAHILI_HELP}
    assert {row["rejected"][0]["content"] for row in benign.values()} == {SWAHILI_REFUSAL}
    record = json.loads((tmp_path / "pairs" / "preferences.json").read_text("utf-8"))
    assert record["pairs"] == 12
    assert record["counts"]["sw"]["benign"] | {"unsure": 0} == {
        "chosen": 2,
        "borrowed": 4,
        "both_good": 0,
        "no_good_answer": 0,
        "no_bad_answer": 0,
        "unsure": 0,
    }
    assert "12 pairs" in capsys.readouterr().out
    assert command(tmp_path, swahili(recipe)) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_ms_swift_gets_what_the_teacher_sees(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, contrasted)
    assert command(tmp_path, swahili(recipe), "--format", "ms-swift") == 0
    one = next(row for row in pairs(tmp_path) if row["id"] == "row-3")
    assert one["messages"] == [
        {"role": "user", "content": "swali 3"},
        {"role": "assistant", "content": SWAHILI_REFUSAL},
    ]
    assert (one["rejected_response"], one["teacher_prompt"]) == (SWAHILI_HELP, "PLAIN question 3 / swali 3")


def test_a_teacher_prompt_begins_with_the_teachers_instruction(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, contrasted)
    messages = [
        {"role": "system", "content": "Judge in {source_language}."},
        {"role": "user", "content": "PLAIN {source_query} / {query}"},
    ]
    raw = swahili(recipe, teacher={"template": {"messages": messages}})
    assert command(tmp_path, raw, "--format", "ms-swift") == 0
    one = next(row for row in pairs(tmp_path) if row["id"] == "row-3")
    assert one["teacher_prompt"] == "Judge in English.\n\nPLAIN question 3 / swali 3"


def test_a_dialogue_is_no_teacher_prompt(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_weights(monkeypatch)
    assert command(tmp_path, swahili(recipe, teacher={"template": "dialogue"}), "--format", "ms-swift") == 1
    assert "'dialogue' is a dialogue" in capsys.readouterr().err
    raw = swahili(recipe)
    told = {"path": "builtin:benign", "teacher": str(tmp_path / "told.yaml")}
    turns = [{"role": role, "content": "{query}"} for role in ("user", "assistant", "user")]
    (tmp_path / "told.yaml").write_text(json.dumps({"messages": turns}))
    raw["data"] = {**raw["data"], "tables": [*raw["data"]["tables"], told]}
    assert command(tmp_path, raw, "--format", "ms-swift") == 1
    assert "told.yaml' is a dialogue" in capsys.readouterr().err


def test_a_language_without_a_pair_is_named_with_the_fix(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, lambda *_: SWAHILI_HELP)
    assert command(tmp_path, swahili(recipe)) == 1
    said = capsys.readouterr().err
    assert "sw: no pair in 6 harmful queries: both answers were safe in 0, the teacher's was unfit in 6" in said
    assert "data.languages" in said
    assert not (tmp_path / "pairs" / "preferences.jsonl").exists()


def test_an_interrupted_call_goes_on_where_it_stopped(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampled: list[int]
) -> None:
    raw = {**recipe, "teacher": {"template": "instruct"}, "sampling": {**recipe["sampling"], "batch_size": 4}}
    elsewhere = {**raw, "cache_dir": str(tmp_path / "other")}
    assert command(tmp_path, elsewhere) == 1  # at its end: the tiny model's answers are no pairs
    whole, calls = sum(sampled), len(sampled)
    sampled.clear()
    with sampling_interrupted_after(calls // 2):
        assert command(tmp_path, raw) == 130
    assert 0 < sum(sampled) < whole
    command(tmp_path, raw)
    assert sum(sampled) == whole


def test_a_call_that_ends_between_its_files_leaves_a_folder_that_can_be_replaced(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, contrasted)
    assert command(tmp_path, swahili(recipe)) == 0

    def killed(path: Path, content: Any) -> None:
        write_atomically(path, content)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("crosslign.runs.preferences.write_atomically", killed)
        assert command(tmp_path, swahili(recipe), "--overwrite") == 130
    assert [path.name for path in (tmp_path / "pairs").iterdir()] == ["preferences.json"]  # and no older pairs
    assert command(tmp_path, swahili(recipe), "--overwrite") == 0
    assert len(pairs(tmp_path)) == 12


def test_what_was_made_for_the_answers_is_closed_after_an_error_too(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    monkeypatch.setattr(Distillation, "close", lambda *_: closed.append(True))
    monkeypatch.setattr("crosslign.runs.preferences.judged_pairs", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command(tmp_path, swahili(recipe))
    assert closed == [True]


def numbers(chosen: int = 0, both: int = 0, none: int = 0) -> dict[str, Any]:
    return {"harmful": {"chosen": chosen, "both_good": both, "no_good_answer": none, "no_bad_answer": 0, "unsure": 0}}


def test_a_language_in_which_the_model_is_safe_needs_no_pair() -> None:
    assert check_counts({"sw": numbers(3, 1), "es": numbers(0, 5, 5), "en": numbers(0, 0, 4)}, "en") == ["es"]
    with pytest.raises(CrosslignError, match=r"^es: no pair in 10 harmful queries: both answers were safe in 4"):
        check_counts({"sw": numbers(3, 1), "es": numbers(0, 4, 6)}, "en")
    with pytest.raises(CrosslignError, match=r"^es: no pair in 5 harmful queries"):
        check_counts({"es": numbers(0, 5)}, "en")
    with pytest.raises(CrosslignError, match=r"^no query has a pair of answers"):
        check_counts({"en": numbers(0, 5)}, "en")


@pytest.mark.parametrize(
    ("reasons", "alone", "fails"),
    [
        ({"chosen": 1, "no_good_answer": 8}, False, False),
        ({"borrowed": 9}, False, False),
        ({"both_good": 9}, True, False),  # the teacher refused nothing here that could be put beside them
        ({"unsure": 9}, True, False),
        ({"no_good_answer": 8, "unsure": 1}, True, True),
    ],
)
def test_pairs_of_harmful_queries_want_some_of_harmless_ones(reasons: dict[str, int], alone: bool, fails: bool) -> None:
    counts: Any = {"sw": {**numbers(3, 1), "benign": {**dict.fromkeys(REASONS, 0), **reasons}}, "es": numbers(0, 5)}
    counts["sw"]["harmful"] = {**dict.fromkeys(REASONS, 0), **counts["sw"]["harmful"]}
    counts["es"]["harmful"] = {**dict.fromkeys(REASONS, 0), **counts["es"]["harmful"]}
    assert without_harmless(counts) == (["sw"] if alone else [])
    assert without_harmless({"sw": {"harmful": counts["sw"]["harmful"]}}) == ["sw"]
    if not fails:
        assert check_counts(counts, "en") == ["es"]
        return
    with pytest.raises(CrosslignError, match=r"^sw: .* help in neither answer to 8 of 9 harmless queries"):
        check_counts(counts, "en")
