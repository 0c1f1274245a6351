"""Configuration: every mistake is named by its key, flags lie over the recipe, and a run's dump reads back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from crosslign import untrusted
from crosslign.runs.config import RunConfig
from crosslign.runs.recipe import describe, dump, merged, override, parse_config, read_recipe
from crosslign.types import CrosslignError
from crosslign.untrusted import parse_yaml


def raw(**sections: Any) -> dict[str, Any]:
    """The smallest recipe, with sections laid over it."""
    return {"model": {"path": "m"}, "data": {"tables": [{"path": "a.csv"}]}, **sections}


def table(**keys: Any) -> dict[str, Any]:
    return raw(data={"tables": [{"path": "a.csv"}, {"path": "b.csv", **keys}]})


def refusal(value: Any, where: str = "recipe.yaml") -> list[str]:
    with pytest.raises(CrosslignError) as caught:
        parse_config(value, where)
    return str(caught.value).split("\n")


def flags(*arguments: str, **sections: Any) -> dict[str, Any]:
    return override(raw(**sections), arguments)


def flag_refusal(*arguments: str, **sections: Any) -> str:
    with pytest.raises(CrosslignError) as caught:
        flags(*arguments, **sections)
    return str(caught.value)


def test_smallest_recipe_is_a_run_with_the_documented_defaults() -> None:
    config = parse_config(raw())
    objective = config.objective
    assert (objective.divergence, objective.weighting, objective.top_k) == ("reverse_kl", "dpsw", 32)
    assert (config.strategy.name, config.teacher.template) == ("on_policy", "instruct")
    assert config.data.source_language == "en"
    assert config.student.chat_template_kwargs == config.teacher.chat_template_kwargs == {"enable_thinking": False}


# --- Wrong keys and values.


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (raw(objectiv={}), "unknown key 'objectiv'. Did you mean 'objective'?"),
        (raw(objective={"divergance": "jsd"}), "unknown key 'objective.divergance'. Did you mean 'divergence'?"),
        (raw(model={"path": "m", "lora": {"alpa": 8}}), "unknown key 'model.lora.alpa'. Did you mean 'alpha'?"),
        (table(colums={}), "unknown key 'data.tables.1.colums'. Did you mean 'columns'?"),
        (raw(data={"tables": [{"path": "a"}], "balans": 1}), "unknown key 'data.balans'. Did you mean 'balance'?"),
        (raw(sampling={"xyz": 1}), "unknown key 'sampling.xyz'. Valid: temperature, top_p, top_k, "
                                   "max_completion_length, batch_size."),
    ],
    ids=["top", "section", "nested", "list", "data", "nothing near"],
)  # fmt: skip
def test_unknown_key_is_named_with_the_nearest_valid_one(value: dict[str, Any], line: str) -> None:
    assert f"recipe.yaml: {line}" in refusal(value)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"data": {"tables": [{"path": "a"}]}}, "model"),
        (raw(model={}), "model.path"),
        (raw(data={}), "data.tables"),
        (raw(data={"tables": [{"path": "a"}, {"weight": 1}]}), "data.tables.1.path"),
    ],
)
def test_missing_key_is_named(value: dict[str, Any], key: str) -> None:
    assert refusal(value) == [f"recipe.yaml: the key {key!r} is missing."]


def test_every_mistake_is_told_at_once() -> None:
    lines = refusal({"model": {}, "data": {"tables": []}, "sed": 1, "objective": {"top_k": 0}})
    assert len(lines) == 4
    for part in ("'model.path' is missing", "data.tables: list should have at least 1", "'sed'", "objective.top_k: "):
        assert any(part in line for line in lines)


@pytest.mark.parametrize(
    ("value", "start", "found"),
    [
        (raw(seed="many"), "seed: input should be a valid integer", "'many'"),
        (raw(seed=-1), "seed: input should be greater than or equal to 0", "-1"),
        (raw(model="m"), "model: input should be a valid dictionary", "'m'"),
        (raw(data={"tables": {"path": "a"}}), "data.tables: input should be a valid list", "{'path': 'a'}"),
        (raw(model={"path": "m", "finetuning": "all"}), "model.finetuning: input should be 'lora' or 'full'", "'all'"),
        (raw(objective={"beta": 1}), "objective.beta: input should be less than or equal to 0.999", "1"),
        (raw(sampling={"top_p": 0}), "sampling.top_p: input should be greater than 0", "0"),
        (raw(sampling={"temperature": "hot"}), "sampling.temperature: input should be a valid number", "'hot'"),
        (table(label="bad"), "data.tables.1.label: input should be 'harmful', 'benign' or 'unlabelled'", "'bad'"),
        (table(where={"category": "theft"}), "data.tables.1.where.category: input should be a valid list", "'theft'"),
        (table(limit=0), "data.tables.1.limit: input should be greater than or equal to 1", "0"),
        (raw(training=[1]), "training: input should be a valid dictionary", "[1]"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_value_is_named_with_what_was_found(value: dict[str, Any], start: str, found: str) -> None:
    (line,) = refusal(value)
    assert line.startswith(f"recipe.yaml: {start}")
    assert line.endswith(f"(found {found}).")


@pytest.mark.parametrize(
    ("model", "start"),
    [
        ({"path": "m", "finetuning": "full", "frozen": ["("]}, "model.frozen: '(' is no regular expression: "),
        ({"path": "m", "frozen": ["embed"]}, "model: frozen is for finetuning: full"),
    ],
)
def test_wrong_value_is_explained(model: dict[str, Any], start: str) -> None:
    (line,) = refusal(raw(model=model))
    assert line.startswith(f"recipe.yaml: {start}")


def test_norwegian_code_that_yaml_reads_as_false_is_explained() -> None:
    value = parse_yaml("model: {path: m}\ndata: {tables: [{path: a}], languages: [sv, no]}")
    (line,) = refusal(value)
    assert line.startswith("recipe.yaml: data.languages.1: input should be a valid string (found False).")
    assert line.endswith("YAML reads no, yes, on and off as true or false: write them in quotes.")
    columns = parse_yaml("model: {path: m}\ndata: {tables: [{path: a, columns: {no: norsk}}]}")
    assert "write them in quotes" in refusal(columns)[0]


# --- What a message must not quote, or cannot.

KEY = "sk-" + "aB3" * 9  # no real one


@pytest.mark.parametrize(
    "value",
    [
        raw(training={"hub_token": "sesame"}),
        raw(training={"push_to_hub_token": "sesame"}),
        raw(training={"nested": {"api_key": "sesame"}}),
        raw(training=[{"hub_token": KEY}]),
        raw(sed={"x": KEY}),
        raw(seed=KEY),
        raw(data={"tables": [{"path": "https://me:sesame@host/t.csv"}]}),
        raw(data={"tables": [{"path": "https://host/t.csv?x=1&sig=1&token=sesame"}]}),
        raw(gate={"judge": {"names": ["llm:x"], "url": "https://host/v1?sesame=1"}}),
        raw(gate={"judge": {"names": ["llm:x"], "url": "sesame"}}),
        raw(gate={"judge": {"names": ["llm:x"], "api_key_env": "sesame-key"}}),
        raw(gate={"judge": {"names": ["llm:x"], "api_key_env": "sesame0sesame0sesame0"}}),
    ],
)
def test_secret_is_refused_and_not_quoted(value: dict[str, Any]) -> None:
    message = "\n".join(refusal(value))
    assert "sesame" not in message
    assert KEY not in message


@pytest.mark.parametrize("value", ["sk-SK", "runs/sk-one", "OPENAI_API_KEY", "hf_hub", "https://host/v1", "s3://a/b@c"])
def test_what_is_no_secret_is_read(value: str) -> None:
    assert parse_config(raw(output_dir=value)).output_dir == value


@pytest.mark.parametrize("index", ["²", "٣", "9" * 30, "9" * 5000, "1_0"])
def test_flag_with_an_absurd_index_is_named(index: str) -> None:
    assert "is no index of a list of 1." in flag_refusal(f"--data.tables.{index}.path", "x")


def test_flag_that_is_deep_is_refused() -> None:
    assert refusal(flags(f"--training{'.x' * 100_000}", "1"))[0].startswith("recipe.yaml: lists and mappings lie more")


def test_recipe_that_contains_itself_or_grows_is_refused() -> None:
    value = raw()
    value["training"] = value
    assert "deep" in refusal(value)[0]
    bomb: Any = []
    for _ in range(12):
        bomb = [bomb] * 10
    assert "more than 100000 values" in refusal(raw(training={"x": bomb}))[0]
    assert "300 digits" in refusal(raw(seed=10**5000))[0]


# --- YAML, by libyaml where it is there, and without.


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if (base := getattr(yaml, request.param, None)) is None:
        pytest.skip("PyYAML without libyaml")
    monkeypatch.setattr(untrusted, "_Loader", untrusted._loader(base))


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 5000, "deep"),
        ("- " * 3000, "deep"),
        ("a: {" * 3000, "deep"),
        ("a: 1\nb: 2\na: 3", "the key 'a' is there twice (line 3)"),
        ("a: &x [*x]", "contains itself"),
        ("a: [1, 2\nb: 3", "not valid YAML"),
        ("a: *b", "not valid YAML: found undefined alias"),
        ("a: \x00", "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML: could not determine a constructor"),
        (
            "a: &x [1, 2, 3, 4, 5, 6, 7, 8, 9]\nb: &y [" + "*x, " * 999 + "]\nc: [" + "*y, " * 99 + "]",
            "too many values",
        ),
    ],
)
def test_what_no_configuration_may_be_is_refused(text: str, says: str) -> None:
    with pytest.raises(CrosslignError, match=re.escape(says)):
        parse_yaml(text, "recipe.yaml")


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("text", ["1e-5", "1E-5", "1.e-5", "1.0e-5", "+1e-5", "0.00001"])
def test_small_number_with_an_exponent_is_a_float(text: str) -> None:
    value = parse_yaml(f"x: {text}")["x"]
    assert isinstance(value, float)
    assert value == 1e-5
    assert parse_yaml("[1e5, 1E+5, 2.5e3, -3e2]") == [100000.0, 100000.0, 2500.0, -300.0]


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("3.5", 3.5), ("'1e-5'", "1e-5"), ("e5", "e5"), ("1e", "1e"), ("1-5", "1-5"), ("a1e-5", "a1e-5")],
)
def test_everything_else_is_read_as_yaml_reads_it(text: str, value: Any) -> None:
    read = parse_yaml(f"x: {text}")["x"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["1e-1", "'1e-1'", '"0.1"', "0.1"])
def test_float_keys_take_numbers_quoted_or_not(text: str) -> None:
    value = parse_yaml(f"model: {{path: m}}\ndata: {{tables: [{{path: a}}]}}\nobjective: {{temperature: {text}}}")
    assert parse_config(value).objective.temperature == 0.1


# --- Command-line flags.


@pytest.mark.parametrize("arguments", [["--objective.top_k", "5"], ["--objective.top_k=5"], ["--objective.top-k", "5"]])
def test_flag_sets_a_key_in_every_spelling(arguments: list[str]) -> None:
    result = flags(*arguments, objective={"beta": 0.2})
    assert result["objective"] == {"beta": 0.2, "top_k": 5}


def test_flags_make_sections_that_the_recipe_lacks_and_the_last_one_counts() -> None:
    assert flags("--model.lora.r", "4", "--model.lora.r", "8")["model"] == {"path": "m", "lora": {"r": 8}}


def test_a_flag_keeps_the_name_that_stands_for_its_section() -> None:
    assert flags("--method.options.beta", "0.5", method="dpo")["method"] == {"name": "dpo", "options": {"beta": 0.5}}
    for judge in ("qwen3guard", ["qwen3guard", "lexicon"]):
        found = flags("--gate.judge.batch_size", "4", gate={"judge": judge})["gate"]
        assert found == {"judge": {"names": judge, "batch_size": 4}}
    assert flags("--gate.judge.1", "x", gate={"judge": ["a", "b"]})["gate"] == {"judge": ["a", "x"]}
    changes = {"method": {"options": {}}, "gate": {"judge": {"url": "http://u"}}}
    laid = raw(**merged({"method": "dpo", "gate": {"judge": "a, b"}}, changes))
    config = parse_config(laid)
    assert config.method.name == "dpo"
    assert config.gate is not None
    assert (config.gate.judge.names, config.gate.judge.url) == (["a", "b"], "http://u")
    assert merged({"method": "dpo"}, {"method": {"name": "sft"}}) == {"method": {"name": "sft"}}


def test_flag_with_an_index_changes_one_element_of_a_list() -> None:
    data = {"tables": [{"path": "a"}, {"path": "b", "weight": 2}], "languages": ["sw", "bn"]}
    result = flags("--data.tables.1.path", "c.csv", "--data.languages.0=zh", data=data)
    assert result["data"] == {"tables": [{"path": "a"}, {"path": "c.csv", "weight": 2}], "languages": ["zh", "bn"]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[zh, bn]", ["zh", "bn"]), ("{a: 1}", {"a": 1}), ("null", None), ("true", True), ("1e-4", 1e-4), ("-1", -1),
        ("a=b", "a=b"), ("", None), ("--x", "--x"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["two words", "one word"])
def test_values_of_flags_are_yaml(text: str, value: Any, form: str) -> None:
    arguments = ["--training.x", text] if form == "two words" else [f"--training.x={text}"]
    assert flags(*arguments)["training"] == {"x": value}


def test_dashes_in_names_of_languages_and_columns_stay() -> None:
    result = flags("--data.tables.0.columns.pt-BR", "texto-1", "--data.tables.0.where.my-column", "[a]")
    assert result["data"]["tables"][0]["columns"] == {"pt-BR": "texto-1"}
    assert result["data"]["tables"][0]["where"] == {"my-column": ["a"]}


def test_recipe_itself_is_left_as_it_was() -> None:
    recipe = raw(objective={"beta": 0.2})
    override(recipe, ["--objective.beta", "0.3", "--data.tables.0.path", "z"])
    assert recipe == raw(objective={"beta": 0.2})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed"], "the flag --seed has no value."),
        (["--seed", "1", "--x.y"], "the flag --x.y has no value."),
        (["seed", "1"], "unexpected argument 'seed'; configuration flags look like --section.key value."),
        (["-seed", "1"], "unexpected argument '-seed'; configuration flags look like --section.key value."),
        (["--data.languages", "[zh"], "--data.languages: not valid YAML: "),
        (["--data.tables.1.path", "x"], "--data.tables.1.path: '1' is no index of a list of 1."),
        (["--data.tables.first.path", "x"], "--data.tables.first.path: 'first' is no index of a list of 1."),
        (["--data.tables.-1.path", "x"], "is no index of a list of 1."),
    ],
)
def test_wrong_flag_is_named(arguments: list[str], message: str) -> None:
    assert message in flag_refusal(*arguments)


def test_flag_that_goes_into_a_text_of_a_list_is_named() -> None:
    message = flag_refusal("--data.languages.0.name", "x", data={"tables": [{"path": "a"}], "languages": ["sw"]})
    assert message.startswith("--data.languages.0.name: ")
    assert "'sw'" in message


def test_flag_with_an_unknown_key_is_told_by_the_configuration() -> None:
    assert refusal(flags("--objective.tpk", "5")) == ["recipe.yaml: unknown key 'objective.tpk'. Did you mean 'top_k'?"]


# --- Recipes.


def recipe_refusal(path: Path) -> str:
    with pytest.raises(CrosslignError) as caught:
        read_recipe(path)
    return str(caught.value)


def test_recipe_is_read_as_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("training: {learning_rate: 1e-5}\nmodel: {path: জ}\n", encoding="utf-8")
    assert read_recipe(path) == {"training": {"learning_rate": 1e-5}, "model": {"path": "জ"}}


def test_recipe_that_is_missing_or_a_folder_is_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "no.yaml"
    assert recipe_refusal(path) == f"{path}: cannot be read: No such file or directory."
    assert recipe_refusal(tmp_path) == f"{tmp_path}: cannot be read: it is a folder, not a file."


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text", "3"])
def test_recipe_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    assert recipe_refusal(path) == f"{path}: a recipe is a mapping of sections such as 'model:' and 'data:'."


def test_recipe_that_is_no_yaml_is_named_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model:\n  path: [a\ndata: x\n")
    message = recipe_refusal(path)
    assert message.startswith(f"{path}: not valid YAML: ")
    assert re.search(r"line [23]", message)
    path.write_bytes(b"model: \xff\n")
    assert recipe_refusal(path) == f"{path}: invalid UTF-8 in line 1. Save the file as UTF-8."


def test_recipe_cannot_make_python_objects(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model: !!python/object/apply:os.getcwd []\n")
    assert "not valid YAML" in recipe_refusal(path)


# --- Dump and description.


def test_dump_reads_back_as_the_same_run() -> None:
    value = raw(
        teacher={"template": {"messages": [{"role": "user", "content": "প্রশ্ন: {query}\nline"}]}, "judgement": "none"},
        data={"tables": [{"path": "a", "columns": {"pt-BR": "b"}, "where": {"c": ["1", "yes"]}, "limit": 3}],
              "languages": ["sw", "no"]},
        strategy={"name": "mixed", "options": {"lambda_on_policy": 0.5}},
        training={"learning_rate": 1e-5, "warmup_ratio": 0.1, "bf16": True, "x": None},
    )  # fmt: skip
    config = parse_config(value)
    text = dump(config)
    assert parse_config(parse_yaml(text)) == config
    assert dump(parse_config(parse_yaml(text))) == text
    assert "প্রশ্ন" in text
    assert text.index("model:") < text.index("data:") < text.index("training:")


def test_dump_holds_every_key_also_those_left_at_their_default() -> None:
    dumped = yaml.safe_load(dump(parse_config(raw())))
    assert set(dumped) == set(RunConfig.model_fields)
    assert dumped["objective"]["top_k"] == 32


def leaves(config: BaseModel, prefix: str = "") -> set[str]:
    """The keys of a configuration, found from an instance rather than from annotations."""
    found: set[str] = set()
    for name in config.model_dump():
        key = f"{prefix}{name}"
        item = getattr(config, name)
        if isinstance(item, BaseModel):
            found |= leaves(item, f"{key}.")
        elif key in ("data.tables", "evaluation.tasks"):
            found |= leaves(item[0], f"{key}.N.")
        else:
            found.add(key)
    return found


EVALUATED = {"evaluation": {"tasks": [{"name": "multijail"}]}}


def test_description_lists_every_key_once_with_its_default() -> None:
    rows = describe()
    keys = [key for key, _, _ in rows]
    assert len(keys) == len(set(keys))
    # A section that can be left out has a row of its own, too.
    whole = leaves(parse_config(raw(**EVALUATED, gate={})))
    assert set(keys) == whole | {"evaluation", "evaluation.best", "gate"}
    defaults = {key: default for key, default, _ in rows}
    assert defaults["model.path"] == defaults["data.tables.N.path"] == "required"
    assert (defaults["objective.top_k"], defaults["data.languages"], defaults["model.dtype"]) == ("32", "null", "auto")
    assert defaults["student.chat_template_kwargs"] == "{enable_thinking: false}"
    assert all("\n" not in default for default in defaults.values())


def test_defaults_that_are_described_are_the_ones_that_hold() -> None:
    for key, default, _ in describe():
        if default == "required":
            continue
        optional = {"evaluation": EVALUATED, "gate": {"gate": {}}}
        section = optional.get(key.partition(".")[0], {}) if "." in key else {}
        value: Any = parse_config(raw(**section))
        for part in key.split("."):
            value = value[0] if part == "N" else getattr(value, part)
        assert parse_yaml(default) == (value.model_dump() if isinstance(value, BaseModel) else value), key


def test_sections_that_can_be_left_out_are_described_with_their_keys() -> None:
    rows = {key: (default, text) for key, default, text in describe()}
    assert rows["evaluation"][0] == "null"
    assert rows["evaluation.tasks.N.name"][0] == "required"
    assert rows["evaluation.best"][0].startswith("{metric: worst_language_asr, max_over_refusal: 10.0, max_invalid: 25")
    assert rows["evaluation.best.max_over_refusal"][0] == "10.0"
    assert all(text for key, (_, text) in rows.items() if key.startswith("evaluation"))


def test_an_evaluation_is_none_unless_the_recipe_or_a_flag_has_one() -> None:
    assert parse_config(raw()).evaluation is None
    section = parse_config(flags("--evaluation.tasks", "[builtin:demo]", "--evaluation.every-steps", "5")).evaluation
    assert section is not None
    assert [task.name for task in section.tasks] == ["builtin:demo"]
    assert (section.every_steps, section.at_start, section.limit) == (5, True, 50)
    assert parse_config(flags("--evaluation", "null", **EVALUATED)).evaluation is None
    assert parse_config(flags("--evaluation.best", "null", **EVALUATED)).evaluation.best is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"tasks": []}, "evaluation.tasks"),
        ({}, "the key 'evaluation.tasks' is missing"),
        ({"tasks": ["a", "a"]}, "a task is there twice"),
        ({"tasks": ["a"], "every_step": 2}, "Did you mean 'every_steps'?"),
        ({"tasks": ["a"], "best": {"max_overrefusal": 2}}, "Did you mean 'max_over_refusal'?"),
        ({"tasks": ["a"], "best": {"max_over_refusal": 101}}, "evaluation.best.max_over_refusal"),
    ],
)
def test_mistakes_in_an_evaluation_are_named(section: dict[str, Any], says: str) -> None:
    assert says in "\n".join(refusal(raw(evaluation=section)))
