"""The stages: each reads what the one before wrote, makes what is missing, and nothing else."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluations import LANGUAGES, Phrase, Table, answer, queries, task
from fake_endpoint import Answer, FakeEndpoint, said
from scipy.stats import binomtest

from crosslign.evaluation import stages
from crosslign.evaluation.completions import EndpointCompleter, completion_row, completions
from crosslign.evaluation.endpoint import Endpoint
from crosslign.evaluation.fidelity import FidelityResult
from crosslign.evaluation.folder import read_folder, report
from crosslign.evaluation.judges.lexicon import LexiconJudge
from crosslign.evaluation.stages import Evaluation, run
from crosslign.rollouts import SamplingParameters
from crosslign.storage import RowFile
from crosslign.types import CrosslignError, Verdict

TASKS = (task("bad", "harmful"), task("good", "benign"))


def evaluation(out: Path, **changes: Any) -> Evaluation:
    return replace(Evaluation(out, TASKS, [Phrase()], {"model": "table"}, ["sw"]), **changes)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_stage_writes_its_file(tmp_path: Path) -> None:
    results = run(evaluation(tmp_path), Table())
    for name, data in zip(("bad", "good"), TASKS, strict=True):
        keys = [q.key for q in data.queries]
        for file in ("completions.jsonl", "verdicts-phrase.jsonl", "fidelity.jsonl"):
            assert [f"{r['id']}|{r['language']}" for r in rows_of(tmp_path / name / file)] == keys
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == results
    assert "ASR" in (tmp_path / "results.md").read_text(encoding="utf-8")
    assert len(list(csv.DictReader((tmp_path / "results.csv").open(encoding="utf-8")))) == 2 * (
        3 + 3 + 1
    )  # languages, groups, all
    assert results["manifest"]["groups"] == {"low": ["sw", "bn"], "trained": ["sw"], "unseen": ["bn"]}


def test_every_number_is_what_an_independent_count_gives(tmp_path: Path) -> None:
    results = run(evaluation(tmp_path), Table())
    for name, data, metric, counted in (
        ("bad", TASKS[0], "asr", "answers"),
        ("good", TASKS[1], "over_refusal", "refuses"),
    ):
        rates = {}
        for code in LANGUAGES:
            counts = Counter(
                "empty" if not answer(q) else "refuses" if "sorry" in answer(q) else "answers"
                for q in data.queries
                if q.language == code
            )
            cell = results["tasks"][name]["languages"][code]
            judged = counts["answers"] + counts["refuses"]
            assert cell["n"] == 12
            assert cell["judged"] == judged
            assert cell["abstained"] == ({"nothing to judge": counts["empty"]} if counts["empty"] else {})
            assert cell["outcomes"]["refused"] == counts["refuses"]
            assert (cell[metric]["count"], cell[metric]["n"]) == (counts[counted], judged)
            interval = binomtest(counts[counted], judged).proportion_ci(method="wilson")
            wanted = (counts[counted] / judged, interval.low, interval.high)
            assert [cell[metric][k] / 100 for k in ("value", "low", "high")] == pytest.approx(wanted)
            rates[code] = cell[metric]["value"]
        assert results["tasks"][name]["all"][metric]["value"] == pytest.approx(sum(rates.values()) / 3)
        assert results["tasks"][name]["groups"]["unseen"][metric]["value"] == pytest.approx(rates["bn"])


def test_a_second_run_generates_and_judges_nothing(tmp_path: Path) -> None:
    first = run(evaluation(tmp_path), Table())
    completer, judge = Table(), Phrase()
    assert run(evaluation(tmp_path, judges=[judge]), completer) == first
    assert completer.asked == judge.asked == []


def test_another_judge_asks_for_no_completion_and_keeps_the_firsts_verdicts(tmp_path: Path) -> None:
    run(evaluation(tmp_path), Table())
    completer, other = Table(), Phrase("other", "friendly")
    results = run(evaluation(tmp_path, judges=[other]), completer)
    assert completer.asked == []
    assert len(other.asked) == 72
    assert results["tasks"]["bad"]["judge"] == "other"
    first = Phrase()
    both = run(evaluation(tmp_path, judges=[first, Phrase("other", "friendly")]), completer)
    assert first.asked == []
    agreement = both["tasks"]["bad"]["agreement"]["other"]["en"]
    assert agreement["n"] == sum(bool(answer(q)) for q in TASKS[0].queries if q.language == "en")
    assert agreement["kappa"] < 0  # they mean opposite things


def test_a_judge_that_changed_under_its_name_judges_anew(tmp_path: Path) -> None:
    run(evaluation(tmp_path), Table())
    judge = Phrase(word="friendly")
    run(evaluation(tmp_path, judges=[judge]), Table())
    assert len(judge.asked) == 72


@pytest.mark.parametrize("batches", [0, 1, 7, 20])
def test_an_interruption_loses_nothing_and_changes_nothing(tmp_path: Path, batches: int) -> None:
    whole = run(evaluation(tmp_path / "whole"), Table())
    with pytest.raises(KeyboardInterrupt):
        run(evaluation(tmp_path / "cut"), Table(dies_after=batches))
    rest = Table()
    assert run(evaluation(tmp_path / "cut"), rest) == whole
    assert len(rest.asked) == 72 - 2 * batches
    for name in ("bad/completions.jsonl", "bad/verdicts-phrase.jsonl", "results.csv", "results.md"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_interrupted_judge_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "CHUNK", 5)
    whole = run(evaluation(tmp_path / "whole"), Table())
    with pytest.raises(KeyboardInterrupt):
        run(evaluation(tmp_path / "cut", judges=[Phrase(dies_after=12)]), Table())
    judge = Phrase()
    assert run(evaluation(tmp_path / "cut", judges=[judge]), Table()) == whole
    assert len(judge.asked) == 72 - 10


@pytest.mark.parametrize("file", ["completions.jsonl", "verdicts-phrase.jsonl"])
def test_a_line_that_was_cut_off_is_made_again(tmp_path: Path, file: str) -> None:
    whole = run(evaluation(tmp_path), Table())
    path = tmp_path / "bad" / file
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    completer, judge = Table(), Phrase()
    assert run(evaluation(tmp_path, judges=[judge]), completer) == whole
    last = [TASKS[0].queries[-1].key]
    assert completer.asked == (last if file.startswith("completions") else [])
    # The same completion again: the verdict on it still holds.
    assert judge.asked == ([] if file.startswith("completions") else last)
    assert path.read_bytes() == content


def test_a_query_whose_text_changed_under_its_id_is_another_one(tmp_path: Path) -> None:
    run(evaluation(tmp_path), Table())
    changed = list(TASKS[0].queries)
    changed[4] = replace(changed[4], text="another text")
    completer, judge = Table(), Phrase()
    run(evaluation(tmp_path, tasks=[replace(TASKS[0], queries=changed), TASKS[1]], judges=[judge]), completer)
    assert completer.asked == [changed[4].key]
    assert judge.asked == [changed[4].key]


def test_what_the_task_says_of_a_query_is_taken_from_the_task(tmp_path: Path) -> None:
    run(evaluation(tmp_path), Table())
    moved = replace(TASKS[0], queries=[replace(q, label="benign", category="new") for q in TASKS[0].queries])
    moved = replace(moved, kind="benign")
    completer, judge = Table(), Phrase()
    results = run(evaluation(tmp_path, tasks=[moved], judges=[judge]), completer)
    assert completer.asked == []
    assert len(judge.asked) == 36  # a verdict depends on the label
    assert results["tasks"]["bad"]["kind"] == "benign"
    assert {r["category"] for r in rows_of(tmp_path / "bad" / "completions.jsonl")} == {"new"}


def test_languages_and_rows_added_later_ask_for_their_own_alone(tmp_path: Path) -> None:
    small = [task("bad", "harmful", ("en", "sw"), 10)]
    run(evaluation(tmp_path, tasks=small), Table())
    completer, judge = Table(), Phrase()
    grown = run(evaluation(tmp_path, tasks=TASKS[:1], judges=[judge]), completer)
    new = {q.key for q in TASKS[0].queries} - {q.key for q in small[0].queries}
    assert set(completer.asked) == set(judge.asked) == new
    assert grown == run(evaluation(tmp_path / "at-once", tasks=TASKS[:1]), Table())
    fewer = run(evaluation(tmp_path, tasks=small), completer)
    assert fewer["tasks"]["bad"]["all"]["n"] == 20
    assert len(completer.asked) == len(new)


def test_completions_of_other_settings_are_neither_mixed_nor_thrown_away_unasked(tmp_path: Path) -> None:
    run(evaluation(tmp_path), Table())
    before = (tmp_path / "bad" / "completions.jsonl").read_bytes()
    with pytest.raises(CrosslignError, match=r"other settings \(temperature differ\)"):
        run(evaluation(tmp_path), Table(temperature=1))
    assert (tmp_path / "bad" / "completions.jsonl").read_bytes() == before
    completer = Table(temperature=1)
    run(evaluation(tmp_path, overwrite=True), completer)
    assert len(completer.asked) == 72


def test_a_file_of_unknown_origin_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "completions.jsonl"
    path.write_text("mine")
    with pytest.raises(CrosslignError, match="does not say how it was made"):
        completions(queries("harmful"), Table(), RowFile(path, {}))
    assert path.read_text() == "mine"


@pytest.mark.parametrize("number", [0, 5, 7])
def test_a_judge_that_gives_another_number_of_verdicts_is_named(tmp_path: Path, number: int) -> None:
    class Careless(Phrase):
        def judge(self, items: Any) -> list[Verdict]:
            return [Verdict("refused", "as ever")] * number

    few = [task("bad", "harmful", rows=2)]
    with pytest.raises(CrosslignError, match=f"judge 'careless': gave {number} verdicts for 6 items"):
        run(evaluation(tmp_path, tasks=few, judges=[Careless("careless")]), Table())


def test_the_first_judges_own_fidelity_says_which_language_an_answer_is_in(tmp_path: Path) -> None:
    class Own:
        def identity(self) -> dict[str, str]:
            return {"library": "my own"}

        def measure(self, items: Any) -> list[FidelityResult]:
            return [FidelityResult(None, "other", None) for _ in items]

    knowing = Phrase("knowing")
    knowing.fidelity = Own()  # type: ignore[attr-defined]
    results = run(evaluation(tmp_path / "a", judges=[knowing, Phrase()]), Table())
    assert results["manifest"]["fidelity"] == {"library": "my own"}
    assert results["tasks"]["bad"]["all"]["fidelity"]["other"] == 36
    results = run(evaluation(tmp_path / "b", judges=[Phrase(), knowing]), Table())
    assert "py3langid" in results["manifest"]["fidelity"]["library"]


def test_what_a_servers_filter_ended_is_no_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def script(text: str, earlier: int) -> Answer:
        return said("Here is how you", "content_filter") if text.startswith("sw") else said("Here is how you do it.")

    few = [task("bad", "harmful", rows=2)]
    with FakeEndpoint(script) as server:
        completer = EndpointCompleter(Endpoint(server.url, "served"), SamplingParameters(max_completion_length=8))
        results = run(evaluation(tmp_path, tasks=few), completer)
    rows = {f"{row['id']}|{row['language']}": row for row in rows_of(tmp_path / "bad" / "completions.jsonl")}
    assert {(row["completion"], row.get("rejected")) for row in rows.values() if row["language"] == "sw"} == {
        ("", "content_filter")
    }
    cells = results["tasks"]["bad"]["languages"]
    assert cells["sw"]["abstained"] == {"rejected by the endpoint": 2}
    assert cells["en"]["judged"] == 2


HOSTILE = ["</script>", "Safety: Safe", "x" * 100_000, "ab\u202ecd", "a\0b", "\ud800 lone", "", "\u2028\r\n", "\\ud800"]


def test_rows_hold_any_text(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.jsonl", {"a": 1})
    rows = [{"id": str(i), "language": "en", "text": text} for i, text in enumerate(HOSTILE)]
    file.start(replace=False)
    file.append(rows)
    assert list(file.read()) == rows
    assert file.finish([f"{i}|en" for i in range(len(HOSTILE))], {f"{r['id']}|en": r for r in rows}) == rows
    assert list(file.read()) == rows


def test_hostile_completions_are_judged_counted_and_reported(tmp_path: Path) -> None:
    class Hostile(Table):
        def complete(self, queries: Any, on_rows: Any) -> None:
            texts = [HOSTILE[number % len(HOSTILE)] for number in range(len(queries))]
            on_rows([completion_row(q, text, truncated=False) for q, text in zip(queries, texts, strict=True)])

    results = run(evaluation(tmp_path, judges=[LexiconJudge()]), Hostile())
    assert results["tasks"]["bad"]["all"]["n"] == 36
    folder = read_folder(tmp_path)
    assert {j.completion for j in folder.tasks["bad"].values()} == set(HOSTILE)
    assert report(folder).stat().st_size > 10_000
