"""Load tokenizers and models: a hub id, a local folder, or a `.gguf` file. Safetensors only; no remote code unasked."""

from __future__ import annotations

import gc
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from crosslign.contexts import check_chat_template
from crosslign.models.files import check_counts, check_model, check_tokenizer, looks_local
from crosslign.models.sharding import loading_whole
from crosslign.types import CrosslignError, cause
from crosslign.untrusted import read_json, read_text, rehearse

_SENTINEL = "crosslign sentinel"
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
_NAMES: dict[Any, Dtype] = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from; the fields of a recipe's `model` section that concern loading.

    `dtype` "auto" is the checkpoint's own on an accelerator and float32 on CPU, but see `evaluation_source`. With
    `quantization` "nf4" the linear layers but the output head hold 4 bits a weight and compute in `dtype`; "auto" is
    then bfloat16.
    """

    path: str
    revision: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    dtype: Dtype = "auto"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    quantization: Literal["nf4"] | None = None

    @property
    def kind(self) -> Literal["gguf", "folder", "hub"]:
        """Raises CrosslignError for what is neither there nor a hub id."""
        if self.path.endswith(".gguf"):
            return "gguf"
        if Path(self.path).is_dir():
            return "folder"
        if looks_local(self.path):
            raise CrosslignError(
                f"model.path: no folder {self.path}. A model is a folder, a .gguf file, or a hub id 'owner/name'."
            )
        return "hub"


@dataclass(frozen=True)
class TokenIds:
    """What sampling needs to know of a tokenizer and the model's vocabulary."""

    stop: tuple[int, ...]
    pad: int
    forbidden: tuple[int, ...] = field(repr=False, default=())


def check_source(source: ModelSource, *, weights: bool = True) -> None:
    """Raise CrosslignError if a local model cannot be what it should be; reads no weights and asks no network.

    With `weights=False` a folder may lack them, which is enough for `load_skeleton`.
    """
    path = Path(source.path)
    if source.quantization is not None and weights:
        _check_quantization(source)
    if source.kind == "gguf":
        if not path.is_file():
            raise CrosslignError(f"model.path: {source.path}: no such file.")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise CrosslignError(f"model.path: {source.path} is not a GGUF file (its first bytes are not 'GGUF').")
    elif source.kind == "folder":
        try:
            check_model(path, weights=weights)
            if source.tokenizer is None:
                check_tokenizer(path)
        except CrosslignError as error:
            raise CrosslignError(f"model.path: {error}") from error
    if source.tokenizer is not None:
        _check_tokenizer_source(source.tokenizer)
    if source.chat_template is not None and not Path(source.chat_template).is_file():
        raise CrosslignError(f"model.chat_template: no such file: {source.chat_template}.")


def _check_quantization(source: ModelSource) -> None:
    where = f"model.quantization: {source.quantization}"
    if source.kind == "gguf":
        raise CrosslignError(f"{where} is for safetensors, not for a .gguf file. Name the model that it was made of.")
    config = Path(source.path) / "config.json"
    if source.kind == "folder" and config.is_file() and read_json(config).get("quantization_config"):
        raise CrosslignError(_QUANTIZED.format(where, source.path))
    if importlib.util.find_spec("bitsandbytes") is None:
        raise CrosslignError(f"{where} needs bitsandbytes, which is not installed: pip install 'crosslign[quantized]'.")


_QUANTIZED = "{}, but {} is quantised already. Name the model that it was made of, or leave quantization out."


def _check_tokenizer_source(path: str) -> None:
    if looks_local(path):
        if not Path(path).is_dir():
            raise CrosslignError(f"model.tokenizer: no folder {path}. It is a folder or a hub id 'owner/name'.")
        try:
            check_tokenizer(Path(path))
        except CrosslignError as error:
            raise CrosslignError(f"model.tokenizer: {error}") from error


def load_tokenizer(source: ModelSource) -> Any:
    """The tokenizer, with a chat template.

    Raises CrosslignError if it cannot be loaded or has no chat template and none is given.
    """
    where, kwargs = location(source)
    if source.tokenizer is not None:
        where, kwargs = source.tokenizer, {"trust_remote_code": source.trust_remote_code}
        if looks_local(where):
            kwargs["local_files_only"] = True
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **kwargs)
    except Exception as error:  # from_pretrained raises many kinds; all mean that this place holds no tokenizer
        raise load_error("tokenizer", source.tokenizer or source.path, error) from error
    if source.chat_template is not None:
        tokenizer.chat_template = read_text(Path(source.chat_template))
    if not tokenizer.chat_template:
        raise CrosslignError(
            f"{source.path}: the tokenizer has no chat template, so it is probably a base model. Use the "
            "instruction-tuned one, or name a Jinja template file in model.chat_template."
        )
    what = f"{source.chat_template or source.tokenizer or source.path}: the chat template"
    check_chat_template(tokenizer, ({}, {"enable_thinking": False}, {"enable_thinking": True}), what)
    return tokenizer


