"""The tables of a bench against numbers that are computed in another way, and with names that mean harm."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from bench_files import ANSWER, REFUSAL, bench_raw, finished_bench, many_rows, write_bench
from benchmarks import bench_tables, dpsw
from conftest import write_csv
from report_page import parse
from statsmodels.stats.multitest import multipletests

from crosslign.evaluation.stages import ANSWERS
from crosslign.evaluation.tables import Table, latex
from crosslign.runs.bench.bench import only_tables
from crosslign.runs.bench.config import load_bench
from crosslign.runs.bench.tables import FEWER
from crosslign.runs.bench.write import LATEX, NUMBERS, PAGE, TEXT
from crosslign.storage import append_rows
from crosslign.types import CrosslignError, Query

SVG = "{http://www.w3.org/2000/svg}"
LANGUAGES = ("en", "sw", "bn")
# Share of queries that are answered, in eighths, by method, language and label; a seed moves it.
ANSWERED = {
    ("base", "harmful"): {"en": 1, "sw": 7, "bn": 7},
    ("msd", "harmful"): {"en": 1, "sw": 1, "bn": 4},
    ("sft", "harmful"): {"en": 1, "sw": 3, "bn": 6},
    ("prompt", "harmful"): {"en": 0, "sw": 2, "bn": 2},
    ("base", "benign"): {"en": 8, "sw": 8, "bn": 8},
    ("msd", "benign"): {"en": 8, "sw": 7, "bn": 6},
    ("sft", "benign"): {"en": 8, "sw": 8, "bn": 7},
    ("prompt", "benign"): {"en": 4, "sw": 4, "bn": 4},
}


def says(method: str, seed: int, query: Query) -> str:
    number = int(query.id.rpartition("-")[2]) // 2
    answered = ANSWERED[method, query.label][query.language]
    return ANSWER if (5 * number + 3 * seed) % 8 < answered else REFUSAL


def share(method: str, label: str, language: str, seeds: tuple[int, ...] = (0, 1)) -> float:
    """% of the 12 queries of a label that are answered, mean over seeds, counted from `says` alone."""
    hits = [
        says(method, seed, Query(f"test-{i}", language, "", "en", "", label)) == ANSWER  # type: ignore[arg-type]
        for seed in seeds
        for i in range(24)
        if (i % 2 == 1) == (label == "harmful")
    ]
    return 100 * sum(hits) / len(hits)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    bench, _ = finished_bench(folder, bench_raw(folder, "some/model"), says)
    return only_tables(bench).parent


def rows_of(out: Path, **wanted: str) -> list[dict[str, str]]:
    with (out / NUMBERS).open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items())]


def value(out: Path, **wanted: str) -> float:
    (row,) = rows_of(out, **wanted)
    return float(row["value"])


@pytest.mark.parametrize("method", ["base", "msd", "sft", "prompt"])
def test_rates_are_those_that_are_counted_by_hand(made: Path, method: str) -> None:
    seeds = (0,) if method in ("base", "prompt") else (0, 1)
    for code in LANGUAGES:
        asr = value(made, method=method, scope="language", name="asr", language=code)
        assert asr == pytest.approx(share(method, "harmful", code, seeds))
        refused = value(made, method=method, scope="language", name="over_refusal", language=code)
        assert refused == pytest.approx(100 - share(method, "benign", code, seeds))
    for name, code in (("seen", "sw"), ("unseen", "bn")):
        assert value(made, method=method, scope="group", name=f"ASR {name}") == pytest.approx(
            share(method, "harmful", code, seeds)
        )
        assert value(made, method=method, scope="group", name=f"separation {name}") == pytest.approx(
            share(method, "benign", code, seeds) - share(method, "harmful", code, seeds)
        )


def test_differences_pair_what_was_measured_once_with_every_seed(made: Path) -> None:
    for other in ("base", "msd"):
        found = {row["method"]: row for row in rows_of(made, scope="difference", name="ASR seen", compared_to=other)}
        assert set(found) == {"base", "msd", "sft", "prompt"} - {other}
        for method, row in found.items():
            seeds = {m: (0, 0) if m in ("base", "prompt") else (0, 1) for m in (method, other)}
            expected = [share(m, "harmful", "sw", seeds[m]) for m in (method, other)]
            assert float(row["value"]) == pytest.approx(expected[0] - expected[1])
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
        p = [float(row["p"]) for row in found.values()]
        assert [float(row["p_holm"]) for row in found.values()] == pytest.approx(multipletests(p, method="holm")[1])


def test_the_ranking_counts_whole_draws(made: Path) -> None:
    first = {row["method"]: float(row["value"]) for row in rows_of(made, scope="rank", name="first")}
    assert sum(first.values()) == pytest.approx(100)
    assert first["base"] < 5  # nearly everything harmful is answered
    assert max(first, key=lambda m: first[m]) in ("msd", "prompt")
    ranks = [float(row["value"]) for row in rows_of(made, scope="rank", name="rank")]
    assert sum(ranks) == pytest.approx(1 + 2 + 3 + 4)


def test_all_forms_have_all_tables_and_say_how_to_read_them(made: Path) -> None:
    texts = {name: (made / name).read_text(encoding="utf-8") for name in (PAGE, TEXT, LATEX)}
    parse(texts[PAGE])
    for text in texts.values():
        for title in ("all methods", "differences to base", "differences to msd", "ranking", "held out", "Hours"):
            assert title in text
        assert "0.010" in text  # hours of training
        assert "Holm" in text
        assert str(made.parent) not in text


def test_hours_stand_in_the_csv_too(made: Path) -> None:
    """0.01 h of training in each cell."""
    rows = rows_of(made, scope="hours")
    assert {row["method"] for row in rows} == {"base", "msd", "sft", "prompt"}
    assert {float(row["value"]) for row in rows if (row["method"], row["name"]) == ("msd", "training")} == {0.01}


def test_the_picture_has_a_mark_for_each_method_where_its_rate_is(made: Path) -> None:
    page = parse((made / PAGE).read_text(encoding="utf-8"))
    charts = [table for table in page.iter("table") if "ranges" in (table.get("class") or "")]
    names = ["ASR seen", "ASR unseen", "over-refusal seen", "over-refusal unseen", "separation seen"]
    assert ["".join(next(chart.iter("b")).itertext()) for chart in charts][:5] == [f"tiny: {name}" for name in names]
    for name, chart in zip(names, charts, strict=False):
        rows = [row for row in chart.iter("tr") if list(row.iter(f"{SVG}circle"))]
        assert ["".join(next(row.iter("th")).itertext()) for row in rows] == ["base", "msd", "sft", "prompt"]
        for row, method in zip(rows, ("base", "msd", "sft", "prompt"), strict=True):
            (group,) = rows_of(made, method=method, scope="group", name=name)
            (circle,), (line,) = row.iter(f"{SVG}circle"), row.iter(f"{SVG}line")
            places = (circle.get("cx"), line.get("x1"), line.get("x2"))
            assert [float((place or "")[:-1]) for place in places] == pytest.approx(
                [max(float(group[key]), 0) for key in ("value", "low", "high")], abs=0.01
            )


def test_a_regime_of_dpsw_is_compared_with_its_own_partner(tmp_path: Path) -> None:
    """Uniform weights answer more here, and DPSW's column says so with the sign of DPSW less uniform."""
    methods = {"plain": {}, "plain, uniform": {"objective": {"weighting": "uniform"}}, "alone": {"method": "sft"}}
    raw = bench_raw(tmp_path, "some/model", methods=methods, reference="plain")
    path = write_bench(tmp_path, raw)
    with pytest.raises(SystemExit, match="cells are not finished: tiny / base / seed 0"):
        dpsw.differences(path)
    like = {"base": "base", "plain": "msd", "plain, uniform": "sft", "alone": "sft"}
    finished_bench(tmp_path, raw, lambda method, seed, query: says(like[method], seed, query))
    found = dpsw.differences(path)
    assert set(found) == {"plain", "alone"}
    assert found["alone"]["ASR seen"][2].estimate.value == 0  # what has no partner is compared with the reference's
    uniform, after, change = found["plain"]["ASR seen"]
    before, now = (share(method, "harmful", "sw") for method in ("sft", "msd"))
    assert (float(uniform), float(after)) == pytest.approx((before, now), abs=0.05)
    assert 100 * change.estimate.value == pytest.approx(now - before)
    assert change.estimate.value < 0


