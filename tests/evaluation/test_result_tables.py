"""CSV and Markdown say what the results say, and nothing in a name breaks out of its cell."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from judged import GROUPS, column, table

from crosslign.evaluation.result_tables import terminal, to_csv, to_markdown
from crosslign.evaluation.results import SCHEMA_VERSION, comparison_task, evaluation_task
from crosslign.evaluation.tables import aligned, escape, short_names

UTILITY = {"metric": "exact_match", "value": 41.25, "n": 80, "low": 31.0, "high": 52.5}


@pytest.fixture(scope="module")
def evaluation() -> dict[str, Any]:
    harmful = table(1) + column("xx", ["unsafe"] * 3)
    benign = table(2, kind="benign")
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "evaluation",
        "manifest": {"model": "org/model", "adapter": "/home/me/runs/mine"},
        "tasks": {
            "multijail": evaluation_task(harmful, "harmful", "lexicon", GROUPS, 0),
            "table:/home/me/a|b": evaluation_task(benign, "benign", "lexicon", GROUPS, 0),
        },
        "utility": {"mgsm": {"sw": UTILITY}},
    }


@pytest.fixture(scope="module")
def comparison() -> dict[str, Any]:
    few = column("xx", ["unsafe"] * 3)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "comparison",
        "manifest": {
            "before": {"model": "org/model"},
            "after": {"model": "org/model", "adapter": "/home/me/runs/mine"},
        },
        "tasks": {
            "multijail": comparison_task(
                table(1, 80) + few, table(3, 80, hard=0) + few, "harmful", "lexicon", GROUPS, 0
            ),
            "benign": comparison_task(table(2, kind="benign"), table(4, kind="benign"), "benign", "lexicon", GROUPS, 0),
        },
        "utility": {"mgsm": {"sw": {"before": UTILITY, "after": {**UTILITY, "value": 40.0}}}},
    }


def read(text: str) -> dict[tuple[str, str], dict[str, str]]:
    """The rows of a CSV by task and name."""
    return {(row["task"], row["name"]): row for row in csv.DictReader(io.StringIO(text))}


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown text, cells split at the pipes that are not escaped."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif found[-1]:
            found.append([])
    return [lines for lines in found if lines]


class TestCsv:
    def test_evaluation(self, evaluation: dict[str, Any]) -> None:
        text = to_csv(evaluation)
        rows = read(text)
        task = evaluation["tasks"]["multijail"]
        parts = {**task["languages"], **task["groups"], "all": task["all"]}
        assert {name for where, name in rows if where == "multijail"} == set(parts)
        for name, part in parts.items():
            row = rows["multijail", name]
            assert (row["kind"], row["judge"]) == ("harmful", "lexicon")
            assert int(row["judged"]) == part["judged"]
            assert int(row["abstained"]) == sum(part["abstained"].values())
            assert int(row["count_unsafe"]) == part["outcomes"]["unsafe"]
            for metric in ("asr", "asr_strict", "asr_lenient", "invalid", "refused", "refused_then_answered"):
                assert row[metric] == ("" if part[metric]["value"] is None else repr(part[metric]["value"]))
                assert row[f"{metric}_low"] == ("" if part[metric]["value"] is None else repr(part[metric]["low"]))
            assert row["over_refusal"] == ""
        assert rows["multijail", "sw"]["scope"] == "language"
        assert rows["multijail", "low"]["scope"] == "group"
        assert rows["multijail", "all"]["scope"] == "all"
        assert rows["table:/home/me/a|b", "sw"]["asr"] == ""
        assert float(rows["table:/home/me/a|b", "sw"]["over_refusal"]) > 0
        assert (rows["mgsm", "sw"]["kind"], rows["mgsm", "sw"]["utility"]) == ("utility", "41.25")
        assert len({line.count(",") for line in text.splitlines()}) == 1

    def test_comparison(self, comparison: dict[str, Any]) -> None:
        rows = read(to_csv(comparison))
        pair = comparison["tasks"]["multijail"]["languages"]["sw"]
        row = rows["multijail", "sw"]
        for key in ("difference", "low", "high", "p", "p_holm", "detectable", "gained", "lost"):
            assert float(row[f"change_{key}"]) == pair["change"][key]
        for side in ("before", "after"):
            assert float(row[f"{side}_asr"]) == pair[side]["asr"]["value"]
            assert float(row[f"{side}_fidelity_high"]) == pair[side]["fidelity"]["rate"]["high"]
        assert int(row["n_paired"]) == pair["n_paired"]
        assert int(row["unpaired_before_only"]) == pair["unpaired"]["before_only"]
        assert (rows["multijail", "xx"]["change_difference"], rows["multijail", "xx"]["change_gained"]) == ("", "0")
        assert rows["multijail", "all"]["change_p"] == ""
        assert (rows["mgsm", "sw"]["before_utility"], rows["mgsm", "sw"]["after_utility"]) == ("41.25", "40.0")


class TestMarkdown:
    few = evaluation_task(column("sw", ["unsafe"] * 3), "harmful", "j", {}, 0)["languages"]["sw"]

    def test_evaluation(self, evaluation: dict[str, Any]) -> None:
        text = to_markdown(evaluation)
        harmful, benign, utility = tables(text)
        assert {len(row) for row in harmful} == {8}
        assert harmful[0][2] == "ASR %"
        assert benign[0][2] == "over-refusal %"
        asr = evaluation["tasks"]["multijail"]["languages"]["sw"]["asr"]
        sw = next(row for row in harmful if row[0] == "sw (Swahili)")
        assert sw[2] == f"{asr['value']:.1f} [{asr['low']:.1f}, {asr['high']:.1f}]"
        few = next(row for row in harmful if row[0].startswith("xx"))
        assert few[2] == "– (only 3 judged rows; 10 are needed)"
        assert [row[0] for row in harmful[-4:]] == [
            "**high** (mean of 1)",
            "**low** (mean of 2)",
            "**none**",
            "**all** (mean of 3)",
        ]
        assert utility[2] == ["mgsm", "sw (Swahili)", r"exact\_match", "41.2 [31.0, 52.5]"]
        assert "- model: org/model with mine" in text
        assert r"### a\|b (benign, judged by lexicon)" in text

    def test_comparison(self, comparison: dict[str, Any]) -> None:
        text = to_markdown(comparison)
        harmful, benign, utility = tables(text)
        assert {len(row) for row in harmful} == {10}
        assert benign[0][2:4] == ["over-refusal % before", "over-refusal % after"]
        pair = comparison["tasks"]["multijail"]["languages"]["sw"]
        change = pair["change"]
        sw = next(row for row in harmful if row[0] == "sw (Swahili)")
        assert sw[1] == str(pair["n_paired"])
        assert sw[3] == "{value:.1f} [{low:.1f}, {high:.1f}]".format(**pair["after"]["asr"])
        assert sw[4] == "{difference:+.1f} [{low:+.1f}, {high:+.1f}]".format(**change)
        assert sw[5] == f"{change['p_holm']:.3f}"
        assert sw[8] == f"{pair['before']['invalid']['value']:.1f} → {pair['after']['invalid']['value']:.1f}"
        assert harmful[-1][0] == "**all** (mean of 3)"
        assert harmful[-1][5] == "–"
        assert utility[2][3:] == ["41.2 [31.0, 52.5]", "40.0 [31.0, 52.5]"]
        assert "- after: org/model with mine" in text

    def test_small_p(self, comparison: dict[str, Any]) -> None:
        before, after = column("sw", ["unsafe"] * 40), column("sw", ["refused"] * 40)
        tasks = {"t": comparison_task(before, after, "harmful", "lexicon", {}, 0)}
        sw = tables(to_markdown({**comparison, "tasks": tasks, "utility": {}}))[0][2]
        assert sw[4].startswith("-100.0 [-100.0, ")
        assert sw[5] == "< 0.001"

    def test_no_sign_on_nothing(self, comparison: dict[str, Any]) -> None:
        part = column("sw", ["unsafe"] * 20 + ["refused"] * 20)
        tasks = {"t": comparison_task(part, part, "harmful", "lexicon", {}, 0)}
        assert tables(to_markdown({**comparison, "tasks": tasks}))[0][2][4].startswith("0.0 [-8.8, +8.8]")

    def test_languages_that_no_name_tells_apart_have_their_code_alone(self) -> None:
        rows = [row for code in ("art-x-low1", "art-x-low2", "sw") for row in column(code, ["unsafe"] * 12)]
        tasks = {"t": evaluation_task(rows, "harmful", "lexicon", {}, 0)}
        text = to_markdown({"kind": "evaluation", "manifest": {}, "tasks": tasks})
        assert [row[0] for row in tables(text)[0][2:5]] == ["art-x-low1", "art-x-low2", "sw (Swahili)"]

    @given(st.text(max_size=30))
    @example("a\r\nb|c\\|<b>[d](e)")
    def test_names_stay_in_their_cell(self, name: str) -> None:
        shown = escape(name)
        assert len(shown.splitlines()) <= 1
        assert "<" not in shown
        assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_\[\]]", shown)
        part = self.few
        task = {"kind": "harmful", "judge": name, "languages": {}, "groups": {name: part}, "all": part}
        results = {"kind": "evaluation", "manifest": {"model": name}, "tasks": {name: task}}
        assert {line.count(" |") for line in to_markdown(results).splitlines() if line.startswith("| ")} == {8}
        assert len(read(to_csv(results))) == (1 if name == "all" else 2)


def test_no_name_in_the_csv_is_a_formula(comparison: dict[str, Any]) -> None:
    name = '=HYPERLINK("http://x")'
    task = {**comparison["tasks"]["multijail"], "judge": "@judge"}
    text = to_csv({**comparison, "tasks": {name: task}, "utility": {}})
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {(row["task"], row["judge"]) for row in rows} == {(f"'{name}", "'@judge")}
    assert any(float(row["change_difference"]) < 0 for row in rows if row["change_difference"])  # numbers stay


def test_the_terminal_has_a_line_for_each_part_in_columns(comparison: dict[str, Any]) -> None:
    lines = terminal(comparison).splitlines()
    pair = comparison["tasks"]["multijail"]["languages"]["sw"]
    [sw] = [line for line in lines[:9] if line.split()[:1] == ["sw"]]
    numbers = "{before:.1f} {after:.1f} {difference:+.1f}".format(
        before=pair["before"]["asr"]["value"], after=pair["after"]["asr"]["value"], **pair["change"]
    )
    assert " ".join(sw.split()[2:5]) == numbers
    assert len({line.rindex(word) + len(word) for line in lines[:2] for word in line.split()[-1:]}) == 1
    starts = [line.split()[0] for line in lines[1:] if not line.startswith(" ")]
    assert starts == ["multijail", "benign", "mgsm", "multijail:"]  # the last: its partial refusals


def test_columns_line_up() -> None:
    assert aligned([("name", "n", "what"), ("a", "100", "x"), ("long name", "", "")], left=(0, 2)) == (
        "name         n  what\na          100  x\nlong name"
    )


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["org/model", "./runs/mine/", "/data/x/model.gguf"], ["org/model", "mine", "model.gguf"]),
        (["/runs/a/best", "/runs/b/best", "runs/c/other"], ["a/best", "b/best", "other"]),
        (["/x/best", "/y/best", "/z/y/best"], ["x/best", "/y/best", "z/y/best"]),
        (["C:\\models\\mine", "~/mine2"], ["mine", "mine2"]),
        (["table:harmful:/home/me/held out.csv", "table:data.csv benign"], ["held out.csv", "data.csv benign"]),
        (["the testbed's model", "", "/"], ["the testbed's model", "", "/"]),
    ],
)
def test_short_names(names: list[str], short: list[str]) -> None:
    assert list(short_names(names).values()) == short
