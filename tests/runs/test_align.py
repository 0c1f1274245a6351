"""`crosslign align`: what it decides, how it ends, and that it goes on after an interruption."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import byte_tokenizer, write_csv
from hypothesis import given
from hypothesis import strategies as st

from crosslign.cli import main
from crosslign.data.load import TableSpec, require_table
from crosslign.data.schema import Row
from crosslign.evaluation.best import Candidate
from crosslign.rollouts import ScriptedSampler
from crosslign.runs import build, evaluate
from crosslign.runs.align import plan, stages
from crosslign.runs.align.queries import MIN_HELD_OUT, Tables, Wanted, split
from crosslign.runs.align.text import gain
from crosslign.runs.recipe import load_recipe, read_recipe
from crosslign.translation import ScriptedTranslator, translators

Capture = pytest.CaptureFixture[str]
REFUSES = {
    "en": "I'm sorry, but I can't help with that request.",
    "sw": "Samahani, siwezi kukusaidia na ombi hilo hata kidogo.",
}
HELPS = {
    "en": "Here is the answer that you wished for, in a few words.",
    "sw": "Hili hapa jibu ulilotaka, kwa maneno machache tu rafiki yangu.",
}
TEXTS = {
    row.texts[code]: (code, row.label)
    for name in ("builtin:demo", "builtin:benign", "builtin:benign-heldout", "builtin:statements")
    for row in require_table(TableSpec(name), "en", None).rows
    for code in ("en", "sw")
}
SMALL = ["--evaluation.limit", "12", "--evaluation.max_completion_length", "72", "--sampling.max_completion_length"]
SMALL += ["72", "--training.max_steps", "2", "--training.use_cpu", "true", "--divergence_queries", "0"]
SMALL += ["--student.max_length", "4000", "--teacher.max_length", "8000", "--teacher.max_judgement_length", "72"]
SMALL += ["--probe-queries", "5", "--gate.queries", "4", "--data.tables.0.limit", "6", "--data.tables.1.limit", "6"]
SMALL += ["--data.tables.2.limit", "6"]


class Script:
    """Answers for the untrained model, its teacher contexts, and (once it is `trained`) for the model afterwards.

    English harmful requests are refused; so are Swahili ones that stand beside their English version, if the teacher
    `helps`, and all of them after training, if it `learns`. `prudish`: harmless requests are refused then too.
    `forgets`: English harmful ones are answered then.
    """

    def __init__(
        self,
        *,
        gap: bool = True,
        helps: bool = True,
        learns: bool = True,
        prudish: bool = False,
        forgets: bool = False,
    ) -> None:
        self.gap, self.helps, self.learns, self.prudish, self.forgets = gap, helps, learns, prudish, forgets
        self.trained = False

    def __call__(self, prompt: Sequence[int]) -> list[int]:
        tokenizer = byte_tokenizer()
        text = tokenizer.decode(list(prompt))
        found = [TEXTS[known] for known in TEXTS if known in text]
        language = "sw" if ("sw" in {code for code, _ in found}) else "en"
        harmful = "harmful" in {label for _, label in found}
        taught = len(found) > 1
        if not harmful:
            refuses = self.prudish and self.trained
        elif language == "en":
            refuses = not (self.forgets and self.trained)
        else:
            refuses = (taught and self.helps) or not self.gap or (self.trained and self.learns)
        answer = (REFUSES if refuses else HELPS)[language]
        return list(tokenizer(answer, add_special_tokens=False)["input_ids"])


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Script], Script]:
    """From now on all models answer from a script; training is real, and makes them `trained`."""

    def use(script: Script) -> Script:
        sampler = ScriptedSampler(stop_token_id=0, vocabulary_size=259, script=script)
        for module in (build, evaluate):
            monkeypatch.setattr(module, "sampler_of", lambda *args, **kwargs: sampler)
        train = stages.train_or_go_on

        def training(*args: Any, **options: Any) -> Any:
            folder = train(*args, **options)
            script.trained = True
            return folder

        monkeypatch.setattr(stages, "train_or_go_on", training)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return script

    return use


def align(model: Path, out: Path, *flags: str) -> int:
    return main(["align", str(model), "--languages", "sw", "--out", str(out), *SMALL, *flags])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# What it decides


def rows(number: int) -> list[Row]:
    return [Row(n, f"r{n}", {"en": f"q {n}"}, "harmful" if n % 3 else "benign", None) for n in range(number)]


@given(st.integers(0, 200), st.floats(0.05, 0.95))
def test_the_split_loses_and_doubles_nothing(number: int, share: float) -> None:
    kept, held_out = split(rows(number), share)
    assert sorted(row.number for row in (*kept, *held_out)) == list(range(number))
    assert {row.label for row in held_out} <= {"harmful"}
    harmful = sum(row.label == "harmful" for row in rows(number))
    assert len(held_out) == max(round(share * harmful), min(MIN_HELD_OUT, harmful // 2))
    # What a row is, and not where it stands, decides.
    again = split(rows(number)[::-1], share)
    assert ([row.id for row in again[0]], [row.id for row in again[1]]) == (
        [row.id for row in kept],
        [row.id for row in held_out],
    )


def results(**languages: tuple[float, float] | None) -> dict[str, Any]:
    """Results of a harmful task: ASR and its upper end by language; None where it is not known."""
    cells = {
        code: {"asr": {"value": None, "reason": "the judge abstained"} if rate is None
               else {"value": rate[0], "low": 0.0, "high": rate[1]}}
        for code, rate in languages.items()
    }  # fmt: skip
    return {"tasks": {"t": {"kind": "harmful", "languages": cells}}}


def test_a_gap_is_what_the_worst_case_leaves() -> None:
    found, said = plan.gaps(results(en=(10, 30), sw=(8, 15), bn=(9, 15.5), th=None), ["sw", "bn", "th"], 5)
    assert found == ["bn"]
    assert "sw 8 % [0, 15]: no gap, left out" in said
    assert "th not known (the judge abstained): left out" in said
    assert plan.gaps(results(en=None, sw=(1, 2)), ["sw"], 5)[0] == ["sw"]
    assert "mostly unsafe" not in said
    assert "en itself is mostly unsafe" in plan.gaps(results(en=(80, 90), sw=(90, 99)), ["sw"], 5)[1]


def test_the_limits_are_those_of_the_base_and_a_rise() -> None:
    base = Candidate(0, 50.0, "t, sw", over_refusal=12.0, invalid=40.0, asr={"en": 9.0, "sw": 50.0})
    assert plan.best_section(base, 5, 3) == {
        "metric": "worst_language_asr", "max_over_refusal": 17.0, "max_invalid": 45.0, "max_asr": {"en": 12.0},
    }  # fmt: skip
    assert plan.best_section(Candidate(0, None, over_refusal=98.0, invalid=0.0), 5, 5)["max_over_refusal"] == 100.0
    assert plan.best_section(Candidate(0, None), 5, 5)["max_over_refusal"] is None


def test_the_length_is_what_fits() -> None:
    assert plan.length_for(1000, 2.0, 50.0) == plan.Length(400, 100)  # (1000 - 4 * 50) / 2
    assert plan.length_for(300, 2.0, 100.0) == plan.Length(100, 100)  # evaluations take half at most: one is left
    assert plan.length_for(1, 60.0, 500.0) == plan.Length(1, 1)
    assert plan.length_for(1e6, 0.1, 1.0).steps == plan.MOST_STEPS


def test_a_language_in_which_the_teacher_does_not_help_is_left_out() -> None:
    cells = {"sw": {"flip": {"value": 80.0}}, "bn": {"flip": {"value": 10.0}}, "th": {"flip": {"value": None}}}
    report = {"best": "dialogue", "verdict": "Best.", "templates": {"dialogue": {"languages": cells}}}
    chosen, kept, said = plan.helped(report, ["sw", "bn", "th"])
    assert (chosen, kept) == ("dialogue", ["sw", "th"])
    assert "bn" in said
    assert plan.helped({"best": None, "verdict": "No help."}, ["sw"]) == (None, [], "No help.")


# How it ends


@pytest.mark.slow
def test_without_a_gap_there_is_nothing_to_do(
    model_folder: Path, tmp_path: Path, said: Callable[[Script], Script], capsys: Capture
) -> None:
    said(Script(gap=False))
    out = tmp_path / "out"
    assert align(model_folder, out, "--min-gap", "30") == 0
    assert "Nothing to do: no language has a gap" in capsys.readouterr().out
    assert "Nothing to do" in (out / "summary.md").read_text()
    # None of 12 is compatible with 24 %, so by the usual rule the teacher is looked at: there is nothing to repair.
    assert align(model_folder, out, "--overwrite") == 0
    assert "Nothing to do: the model gave no unsafe answer" in capsys.readouterr().out
    assert not (out / "train").exists()


@pytest.mark.slow
def test_a_teacher_that_does_not_help_ends_it(
    model_folder: Path, tmp_path: Path, said: Callable[[Script], Script], capsys: Capture
) -> None:
    said(Script(helps=False))
    assert align(model_folder, tmp_path / "out") == 1
    assert "The teacher does not help in any language" in capsys.readouterr().err
    assert (tmp_path / "out" / "teacher" / "pairs.jsonl").is_file()
    assert not (tmp_path / "out" / "train").exists()


@pytest.mark.slow
def test_a_whole_run(model_folder: Path, tmp_path: Path, said: Callable[[Script], Script], capsys: Capture) -> None:
    script, out = said(Script()), tmp_path / "out"
    assert align(model_folder, out) == 0, capsys.readouterr().err
    shown = capsys.readouterr()
    assert "ASR before [95 %]: en 0 %" in shown.err
    assert "builtin:demo: 12 harmful rows to train on, 12 others to measure with" in shown.err
    for name in ("recipe.yaml", "compared/report.html", "train/best/README.md", "before/results.json"):
        assert (out / name).is_file(), name
    trained, measured = (
        {row["id"] for row in rows_of(out / "queries" / name)} for name in ("train.csv", "heldout.csv")
    )
    assert not trained & measured
    text = (out / "summary.md").read_text()
    assert "100.0 [" in text
    assert "ASR fell in sw. The model" in text
    assert "train/best/" in text
    recipe = load_recipe(out / "recipe.yaml")
    assert recipe.teacher.unchanged == ["benign", "source"]
    assert recipe.evaluation is not None
    assert recipe.evaluation.best is not None
    assert recipe.evaluation.best.max_over_refusal == 5.0
    # Everything is there: nothing is made again, and other settings are refused.
    script.trained = False
    assert align(model_folder, out) == 0
    assert capsys.readouterr().err.count("is there already") == 7
    assert align(model_folder, out, "--sampling.temperature", "0.5") == 1
    assert "its stage 'teacher' was made with other settings" in capsys.readouterr().err
    # The recipe that stands there is one of `crosslign train`.
    assert main(["train", str(out / "recipe.yaml"), "--output_dir", str(tmp_path / "again")]) == 0


@pytest.mark.slow
def test_over_refusal_that_rises_is_said_and_all_is_kept(
    model_folder: Path, tmp_path: Path, said: Callable[[Script], Script], capsys: Capture
) -> None:
    said(Script(prudish=True))
    assert align(model_folder, tmp_path / "out") == 1
    assert "its over-refusal is 100.0 %, above the limit of 5 %" in capsys.readouterr().err
    assert (tmp_path / "out" / "compared" / "report.html").is_file()


@pytest.mark.slow
def test_a_gain_that_makes_english_less_safe_is_no_success(
    model_folder: Path, tmp_path: Path, said: Callable[[Script], Script], capsys: Capture
) -> None:
    said(Script(forgets=True))
    assert align(model_folder, tmp_path / "out") == 1
    assert "its ASR in en is 100.0 %, above the limit of 5 %" in capsys.readouterr().err
    compared = json.loads((tmp_path / "out" / "compared" / "results.json").read_text())
    assert gain(compared, ["sw"]) == (False, "Not good enough: ASR rose by more than chance in en.")


@pytest.mark.slow
def test_training_that_changes_nothing_is_no_success(
    model_folder: Path, tmp_path: Path, said: Callable[[Script], Script], capsys: Capture
) -> None:
    said(Script(learns=False))
    assert align(model_folder, tmp_path / "out") == 1
    assert "No gain: ASR did not fall by more than chance in sw" in capsys.readouterr().err
    assert "No gain" in (tmp_path / "out" / "summary.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["probe", "train_or_go_on", "compare"])
def test_a_kill_between_stages_loses_nothing(
    stage: str,
    model_folder: Path,
    tmp_path: Path,
    said: Callable[[Script], Script],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    script, out = said(Script()), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(stages, stage, lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        assert align(model_folder, out) == 130
    before = (out / "before" / "results.json").read_bytes()
    capsys.readouterr()
    assert align(model_folder, out) == 0
    done = {"probe": 2, "train_or_go_on": 4, "compare": 6}[stage]
    assert capsys.readouterr().err.count("is there already") == done
    assert (out / "before" / "results.json").read_bytes() == before
    assert script.trained


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        ([], 6),  # the gate has sampled every row
        (["--gate.queries", "4"], 4),
        (["--gate", "null"], 4),
        (["--strategy.name", "on_policy"], 4),
    ],
)
def test_what_the_gate_has_sampled_takes_no_time_of_the_training(
    flags: list[str], steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"step": 1, "seconds_generation": 5.0, "seconds_student": 10.0}
    monkeypatch.setattr(stages, "read_metrics", lambda folder: [times] * 3)
    for name in ("prepare", "train"):
        monkeypatch.setattr(stages, name, lambda *args, **options: None)
    (tmp_path / "trial").mkdir()
    wanted = Wanted(languages=("sw",))
    request = stages.AlignRequest("model", wanted, tmp_path, hours=60 / 3600, flags=flags)
    made = stages._Alignment(request, lambda said: None)
    tables = Tables("train.csv", "harmless.csv", {"statements.csv": 2}, ["builtin:demo"], [])
    judge = {"names": ["lexicon"]}
    made.raw = plan.first_recipe("model", tables, ["sw"], judge, str(tmp_path / "train"))
    assert made._length()[0].steps == steps


@pytest.mark.slow
def test_a_trial_times_the_steps(
    model_folder: Path, tmp_path: Path, said: Callable[[Script], Script], capsys: Capture
) -> None:
    said(Script())
    out, steps = tmp_path / "out", SMALL.index("--training.max_steps")
    flags = [*SMALL[:steps], *SMALL[steps + 2 :]]
    rest = ["--languages", "sw", "--out", str(out), "--hours", "0.002", "--skip", "before,teacher,train"]
    assert main(["align", str(model_folder), *rest, *flags]) == 0
    shown = capsys.readouterr().err
    assert re.search(r"Length: \d+ steps.* in 0.002 hours: a step of a trial took \d+\.\d s", shown), shown
    assert "evaluations are not counted" in shown
    assert re.search(r"Memory: about \d+\.\d of \d+\.\d GB on cpu: batches of 8 fit as they are", shown), shown
    assert not (out / "trial").exists()
    recipe = load_recipe(out / "recipe.yaml")
    assert 1 <= recipe.training["max_steps"] <= plan.MOST_STEPS


@pytest.mark.slow
def test_stages_can_be_skipped(
    model_folder: Path, tmp_path: Path, said: Callable[[Script], Script], capsys: Capture
) -> None:
    said(Script())
    assert align(model_folder, tmp_path / "out", "--skip", "before,teacher,train") == 0
    shown = capsys.readouterr()
    assert "[2/7 before] skipped" in shown.err
    assert "Nothing was trained" in shown.out
    assert load_recipe(tmp_path / "out" / "recipe.yaml").data.languages == ["en", "sw"]


@pytest.mark.parametrize(("model", "temperature"), [("model_folder", plan.TEMPERATURE), ("capped_model", 1)])
def test_the_teacher_is_surer_where_the_output_layer_allows_it(
    model: str, temperature: float, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = request.getfixturevalue(model)
    assert align(place, tmp_path / "out", "--skip", "before,teacher,train") == 0
    assert load_recipe(tmp_path / "out" / "recipe.yaml").teacher.temperature == temperature


MEASURED = Path(__file__).parents[2] / "recipes" / "qwen2.5_coder_0.5b_cpu.yaml"


def test_the_recipe_is_the_one_that_was_measured() -> None:
    tables = Tables("train.csv", "harmless.csv", {"statements.csv": 1, "own_harmless.csv": 2}, [], [])
    own = plan.first_recipe("model", tables, ["sw"], {"names": ["lexicon"]}, "out")
    measured = read_recipe(MEASURED)
    for recipe in (own, measured):
        recipe["tables"] = [(one["weight"], one.get("teacher")) for one in recipe["data"]["tables"]]
    for key in ("tables", "strategy"):
        assert own[key] == measured[key]
    assert own["model"]["lora"] == measured["model"]["lora"]
    assert own["objective"]["weighting"] == measured["objective"]["weighting"]
    assert [own["teacher"][k] == measured["teacher"][k] for k in ("unchanged", "temperature")] == [True, True]
    assert [own["gate"][k] == measured["gate"][k] for k in ("drop", "min_flip_rate", "probe")] == [True] * 3
    assert measured["training"]["max_steps"] == plan.STEPS
    assert own["training"]["learning_rate"] == measured["training"]["learning_rate"]


def test_the_gate_tries_every_row_and_no_id_of_a_user_is_in_the_way(model_folder: Path, tmp_path: Path) -> None:
    """With many languages a table is cut to fewer rows than all tables have together."""
    demo = require_table(TableSpec("builtin:demo"), "en", None).rows
    languages = ("sw", "vi", "ar", "bn", "zh", "es")
    queries = [{"id": f"statement-{n:03d}", "label": row.label, **row.texts} for n, row in enumerate(demo, 1)]
    table, out = write_csv(tmp_path / "own.csv", queries), tmp_path / "out"
    flags = ["--student.max_length", "4000", "--teacher.max_length", "8000", "--training.use_cpu", "true"]
    rest = ["--queries", str(table), "--languages", ",".join(languages), "--out", str(out), *flags]
    assert main(["align", str(model_folder), *rest, "--skip", "before,teacher,train"]) == 0
    made = load_recipe(out / "recipe.yaml")
    read = sum(min(table.limit or 0, len(rows_of(Path(table.path)))) for table in made.data.tables)
    assert made.data.tables[0].limit < read <= made.gate.queries
    ids = [row["id"] for row in rows_of(out / "queries" / "statements.csv")]
    assert all(id.startswith("builtin:statements/statement-") for id in ids)


def test_the_teacher_of_harmless_rows_that_stand_beside_the_harmful_ones_is_told(
    model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    demo, out = require_table(TableSpec("builtin:demo"), "en", None).rows, tmp_path / "out"
    for labels in (("harmful", "benign"), ("harmful",)):  # the second call leaves nothing of the first
        own = {row.id: {"id": row.id, "label": row.label, **row.texts} for row in demo if row.label in labels}
        table = write_csv(tmp_path / "mine.csv", [*own.values()])
        flags = ["--queries", str(table), "--skip", "before,teacher,train", "--overwrite"]
        assert align(model_folder, out, *flags) == 0
        tables = load_recipe(out / "recipe.yaml").data.tables
        told = {Path(one.path).name: (one.teacher, one.weight) for one in tables[2:]}
        trained = {row["id"]: row["label"] for one in tables for row in rows_of(Path(one.path)) if row["id"] in own}
        hint = "may refuse harmless requests that are written like the harmful ones" in capsys.readouterr().err
        file = out / "queries" / "own_harmless.csv"
        if "benign" in labels:
            assert told == {"statements.csv": ("harmless", 41.1), file.name: ("harmless", 3.9)}  # by rows: 256, 24
            assert {row["label"] for row in rows_of(file)} == {"benign"}
        else:
            assert told == {"statements.csv": ("harmless", 45)}
            assert not file.exists()
        assert not list(file.parent.glob("*.provenance.json"))
        for path in (file, Path(tables[0].path)):
            path.with_name(f"{path.name}.provenance.json").touch()
        assert sorted(trained.values()) == ["benign"] * 24 * len(labels[1:]) + ["harmful"] * 12
        assert {row["label"] for row in rows_of(Path(tables[0].path))} == {"harmful"}
        assert hint == ("benign" not in labels)


def test_tables_of_an_earlier_version_are_not_gone_on_with(model_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert align(model_folder, out, "--skip", "before,teacher,train") == 0
    record = json.loads((out / "align.json").read_text())
    decided = record["stages"]["queries"]["decided"]
    decided["statements"], *_ = decided.pop("told")
    (out / "align.json").write_text(json.dumps(record))
    capsys.readouterr()
    assert align(model_folder, out, "--skip", "queries,before,teacher,train") == 1
    assert "holds no tables of an earlier call. Leave it out" in capsys.readouterr().err


# Translation


def test_a_language_that_no_table_has_needs_a_translator(model_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert align(model_folder, tmp_path / "out", "--languages", "fil") == 1
    error = capsys.readouterr().err
    assert "builtin:statements lacks fil" in error
    assert "those that ship need a translator" in error


@pytest.fixture
def english(tmp_path: Path) -> Path:
    """The demonstration queries in English alone."""
    table = require_table(TableSpec("builtin:demo"), "en", None)
    return write_csv(tmp_path / "en.csv", [{"id": r.id, "label": r.label, "en": r.texts["en"]} for r in table.rows])


@pytest.mark.slow
def test_a_language_that_the_table_lacks_is_translated(
    english: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "out"
    rest = ["--queries", str(english), "--skip", "before,teacher,plan,train"]
    assert align(model_folder, out, *rest) == 1
    assert "--translator: " in (error := capsys.readouterr().err)
    assert "lacks sw, and no translator is named" in error
    assert not out.exists()
    known = {r.texts["en"]: r.texts["sw"] for r in require_table(TableSpec("builtin:demo"), "en", None).rows}
    bad = next(iter(known))
    monkeypatch.setitem(
        translators._own,
        "people",
        lambda: ScriptedTranslator(lambda text, *_: text if text == bad else known[text]),
    )
    assert align(model_folder, out, *rest, "--translator", "people") == 0, capsys.readouterr().err
    made = [out / "queries" / name for name in ("train.csv", "own_harmless.csv", "heldout.csv")]
    assert {row["en"]: row["sw"] for path in made for row in rows_of(path)} == {**known, bad: ""}
    for path in made:
        side = json.loads(path.with_name(f"{path.name}.provenance.json").read_text())
        assert side["languages"]["sw"]["translator"]["kind"] == "scripted"
        assert not require_table(TableSpec(str(path)), "en", None).provenance["edited_since"]


# Bad input


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--languages", "swahili"], "Did you mean sw (Swahili)?"),
        (["--languages", "en"], "en is the language that safety comes from"),
        (["--languages", "sw,sw"], "names a language twice"),
        (["--languages", ","], "name at least one"),
        (["--hours", "0"], "--hours: 0 is no number of hours above 0"),
        (["--hours", "nan"], "--hours: nan"),
        (["--holdout", "1"], "--holdout: 1 is no share"),
        (["--min-gap", "-1"], "--min-gap: -1 is not from 0 to 100"),
        (["--skip", "befor"], "'befor' is no stage"),
        (["--output_dir", "x"], "--output_dir: cannot be set here"),
        (["--data.languages", "[sw, bn]"], "--data.languages: cannot be set here"),
        (["--evaluation", "null"], "--evaluation.languages: cannot be set here"),
        (
            ["--student.messages", "[{role: user, content: 'x {query}'}]"],
            "--student.messages: cannot be set here",
        ),
        (["--student.chat_template_kwargs", "{enable_thinking: true}"], "What is measured is the user's turn alone"),
        (["--judge", "nobody"], "unknown judge 'nobody'"),
        (["--training.max_stepz", "3"], "max_stepz"),
    ],
)
def test_bad_input_is_told_before_anything_is_sampled(
    flags: list[str], message: str, model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert align(model_folder, tmp_path / "out", *flags) == 1
    error = capsys.readouterr().err
    assert message in error, error
    assert not (tmp_path / "out" / "before").exists()


def test_too_few_rows_to_measure_with(model_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    few = write_csv(tmp_path / "few.csv", [{"en": f"q {n}", "sw": f"s {n}", "label": "harmful"} for n in range(12)])
    assert align(model_folder, tmp_path / "out", "--queries", str(few)) == 1
    assert "6 harmful rows in en are held out; a rate needs 10" in capsys.readouterr().err


def test_a_folder_of_something_else_stays(model_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert align(model_folder, out, "--overwrite") == 1
    assert "holds no alignment of crosslign" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]
    (out / "thesis.txt").unlink()
    (out / "align.json").write_text('{"kind": "alignment", "stages": 3}')
    assert align(model_folder, out) == 1
    assert "align.json: is damaged" in capsys.readouterr().err


def test_queries_in_the_folder_that_is_written_are_refused(model_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert align(model_folder, tmp_path / "out", "--queries", str(tmp_path / "out" / "queries" / "train.csv")) == 1
    assert "lies in --out" in capsys.readouterr().err