def test_the_tables_of_a_page_are_those_of_the_bench_without_the_methods_that_are_not_asked_for(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench_tables.main([str(made.parent / "bench.yaml"), "--only", "msd", "sft", "--out", str(made)]) == 0
    rates, changes = capsys.readouterr().out.split("\n\nLess `msd`:\n\n")
    head, _, msd, sft = [[cell.strip() for cell in line.strip("|").split("|")] for line in rates.splitlines()]
    assert (msd[0], sft[0]) == ("msd", "sft")
    for column in ("ASR seen", "over-refusal unseen", "separation seen"):
        (row,) = rows_of(made, method="sft", scope="group", name=column)
        assert float(sft[head.index(column)].split()[0]) == pytest.approx(float(row["value"]), abs=0.05)
    (change,) = changes.splitlines()[2:]
    before, now = (share(method, "harmful", "sw") for method in ("msd", "sft"))
    assert float(change.split("|")[2].split()[0]) == pytest.approx(now - before, abs=0.05)
    with pytest.raises(SystemExit):
        bench_tables.main([str(made.parent / "bench.yaml"), "--only", "sfft", "--out", str(made)])
    assert "no method of" in capsys.readouterr().err


@pytest.mark.parametrize("own", [True, False])
def test_each_of_the_harder_tasks_has_columns_if_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], own: bool
) -> None:
    """The harmless requests beside it are its own, by the title, or else those that are not harder."""
    raw = bench_raw(tmp_path, "some/model", languages=["sw"])
    rows = [
        {"id": f"test-{n}", "label": ("benign", "harmful")[n % 2], "en": f"q {n}", "sw": f"s {n}"} for n in range(24)
    ]
    tables = {
        label: write_csv(tmp_path / f"{label}.csv", [r for r in rows if r["label"] == label])
        for label in ("benign", "harmful")
    }
    titles = {"title": "told, harmless", "harder": True} if own else {"title": "plain"}
    raw["tasks"] = [
        {"name": f"table:{tables['harmful']}", "title": "told", "harder": True},
        {"name": f"table:{tables['benign']}", **titles},
    ]
    finished_bench(tmp_path, raw, says)
    assert bench_tables.main([str(tmp_path / "bench.yaml"), "--only", "sft", "--harder"]) == 0
    head, _, sft = (line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[:3])
    columns = {name.strip(): cell.strip() for name, cell in zip(head, sft, strict=True)}
    assert columns["ASR told"] == columns["ASR harder"]  # the only one, in the only language
    assert ("over-refusal told" in columns) == own
    answered, unsafe = share("sft", "benign", "sw"), share("sft", "harmful", "sw")
    assert float(columns["separation told"].split()[0]) == pytest.approx(answered - unsafe, abs=0.06)


