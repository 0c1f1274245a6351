"""The model card: what the hub's own parser reads of it, where its numbers come from, and what it does not say."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import yaml
from conftest import small_recipe, write_csv
from helpers import cli_train, run
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index

from crosslign.cli import main
from crosslign.evaluation.folder import compared, read_folder
from crosslign.evaluation.stages import RESULTS
from crosslign.models import ModelSource
from crosslign.runs import train
from crosslign.runs.folder import CARD, NUMBERS
from crosslign.runs.sharing.base import BaseFacts, base_facts
from crosslign.types import Interrupted

HOSTILE = "](https://evil.example)\n---\n# <script>alert(1)</script> | `x`"


def held_out(folder: Path) -> Path:
    rows = [
        {"id": f"h{n}", "label": ("harmful", "benign")[n % 2], **{code: f"{code} {n}" for code in ("en", "sw", "bn")}}
        for n in range(24)
    ]
    return write_csv(folder / "held out.csv", rows)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A base model with a card, a finished run that was evaluated, and evaluations of base and run."""
    folder = tmp_path_factory.mktemp("carded")
    shutil.copytree(model_folder, folder / "base")
    licence = {"license": "other", "license_name": "tiny", "license_link": "https://example.org/LICENSE"}
    (folder / "base" / CARD).write_text(f"---\n{yaml.safe_dump(licence)}---\n# Base\n")
    rows = [{"id": f"r{n}", "label": "harmful", "en": f"en {n}", "sw": f"sw {n}", "bn": f"bn {n}"} for n in range(8)]
    raw = small_recipe(folder, folder / "base", write_csv(folder / "train.csv", rows))
    raw["evaluation"] = {
        "tasks": [f"table:{held_out(folder)}"],
        "max_completion_length": 8,
        "best": {"max_invalid": None, "max_over_refusal": None},
    }
    raw["training"] |= {"max_steps": 2, "save_strategy": "no"}
    raw["divergence_queries"] = 1
    run(raw)
    for name, flags in (("before", []), ("after", ["--adapter", str(folder / "run")])):
        words = ["eval", "--model", str(folder / "base"), *flags, "--tasks", f"table:{folder / 'held out.csv'}"]
        assert main([*words, "--languages", "sw", "--max-completion-length", "8", "--out", str(folder / name)]) == 0
    assert main(["compare", str(folder / "before"), str(folder / "after"), "--out", str(folder / "compared")]) == 0
    return folder


