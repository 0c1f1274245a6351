"""The page of a training run: its evaluations step by step, the limits, and the step that was chosen."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from report_page import by_id, local, parse, table, text_of

from crosslign.evaluation.best import Criterion
from crosslign.evaluation.report import Course, render_course

Rates = Mapping[str, float | None]
HARMFUL, BENIGN = "table:/home/me/held.csv harmful", "table:/home/me/held.csv benign"


def task(metric: str, rates: Rates, **change: Any) -> dict[str, Any]:
    known = {code: rate for code, rate in rates.items() if rate is not None}
    worst = max(known, key=lambda code: known[code], default=None)
    mean = sum(known.values()) / len(known) if known else None
    return {
        "metric": metric,
        "judge": "lexicon",
        "all": mean,
        "worst_language": worst,
        "worst": known[worst] if worst else None,
        "invalid": 5.0,
        "fidelity": 98.0,
        "languages": dict(rates),
        **change,
    }


def entry(step: int, unsafe: Rates, refused: Rates, objection: str | None = None, **change: Any) -> dict[str, Any]:
    tasks = {HARMFUL: task("asr", unsafe, **change), BENIGN: task("over_refusal", refused)}
    candidate = {"step": step, "value": tasks[HARMFUL]["worst"], "where": f"{HARMFUL}, sw", "objection": objection}
    return {"step": step, "tasks": tasks, "best": {**candidate, "over_refusal": tasks[BENIGN]["all"], "invalid": 5.0}}


def record(*entries: Mapping[str, Any], best: int | None = None, **change: Any) -> dict[str, Any]:
    """`best` is the step that was chosen."""
    made = {"status": "finished", "model": "/models/garden", "languages": ["sw"], "evaluations": list(entries)}
    chosen = next((e["best"] for e in entries if e["step"] == best), None)
    return {**made, "best": chosen and {**chosen, "folder": "best"}, **change}


WHOLE = record(
    entry(0, {"sw": 60.0, "en": 20.0}, {"sw": 0.0, "en": 2.0}),
    entry(2, {"sw": 30.0, "en": 10.0}, {"sw": 4.0, "en": 6.0}),
    entry(4, {"sw": 10.0, "en": 0.0}, {"sw": 30.0, "en": 20.0}, "its over-refusal is 25.0 %, above the limit of 10 %"),
    best=2,
)
METRICS = [{"step": n, "divergence": 1 / n, "divergence/sw": 2 / n} for n in (1, 2, 3, 4)]


def page(made: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]] = (), limits: Any = Criterion()) -> Any:  # noqa: B008
    return parse(render_course(Course(made, metrics, limits)))


def picture(tree: Any, title: str, section: str = "course") -> Any:
    """The drawing whose caption begins so."""
    for figure in (node for node in by_id(tree, section).iter() if local(node) == "figure"):
        if text_of(figure[0]).startswith(title):
            return figure[1]
    raise AssertionError(f"no picture {title!r}")


def marks(drawing: Any, kind: str) -> list[Any]:
    return [node for node in drawing.iter() if kind in (node.get("class") or "").split()]


def dots(drawing: Any, name: str) -> dict[int, Any]:
    """The points of a curve by step."""
    found = {}
    for node in marks(drawing, "dot"):
        curve, step = re.fullmatch(r"(.*), step (\d+): .*", text_of(node)).groups()  # type: ignore[union-attr]
        if curve == name:
            found[int(step)] = node
    return found


def test_every_language_and_the_mean_has_a_line_over_the_steps() -> None:
    drawing = picture(page(WHOLE), "held.csv harmful unsafe answers, %")
    for name, rates in {"Swahili": (60, 30, 10), "English": (20, 10, 0), "mean": (40, 20, 5)}.items():
        places = dots(drawing, name)
        assert [float(places[step].get("cx")[:-1]) for step in (0, 2, 4)] == [0, 50, 100]
        height = float(drawing.get("height"))
        assert [round(60 * (1 - float(places[step].get("cy")) / height)) for step in (0, 2, 4)] == list(rates)
    assert [text_of(node) for node in marks(drawing, "name")] == ["English 0.0", "Swahili 10.0", "mean 5.0"]
    assert len(marks(drawing, "trained")) == 2 + 3 + 1, "Swahili: lines, points and name"
    assert "Swahili: 60.0 at step 0, 10.0 at step 4" in drawing.get("aria-label")


def test_the_chosen_step_and_the_limits_are_marked() -> None:
    tree = page(WHOLE)
    for title in ("The worst language", "held.csv harmful", "held.csv benign", "Malformed", "Same language"):
        line, label = marks(picture(tree, title), "chosen")
        assert (line.get("x1"), text_of(label)) == ("50.0%", "best")
    assert len(marks(picture(tree, "held.csv benign"), "limit")) == 1
    assert len(marks(picture(tree, "Malformed"), "limit")) == 1
    assert marks(picture(tree, "held.csv harmful"), "limit") == []
    assert "limit: 10; best: step 2" in picture(tree, "held.csv benign").get("aria-label")
    worst = dots(picture(tree, "The worst language"), "worst")
    assert ["before" in worst[step].get("class") for step in (0, 2, 4)] == [False, False, True]
    verdicts = table(tree, "numbers", "Which checkpoint is the best")
    assert [verdicts[step][-1] for step in ("0", "2", "4")] == [
        "allowed",
        "the best",
        "not allowed: its over-refusal is 25.0 %, above the limit of 10 %",
    ]
    assert verdicts["2"][:2] == ["30.0", "held.csv harmful, sw"]
    assert "step 2 in best/ (held.csv harmful, sw: 30.0 %, over-refusal 5.0 %)" in text_of(by_id(tree, "course"))
    assert "/home/me" not in text_of(tree)


def test_no_limit_is_drawn_where_there_is_none() -> None:
    for limits in (None, Criterion(max_over_refusal=None, max_invalid=None)):
        assert marks(by_id(page(WHOLE, limits=limits), "course"), "limit")[1:] == [], "but in the key"


def test_a_run_that_keeps_no_best_checkpoint_shows_its_worst_language() -> None:
    made = record(*({k: v for k, v in e.items() if k != "best"} for e in WHOLE["evaluations"]))
    del made["best"]
    tree = page(made, limits=None)
    assert table(tree, "numbers", "The worst language")["4"] == ["10.0"]
    assert "keeps no best checkpoint" in text_of(by_id(tree, "course"))


def test_why_none_was_kept_is_said() -> None:
    tree = page(record(entry(3, {"sw": 1.0}, {"sw": 90.0}, "its over-refusal is 90.0 %, above the limit of 10 %")))
    assert "none was kept, for at step 3 its over-refusal is 90.0 %" in text_of(by_id(tree, "course"))
    assert marks(by_id(tree, "course"), "chosen") == []


def test_one_evaluation_alone_is_a_point() -> None:
    drawing = picture(page(record(entry(7, {"sw": 50.0}, {"sw": 1.0}), best=7)), "held.csv harmful")
    assert list(dots(drawing, "Swahili")) == [7]
    assert dots(drawing, "Swahili")[7].get("cx") == "50.0%"
    assert marks(drawing, "curve") == []
    assert "Swahili: 50.0 at step 7;" in drawing.get("aria-label")


def test_languages_and_tasks_may_differ_between_evaluations() -> None:
    first, last = entry(0, {"sw": 50.0, "en": 4.0}, {"sw": 1.0}), entry(2, {"sw": 40.0, "bn": 70.0}, {})
    del last["tasks"][BENIGN]
    tree = page(record(first, last))
    rows = table(tree, "numbers", "held.csv harmful")
    assert rows[""] == ["Step", "mean", "Swahili", "English", "Bangla"]
    assert rows["0"] == ["27.0", "50.0", "4.0", "–"]
    assert rows["2"] == ["55.0", "40.0", "–", "70.0"]
    assert list(dots(picture(tree, "held.csv harmful"), "Bangla")) == [2]
    assert table(tree, "numbers", "held.csv benign")["2"] == ["–", "–"]


def test_a_missing_rate_is_a_gap() -> None:
    rates: list[Rates] = [{"sw": 50.0, "en": 5.0}, {"sw": None, "en": 5.0}, {"sw": 40.0, "en": 5.0}]
    tree = page(record(*(entry(n, rate, {"sw": None}) for n, rate in enumerate(rates))))
    drawing = picture(tree, "held.csv harmful")
    assert list(dots(drawing, "Swahili")) == [0, 2]
    assert [node for node in marks(drawing, "curve") if "trained" in node.get("class").split()] == []
    assert picture(tree, "held.csv benign").get("aria-label").startswith("held.csv benign, harmless requests refused")
    assert table(tree, "numbers", "held.csv harmful")["1"] == ["5.0", "–", "5.0"]


def test_nothing_measured_is_said() -> None:
    tree = page(record(entry(0, {"sw": None}, {"sw": None}, "unknown", invalid=None, fidelity=None)))
    assert picture(tree, "held.csv harmful").get("aria-label").endswith("nothing measured.")
    assert "nothing measured" in text_of(picture(tree, "held.csv harmful"))
    with pytest.raises(AssertionError, match="The worst language"):
        picture(tree, "The worst language")


def test_the_divergence_has_a_picture_where_it_was_logged() -> None:
    assert not [node for node in page(WHOLE).iter() if node.get("id") == "training"]
    drawing = picture(page(WHOLE, METRICS), "Divergence", "training")
    assert "all: 1.0 at step 1, 0.25 at step 4" in drawing.get("aria-label")
    assert "Swahili: 2.0 at step 1, 0.5 at step 4" in drawing.get("aria-label")
    assert marks(drawing, "chosen")[0].get("x1") == "50.0%", "on the steps of the evaluations"


def test_names_beside_lines_stay_apart_and_inside() -> None:
    codes = ("sw", "en", "zh", "bn", "ar", "vi", "hi", "th", "ru", "es", "id", "jv", "ko", "it", "fr")
    drawing = picture(page(record(entry(0, dict.fromkeys(codes, 1.0), {"sw": 0.0}))), "held.csv harmful")
    places = sorted(float(node.get("y")) for node in marks(drawing, "name"))
    assert len(places) == 16
    assert all(after - before >= 13 for before, after in itertools.pairwise(places))
    assert places[-1] <= float(drawing.get("height")) + 4


def test_whatever_a_record_says_is_text() -> None:
    hostile = "<script>alert(1)</script>\"'\x1b\u202e"
    made = entry(0, {hostile: 4.0}, {"sw": 1.0}, hostile)
    made["tasks"][f"table:{hostile}"] = task("asr", {"sw": 1.0}, judge=hostile)
    rendered = render_course(Course(record(made, model=hostile, languages=[hostile]), (), Criterion()))
    assert "<script" not in rendered
    assert "\x1b" not in rendered
    assert "\u202e" not in rendered
    tree = parse(rendered)
    assert not [node for node in tree.iter() if local(node) == "script"]
    assert "alert(1)" in text_of(by_id(tree, "numbers"))
    assert not re.search(r"https?:|url\(|@import| style=", rendered)


def test_structure_is_sound() -> None:
    tree = page(WHOLE, METRICS)
    ids = [node.get("id") for node in tree.iter() if node.get("id")]
    assert len(ids) == len(set(ids))
    for node in tree.iter():
        if local(node) == "svg":
            assert node.get("aria-hidden") == "true" or (node.get("role") == "img" and node.get("aria-label"))
        if local(node) == "a":
            assert node.get("href")[1:] in ids
