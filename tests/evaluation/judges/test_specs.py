"""Judges by name: checked at once, loaded with the first row, and never the model under test."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from guard_models import LLAMA_GUARD_TEXT, QWEN3GUARD, guard_tokenizer, item, tiny_qwen3

from crosslign.evaluation.judges import deferred, specs
from crosslign.evaluation.judges.guard import GuardJudge
from crosslign.evaluation.judges.lexicon import LexiconJudge
from crosslign.evaluation.judges.registry import JudgeSettings, make_judges
from crosslign.types import CrosslignError, Verdict

SETTINGS = JudgeSettings()
ITEMS = [item("stone and river"), item(""), item("zorple, at length"), item("I'm sorry, but I cannot help with that.")]


def save_guard(folder: Path, template: str, seed: int = 0) -> Path:
    tokenizer = guard_tokenizer(template)
    tiny_qwen3(len(tokenizer), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def guard(tmp_path: Path) -> Path:
    return save_guard(tmp_path / "Qwen3Guard-Gen-tiny", QWEN3GUARD)


@pytest.mark.parametrize("spec", ["guard:{}", "qwen3guard:{}"])
def test_a_guard_by_name_judges_as_the_guard_does(guard: Path, spec: str) -> None:
    (judge,) = make_judges([spec.format(guard)], SETTINGS)
    assert judge.name == "guard:qwen3guard"
    before = dict(judge.identity())
    tokenizer = guard_tokenizer(QWEN3GUARD)
    alone = GuardJudge(tiny_qwen3(len(tokenizer)), tokenizer, "qwen3guard")
    assert judge.judge(ITEMS) == alone.judge(ITEMS)
    assert judge.identity() == before


def test_a_guard_is_loaded_with_the_first_row_and_once(guard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = deferred.load_guard

    def counted(*args: Any, **kwargs: Any) -> GuardJudge:
        loads.append(args)
        return load(*args, **kwargs)

    monkeypatch.setattr(deferred, "load_guard", counted)
    (judge,) = make_judges([f"guard:{guard}"], SETTINGS)
    judge.identity()
    assert loads == []
    judge.judge(ITEMS)
    judge.judge(ITEMS)
    assert len(loads) == 1


def test_other_weights_in_the_same_folder_are_another_judge(guard: Path) -> None:
    first = make_judges([f"guard:{guard}"], SETTINGS)[0].identity()
    save_guard(guard, QWEN3GUARD, seed=1)
    second = make_judges([f"guard:{guard}"], SETTINGS)[0].identity()
    assert {key for key in first if first[key] != second[key]} == {"weights"}


def test_a_guard_that_knows_no_refusals_asks_the_lexicon(tmp_path: Path) -> None:
    folder = save_guard(tmp_path / "tiny", LLAMA_GUARD_TEXT)
    (judge,) = make_judges([f"llama_guard_3:{folder}"], SETTINGS)
    identity = judge.identity()
    assert identity["refusals"] == "lexicon"
    assert identity["lexicon.phrases_sha256"] == LexiconJudge().identity()["phrases_sha256"]
    # A random guard's labels have little mass; what counts is who is asked about refusals.
    assert deferred.LexiconRefusals()(ITEMS[3]) is True
    assert deferred.LexiconRefusals()(ITEMS[0]) is False
    judge.judge(ITEMS)
    assert isinstance(judge._guard.refusal_detector, deferred.LexiconRefusals)  # type: ignore[attr-defined]


def test_a_template_of_another_format_is_told_before_anything_is_loaded(
    guard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (guard / "chat_template.jinja").write_text("{{ raise_exception('no such role') }}")
    monkeypatch.setattr(deferred, "load_guard", None)
    with pytest.raises(CrosslignError, match=r"guard '.*Qwen3Guard-Gen-tiny': "):
        make_judges([f"guard:{guard}"], SETTINGS)


def test_two_models_behind_endpoints_keep_their_verdicts_apart() -> None:
    settings = JudgeSettings(url="http://127.0.0.1:1/v1", api_key_env=None)
    first, second = make_judges(["llm:a", "llm:b"], settings)
    assert (first.name, second.name) == ("llm:a", "llm:b")
    strong = make_judges(["llm:a"], JudgeSettings("http://127.0.0.1:1/v1", None, "strongreject"))[0]
    assert strong.name == "llm:a:strongreject"
    assert strong.identity()["rubric"] == "strongreject"


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "no judge"),
        (["lexicon:x"], "unknown judge 'lexicon:x'"),
        (["qwen3gard"], "Did you mean 'qwen3guard'"),
        (["llm:a"], "needs --judge-url"),
        (["lexicon", "lexicon"], "share a file"),
    ],
)
def test_what_is_no_judge_is_told(names: list[str], text: str) -> None:
    with pytest.raises(CrosslignError, match=text):
        make_judges(names, SETTINGS)


def test_a_model_is_not_its_own_judge_however_it_is_spelt(guard: Path) -> None:
    for tested in (str(guard), f"{guard}/../{guard.name}"):
        with pytest.raises(CrosslignError, match="model under test"):
            make_judges([f"guard:{guard}"], SETTINGS, tested=[tested])
    with pytest.raises(CrosslignError, match="model under test"):
        make_judges(["qwen3guard"], SETTINGS, tested=["qwen/qwen3guard-gen-8b"])
    assert make_judges([f"guard:{guard}"], SETTINGS, tested=[str(guard)], allow_self=True)


class Mine:
    name = "mine"

    def __init__(self, argument: str) -> None:
        if argument == "bad":
            raise OSError("no such thing")
        self.argument = argument

    def identity(self) -> dict[str, str]:
        return {"kind": "mine"}

    def judge(self, items: Any) -> list[Verdict]:
        return [Verdict("refused", self.argument) for _ in items]


def test_a_package_adds_a_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("mine", f"{__name__}:Mine", specs.ENTRY_POINT_GROUP),
              EntryPoint("none", f"{__name__}:str", specs.ENTRY_POINT_GROUP)]  # fmt: skip
    monkeypatch.setattr(specs, "entry_points", lambda group: points if group == specs.ENTRY_POINT_GROUP else [])
    monkeypatch.setitem(globals(), "str", str)
    (judge,) = make_judges(["mine:x"], SETTINGS)
    assert judge.judge([item("a")]) == [Verdict("refused", "x")]
    with pytest.raises(CrosslignError, match="could not be made: OSError: no such thing"):
        make_judges(["mine:bad"], SETTINGS)
    with pytest.raises(CrosslignError, match="makes a str, which is no judge"):
        make_judges(["none"], SETTINGS)