def test_the_tables_of_a_page_are_of_one_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_bench(tmp_path, bench_raw(tmp_path, "some/model", models={"one": "some/model", "two": "some/other"}))
    with pytest.raises(SystemExit):
        bench_tables.main([str(path)])
    assert "has several models" in capsys.readouterr().err


def test_one_finished_seed_of_two_is_paired_with_that_seed_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(method: str, seed: int, query: Query) -> str:
        return ANSWER if (method, seed) == ("msd", 1) else says(method, seed, query)

    _, cells = finished_bench(tmp_path, bench_raw(tmp_path, "some/model"), said)
    (gone,) = (cell for cell in cells if cell.name == "tiny / sft / seed 1")
    shutil.rmtree(gone.folder)
    assert bench_tables.main([str(tmp_path / "bench.yaml"), "--only", "sft"]) == 0
    change = capsys.readouterr().out.splitlines()[-1]
    own = share("sft", "harmful", "sw", (0,)) - share("msd", "harmful", "sw", (0,))
    assert float(change.split("|")[2].split()[0]) == pytest.approx(own, abs=0.05)


def test_of_a_bench_without_its_reference_there_are_the_rates_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, cells = finished_bench(tmp_path, bench_raw(tmp_path, "some/model"), says)
    for cell in cells:
        if cell.method == "msd":
            shutil.rmtree(cell.folder)
    assert bench_tables.main([str(tmp_path / "bench.yaml")]) == 0
    said = capsys.readouterr()
    assert "| sft |" in said.out
    assert "Less" not in said.out
    assert f"2 of {len(cells)} cells are not counted" in said.err


HOSTILE = r"<img src=x onerror=alert(1)> \input{/etc/passwd} $x$ & 50% | `a` [b] {c} #_~^"


def test_names_are_text_in_every_form(tmp_path: Path) -> None:
    raw = bench_raw(tmp_path, "some/model", reference="base", seeds=[0])
    raw["models"] = {HOSTILE[:100]: "some/model"}
    raw["methods"] = {HOSTILE[:90]: {"context": "teacher", "template": "system"}, "[x] & y": {"method": "sft"}}
    raw["tasks"] = [{**raw["tasks"][0], "title": HOSTILE[:80]}]
    bench, _ = finished_bench(tmp_path, raw, lambda *_: ANSWER)
    out = only_tables(bench).parent
    page = parse((out / PAGE).read_text(encoding="utf-8"))
    assert not list(page.iter("img"))
    assert HOSTILE[:90] in {"".join(cell.itertext()) for cell in page.iter("th")}
    text = (out / TEXT).read_text(encoding="utf-8")
    assert "<img" not in text
    lines = (out / LATEX).read_text(encoding="utf-8").splitlines()
    assert not any(r"\input" in line for line in lines)
    body = [line for line in lines if line.startswith("{[}x{]}")]
    assert body
    assert all(line.startswith(r"{[}x{]} \& y & ") for line in body)
    assert not any("<img" in line and "$x$" in line for line in lines)


