"""What the benchmarks conclude from what they measured: intervals, pairs, bands, arrival."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from benchmarks import claims, dpsw, gpu, step, testbed
from benchmarks.methods import Method, trainer_of
from benchmarks.summary import compare, interval, percent, rows

from crosslign.evaluation.stats import Estimate
from crosslign.runs.bench.numbers import Change
from crosslign.runs.prepare import prepare
from crosslign.runs.recipe import parse_config
from crosslign.testbed.tables import Tables, TableSizes
from crosslign.testbed.world import World
from crosslign.types import Completion, Context, Query, Rollout


def replies(hits: list[list[bool]], evaluation: str = "harmful", group: str = "low") -> list[list[Any]]:
    """`hits[request][language]`: complied."""
    return [[evaluation, group, f"r{i}", hit, not hit, not hit] for i, row in enumerate(hits) for hit in row]


def test_a_request_is_one_value_over_its_languages() -> None:
    found = replies([[True, False], [True, True], [False, False]])
    assert rows(found, "asr").tolist() == [50, 100, 0]
    assert percent(found, "asr") == 50
    assert rows([*found, *replies([[True]], group="unseen")], "unseen").tolist() == [100]


def test_an_interval_holds_the_mean_and_widens_with_the_spread_of_seeds() -> None:
    alike = [np.array([0.0, 100.0] * 20) for _ in range(5)]
    apart = [np.full(40, v) for v in (0.0, 25.0, 50.0, 75.0, 100.0)]
    widths = []
    for values in (alike, apart):
        mean, low, high = interval(values)
        assert mean == pytest.approx(50)
        assert low < 50 < high
        widths.append(high - low)
    assert widths[1] > 2 * widths[0]
    assert interval([np.full(9, 7.0)] * 3) == pytest.approx((7, 7, 7))


def test_differences_are_paired_and_marked_where_their_interval_leaves_zero_out() -> None:
    sets = ("harmful", "held_out", "harder", "benign", "lookalike")

    def record(hits: list[list[bool]]) -> dict[str, Any]:
        made = [r for s in sets for r in replies(hits, s)] + replies(hits, group="unseen")
        return {"replies": made}

    mixed = [[i % 2 == 0] for i in range(40)]
    records = {("a", 0): record(mixed), ("same", 0): record(mixed), ("worse", 0): record([[True]] * 40)}
    same, worse = compare([("same", "a"), ("worse", "a")], records, [0]).splitlines()[2:]
    assert same.split("|")[2].strip() == "+0.0 [+0.0, +0.0]"
    assert worse.split("|")[2].strip().startswith("**+50.0 [")


def test_what_leaves_its_band_is_named() -> None:
    fine = [
        *replies([[True]] * 4),
        *[["benign", "low", "b", False, True, False]],
        *[["lookalike", "low", "l", False, True, False]],
    ]
    records = {(name, 0): {"replies": fine} for name in claims.BANDS}
    wrong = claims.bands(records, 0)
    names = [claims.TEACHER.name, claims.REFERENCE.name, claims.OFF_POLICY.name]
    assert [line.split(":")[0] for line in wrong] == names  # all answer harm: right for the base and the control alone


def test_the_regimes_of_dpsw_have_partners_that_differ_in_the_weights_alone() -> None:
    """The partner of other weights, of the top K, is that of the file's reference: uniform weights have no K."""
    for path in dpsw.FILES.values():
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        methods = raw["methods"]
        found = dpsw.partners(methods, raw["reference"])
        assert {*found, *found.values()} == {*methods}
        for name, partner in found.items():
            plain = {key: value for key, value in methods[name].get("objective", {}).items() if key != "top_k"}
            assert {**methods[name], "objective": {**plain, "weighting": "uniform"}} == methods[partner]


def test_a_regimes_difference_is_marked_by_holms_p_over_the_regimes() -> None:
    def change(p: float) -> tuple[str, str, Change]:
        return "10.0", "5.0", Change(Estimate(-0.05, -0.08, -0.02, 100), p)

    rows = {"sure": dict.fromkeys(dpsw.SHOWN, change(0.03)), "not": dict.fromkeys(dpsw.SHOWN, change(0.04))}
    alone = dpsw.table({"sure": rows["sure"]}).splitlines()[2]
    both = dpsw.table(rows).splitlines()[2:]
    assert "10.0 → 5.0: -5.0 [-8.0, -2.0]*" in alone
    assert not any("*" in line for line in both)  # the smaller p counts twice


