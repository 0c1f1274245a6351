"""What a run trains, logs, caches and guards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from conftest import byte_tokenizer
from helpers import losses, metrics, run
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, TrainingArguments

from crosslign.distillation import write_judgements
from crosslign.models import TeacherMovedError, load_model
from crosslign.runs import build
from crosslign.runs.arguments import training_arguments
from crosslign.runs.build import assemble, make_trainer
from crosslign.runs.prepare import prepare, queries_of
from crosslign.runs.recipe import parse_config
from crosslign.types import Context, Query


def test_a_run_leaves_what_is_needed_to_use_and_to_repeat_it(whole: dict[str, Any]) -> None:
    folder = Path(whole["output_dir"])
    names = {p.name for p in folder.iterdir()}
    assert {
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "rollouts.jsonl",
        "checkpoint-4",
    } <= names
    assert not list(folder.glob("*.bin"))
    assert not list(folder.glob(".*"))
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["steps"] == 4
    assert record["versions"]["transformers"]
    assert record["data"][0]["rows"] == 12
    base = AutoModelForCausalLM.from_pretrained(whole["model"]["path"])
    adapted = PeftModel.from_pretrained(base, folder)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad(), adapted.disable_adapter():
        before = adapted(ids).logits
    assert not torch.allclose(adapted(ids).logits, before)


def test_every_step_logs_the_named_parts_for_each_language(whole: dict[str, Any]) -> None:
    rows = metrics(Path(whole["output_dir"]))
    assert [r["step"] for r in rows] == [1, 2, 3, 4]
    for row in rows:
        assert {
            "loss",
            "divergence",
            "weight",
            "tokens",
            "completion_length",
            "truncated_share",
            "seconds_generation",
            "seconds_teacher",
            "seconds_student",
            "learning_rate",
            "grad_norm",
        } <= set(row)
        # Two languages in batches of four, balanced.
        assert {"divergence/sw", "divergence/bn", "weight/sw", "weight/bn", "loss/sw", "loss/bn"} <= set(row)
        assert row["loss"] == pytest.approx((row["loss/sw"] + row["loss/bn"]) / 2, rel=1e-4)
        assert row["tokens"] == pytest.approx(4 * row["completion_length"])


def test_training_moves_the_student_towards_the_teacher(recipe: dict[str, Any]) -> None:
    recipe = {**recipe, "strategy": {"name": "off_policy"}, "divergence_queries": 6}
    folder = run(recipe, max_steps=40, gradient_accumulation_steps=1, save_strategy="no")
    values = losses(folder)
    assert sum(values[-5:]) < 0.7 * sum(values[:5])
    # The same tokens are measured before and after.
    divergence = json.loads((folder / "run.json").read_text())["divergence"]
    assert divergence["queries"] == 6
    assert set(divergence["before"]) == set(divergence["after"]) == {"all", "sw", "bn"}
    assert all(divergence["after"][key] < divergence["before"][key] for key in divergence["before"])


def test_full_finetuning_trains_all_weights_against_a_frozen_copy(recipe: dict[str, Any]) -> None:
    recipe["model"] = {**recipe["model"], "finetuning": "full"}
    recipe["teacher"] = {**recipe["teacher"], "dtype": "bfloat16"}
    folder = run(recipe, learning_rate=1e-3, max_steps=1)
    before = AutoModelForCausalLM.from_pretrained(recipe["model"]["path"]).state_dict()
    after = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(not torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize(
    ("engine", "mixed", "loses"),
    [(None, False, True), ("deepspeed", False, False), ("fsdp", True, False), ("fsdp", False, True)],
)
def test_small_steps_are_warned_of_where_no_engine_keeps_float32_weights(
    recipe: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    engine: str | None,
    mixed: bool,
    loses: bool,
) -> None:
    recipe["model"] = {**recipe["model"], "finetuning": "full", "dtype": "bfloat16"}
    recipe["training"] = {**recipe["training"], "bf16": mixed}
    prepared = prepare(parse_config(recipe))
    monkeypatch.setattr(build, "uses_deepspeed", lambda arguments: engine == "deepspeed")
    monkeypatch.setattr(build, "has_engine", lambda arguments: engine is not None)
    assemble(prepared, load_model(prepared.source))
    assert ("a step that is small beside its weight is lost" in caplog.text) == loses


def test_a_cpu_with_a_number_costs_no_second_copy_of_the_weights(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered = property(lambda _: torch.device("cpu", 0))  # as accelerate calls it when there are several processes
    monkeypatch.setattr(TrainingArguments, "device", numbered)
    monkeypatch.setattr(Accelerator, "device", numbered)
    prepared = prepare(parse_config({**recipe, "training": {**recipe["training"], "max_steps": 1}}))
    made = assemble(prepared, load_model(prepared.source))
    places = [p.data_ptr() for p in made.student.parameters()]
    make_trainer(prepared, made).train()
    assert [p.data_ptr() for p in made.student.parameters()] == places


def test_frozen_parameters_stay_as_they_are(recipe: dict[str, Any]) -> None:
    recipe["model"] = {**recipe["model"], "finetuning": "full", "frozen": ["embed_tokens", "lm_head"]}
    folder = run(recipe, learning_rate=1e-3, weight_decay=0.1, max_steps=1)
    before = AutoModelForCausalLM.from_pretrained(recipe["model"]["path"]).state_dict()
    after = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for name in before:
        assert torch.equal(before[name], after[name]) == ("embed_tokens" in name or "lm_head" in name), name


def test_rollouts_are_sampled_text_with_query_and_language(whole: dict[str, Any]) -> None:
    rows = [json.loads(line) for line in (Path(whole["output_dir"]) / "rollouts.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [s for s in (1, 2, 3, 4) for _ in range(2)]
    assert {r["language"] for r in rows} == {"sw", "bn"}
    assert all(r["sampled_by"] == "student" and r["query"].startswith("row-") for r in rows)


def trainer_of(recipe: dict[str, Any]) -> Any:
    prepared = prepare(parse_config(recipe), overwrite=True)
    return make_trainer(prepared, assemble(prepared, load_model(prepared.source)))


@pytest.mark.parametrize(("given", "batches"), [(None, [20]), (8, [8, 8, 4])])
def test_a_window_is_sampled_in_one_batch_unless_told_otherwise(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, given: int | None, batches: list[int]
) -> None:
    trainer = trainer_of(
        {
            **recipe,
            "teacher": {"template": "instruct"},
            "sampling": {"max_completion_length": 2, "batch_size": given},
            "training": {**recipe["training"], "per_device_train_batch_size": 4, "gradient_accumulation_steps": 5},
        }
    )
    seen = []
    generate = trainer.model.generate
    monkeypatch.setattr(
        trainer.model, "generate", lambda **inputs: (seen.append(len(inputs["input_ids"])), generate(**inputs))[1]
    )
    trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 5, trainer.args.device)
    assert [rows for rows in seen if rows > 3] == batches  # a first trial of the model takes three rows


@pytest.mark.parametrize("strategy", ["on_policy", "off_policy", "mixed"])
def test_completion_tokens_are_identical_in_both_contexts_and_end_the_turn(
    recipe: dict[str, Any], strategy: str
) -> None:
    sampling = {"max_completion_length": 8, "batch_size": 16}
    trainer = trainer_of({**recipe, "strategy": {"name": strategy}, "sampling": sampling})
    queries = [trainer.mixture.draw(0, i) for i in range(12)]
    rollouts = trainer.collector.collect(queries, step=0)
    tokenizer = byte_tokenizer()
    for rollout in rollouts:
        ids = rollout.completion.token_ids
        assert ids
        assert (ids[-1] == tokenizer.eos_token_id) == (not rollout.completion.truncated)
        assert tokenizer.eos_token_id not in ids[:-1]
        assert len(rollout.teacher_context.token_ids) > len(rollout.student_context.token_ids)
        assert tokenizer.decode(list(rollout.student_context.token_ids)).endswith("<|im_start|>assistant\n")
    assert {r.completion.truncated for r in rollouts} == {True, False}


def test_the_judgement_stands_in_the_teacher_context_only(recipe: dict[str, Any]) -> None:
    trainer = trainer_of(recipe)
    (rollout,) = trainer.collector.collect([trainer.mixture.draw(0, 0)], step=0)
    (judgement,) = write_judgements(trainer.collector.contexts, trainer.collector.teacher, [rollout.query])
    assert judgement
    assert any(judgement in m.content for m in rollout.teacher_context.messages)
    assert all(judgement not in m.content for m in rollout.student_context.messages)


def test_a_judgement_ends_no_turn(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama 2 writes its marks in plain letters, which no decoding leaves out."""
    trainer = trainer_of(recipe)
    contexts = trainer.collector.contexts
    monkeypatch.setattr(contexts.tokenizer, "decode", lambda *_, **__: " harmless<|im_end|>\n<|im_start|>user ")
    (judgement,) = write_judgements(contexts, trainer.collector.teacher, [trainer.mixture.draw(0, 0)])
    assert judgement is not None
    assert judgement.split() == ["harmless", "user"]