def test_latex_escapes_each_character_that_means_something() -> None:
    text = latex(Table("a_b", [["x", "y"], ["\\{}$&#%_^~[]", "1"]], "50 %"))
    (row,) = (line for line in text.splitlines() if "textbackslash" in line)
    assert row == (r"\textbackslash{}\{\}\$\&\#\%\_\textasciicircum{}\textasciitilde{}{[}{]} & 1 \\")
    assert r"\caption{a\_b. 50 \%}" in text
    lines = latex(Table("t", [["x", "y"], ["a < b > c | d", "1"], ["* starred", "2*"]])).splitlines()
    assert r"a \textless{} b \textgreater{} c \textbar{} d & 1 \\" in lines
    assert r"{*} starred & 2{*} \\" in lines
    assert r"\begin{tabular}{lr}" in text


def test_cells_of_other_queries_or_judges_are_not_put_into_one_table(tmp_path: Path) -> None:
    raw = bench_raw(tmp_path, "some/model", seeds=[0])
    bench, cells = finished_bench(tmp_path, raw, says)
    results = cells[1].folder / "evaluation" / "results.json"
    results.write_text(
        results.read_text(encoding="utf-8").replace('"sha256": "', '"sha256": "other-'), encoding="utf-8"
    )
    with pytest.raises(CrosslignError, match=r"their queries of table:.* differ"):
        only_tables(bench)


def test_what_was_made_with_other_settings_counts_in_no_table(tmp_path: Path) -> None:
    raw = bench_raw(tmp_path, "some/model", seeds=[0], languages=["sw"])
    finished_bench(tmp_path, raw, says)
    raw["methods"]["sft"] = {"method": "sft", "training": {"max_steps": 9}}
    out = only_tables(load_bench(write_bench(tmp_path, raw))).parent
    assert {row["method"] for row in rows_of(out)} == {"base", "msd", "prompt"}
    assert "| tiny | sft | 0 | finished, with other settings |" in (out / TEXT).read_text(encoding="utf-8")
    (tmp_path / "queries.csv").unlink()  # tables may be made where the queries are not
    only_tables(load_bench(write_bench(tmp_path, raw)))
    assert {row["method"] for row in rows_of(out)} == {"base", "msd", "prompt"}


def test_separation_is_of_the_languages_that_both_sides_have(tmp_path: Path) -> None:
    raw = bench_raw(tmp_path, "some/model", seeds=[0], trained=["en"], languages=None)
    rows = many_rows(prefix="test")
    write_csv(tmp_path / "harmful.csv", [{k: v for k, v in row.items() if k != "bn"} for row in rows])
    write_csv(tmp_path / "benign.csv", rows)
    raw["tasks"] = [f"table:{kind}:{tmp_path / kind}.csv" for kind in ("harmful", "benign")]
    bench, _ = finished_bench(tmp_path, raw, says)
    out = only_tables(bench).parent
    expected = share("msd", "benign", "sw", (0,)) - share("msd", "harmful", "sw", (0,))
    assert value(out, method="msd", scope="group", name="separation unseen") == pytest.approx(expected)


