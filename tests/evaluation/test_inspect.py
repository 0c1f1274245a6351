"""The tasks for Inspect AI, run by Inspect with its mock model: rates, what the judge sees, what is refused."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from helpers import SayingJudge

if sys.version_info < (3, 11):
    pytest.skip("inspect-ai wants Python 3.11", allow_module_level=True)

import tomllib
from inspect_ai import eval as inspect_eval
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import ModelOutput, ModelUsage, StopReason, get_model
from pydantic import ValidationError

from crosslign.evaluation import inspect_tasks
from crosslign.evaluation.tasks import get_task, names
from crosslign.types import CrosslignError, JudgeItem, Verdict

REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Certainly: a placeholder of some more words."
# id, label, and for each language the text and the reply to it.
ROWS = [
    ("h1", "harmful", ("first thing", REFUSAL), ("kitu cha kwanza", ANSWER)),
    ("h2", "harmful", ("second thing", ANSWER), ("kitu cha pili", ANSWER)),
    ("h3", "harmful", ("third thing", ""), ("kitu cha tatu", ANSWER)),
    ("h4", "harmful", ("fourth thing", ANSWER), ("kitu cha nne", REFUSAL)),
    ("b1", "benign", ("fifth thing", REFUSAL), ("kitu cha tano", ANSWER)),
    ("b2", "benign", ("sixth thing", ANSWER), ("kitu cha sita", ANSWER)),
]
REPLIES = dict(pair for _, _, *pairs in ROWS for pair in pairs)
HARMFUL = ROWS[:4]


def write_table(path: Path, rows: Sequence[Any] = ROWS) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "en", "sw"])
        writer.writerows([row, label, en[0], sw[0]] for row, label, en, sw in rows)
    return str(path)


def run(task: Any, folder: Path, stops: Mapping[str, StopReason] | None = None) -> EvalLog:
    """Inspect's log of a task with the replies above; `stops`: why the reply to a text ended, if not by itself."""

    def reply(messages: Any, *_: Any) -> ModelOutput:
        text = messages[-1].text
        output = ModelOutput.from_content("mockllm", REPLIES[text], stop_reason=(stops or {}).get(text, "stop"))
        output.usage = ModelUsage()  # else the mock model downloads a tokenizer to count with
        return output

    model = get_model("mockllm/model", custom_outputs=reply, memoize=False)
    return inspect_eval(task, model=model, log_dir=str(folder), display="none")[0]


def metrics(log: EvalLog) -> dict[str, float]:
    assert log.status == "success", log.error
    return {name: found.value for name, found in log.results.scores[0].metrics.items()}


def use(judge: SayingJudge, monkeypatch: pytest.MonkeyPatch) -> SayingJudge:
    monkeypatch.setattr(inspect_tasks, "shared_judge", lambda spec, url: (judge, Lock()))
    return judge


def test_rates_by_label_and_language(tmp_path: Path) -> None:
    found = metrics(run(inspect_tasks.table(write_table(tmp_path / "q.csv")), tmp_path / "logs"))
    assert found == pytest.approx(
        {
            "attack_success_rate": 5 / 8,
            "attack_success_rate_en": 2 / 4,
            "attack_success_rate_sw": 3 / 4,
            # Deviations from 5/8 summed by row: -1/4, 3/4, -1/4, -1/4; sqrt(3/4 * 4/3) / 8.
            "attack_success_stderr": 1 / 8,
            "attack_success_stderr_en": math.sqrt(1 / 3) / 2,
            "attack_success_stderr_sw": math.sqrt(1 / 4) / 2,
            "over_refusal_rate": 1 / 4,
            "over_refusal_rate_en": 1 / 2,
            "over_refusal_rate_sw": 0.0,
            "over_refusal_stderr": math.sqrt(2 * (1 / 2) ** 2 * 2) / 4,
            "over_refusal_stderr_en": 1 / 2,
            "over_refusal_stderr_sw": 0.0,
            **{
                f"refused_then_answered_{what}{language}": 0.0
                for what in ("rate", "stderr")
                for language in ("", "_en", "_sw")
            },
            "invalid_rate": 1 / 12,
            "invalid_rate_en": 1 / 6,
            "invalid_rate_sw": 0.0,
            "invalid_stderr": 1 / 12,  # one row of six; deviations of 5/6 and -1/6: sqrt(5/6 * 6/5) / 12
            "invalid_stderr_en": 1 / 6,
            "invalid_stderr_sw": 0.0,
        }
    )


def test_log_says_what_was_measured(tmp_path: Path) -> None:
    path = write_table(tmp_path / "q.csv")
    log = run(inspect_tasks.table(path, limit=3), tmp_path / "logs")
    data = get_task(f"table:{path}").load(limit=3)
    assert log.eval.metadata["queries_sha256"] == data.sha256
    assert log.eval.metadata["judge"]["kind"] == "lexicon"
    assert (log.plan.config.temperature, log.plan.config.max_tokens) == (0.0, 256)
    samples = {sample.id: sample for sample in read_eval_log(log.location).samples}
    assert set(samples) == {query.key for query in data.queries}
    for query in data.queries:
        sample = samples[query.key]
        assert sample.input == query.text
        assert {key: sample.metadata[key] for key in ("id", "language", "label", "task")} == {
            "id": query.id,
            "language": query.language,
            "label": query.label,
            "task": f"table:{path}",
        }


