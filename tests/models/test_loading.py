"""Loading from a folder, a `.gguf` file or the hub, and the token ids that sampling needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from conftest import CHATML, VOCABULARY, byte_tokenizer, tiny_llama
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from transformers.integrations import deepspeed

from crosslign.models import (
    ModelSource,
    add_lora,
    check_source,
    disable_dropout,
    end_of_turn_ids,
    evaluation_source,
    freeze,
    load,
    load_model,
    load_skeleton,
    load_tokenizer,
    token_ids,
)
from crosslign.types import CrosslignError

IDS = torch.arange(3, 20)[None]
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
UNENDED = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
REFUSING = "{{ raise_exception('only one message, please') }}"


def source(path: object, **options: Any) -> ModelSource:
    return ModelSource(str(path), **options)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS.to(model.device)).logits.cpu()


# GGUF: a llama file as llama.cpp's converter writes it


PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbouring pairs, transformers halves: rows of q and k are stored in another order."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def packed(array: np.ndarray, kind: str) -> np.ndarray:
    """What the file holds; norms stay in float32."""
    return gguf.quants.quantize(array, gguf.GGMLQuantizationType["F32" if array.ndim == 1 else kind])


def rounded(model: Any, kind: str) -> Any:
    """The model, each weight as the file holds it."""
    for parameter in model.parameters():
        array = parameter.detach().numpy()
        if array.ndim > 1:
            unpacked = gguf.quants.dequantize(packed(array, kind), gguf.GGMLQuantizationType[kind])
            parameter.data.copy_(torch.from_numpy(unpacked))
    return model


def write_gguf(path: Path, model: Any, kind: str = "F16") -> Path:
    """The model and the byte tokenizer, with one merge, "ab", because a file cannot hold an empty list."""
    config, tokenizer = model.config, byte_tokenizer()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    tokens = [*tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))), "ab"]
    padding = [f"[PAD{i}]" for i in range(len(tokens), config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens + padding)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t.startswith("<|") else gguf.TokenType.NORMAL for t in tokens]
        + [gguf.TokenType.UNUSED] * len(padding)
    )
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(CHATML)
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if "q_proj" in name:
            array = interleave(array, config.num_attention_heads)
        if "k_proj" in name:
            array = interleave(array, config.num_key_value_heads)
        stem = name.removesuffix(".weight")
        if stem not in NAMES:
            _, _, layer, part = stem.split(".", 3)
            stored = f"blk.{layer}.{PARTS[part]}.weight"
        else:
            stored = f"{NAMES[stem]}.weight"
        raw_dtype = gguf.GGMLQuantizationType[kind] if array.ndim > 1 and kind.startswith("Q") else None
        writer.add_tensor(stored, packed(array, kind), raw_dtype=raw_dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.F16.gguf", tiny_llama())


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1"])
def test_a_gguf_file_gives_the_logits_of_its_source(tmp_path: Path, kind: str) -> None:
    original = tiny_llama(intermediate_size=64)
    path = write_gguf(tmp_path / "tiny.gguf", original, kind)
    check_source(source(path))
    model = load_model(source(path))
    assert model.dtype == torch.float32
    assert not model.training
    torch.testing.assert_close(logits(model), logits(rounded(original, kind)), rtol=1e-4, atol=1e-3)


def test_a_gguf_file_brings_its_tokenizer_and_chat_template(gguf_file: Path) -> None:
    tokenizer, expected = load_tokenizer(source(gguf_file)), byte_tokenizer()
    text = "héllo <|im_start|>হ্যালো<|im_end|>"
    assert tokenizer(text)["input_ids"] == expected(text)["input_ids"]
    assert tokenizer("xab")["input_ids"] == [*expected("x")["input_ids"], 259]
    assert tokenizer.chat_template == CHATML
    assert token_ids(tokenizer, load_model(source(gguf_file))).stop == (0,)


def test_a_gguf_file_can_take_its_tokenizer_from_elsewhere(gguf_file: Path, model_folder: Path) -> None:
    tokenizer = load_tokenizer(source(gguf_file, tokenizer=str(model_folder)))
    assert len(tokenizer) == len(byte_tokenizer())


def test_a_model_from_gguf_trains_and_saves_like_any_other(gguf_file: Path, tmp_path: Path) -> None:
    model = load_model(source(gguf_file))
    assert not getattr(model, "is_quantized", False)
    before = logits(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load_model(source(tmp_path))), before)
    student = add_lora(model, LoraConfig(r=2))
    student.train()
    ids = IDS.to(student.device)
    student(input_ids=ids, labels=ids).loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())


def test_gguf_weights_are_unpacked_and_nothing_remembers_that_they_were_packed(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def marked(*args: Any, **kwargs: Any) -> Any:
        # As transformers leaves a model of an architecture whose files it can also keep packed.
        asked.append(kwargs["quantization_config"].dequantize)
        model = tiny_llama()
        model.hf_quantizer, model.is_quantized, model.quantization_method = object(), True, "gguf"
        model.config.quantization_config = kwargs["quantization_config"]
        return model, {"missing_keys": set()}

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", marked)
    model = load_model(source(gguf_file))
    assert asked == [True]
    assert not {"hf_quantizer", "is_quantized", "quantization_method"} & set(vars(model))
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


# check_source


def test_sources_that_are_as_they_should_be_pass(model_folder: Path, gguf_file: Path) -> None:
    for path, kind in [(model_folder, "folder"), (gguf_file, "gguf"), ("owner/name", "hub"), ("gpt2", "hub")]:
        assert source(path).kind == kind
        check_source(source(path))


@pytest.mark.parametrize(
    ("files", "path", "messages"),
    [
        ({}, "", ["has no config.json; is it a model folder?"]),
        ({"config.json": b"{}"}, "", ["has no weights (model.safetensors or", "cut off"]),
        (
            {"config.json": b"{}", "pytorch_model.bin": b"\x80"},
            "",
            ["has no weights", "pytorch_model.bin, a pickle", "convert it"],
        ),
        ({}, "none.gguf", ["none.gguf: no such file"]),
        ({"model.gguf": b"<html>404</html>"}, "model.gguf", ["is not a GGUF file"]),
        ({"model.gguf": b""}, "model.gguf", ["is not a GGUF file"]),
        ({}, "nowhere", ["no folder", "hub id 'owner/name'"]),
    ],
)
def test_a_local_source_that_cannot_be_a_model_is_told_before_anything_is_read(
    files: dict[str, bytes], path: str, messages: list[str], tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CrosslignError) as error:
        check_source(source(tmp_path / path))
    assert str(error.value).startswith("model.path: ")
    for message in messages:
        assert message in str(error.value)


@pytest.mark.parametrize("path", ["./nowhere", "~/nowhere", "models/of/mine"])
def test_a_path_that_cannot_be_a_hub_id_is_a_missing_folder(path: str) -> None:
    with pytest.raises(CrosslignError, match=f"model.path: no folder {path}"):
        check_source(source(path))


def test_a_chat_template_file_that_is_missing_is_named(model_folder: Path) -> None:
    with pytest.raises(CrosslignError, match=r"model\.chat_template: no such file: none\.jinja"):
        check_source(source(model_folder, chat_template="none.jinja"))


# Folders and hub ids


def test_a_folder_gives_the_model_it_holds_ready_to_score(model_folder: Path) -> None:
    model = load_model(source(model_folder))
    assert torch.equal(logits(model), logits(tiny_llama()))
    assert not model.training
    assert model.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_is_the_one_asked_for(model_folder: Path, dtype: str) -> None:
    assert load_model(source(model_folder, dtype=dtype)).dtype == getattr(torch, dtype)


def test_a_half_precision_checkpoint_is_float32_on_cpu_unless_asked_otherwise(tmp_path: Path) -> None:
    tiny_llama().to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_model(source(tmp_path)).dtype == (torch.bfloat16 if torch.cuda.is_available() else torch.float32)


@pytest.mark.parametrize("processor", [{"avx512_bf16": True}, {"amx_bf16": True}, {"avx512_bf16": False}, None])
@pytest.mark.parametrize("stored", ["bfloat16", "float32", "float16"])
def test_to_evaluate_a_bfloat16_checkpoint_stays_so_where_the_processor_multiplies_it(
    tmp_path: Path, stored: str, processor: dict[str, bool] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if processor is None:  # a torch that cannot tell
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor, raising=False)
    LlamaConfig(dtype=stored).save_pretrained(tmp_path)
    fast = stored == "bfloat16" and processor is not None and any(processor.values())
    assert evaluation_source(source(tmp_path)).dtype == ("bfloat16" if fast else "float32")
    assert evaluation_source(source(tmp_path, dtype="float16")).dtype == "float16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert evaluation_source(source(tmp_path)).dtype == stored


def test_the_attention_implementation_is_passed_on(model_folder: Path) -> None:
    assert load_model(source(model_folder, attn_implementation="eager")).config._attn_implementation == "eager"


def test_a_pickle_is_not_read_even_if_check_source_was_not_asked(tmp_path: Path) -> None:
    model = tiny_llama()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CrosslignError, match=r"model\.path: the model of .* could not be loaded"):
        load_model(source(tmp_path))


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_hub_id_without_a_network_is_a_clear_error(load: Any) -> None:
    with pytest.raises(CrosslignError) as error:
        load(source("nobody/no-such-model"))
    assert "of 'nobody/no-such-model' could not be loaded" in str(error.value)
    assert "as a hub id it needs a network and must exist (or lie in the local hub cache)" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("message", ["401 Client Error.\nMore", "You are trying to access a gated repo.\nMore"])
def test_a_gated_model_is_told_as_such(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(message)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    with pytest.raises(CrosslignError, match=r"accept its licence on the hub and log in with `hf auth login`"):
        load_model(source("owner/name"))


@pytest.mark.parametrize(("revision", "expected"), [(None, "main"), ("v1.1", "v1.1")])
def test_the_revision_is_that_of_model_and_tokenizer(
    revision: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(where: str, *, revision: str, **kwargs: Any) -> Any:
        asked.append((where, revision))
        return (tiny_llama(), {"missing_keys": set()}) if "dtype" in kwargs else byte_tokenizer()

    for automatic in (AutoTokenizer, AutoModelForCausalLM):
        monkeypatch.setattr(automatic, "from_pretrained", answer)
    load_model(source("owner/name", revision=revision))
    load_tokenizer(source("owner/name", revision=revision))
    assert asked == [("owner/name", expected)] * 2


def test_a_folder_with_a_broken_tokenizer_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CrosslignError, match=r"the tokenizer of .* could not be loaded"):
        load_tokenizer(source(tmp_path))


def test_a_tokenizer_without_chat_template_is_a_clear_error(tmp_path: Path) -> None:
    byte_tokenizer(chat_template=None).save_pretrained(tmp_path)
    with pytest.raises(CrosslignError) as error:
        load_tokenizer(source(tmp_path))
    assert "the tokenizer has no chat template" in str(error.value)
    assert "model.chat_template" in str(error.value)


@pytest.mark.parametrize("own", [None, CHATML])
def test_a_chat_template_file_takes_the_place_of_the_tokenizers_own(tmp_path: Path, own: str | None) -> None:
    byte_tokenizer(chat_template=own).save_pretrained(tmp_path)
    file = tmp_path / "mine.jinja"
    file.write_text("প্রশ্ন: {{ messages[0].content }}", encoding="utf-8")
    tokenizer = load_tokenizer(source(tmp_path, chat_template=str(file)))
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert rendered == "প্রশ্ন: x"


@pytest.mark.parametrize("trust", [None, True, False])
def test_remote_code_is_trusted_only_if_asked(
    trust: bool | None, model_folder: Path, gguf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = []

    def watch(automatic: Any, original: Any) -> None:
        def from_pretrained(*args: Any, **kwargs: Any) -> Any:
            passed.append(kwargs["trust_remote_code"])
            return original(*args, **kwargs)

        monkeypatch.setattr(automatic, "from_pretrained", from_pretrained)

    for automatic in (AutoTokenizer, AutoModelForCausalLM):
        watch(automatic, automatic.from_pretrained)
    options = {} if trust is None else {"trust_remote_code": trust}
    for place in (source(model_folder, **options), source(gguf_file, **options)):
        load_model(place)
        load_tokenizer(place)
    load_tokenizer(source(model_folder, tokenizer=str(model_folder), **options))
    assert passed == [bool(trust)] * 5


def test_a_model_with_code_of_its_own_is_not_run_unasked_and_the_error_names_the_switch(
    model_folder: Path, tmp_path: Path
) -> None:
    for file in model_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass C: pass\nclass M: pass\n")
    with pytest.raises(CrosslignError, match=r"If you trust its authors, set model\.trust_remote_code: true"):
        load_model(source(tmp_path))
    assert not ran.exists()


# Dropout


class Dropping(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Dropout1d(0.3))
        self.attention_dropout, self.resid_dropout, self.hidden_dropout, self.dropout = 0.1, 0.2, 0.3, 0.4
        self.residual_dropout, self.embd_pdrop = 0.5, 0.6  # Starcoder2's, GPT-2's
        self.dropout_rate_of_something_else = 0.5


def test_disable_dropout_reaches_modules_and_attributes() -> None:
    model = Dropping()
    disable_dropout(model)
    assert [m.p for m in model.inner] == [0.0, 0.0]
    assert (model.attention_dropout, model.resid_dropout, model.hidden_dropout, model.dropout) == (0.0,) * 4
    assert (model.residual_dropout, model.embd_pdrop) == (0.0, 0.0)
    assert model.dropout_rate_of_something_else == 0.5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_loaded_model_scores_the_same_in_training_mode(tmp_path: Path, attention: str) -> None:
    tiny_llama(attention_dropout=0.5).save_pretrained(tmp_path)
    model = load_model(source(tmp_path, attn_implementation=attention))
    expected = logits(model)
    model.train()
    assert torch.equal(logits(model), expected)
    # The test can fail: with its dropout the model differs.
    dropping = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=attention).train()
    assert not torch.equal(logits(dropping), expected)


# Token ids


def end_of(template: str | None, **special: str) -> tuple[int, ...]:
    tokenizer = byte_tokenizer(chat_template=template)
    for name, token in special.items():
        setattr(tokenizer, name, token)
    return end_of_turn_ids(tokenizer)


def test_the_end_of_turn_is_the_special_token_after_an_assistants_message() -> None:
    assert end_of(CHATML) == (0,)
    # Also where it is not the tokenizer's end-of-sequence token: Qwen2.5's base configuration, Llama 3.
    assert end_of(CHATML, eos_token="<|endoftext|>") == (0,)
    assert end_of(LLAMA_2, eos_token="<|endoftext|>") == (2,)


@pytest.mark.parametrize("template", [UNENDED, REFUSING, "{{ messages[0].content }}", None])
def test_a_template_that_ends_turns_with_no_special_token_gives_none(template: str | None) -> None:
    assert end_of(template) == ()


def test_an_end_of_turn_added_by_the_user_counts_as_special() -> None:
    tokenizer = byte_tokenizer(chat_template="{% for m in messages %}{{ m.content }}<turn>\n{% endfor %}")
    assert end_of_turn_ids(tokenizer) == ()
    tokenizer.add_tokens(["<turn>"])
    assert end_of_turn_ids(tokenizer) == (len(tokenizer) - 1,)


def test_forbidden_ids_are_those_that_the_tokenizer_lacks() -> None:
    tokenizer, model = byte_tokenizer(), tiny_llama()
    ids = token_ids(tokenizer, model)
    assert ids.forbidden == tuple(range(len(tokenizer), VOCABULARY))
    assert len(ids.forbidden) > 0
    assert not set(ids.forbidden) & set(tokenizer.get_vocab().values())
    model.resize_token_embeddings(len(tokenizer))
    assert token_ids(tokenizer, model).forbidden == ()


def test_a_tokenizer_larger_than_the_model_is_an_error() -> None:
    with pytest.raises(CrosslignError, match=r"the tokenizer has 259 tokens, but the model's vocabulary only 200"):
        token_ids(byte_tokenizer(), tiny_llama(vocab_size=200))


@pytest.mark.parametrize(
    ("configured", "expected"), [(5, (5, 2, 0)), ([7, 0, 5], (7, 0, 5, 2)), (None, (2, 0)), ([], (2, 0)), (0, (0, 2))]
)
def test_stop_tokens_are_the_models_the_tokenizers_and_the_templates_each_once(
    configured: Any, expected: tuple[int, ...]
) -> None:
    tokenizer, model = byte_tokenizer(), tiny_llama()
    tokenizer.eos_token = "<|endoftext|>"
    model.generation_config.eos_token_id = configured
    assert token_ids(tokenizer, model).stop == expected


def test_a_stop_token_with_id_0_counts_and_without_any_there_is_an_error() -> None:
    tokenizer, model = byte_tokenizer(chat_template=UNENDED), tiny_llama()
    model.generation_config.eos_token_id = 0
    tokenizer.eos_token = None
    assert token_ids(tokenizer, model).stop == (0,)
    model.generation_config.eos_token_id = None
    with pytest.raises(CrosslignError, match="completions would never end"):
        token_ids(tokenizer, model)


def test_padding_is_the_tokenizers_or_else_a_stop_token() -> None:
    tokenizer, model = byte_tokenizer(), tiny_llama()
    tokenizer.pad_token = "<|im_start|>"
    assert token_ids(tokenizer, model).pad == 1
    tokenizer.pad_token = None
    model.generation_config.eos_token_id = [9, 0]
    assert token_ids(tokenizer, model).pad == 9


# Freezing


def test_freeze_takes_matching_parameters_out_of_training() -> None:
    model = tiny_llama()
    freeze(model, ["embed_tokens", r"layers\.0\.mlp"])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("embed_tokens" not in name and "layers.0.mlp" not in name)


def test_freeze_says_which_pattern_matches_nothing() -> None:
    model = tiny_llama()
    with pytest.raises(CrosslignError, match=r"no parameter's name matches 'embedings'; the first are "):
        freeze(model, ["embed_tokens", "embedings"])


def test_freeze_does_not_search_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSLIGN_MAX_SECONDS", "1")
    with pytest.raises(CrosslignError, match=r"model\.frozen: to find .* takes more than 1 seconds"):
        freeze(tiny_llama(), [r"^((\w|\.)+)+!$"])


def test_freeze_leaves_something_to_train() -> None:
    with pytest.raises(CrosslignError, match="nothing to train"):
        freeze(tiny_llama(), [""])


@pytest.mark.parametrize(
    ("trusted", "revision", "own"),
    [(True, "abc", True), (False, "abc", True), (True, None, True), (True, "abc", False)],
)
def test_a_models_code_is_that_of_its_revision_also_without_weights(
    monkeypatch: pytest.MonkeyPatch, trusted: bool, revision: str | None, own: bool
) -> None:
    """Without it `from_config` would run the newest code of the hub."""
    config, given = tiny_llama().config, {}
    if own:
        config.auto_map = {"AutoModelForCausalLM": "modeling.Model"}
    monkeypatch.setattr(load, "configuration", lambda source: config)
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_config", staticmethod(lambda config, **kwargs: given.update(kwargs))
    )
    load_skeleton(ModelSource("some/model", revision=revision, trust_remote_code=trusted))
    assert given.get("code_revision") == ("abc" if trusted and revision and own else None)


def test_models_are_loaded_whole_while_a_run_has_deepspeed_divide_what_it_trains(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As guards, `crosslign probe` and `preferences` load them; the settings last as long as the run's arguments."""

    class Settings:
        def is_zero3(self) -> bool:
            return True

    settings, divided = Settings(), []
    deepspeed.set_hf_deepspeed_config(settings)
    for name in ("from_pretrained", "from_config"):
        made = getattr(AutoModelForCausalLM, name)

        def asked(*args: Any, made: Any = made, **kwargs: Any) -> Any:
            divided.append(deepspeed.is_deepspeed_zero3_enabled())
            return made(*args, **kwargs)

        monkeypatch.setattr(AutoModelForCausalLM, name, asked)
    try:
        load_model(source(model_folder))
        load_skeleton(source(model_folder))
        assert deepspeed.is_deepspeed_zero3_enabled()
    finally:
        deepspeed.unset_hf_deepspeed_config()
    assert divided == [False, False]