@loading_whole()
def load_model(source: ModelSource, *, stay: bool = False, device: str | None = None) -> Any:
    """The causal language model, in evaluation mode, dropout off. Weights are read here.

    `device`: None for the best. `stay`: in the host's memory, for what moves each device's part there.
    """
    where, kwargs = location(source)
    device = device or best_device()
    dtype: Any = source.dtype
    if dtype == "auto" and (source.quantization is not None or device == "cpu"):
        dtype = "float32" if source.quantization is None else "bfloat16"
    if source.kind == "gguf":
        # transformers can keep GGUF weights packed, but packed weights cannot be trained.
        config_class = getattr(transformers, "GgufConfig", None)
        if config_class is not None:
            kwargs["quantization_config"] = config_class(dequantize=True)
    else:
        kwargs["use_safetensors"] = True
    if source.quantization is not None:
        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=source.quantization,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
        )
    if source.attn_implementation is not None:
        kwargs["attn_implementation"] = source.attn_implementation
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype if dtype == "auto" else getattr(torch, dtype), output_loading_info=True, **kwargs
        )
    except Exception as error:  # see load_tokenizer
        raise load_error("model", source.path, error) from error
    if source.quantization is not None:
        if model.hf_quantizer.pre_quantized:
            raise CrosslignError(_QUANTIZED.format(f"model.quantization: {source.quantization}", source.path))
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False  # or its first call would write its weights in another order
    check_whole(found, source.path)
    if source.kind == "gguf":
        _forget_quantisation(model)
        # peft looks for the base model when it saves; by an absolute path it asks nobody.
        model.name_or_path = str(Path(source.path).absolute())
    disable_dropout(model)
    return ready(model if stay else model.to(device), source.path)


def check_whole(found: Mapping[str, Any], path: str) -> None:
    """Raise CrosslignError if weights are missing, by the loading info of `from_pretrained`."""
    if missing := sorted(found["missing_keys"]):  # transformers fills them with random numbers
        raise CrosslignError(
            f"model.path: the weights of {path} lack {len(missing)} tensors, first {missing[0]}. Get them again."
        )


def ready(model: Any, path: str) -> Any:
    """The loaded model in evaluation mode. Raises NotFiniteError if a weight is no number."""
    model.eval()
    if (name := not_finite(stored_tensors(model))) is not None:
        raise NotFiniteError(
            f"model.path: the weights of {path} hold inf or NaN as {model.dtype} (the first are in {name}). The "
            "file is damaged, a training went wrong, or model.dtype is too narrow."
        )
    return model


def evaluation_source(source: ModelSource) -> ModelSource:
    """The source with the type that `dtype` "auto" is where nothing is trained; reads no weights.

    The checkpoint's own, where its configuration names it; but on a CPU float32, unless its own is bfloat16 and the
    processor multiplies that itself.
    """
    if source.dtype != "auto":
        return source
    if source.quantization is not None:
        return replace(source, dtype="bfloat16")
    own = None if source.kind == "gguf" else configuration(source).dtype
    if best_device() == "cpu" and not (own == torch.bfloat16 and multiplies_bfloat16()):
        return replace(source, dtype="float32")
    known = isinstance(own, torch.dtype) and own in _NAMES
    return replace(source, dtype=_NAMES[own]) if known else source


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products in bfloat16; an old torch cannot tell."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def best_device() -> Literal["cuda", "mps", "cpu"]:
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def stored_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters by name, shared ones by each of theirs; of a 4-bit one also what gives its bits their values."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        yield name, parameter
        if (state := getattr(parameter, "quant_state", None)) is not None:
            yield from ((f"{name}.{part}", tensor) for part, tensor in state.as_dict(packed=True).items())


@loading_whole()
def load_skeleton(source: ModelSource) -> Any:
    """The model without weights, from its configuration: shapes and types of parameters, on the device `meta`.

    Its type is the checkpoint's own. Raises CrosslignError for a configuration of which no model can be made.
    """
    config = configuration(source)
    own_code = source.trust_remote_code and source.revision is not None and hasattr(config, "auto_map")
    pinned = {"code_revision": source.revision} if own_code else {}  # else the newest code would be run
    try:
        check_counts(config.to_dict(), source.path)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=config.dtype or torch.float32, trust_remote_code=source.trust_remote_code, **pinned
            )
    except CrosslignError:
        raise
    except Exception as error:  # see load_tokenizer
        raise load_error("configuration", source.path, error) from error
    return model


def configuration(source: ModelSource) -> Any:
    where, kwargs = location(source)
    try:
        return AutoConfig.from_pretrained(where, **kwargs)
    except Exception as error:  # see load_tokenizer
        raise load_error("configuration", source.path, error) from error