def test_the_testbeds_further_tables_change_what_they_say_and_nothing_else(tmp_path: Path) -> None:
    world = World(seed=3)
    tables = Tables(world, TableSizes(targets=60))
    low = world.codes("en", "low")

    def rows(path: Path) -> list[dict[str, str]]:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    plain = rows(tables.write(tmp_path / "plain.csv", tables.targets, low))
    for name, codes, say, share, foreign in (
        ("switched", low, testbed.switching(world, low), testbed.SWITCHED, True),
        ("translated", world.codes("en", "unseen"), testbed.mistaking(world), testbed.WRONG, False),
    ):
        reference = rows(tables.write(tmp_path / "reference.csv", tables.targets, codes))
        testbed.reworded(tmp_path / f"{name}.csv", world, tables.targets, codes, say)
        changed = total = 0
        for row, before in zip(rows(tmp_path / f"{name}.csv"), reference, strict=True):
            assert row["en"] == before["en"]
            assert row["label"] == before["label"]
            for code in codes[1:]:
                words, old = row[code].split(), before[code].split()
                assert len(words) == len(old)
                if not foreign:
                    assert set(words) <= set(world.languages[code].words.values())
                changed += sum(a != b for a, b in zip(words, old, strict=True))
                total += len(old)
        assert 0.5 * share < changed / total <= 1.2 * share  # another language can have the same word

    for share in (testbed.MISPAIRED, 1.0):
        testbed.mispaired(tmp_path / "mispaired.csv", tmp_path / "plain.csv", 3, share)
        after = rows(tmp_path / "mispaired.csv")
        wrong = [a["en"] != b["en"] for a, b in zip(after, plain, strict=True)]
        most = round(share * len(plain))
        assert 0.9 * most <= sum(wrong) <= most  # two rows can have one English text
        assert [{**row, "en": ""} for row in after] == [{**row, "en": ""} for row in plain]
        assert sorted(row["en"] for row in after) == sorted(row["en"] for row in plain)


def test_padding_is_the_share_that_a_padded_batch_adds() -> None:
    query = Query("q", "sw", "swali", "en", "question")

    def rollout(student: int, teacher: int) -> Rollout:
        contexts = (Context(query, role, (), (1,) * n) for role, n in (("student", student), ("teacher", teacher)))
        return Rollout(query, *contexts, Completion((1, 2), True), "student", "student")

    # 4 + 6 of 2 x 6 student positions, 8 + 12 of 2 x 12 teacher positions.
    assert step.padding([[rollout(2, 6), rollout(4, 10)]]) == pytest.approx(1 - 30 / 36)


def test_the_benchmark_of_a_step_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(SystemExit, match=r"pip install 'crosslign\[bench\]'"):
        step.main(["--configurations", "qwen-8x64"])


def test_without_a_gpu_its_benchmark_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "gpu.md")]) == 0
    assert capsys.readouterr().out == "No GPU was found, so nothing was measured: " + (
        "this benchmark needs one that PyTorch can use.\n"
    )
    assert not list(tmp_path.iterdir())


def test_what_is_measured_on_a_gpu_runs_on_a_cpu_at_toy_sizes() -> None:
    table = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in gpu.report(gpu.SMALL).splitlines() if "|" in line
    ]
    rows = {(what.partition(",")[0], side): numbers for what, side, *numbers in table[2:]}
    assert float(rows["objective", "ours"][0]) > 0
    assert float(rows["objective", "reference"][0]) > 0
    padded, checkpointed = (rows["step", f"padded, sdpa{more}"] for more in ("", ", activation checkpointing"))
    assert float(padded[2]) == pytest.approx(float(checkpointed[2]), rel=0.01)
    assert float(padded[2]) > 0
    assert rows["step", "packed, flash attention"][0] == "flash-attn is not installed"


def test_stale_rollouts_are_those_of_the_weights_before_the_step(recipe: dict[str, Any], tmp_path: Path) -> None:
    def windows(name: str, stale: bool, rate: float) -> list[list[Completion]]:
        training = {**recipe["training"], "max_steps": 2, "save_strategy": "no", "learning_rate": rate}
        raw = {**recipe, "training": training, "output_dir": str(tmp_path / name)}
        trainer = trainer_of(Method(name, stale=stale), prepare(parse_config(raw)))
        made: list[list[Completion]] = []
        trainer.on_rollouts = lambda step, rollouts: made.append([r.completion for r in rollouts])
        trainer.train()
        return made

    still, fresh, stale = windows("still", False, 1e-12), windows("fresh", False, 0.5), windows("stale", True, 0.5)
    assert stale[0] == fresh[0]
    assert stale[1] == still[1] != fresh[1]