def test_one_label_has_its_rates_alone(tmp_path: Path) -> None:
    path = write_table(tmp_path / "q.csv")
    harmful = metrics(run(inspect_tasks.table(path, kind="harmful", languages="en"), tmp_path / "a"))
    benign = metrics(run(inspect_tasks.table(path, kind="benign", languages=["sw"]), tmp_path / "b"))
    assert {"attack_success_rate": 0.5, "invalid_rate": 0.25}.items() <= harmful.items()
    assert {"over_refusal_rate": 0.0, "invalid_rate": 0.0}.items() <= benign.items()
    assert not any(name.startswith("over_refusal") or name.endswith("_sw") for name in harmful)
    assert not any(name.startswith("attack_success") for name in benign)


def test_a_label_that_a_language_lacks_has_no_rate_there(tmp_path: Path) -> None:
    rows = [("h1", "harmful", ("first thing", REFUSAL), ("", "")), ROWS[4]]
    found = metrics(run(inspect_tasks.table(write_table(tmp_path / "q.csv", rows)), tmp_path / "logs"))
    assert found["attack_success_rate_en"] == 0
    assert math.isnan(found["attack_success_rate_sw"])
    assert math.isnan(found["attack_success_stderr_sw"])


def test_judge_sees_query_and_completion_and_may_abstain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(item: JudgeItem) -> Verdict:
        return Verdict(None, "unparsed") if item.query.key == "h1|en" else Verdict("unsafe", "said so")

    judge = use(SayingJudge(outcome), monkeypatch)
    path = write_table(tmp_path / "q.csv", HARMFUL)
    log = run(
        inspect_tasks.table(path), tmp_path / "logs", {"second thing": "max_tokens", "third thing": "content_filter"}
    )
    queries = get_task(f"table:{path}").load().queries
    expected = {q.key: JudgeItem(q, REPLIES[q.text], q.text == "second thing") for q in queries}
    del expected["h3|en"]  # the provider's filter ended it
    assert {item.query.key: item for item in judge.items} == expected
    score = log.results.scores[0]
    assert (score.scored_samples, score.unscored_samples) == (6, 2)
    assert metrics(log)["attack_success_rate"] == 1
    reasons = {s.id: s.scores["verdict"].reason for s in read_eval_log(log.location).samples}
    assert (reasons["h1|en"], reasons["h3|en"], reasons["h2|en"]) == ("unparsed", "content_filter", None)


def test_epochs_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, int] = {}

    def alternating(item: JudgeItem) -> Verdict:
        asked[item.query.key] = asked.get(item.query.key, 0) + 1
        return Verdict("unsafe" if asked[item.query.key] == 1 else "refused", "by turns")

    use(SayingJudge(alternating), monkeypatch)
    task = inspect_tasks.table(write_table(tmp_path / "q.csv", HARMFUL), languages="sw")
    model = get_model("mockllm/model", custom_outputs=lambda *_: _counted(ANSWER), memoize=False)
    log = inspect_eval(task, model=model, epochs=2, log_dir=str(tmp_path / "logs"), display="none")[0]
    assert metrics(log)["attack_success_rate"] == 0.5


def _counted(text: str) -> ModelOutput:
    output = ModelOutput.from_content("mockllm", text)
    output.usage = ModelUsage()
    return output


def test_a_model_does_not_judge_itself(tmp_path: Path) -> None:
    path = write_table(tmp_path / "q.csv")
    task = inspect_tasks.table(path, limit=1, judge="llm:model", judge_url="http://localhost:9/v1")
    log = run(task, tmp_path / "logs")
    assert log.status == "error"
    assert "must not grade itself" in log.error.message


def test_every_registered_task_is_there() -> None:
    assert set(inspect_tasks.TASKS) == {"table", *(name.removeprefix("builtin:") for name in names())}
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["inspect_ai"] == {"crosslign": inspect_tasks.__name__}


def test_a_set_from_a_local_file_with_options_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "MultiJail.csv").write_text("id,en,sw,tags\n1,first thing,kitu cha kwanza,['x']\n", encoding="utf-8")
    (tmp_path / "wrapper.txt").write_text("Please: {query}", encoding="utf-8")
    make = inspect_tasks.TASKS["multijail_intentional"]
    task = make(languages=["sw"], path=str(tmp_path / "MultiJail.csv"), wrapper=str(tmp_path / "wrapper.txt"))
    assert [(s.id, s.input) for s in task.dataset] == [("1|sw", "Please: kitu cha kwanza")]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"path": ["a", "b.csv"]}, "path\n  Input should be a valid string"),
        ({"limit": "many"}, "limit\n  Input should be a valid integer"),
        ({"languages": False}, "languages"),
        ({"judge": ["lexicon", "qwen3guard"]}, "judge\n  Input should be a valid string"),
        ({"judge": "lexikon"}, "unknown judge 'lexikon'"),
        ({"kind": "bad"}, "kind\n  Input should be 'harmful', 'benign' or 'mixed'"),
        ({"language": "en"}, "takes no option 'language'"),
        ({"languages": "fr"}, "has no language 'fr'"),
    ],
)
def test_bad_arguments_name_themselves(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises((CrosslignError, ValidationError)) as caught:
        inspect_tasks.table(**{"path": write_table(tmp_path / "q.csv"), **given})
    assert said in str(caught.value)
