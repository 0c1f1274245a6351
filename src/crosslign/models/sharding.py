"""A model whose weights lie in parts on several processes: FSDP2 (through accelerate) or DeepSpeed ZeRO.

Everything here but `is_sharded` and `pieces` is collective: every process must call it, in the same order.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from crosslign.objective.head import Head, OutputHead, PlainHead


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether the weights of this model, or of the one in this wrapper, lie in parts (FSDP2, ZeRO-3)."""
    return any(map(_is_part, model.parameters()))


def _is_part(parameter: Tensor) -> bool:
    return isinstance(parameter, DTensor) or hasattr(parameter, "ds_id")


@contextmanager
def loading_whole() -> Iterator[None]:
    """Inside the block transformers loads whole models, although DeepSpeed ZeRO-3, or FSDP's loading by the first
    process alone, is configured.

    What is checked and measured before training needs them, and so does a guard; the engine shards the model that is
    trained when it is made.
    """
    from transformers.integrations import deepspeed

    reference, variable = deepspeed._hf_deepspeed_config_weak_ref, "FSDP_CPU_RAM_EFFICIENT_LOADING"
    alone = os.environ.pop(variable, None)
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference
        if alone is not None:
            os.environ[variable] = alone


def as_forward(wrapped: Any, inner: Any, compute: Callable[[Any], Any]) -> Any:
    """`compute(inner)` as the forward pass of `wrapped`.

    DistributedDataParallel prepares the synchronisation of gradients in its own `forward`, which calls
    `inner.forward`; FSDP2 and DeepSpeed gather weights in hooks around it. So that one is replaced for the call.
    """
    if wrapped is inner and not isinstance(inner, FSDPModule):
        return compute(inner)
    original = inner.forward

    def forward(_: Tensor) -> Any:
        inner.forward = original
        return compute(inner)

    inner.forward = forward
    try:
        return wrapped(torch.empty(0, device=inner.get_input_embeddings().weight.device))  # a wrapper wants an input
    finally:
        inner.forward = original


def enter(wrapped: Any, inner: Any) -> None:
    """A first forward pass, in which nothing is computed: FSDP2 finds its root, and PEFT's adapters are on in it."""
    with torch.no_grad():
        as_forward(wrapped, inner, lambda _: None)


@contextmanager
def whole(wrapped: Any) -> Iterator[None]:
    """Inside the block every process has all weights, and may run the model by itself, as for sampling."""
    inside: AbstractContextManager[None] = nullcontext()
    if isinstance(wrapped, FSDPModule):
        inside = _whole_fsdp(wrapped)
    elif is_sharded(wrapped):
        inside = _whole_zero3(wrapped)
    with inside:
        yield


@contextmanager
def _whole_zero3(engine: Any) -> Iterator[None]:
    import deepspeed

    # Much as TRL does: the hooks would gather and let go of each layer's weights in every forward pass, and wait for
    # the other processes at the beginning of each, of which they make different numbers.
    offload = getattr(engine.optimizer, "parameter_offload", engine.optimizer)
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        for parameter in engine.module.parameters():
            parameter.ds_active_sub_modules.clear()
        for hook in (offload.fwd_pre_hook, *offload.forward_hooks, *offload.backward_hooks):
            hook.remove()
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload.fwd_pre_hook = offload.module.register_forward_pre_hook(
                lambda *_: offload.get_param_coordinator().reset_step()
            )
            offload._register_deepspeed_module(offload.module)


@contextmanager
def _whole_fsdp(model: Any) -> Iterator[None]:
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        # Sampling has made as many forward passes as this process' completions are long; by their order the next
        # backward pass would gather weights, and the processes would wait for different ones.
        model.reset_iter_state()
        for unit in units:
            unit.reshard()
            # The root's own weights are wanted again as soon as the backward pass begins.
            unit.set_reshard_after_forward(unit is not model, recurse=False)


def whole_tensor(parameter: Any) -> Tensor:
    """All of a parameter of which this process may hold a part, as a tensor that stays."""
    if hasattr(parameter, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    found: Tensor = parameter.detach()
    return found.full_tensor() if isinstance(found, DTensor) else found


def has_plain_output(model: Any) -> bool:
    """Whether the output layer has its own weights alone: those of an adapter on it would not be gathered with them."""
    return isinstance(model.get_output_embeddings(), torch.nn.Linear)


def gathered_head(head: OutputHead) -> Head:
    """The head with all of its weights, for use inside the model's forward pass; one that is not sharded as it is."""
    linear: Any = head.linear
    if isinstance(linear, FSDPModule):
        linear.unshard()  # the backward pass lets go of it
    elif not hasattr(getattr(linear, "weight", None), "ds_id"):
        return head
    return PlainHead(linear.weight, linear.bias, head.scale, head.softcap)  # ZeRO-3 gathers what is asked for


def prepare_frozen(accelerator: Any, model: Any) -> Any:
    """A model that is not trained, sharded as the accelerator shards the one that is; DeepSpeed's engine around it."""
    if accelerator.state.deepspeed_plugin is not None:
        import deepspeed

        config = copy.deepcopy(accelerator.state.deepspeed_plugin.deepspeed_config)
        for name in ("optimizer", "scheduler"):
            config.pop(name, None)
        engine, *_ = deepspeed.initialize(model=model, config=config)
        engine.eval()
        return engine
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    prepared = fsdp2_prepare_model(accelerator, model).eval()
    enter(prepared, prepared)
    return prepared


@contextmanager
def gathered_output(model: Any) -> Iterator[None]:
    """Inside the block the output layer of a model that is not trained is whole, outside of its forward pass."""
    layer = model.get_output_embeddings()
    weights = [p for p in layer.parameters() if hasattr(p, "ds_id")] if layer is not None else []
    if weights:
        import deepspeed

        with deepspeed.zero.GatheredParameters(weights):
            yield
    else:
        yield
        reshard(model)  # FSDP2 has gathered it when it was asked for


def reshard(model: Any) -> None:
    """Let go of what was gathered for a forward pass without a backward pass."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def pieces(parameter: Any) -> tuple[Tensor, int]:
    """This process' part of a parameter, flat, and the position of its first element in the whole."""
    if hasattr(parameter, "ds_id"):  # ZeRO-3: equal parts of the flat tensor, the last one filled up
        part: Tensor = parameter.ds_tensor
        start = dist.get_rank() * part.numel()
        return part.reshape(-1)[: max(parameter.ds_numel - start, 0)], start
    if isinstance(parameter, DTensor):  # FSDP2: rows, the last parts may be shorter or empty
        local = parameter.to_local()
        rows = -(-parameter.shape[0] // parameter.device_mesh.size())
        row = parameter.numel() // max(parameter.shape[0], 1)
        return local.reshape(-1), parameter.device_mesh.get_local_rank() * rows * row
    return parameter.reshape(-1), 0


def whole_shape(parameter: Tensor) -> tuple[int, ...]:
    """The shape of the whole parameter, of which this process may hold a part."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def summed(values: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Numbers about the parts of sharded parameters, added over the processes; of whole ones as they are."""
    if not any(map(_is_part, parameters)):
        return values
    values = values.to(parameters[0].device)
    dist.all_reduce(values)
    return values