def test_benign_queries_have_no_judgement_where_the_teacher_sees_what_the_student_sees(recipe: dict[str, Any]) -> None:
    recipe["teacher"]["unchanged"] = ["benign"]
    trainer = trainer_of(recipe)
    queries = [trainer.mixture.draw(0, i) for i in range(24)]
    assert {query.label for query in queries} == {"harmful", "benign"}
    judgements = write_judgements(trainer.collector.contexts, trainer.collector.teacher, queries)
    assert [judgement is None for judgement in judgements] == [query.label == "benign" for query in queries]
    alone = [write_judgements(trainer.collector.contexts, trainer.collector.teacher, [query])[0] for query in queries]
    assert judgements == alone
    assert len(set(judgements)) > 2, "different ones, or their order shows nothing"
    for rollout in trainer.collector.collect(queries, step=0):
        same = rollout.teacher_context.token_ids == rollout.student_context.token_ids
        assert same == (rollout.query.label == "benign")


def test_a_tables_own_teacher_holds_for_its_queries_in_every_language(recipe: dict[str, Any]) -> None:
    recipe["teacher"]["unchanged"] = ["benign", "source"]
    recipe["data"]["tables"].append({"path": "builtin:benign", "teacher": "harmless", "limit": 6, "weight": 3})
    trainer = trainer_of({**recipe, "data": {**recipe["data"], "languages": ["sw", "en"]}})
    queries = [trainer.mixture.draw(0, i) for i in range(24)]
    told = [query.id.startswith("benign-") for query in queries]
    assert {(query.label, query.language, own) for query, own in zip(queries, told, strict=True)} >= {
        ("benign", "sw", True),
        ("benign", "en", True),
        ("harmful", "sw", False),
    }
    for rollout, own in zip(trainer.collector.collect(queries, step=0), told, strict=True):
        query, teacher = rollout.query, rollout.teacher_context
        language = {"sw": "Swahili", "en": "English"}[query.language]
        assert (f"message is harmless. Reply to it in {language}" in teacher.messages[0].content) == own
        unchanged = not own and (query.language == "en" or query.label == "benign")
        assert (teacher.token_ids == rollout.student_context.token_ids) == unchanged