class NotFiniteError(CrosslignError):
    """A weight, a loss, a gradient or a probability is inf or NaN."""


def not_finite(parameters: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first of these parameters that holds inf or NaN. Waits for the device once."""
    found = [(name, p.detach()) for name, p in parameters if p.is_floating_point() and p.numel()]
    if not found:
        return None
    device = found[0][1].device
    largest = torch.stack([torch.linalg.vector_norm(p, torch.inf).float().to(device) for _, p in found])
    return next((name for (name, _), value in zip(found, largest.tolist(), strict=True) if not isfinite(value)), None)


def location(source: ModelSource) -> tuple[str, dict[str, Any]]:
    kwargs: dict[str, Any] = {"trust_remote_code": source.trust_remote_code}
    if source.kind == "gguf":
        path = Path(source.path)
        return str(path.parent), {**kwargs, "gguf_file": path.name, "local_files_only": True}
    if source.kind == "folder":
        return source.path, {**kwargs, "local_files_only": True}
    return source.path, {**kwargs, "revision": source.revision or "main"}


def load_error(what: str, path: str, error: Exception) -> CrosslignError:
    hint = ""
    if "trust_remote_code" in str(error):
        hint = " If you trust its authors, set model.trust_remote_code: true."
    elif "gated" in str(error).lower() or "401" in cause(error):
        hint = " The model is gated: accept its licence on the hub and log in with `hf auth login`."
    elif "ignore_mismatched_sizes" in str(error):
        return CrosslignError(f"model.path: config.json and the weights in {path} have different sizes. Get it again.")
    elif not Path(path).exists():
        hint = " It is no local path; as a hub id it needs a network and must exist (or lie in the local hub cache)."
    return CrosslignError(f"model.path: the {what} of {path!r} could not be loaded: {cause(error)}.{hint}")


def _forget_quantisation(model: Any) -> None:
    """A dequantised GGUF model is still marked as quantised, and then would neither train nor save."""
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        if name in vars(model):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def disable_dropout(model: torch.nn.Module) -> None:
    """Set every dropout of the model to 0, also in training mode: the student must score what it sampled."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in list(vars(module).items()):  # that a module passes to nn.functional.dropout itself
            if name.endswith(("dropout", "dropout_p", "dropout_prob", "pdrop")) and isinstance(value, float):
                setattr(module, name, 0.0)


def freeze(model: torch.nn.Module, patterns: Sequence[str]) -> None:
    """Take the parameters whose names match a pattern (`re.search`) out of training.

    Raises CrosslignError for a pattern that matches no parameter or takes too long, or if nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        rehearse(partial(lambda p: [re.search(p, n) for n in names], pattern), f"model.frozen: to find {pattern!r}")
    for pattern in patterns:
        matched = [p for name, p in model.named_parameters() if re.search(pattern, name)]
        if not matched:
            first = ", ".join(names[:4])
            raise CrosslignError(f"model.frozen: no parameter's name matches {pattern!r}; the first are {first}.")
        for parameter in matched:
            parameter.requires_grad_(False)
    if patterns and not any(p.requires_grad for p in model.parameters()):
        raise CrosslignError("model.frozen: every parameter is frozen, so there is nothing to train.")


def end_of_turn_ids(tokenizer: Any) -> tuple[int, ...]:
    """The special token that the chat template writes after an assistant's message, if there is one."""
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": _SENTINEL}], tokenize=False
        )
    except Exception:  # a template may refuse; then the configured end tokens have to do
        return ()
    if _SENTINEL not in text:
        return ()
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    for token in tokenizer(text.rpartition(_SENTINEL)[2], add_special_tokens=False)["input_ids"]:
        if token in special:
            return (token,)
    return ()


def token_ids(tokenizer: Any, model: Any) -> TokenIds:
    """Stop tokens (model's, tokenizer's and chat template's), padding, and ids the tokenizer does not know.

    Raises CrosslignError if the tokenizer has more ids than the model has rows.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > vocabulary:
        raise CrosslignError(
            f"the tokenizer has {len(tokenizer)} tokens, but the model's vocabulary only {vocabulary}: "
            "they do not belong together. Check model.tokenizer."
        )
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    candidates = list(configured) if isinstance(configured, list) else [configured]
    candidates += [tokenizer.eos_token_id, *end_of_turn_ids(tokenizer)]
    stop = [int(t) for t in dict.fromkeys(candidates) if t is not None]
    if not stop:
        raise CrosslignError("neither model nor tokenizer names an end-of-sequence token; completions would never end.")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop[0]
    known = set(tokenizer.get_vocab().values())
    forbidden = tuple(t for t in range(vocabulary) if t not in known)
    return TokenIds(tuple(stop), pad, forbidden)


def free_memory() -> None:
    """Give back the memory of models that nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