@pytest.fixture
def finished(made: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may spoil."""
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def card_of(folder: Path) -> ModelCard:
    """The card as the hub reads it. What it reads is a whole model-index, and nothing is left to fill in."""
    card = ModelCard.load(folder / CARD)
    assert "[More Information Needed]" not in card.content
    assert card.data.pipeline_tag == "text-generation"
    if card.data.eval_results:
        index = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card.content, re.DOTALL)[1])["model-index"]
        assert index == eval_results_to_model_index(card.data.model_name, card.data.eval_results)
    return card


def rates(card: ModelCard) -> dict[tuple[str, str, str], tuple[float, float, float, int]]:
    """The rates of a card's metadata, with ends and rows, by task, language and metric."""
    return {
        (r.dataset_name, r.dataset_config, r.metric_type): (
            r.metric_value,
            *(r.metric_args[name] for name in ("low_95", "high_95", "rows")),
        )
        for r in card.data.eval_results
    }


def known(results: dict[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Every rate of one evaluation that a card's metadata may hold."""
    for name, task in results["tasks"].items():
        headline = {"harmful": "asr", "benign": "over_refusal"}[task["kind"]]
        for code, cell in (*task["languages"].items(), ("all", task["all"])):
            for metric, rate in ((headline, cell[headline]), ("invalid", cell["invalid"])):
                yield name.rpartition("/")[2], code, metric, rate


def test_a_finished_run_has_a_card_with_the_numbers_of_its_own_evaluations(made: Path) -> None:
    card = card_of(made / "run")
    after = json.loads((made / "run" / "evaluations" / "step-2" / RESULTS).read_text())
    found = rates(card)
    for task, code, metric, rate in known(after):
        expected = (rate["value"], rate["low"], rate["high"], rate["n"])
        assert found[task, code, metric] == pytest.approx(expected, abs=0.005)
    assert {code for _, code, _ in found} == {"sw", "bn", "all"}
    assert card.data.language == ["en", "sw", "bn"]
    assert (card.data.license, card.data.license_name) == ("other", "tiny")
    assert card.data.license_link == "https://example.org/LICENSE"
    assert card.data.library_name == "peft"
    record = json.loads((made / "run" / "run.json").read_text())
    for part in (record["teacher_fingerprint"], record["data"][0]["fingerprint"], "arXiv:2605.02971", "train.csv"):
        assert part in card.content
    assert str(made) not in card.content
    assert str(made) not in (made / "run" / NUMBERS).read_text()


def test_a_card_says_how_sure_the_teacher_was_made_and_that_it_moved(finished: Path) -> None:
    """`finished` has neither; both are in the configuration alone."""
    assert main(["card", str(finished), "--overwrite"]) == 0
    assert "frozen at the start" in (finished / CARD).read_text(encoding="utf-8")
    recipe = yaml.safe_load((finished / "config.yaml").read_text())
    recipe["teacher"]["temperature"], recipe["method"]["options"] = 0.5, {"teacher_rate": 0.05}
    (finished / "config.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["card", str(finished), "--overwrite"]) == 0
    card = (finished / CARD).read_text(encoding="utf-8").replace("\\", "")
    assert "which moves with the student" in card
    assert "frozen at the start" not in card
    assert "| teacher's temperature | 0.5 |" in card
    assert "| method | msd teacher_rate=0.05 |" in card


def test_the_best_checkpoint_has_a_card_of_its_own_step(made: Path) -> None:
    step = json.loads((made / "run" / "run.json").read_text())["best"]["step"]
    results = json.loads((made / "run" / "evaluations" / f"step-{step}" / RESULTS).read_text())
    found = rates(card_of(made / "run" / "best"))
    for task, code, metric, rate in known(results):
        assert found[task, code, metric][0] == pytest.approx(rate["value"], abs=0.005)
    assert f"| steps | {step} of 2 |" in (made / "run" / "best" / CARD).read_text()


def test_a_card_takes_a_comparison_and_shows_both_sides_with_intervals(made: Path, finished: Path) -> None:
    assert main(["card", str(finished), "--evaluation", str(made / "compared")]) == 0
    text = card_of(finished).content
    (row,) = [line for line in text.splitlines() if line.startswith("| Swahili (sw) | yes |")]
    sides = [read_folder(made / name).results["tasks"] for name in ("before", "after")]
    assert "bn" not in {code for _, code, _ in rates(card_of(finished))}
    for name, metric in (("harmful", "asr"), ("benign", "over_refusal")):
        cells = [next(v for k, v in side.items() if k.endswith(name))["languages"]["sw"][metric] for side in sides]
        shown = [f"{c['value']:.1f} \\[{c['low']:.1f}, {c['high']:.1f}\\]" for c in cells]
        assert " → ".join(shown) in row
    assert "in languages it was trained on: bn." in text
    assert "Abilities" in text.partition("## What was not measured")[2]
    stored = json.loads((finished / NUMBERS).read_text())["results"]
    expected = compared(*(read_folder(made / name) for name in ("before", "after")))
    assert [task["all"] for task in stored["tasks"].values()] == json.loads(
        json.dumps([task["all"] for task in expected["tasks"].values()])
    )


def test_a_card_of_one_evaluation_says_that_the_base_was_not_measured(made: Path, finished: Path) -> None:
    assert main(["card", str(finished), "--evaluation", str(made / "after")]) == 0
    text = card_of(finished).content
    assert "The base model was not measured in the same way" in text
    assert " → " not in text.partition("## Results")[2].partition("## How to load")[0]


def test_a_measurement_through_a_server_is_shown_and_said_to_prove_nothing(made: Path, finished: Path) -> None:
    folder = Path(shutil.copytree(made / "before", finished.parent / "served"))
    results = json.loads((folder / RESULTS).read_text())
    results["manifest"]["endpoint"] = "http://gpu17.example:8000/v1"
    (folder / RESULTS).write_text(json.dumps(results))
    assert main(["card", str(finished), "--evaluation", str(folder)]) == 0
    assert "nothing proves that this model was behind it" in card_of(finished).content
    assert "gpu17" not in (finished / CARD).read_text() + (finished / NUMBERS).read_text()


def test_what_measured_another_model_is_refused(made: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / CARD).read_bytes()
    assert main(["card", str(finished), "--evaluation", str(made / "before")]) == 1
    assert "measured another adapter" in capsys.readouterr().err
    assert main(["card", str(finished), "--evaluation", str(made / "base")]) == 1
    assert "holds no finished evaluation" in capsys.readouterr().err
    assert (finished / CARD).read_bytes() == before


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("tasks",), [1], "is damaged"),
        (("manifest", "after"), None, "is damaged"),
        (("schema_version",), 1, "schema"),
        (("tasks", 0, "all", "after", "asr", "value"), float("nan"), "no finite number"),
        (("tasks", 0, "all", "after", "asr", "value"), "<b>", "is damaged"),
        (("tasks", 0, "judge"), None, "is damaged"),
    ],
)
def test_a_damaged_comparison_is_refused(
    made: Path, finished: Path, capsys: pytest.CaptureFixture[str], path: tuple[Any, ...], value: Any, says: str
) -> None:
    folder = finished.parent / "spoilt"
    folder.mkdir()
    results = json.loads((made / "compared" / RESULTS).read_text())
    place: Any = results
    for key in path[:-1]:
        place = place[list(place)[key]] if isinstance(key, int) else place[key]
    place[path[-1]] = value
    (folder / RESULTS).write_text(json.dumps(results))
    assert main(["card", str(finished), "--evaluation", str(folder)]) == 1
    assert says in capsys.readouterr().err
    card_of(finished)


def test_a_run_that_was_not_measured_says_so(whole: dict[str, Any]) -> None:
    card = card_of(Path(whole["output_dir"]))
    assert card.data.eval_results is None
    assert "Nothing was measured" in card.content
    assert card.data.license is None
    assert "Its card names none" in card.content


def test_what_came_from_outside_stays_text(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    record["base"]["name"] = HOSTILE
    record["data"][0] |= {"fingerprint": HOSTILE, "translated by": {"model": HOSTILE}}
    record["versions"]["torch"] = HOSTILE
    (finished / "run.json").write_text(json.dumps(record))
    numbers = finished / "evaluations" / "step-2"
    shutil.rmtree(numbers)
    config = yaml.safe_load((finished / "config.yaml").read_text())
    config["strategy"]["options"] = {HOSTILE: HOSTILE}
    config["student"]["messages"] = [{"role": "user", "content": f"{HOSTILE} {{query}}\n```\n# out"}]
    (finished / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["card", str(finished)]) == 0
    card = card_of(finished)
    prose, *_ = card.content.partition("---\n\n#")[2].partition("## How to load")
    assert "<script>" not in prose
    assert "https://evil" not in prose
    assert "\n# " not in prose
    fences = [line for line in card.content.splitlines() if line.startswith("```")]
    assert fences == ["```bibtex", "```", *(["```python", "```"] * 2), "```bash", "```"]
    assert "translated by.model" in prose


def test_the_licence_of_a_hub_model_is_that_of_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0" * 40
    snapshot = tmp_path / "models--owner--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / CARD).write_text("---\nlicense: llama3\nlicense_link: javascript:alert(1)\n---\n")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    assert base_facts(ModelSource("owner/name")) == BaseFacts(name="owner/name", kind="hub", license="llama3")
    assert base_facts(ModelSource("owner/other")) == BaseFacts(name="owner/other", kind="hub")
    assert base_facts(ModelSource(str(tmp_path / "gone"))) == BaseFacts(name="gone", kind="folder")


def test_a_licence_that_is_none_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((finished / "run.json").read_text())
    for name, value in (("license_link", "https://x) [y](z"), ("license_name", HOSTILE), ("license", "mit\nx: y")):
        changed = {**record, "base": {**record["base"], name: value}}
        (finished / "run.json").write_text(json.dumps(changed))
        assert main(["card", str(finished)]) == 1
        assert f"is damaged (base.{name}" in capsys.readouterr().err


def test_the_python_of_a_card_loads_the_model(
    made: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / "base").symlink_to(made / "base")
    monkeypatch.chdir(finished)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", (finished / CARD).read_text(), re.DOTALL | re.MULTILINE))
    space: dict[str, Any] = {}
    exec(compile(code.replace("max_new_tokens=256", "max_new_tokens=4"), "card", "exec"), space)  # noqa: S102
    assert space["asked"]["input_ids"].shape[0] == 1
    assert capsys.readouterr().out
    assert (finished / "merged" / "model.safetensors").is_file()


def test_a_card_that_somebody_has_changed_is_kept(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (finished / CARD).open("a") as file:
        file.write("my own words\n")
    assert main(["card", str(finished)]) == 1
    assert "README.md: was written or changed by somebody. Replace it with --overwrite." in capsys.readouterr().err
    assert (finished / CARD).read_text().endswith("my own words\n")
    assert main(["card", str(finished), "--overwrite"]) == 0
    assert main(["card", str(finished)]) == 0
    (finished / CARD).write_text("# peft\n\n[More Information Needed]\n")
    assert main(["card", str(finished)]) == 0
    card_of(finished)


def test_a_run_that_is_not_finished_gets_no_card(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((finished / "run.json").read_text())
    (finished / "run.json").write_text(json.dumps({**record, "status": "running"}))
    before = (finished / CARD).read_bytes()
    for words in (["card", str(finished)], ["push", str(finished), "me/it", "--dry-run"]):
        assert main(words) == 1
        assert "this run is not finished" in capsys.readouterr().err
    assert main(["merge", str(finished), "--out", str(finished.parent / "out")]) == 1
    assert "this run is not finished" in capsys.readouterr().err
    assert (finished / CARD).read_bytes() == before
    assert main(["card", str(finished.parent)]) == 1
    assert "holds no run of crosslign" in capsys.readouterr().err


def test_full_weights_have_a_card_too_and_a_new_run_replaces_it(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe["model"] |= {"finetuning": "full"}
    recipe["training"] |= {"max_steps": 1, "save_strategy": "no"}
    folder = run(recipe)
    card = card_of(folder)
    assert card.data.library_name == "transformers"
    assert "with all weights trained" in card.content
    assert "peft" not in card.content.partition("## How to load")[2]
    assert main(["merge", str(folder), "--out", str(tmp_path / "out")]) == 1
    assert "has no adapter to merge: this run trained all weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (folder / CARD).write_text("mine")
    assert cli_train(tmp_path, recipe, "--overwrite") == 0
    assert card_of(folder).data.library_name == "transformers"


def test_ctrl_c_while_the_card_is_written_says_that_the_run_is_finished(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "write_card", interrupted)
        with pytest.raises(Interrupted, match=r"The run is finished.*crosslign card .* writes it"):
            run(recipe)
    folder = recipe["output_dir"]
    assert json.loads((Path(folder) / "run.json").read_text())["status"] == "finished"
    assert main(["card", folder]) == 0
