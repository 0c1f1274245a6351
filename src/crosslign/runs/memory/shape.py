"""The sizes of a model that its configuration alone gives: it is made without memory, on the device `meta`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from crosslign.models import causal_lm


@dataclass(frozen=True)
class ModelShape:
    """Numbers, not bytes. Widths are of one token.

    Fields:
        weights: all parameters without LoRA's; a tied one counts once.
        linear: of these, the matrices of linear layers between embedding and head: what 4-bit quantisation packs.
        head, embedding: the output layer and the input embedding; the same weight if tied.
        trained: parameters with a gradient; head_trained: the head is one of them.
        layers, block: the number of layers, and the weights of the largest.
        hidden, intermediate, query, key_value, heads, vocabulary: query is heads times their dimension, key_value the
            same for keys.
        mlp: what a layer's MLP keeps for its backward pass: gate, its activation and the other half; without a gate
            one of them.
        normed: what a layer's norms keep, in float32; and again in the compute type if their weights are trained
            (`norms_trained`).
        inputs: what trained linear layers of a layer take, each tensor once; copies: each layer's own, where each
            casts it to another type.
        experts: a mixture of experts, which keeps a token once for each of its experts, in how many copies depends on
            the kernel: what the step keeps is estimated too low.
    """

    weights: int
    linear: int
    head: int
    embedding: int
    tied: bool
    trained: int
    head_trained: bool
    layers: int
    block: int
    hidden: int
    query: int
    key_value: int
    heads: int
    vocabulary: int
    mlp: int
    intermediate: int
    normed: int
    norms_trained: bool
    inputs: int
    copies: int
    experts: bool = False


def shape_of(model: Any) -> ModelShape:
    """Of a causal language model or a PeftModel, on any device. Raises AttributeError for one without usual sizes."""
    inner = causal_lm(model)
    config = inner.config.get_text_config()
    embedding, head = inner.get_input_embeddings().weight, inner.get_output_embeddings().weight
    blocks = _blocks(inner)
    heads = config.num_attention_heads
    dimension = getattr(config, "head_dim", None) or config.hidden_size // heads
    query, key_value = heads * dimension, (getattr(config, "num_key_value_heads", None) or heads) * dimension
    intermediate = _intermediate(config)
    linear = [(name, module) for name, module in blocks[0].named_modules() if isinstance(module, nn.Linear)]
    norms = [(name, p) for name, p in blocks[0].named_parameters() if "norm" in name and name.endswith("weight")]
    # LoRA's A takes what its neighbours take, its B what A alone has made.
    trained = [
        (name if ".lora_B" in name else name.split(".lora_")[0].rpartition(".")[0], module.in_features)
        for name, module in linear
        if module.weight.requires_grad
    ]
    return ModelShape(
        weights=sum(p.numel() for name, p in model.named_parameters() if ".lora_" not in name),
        linear=sum(p.numel() for block in blocks for name, p in block.named_parameters() if _packable(name, p)),
        head=head.numel(),
        embedding=embedding.numel(),
        tied=head is embedding,
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        head_trained=head.requires_grad,
        layers=len(blocks),
        block=max(sum(p.numel() for name, p in b.named_parameters() if ".lora_" not in name) for b in blocks),
        hidden=config.hidden_size,
        query=query,
        key_value=key_value,
        heads=heads,
        vocabulary=head.shape[0],
        intermediate=intermediate,
        mlp=intermediate if sum(m.out_features == intermediate for _, m in linear) == 1 else 3 * intermediate,
        normed=sum({"q_norm": query, "k_norm": key_value}.get(n.split(".")[-2], p.numel()) for n, p in norms),
        norms_trained=any(p.requires_grad for _, p in norms),
        inputs=sum(width for _, width in set(trained)),
        copies=sum(width for _, width in trained),
        experts=any(name.rpartition(".")[2] == "experts" for name, _ in inner.named_modules()),
    )


def _blocks(inner: Any) -> list[nn.Module]:
    """The decoder's layers: its list of modules with most weights."""
    lists: list[nn.ModuleList] = [
        module for module in inner.modules() if isinstance(module, nn.ModuleList) and len(module)
    ]
    if not lists:
        raise AttributeError("no list of layers")
    largest: nn.ModuleList = max(lists, key=lambda found: sum(p.numel() for p in found.parameters()))
    return list(largest)


def _intermediate(config: Any) -> int:
    """The MLP's width for one token; of a mixture of experts, that of the experts that it goes through."""
    experts, width = getattr(config, "num_experts_per_tok", None), getattr(config, "moe_intermediate_size", None)
    usual: int = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return experts * (width or usual) if experts else usual


def _packable(name: str, weight: Any) -> bool:
    return weight.dim() == 2 and ".lora_" not in name