def test_off_policy_rollouts_are_sampled_once_and_again_for_another_template(
    recipe: dict[str, Any], tmp_path: Path, sampled: list[int]
) -> None:
    recipe = {**recipe, "strategy": {"name": "off_policy"}}
    first = run(recipe, max_steps=2)
    assert sum(sampled) > 0
    sampled.clear()
    second = run({**recipe, "output_dir": str(tmp_path / "second")}, max_steps=2)
    assert sampled == []
    assert losses(first) == losses(second)
    other = {**recipe, "output_dir": str(tmp_path / "third"), "teacher": {"template": "instruct"}}
    run(other, max_steps=2)
    assert sum(sampled) == 8


def test_a_teacher_that_moves_stops_the_run_before_its_checkpoint_is_saved(recipe: dict[str, Any]) -> None:
    class Mover(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 1:
                with torch.no_grad():
                    model.get_base_model().model.norm.weight[3] += 1e-3

    trainer = trainer_of(recipe)
    trainer.add_callback(Mover())
    with pytest.raises(TeacherMovedError, match="weights have changed"):
        trainer.train()
    assert not list(Path(recipe["output_dir"]).glob("checkpoint-*"))


def test_a_query_that_overflows_only_with_its_judgement_is_left_out_of_the_loss(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe["data"] = {**recipe["data"], "on_overflow": "drop"}
    trainer = trainer_of(recipe)
    queries = [trainer.mixture.draw(0, i) for i in range(4)]
    first = queries[0].text
    fits = trainer.collector.contexts.teacher

    def too_long(query: Query, judgement: str | None = None) -> Context:
        return fits(query, "x" * 5000 if query.text == first else judgement)

    monkeypatch.setattr(trainer.collector.contexts, "teacher", too_long)
    rollouts = trainer.collector.collect(queries, step=0)
    assert [bool(r.completion.token_ids) for r in rollouts] == [False, True, True, True]
    whole = trainer.compute_loss(trainer.model, {"rollouts": rollouts}, num_items_in_batch=3)
    rest = trainer.compute_loss(trainer.model, {"rollouts": rollouts[1:]}, num_items_in_batch=3)
    assert whole.item() == pytest.approx(rest.item(), rel=1e-5)
    nothing = trainer.compute_loss(trainer.model, {"rollouts": rollouts[:1]}, num_items_in_batch=3)
    nothing.backward()
    assert nothing.item() == 0


def test_any_training_argument_can_be_set(recipe: dict[str, Any]) -> None:
    section = {**recipe["training"], "weight_decay": 0.05, "optim": "sgd"}
    arguments = training_arguments(section, output_dir="unused", seed=0)
    assert arguments.weight_decay == 0.05
    assert arguments.optim == "sgd"


def test_only_the_language_that_is_too_long_is_left_out_and_reported(recipe: dict[str, Any]) -> None:
    lengths = {"en": 0, "sw": 0, "bn": 0}
    recipe["data"] = {**recipe["data"], "languages": ["en", "sw", "bn"], "on_overflow": "drop"}
    whole = prepare(parse_config(recipe), check_folder=False)
    for query in queries_of(whole.tables, list(lengths)):
        lengths[query.language] = max(lengths[query.language], len(whole.contexts.student(query).token_ids))
    # Bengali has the longest texts: a limit just below them drops Bengali alone.
    assert lengths["bn"] > lengths["en"] > 8
    recipe["student"] = {"max_length": lengths["en"]}
    run_ = prepare(parse_config(recipe), check_folder=False)
    assert {(o.query.language, o.role) for o in run_.dropped} == {("bn", "student")}
    kept = {(q.id, q.language) for cell in run_.mixture.cells for q in cell}
    assert {language for _, language in kept} == {"en", "sw"}
    assert len(kept) == 24


def test_mixed_precision_trains_close_to_full_precision(recipe: dict[str, Any], tmp_path: Path) -> None:
    # Off-policy and cached, so that both runs score the same completions.
    recipe = {**recipe, "strategy": {"name": "off_policy"}}
    full = run({**recipe, "output_dir": str(tmp_path / "a")}, max_steps=2)
    mixed = run({**recipe, "output_dir": str(tmp_path / "b")}, max_steps=2, bf16=True)
    assert losses(mixed) == pytest.approx(losses(full), rel=0.1)
    assert losses(mixed) != losses(full)


def test_measuring_before_and_after_changes_nothing_of_the_run(recipe: dict[str, Any], whole: dict[str, Any]) -> None:
    assert losses(run({**recipe, "divergence_queries": 0})) == losses(Path(whole["output_dir"]))


def test_an_untrained_student_has_the_divergence_of_the_start(recipe: dict[str, Any]) -> None:
    folder = run(recipe, learning_rate=1e-12, max_steps=1)
    divergence = json.loads((folder / "run.json").read_text())["divergence"]
    assert divergence["before"] == divergence["after"]