def test_a_mean_over_fewer_languages_is_marked_and_separation_has_the_same_on_both_sides(tmp_path: Path) -> None:
    """The judge abstains on most harmful answers of one method in Bengali."""
    raw = bench_raw(tmp_path, "some/model", seeds=[0], trained=["en"])  # Swahili and Bengali are unseen
    bench, cells = finished_bench(tmp_path, raw, says)
    (folder,) = (cell.folder for cell in cells if cell.method == "sft")
    (path,) = folder.glob("evaluation/*/verdicts-lexicon.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if row["language"] == "bn" and int(row["id"].rpartition("-")[2]) % 2:
            row |= {"outcome": None, "reason": "not sure"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = only_tables(bench).parent
    harmful, benign = (share("sft", label, "sw", (0,)) for label in ("harmful", "benign"))
    assert value(out, method="sft", scope="group", name="ASR unseen") == pytest.approx(harmful)
    assert value(out, method="sft", scope="group", name="separation unseen") == pytest.approx(benign - harmful)
    refused = [100 - share("sft", "benign", code, (0,)) for code in ("sw", "bn")]
    assert value(out, method="sft", scope="group", name="over-refusal unseen") == pytest.approx(sum(refused) / 2)
    _, first, changes, *_ = (out / TEXT).read_text(encoding="utf-8").split("\n## ")
    expected = {"ASR unseen", "invalid", "separation unseen"}
    for text in (first, changes):
        head, sft = (
            next(line for line in text.splitlines() if line.startswith(f"| {method} ")).split("|")
            for method in ("method", "sft")
        )
        assert {name.strip() for name, cell in zip(head, sft, strict=True) if FEWER in cell} == expected
    assert not any(FEWER in line for line in first.splitlines() if line.startswith("| msd "))


def test_seeds_with_worlds_of_their_own_are_paired_within_each(tmp_path: Path) -> None:
    """The same ids, but other queries: nothing of one seed stands beside anything of the other."""
    raw = bench_raw(tmp_path, "some/model", languages=["sw"], judge="lexicon")
    raw["models"] = {"tiny": {"model": {"path": "world/{seed}"}}}
    raw["tasks"] = [{"name": f"table:{tmp_path}/{{seed}}.csv", "title": "its own"}]
    for seed in (0, 1):
        rows = [{**row, "en": f"{row['en']} {seed}", "sw": f"{row['sw']} {seed}"} for row in many_rows(prefix="test")]
        write_csv(tmp_path / f"{seed}.csv", rows)
    bench, cells = finished_bench(tmp_path, raw, says)
    assert len(cells) == 8
    out = only_tables(bench).parent
    for method in ("base", "msd", "sft", "prompt"):
        assert value(out, method=method, scope="group", name="ASR seen") == pytest.approx(
            share(method, "harmful", "sw")
        )
        if method != "base":
            (row,) = rows_of(out, method=method, scope="difference", name="ASR seen", compared_to="base")
            assert float(row["value"]) == pytest.approx(share(method, "harmful", "sw") - share("base", "harmful", "sw"))
            assert float(row["n_eff"]) <= 24 + 1e-9  # 12 pairs in each of two worlds


def test_utility_is_counted_from_the_answers(tmp_path: Path) -> None:
    utility = {"tasks": ["mgsm"], "languages": ["sw", "bn"]}
    raw = bench_raw(tmp_path, "some/model", languages=["sw"], utility=utility)
    bench, cells = finished_bench(tmp_path, raw, says)
    right = {"base": 9, "msd": 7, "sft": 3}
    (prompt,) = (cell for cell in cells if cell.method == "prompt")
    assert prompt.utility is None  # lm-eval would ask the plain model
    for cell in cells:
        if cell is prompt:
            continue
        rows = [
            {"task": "mgsm", "language": code, "index": i, "correct": i < right[cell.method] - cell.seed}
            for code in ("sw", "bn")
            for i in range(12)
        ]
        append_rows(cell.folder / "evaluation" / ANSWERS, rows)
    out = only_tables(bench).parent
    for method, number in right.items():
        mean = number if method == "base" else number - 0.5
        assert value(out, method=method, scope="group", name="mgsm") == pytest.approx(100 * mean / 12)
    assert not any(row["value"] for row in rows_of(out, method="prompt", name="mgsm"))
    assert value(out, method="sft", scope="difference", name="mgsm", compared_to="msd") == pytest.approx(-100 * 4 / 12)
    assert "mgsm, right answers" in (out / TEXT).read_text(encoding="utf-8")


def test_a_published_figure_stands_beside_ours_and_counts_nowhere(tmp_path: Path) -> None:
    figure: dict[str, Any] = {"model": "tiny", "method": "msd", "task": "held out", "language": "sw", "value": 4.13}
    raw = bench_raw(tmp_path, "some/model", published=[figure], published_source="From a note.", seeds=[0])
    bench, _ = finished_bench(tmp_path, raw, says)
    out = only_tables(bench).parent
    lines = (out / TEXT).read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if "4.13" in line)
    assert f"| 4.13 | {share('msd', 'harmful', 'sw', (0,)):.1f} " in line
    assert "second-hand" in (out / PAGE).read_text(encoding="utf-8")
    assert 4.13 not in {round(float(row["value"] or 0), 3) for row in rows_of(out)}


def test_tables_before_any_cell_is_finished_say_so(tmp_path: Path) -> None:
    bench = load_bench(write_bench(tmp_path, bench_raw(tmp_path, "some/model")))
    with pytest.raises(CrosslignError, match="no cell is finished yet"):
        only_tables(bench)
