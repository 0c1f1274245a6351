"""Judges by name: checked at once, loaded with the first row, and never the model under test."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from guard_models import LLAMA_GUARD_TEXT, QWEN3GUARD, guard_tokenizer, item, tiny_qwen3

from crosslign import registry as plugins
from crosslign.evaluation.judges.registry import JudgeSettings, make_judges, registry
from crosslign.types import CrosslignError, Verdict

SETTINGS = JudgeSettings()


def save_guard(folder: Path, template: str) -> Path:
    tokenizer = guard_tokenizer(template)
    tiny_qwen3(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def guard(tmp_path: Path) -> Path:
    return save_guard(tmp_path / "Qwen3Guard-Gen-tiny", QWEN3GUARD)


@pytest.mark.parametrize("spec", ["guard:{}", "qwen3guard:{}"])
def test_a_guard_by_its_path(guard: Path, spec: str) -> None:
    (judge,) = make_judges([spec.format(guard)], JudgeSettings(dtype="float32"))
    assert judge.name == "guard:qwen3guard"
    assert (judge.identity()["model"], judge.identity()["dtype"]) == (str(guard), "float32")
    assert [v.reason for v in judge.judge([item("stone"), item("")])] == ["unparsed", "empty"]  # of random weights


def test_a_guard_whose_name_does_not_tell_its_format(tmp_path: Path) -> None:
    folder = save_guard(tmp_path / "tiny", LLAMA_GUARD_TEXT)
    assert make_judges([f"llama_guard_3:{folder}"], SETTINGS)[0].name == "guard:llama_guard_3"
    with pytest.raises(CrosslignError, match="its name does not tell its format"):
        make_judges([f"guard:{folder}"], SETTINGS)


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
        (["lexicon:x"], "judge 'lexicon' takes no option"),
        (["qwen3gard"], "Did you mean 'qwen3guard'"),
        (["llm:a"], "or --judge-url"),
        (["llm"], "name the model after a colon"),
        (["guard"], "name the model after a colon"),
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


def nothing(settings: JudgeSettings) -> str:
    return settings.rubric


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
    points = [EntryPoint("mine", f"{__name__}:Mine", registry.group),
              EntryPoint("none", f"{__name__}:nothing", registry.group)]  # fmt: skip
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == registry.group else [])
    (judge,) = make_judges(["mine:x"], SETTINGS)
    assert judge.judge([item("a")]) == [Verdict("refused", "x")]
    with pytest.raises(CrosslignError, match="could not be made: OSError: no such thing"):
        make_judges(["mine:bad"], SETTINGS)
    with pytest.raises(CrosslignError, match="makes a str, which is no judge"):
        make_judges(["none"], SETTINGS)
