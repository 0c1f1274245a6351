"""The estimate as a table, and what to change where it exceeds the device."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from crosslign.runs.config import ModelConfig, RunConfig
from crosslign.runs.memory.estimate import Estimate, Setup, estimate
from crosslign.runs.memory.inputs import Needs

Keys = Mapping[str, Mapping[str, Any]]
_GB = 1e9
_LEAST = 0.01  # a smaller share of the whole is no saving


def device_memory(setup: Setup) -> int | None:
    """Bytes of the device of one process: a GPU's, or this process' share of the machine's; None: not known here."""
    if setup.device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // setup.processes


def memory_table(needs: Needs, device: int | None) -> str:
    """Lines for a person: the parts, the total, and the changes that make it fit into `device` bytes."""
    setup, found = needs.setup, estimate(needs.shape, needs.setup)
    number = f"each of {setup.processes} processes" if setup.processes > 1 else "the process"
    where = "GPU" if setup.device == "cuda" else "CPU"
    lines = [f"memory of {number} ({where}), in GB, about", *_rows(found)]
    lines.append(f"  {'total':<28}{found.total / _GB:8.2f}  at the moment of: {found.peak}")
    if needs.shape.experts:
        lines.append("  A mixture of experts keeps more than this for a step; how much more depends on its kernel.")
    if device is None:
        return "\n".join(lines)
    lines.append(f"  {'the device has':<28}{device / _GB:8.2f}")
    if found.total <= device:
        return "\n".join(lines)
    lines.append("It does not fit. What to change, what helps most first:")
    changes = list(savings(needs, device))
    for text, saved, total, _ in changes:
        lines.append(f"  {text}: saves {saved / _GB:.2f}, then {total / _GB:.2f}")
    if not changes or changes[-1].total > device:
        lines.append("  That is not enough: take a larger device or a smaller model.")
    return "\n".join(lines)


def _rows(found: Estimate) -> Iterator[str]:
    moment = ""
    for part in found.parts:
        if part.moment != moment:
            moment = part.moment
            yield f"  {moment}: {found.of(moment) / _GB:.2f}"
        yield f"  {'  ' if moment else ''}{part.name:<{26 if moment else 28}}{part.bytes / _GB:8.2f}"


class Saving(NamedTuple):
    """A change for a person, what it saves in bytes, the total then, and the recipe's keys that make it, by section;
    none where it wants another device."""

    text: str
    saved: int
    total: int
    keys: Keys


def savings(needs: Needs, device: int, *, alone: bool = False) -> Iterator[Saving]:
    """Changes, each time the one that helps most, until the run fits.

    More processes come last, for they want more devices. `alone`: only changes that want no other device.
    """
    setup = needs.setup
    total = _total(needs, setup)
    while total > device:
        for changes in (_changes(setup, needs.with_lora is not None), _more_processes(setup)):
            tried = [(_total(needs, new), text, keys, new) for text, keys, new in changes if keys or not alone]
            least, text, keys, new = min(tried, key=lambda one: one[0], default=(total, "", {}, setup))
            if total - least >= _LEAST * total:
                yield Saving(text, total - least, least, keys)
                total, setup = least, new
                break
        else:
            return


def fitting(needs: Needs, device: int) -> list[Saving] | None:
    """The changes on this one device with which the run fits into it, [] if it does as it is; None if none do."""
    found = list(savings(needs, device, alone=True))
    total = found[-1].total if found else _total(needs, needs.setup)
    return found if total <= device else None


def _total(needs: Needs, setup: Setup) -> int:
    return estimate(needs.with_lora if setup.lora and needs.with_lora else needs.shape, setup).total


def _change(section: str, **values: Any) -> tuple[str, Keys]:
    """A change of keys of one section, as text and as what is laid over a recipe."""
    text = ", ".join(f"{name}: {str(value).lower()}" for name, value in values.items())
    return f"{section}.{text}", {section: values}


def _changes(setup: Setup, lora: bool) -> Iterator[tuple[str, Keys, Setup]]:
    """Settings that a run could have instead."""
    if not setup.checkpointing:
        yield *_change("training", gradient_checkpointing=True), replace(setup, checkpointing=True)
    if not setup.lora:
        if lora:
            yield *_change("model", finetuning="lora"), replace(setup, lora=True, teacher=0)
        if setup.teacher == 4:
            yield *_change("teacher", dtype="bfloat16"), replace(setup, teacher=2)
        if "8bit" not in setup.optimizer and setup.device == "cuda":
            yield *_change("training", optim="adamw_8bit"), replace(setup, optimizer="adamw_8bit")
    elif "quantization" in ModelConfig.model_fields and not setup.nf4 and setup.device == "cuda":
        yield *_change("model", quantization="nf4"), replace(setup, nf4=True)
    if setup.weight == 4:
        smaller = replace(setup, weight=2, compute=2, teacher=min(setup.teacher, 2))
        yield *_change("model", dtype="bfloat16"), smaller
    if len(setup.students) > 1:
        one = replace(setup, students=setup.students[:1], teachers=setup.teachers[:1])
        count = setup.accumulation * len(setup.students)
        change = _change("training", per_device_train_batch_size=1, gradient_accumulation_steps=count)
        yield *change, replace(one, accumulation=count)
    if setup.rollouts > 1:
        fewer = max(setup.rollouts // 4, 1)
        yield *_change("sampling", batch_size=fewer), replace(setup, rollouts=fewer)
        if "rollouts" in RunConfig.model_fields:
            yield "rollouts.backend: vllm (on another device)", {}, replace(setup, rollouts=0)


def _more_processes(setup: Setup) -> Iterator[tuple[str, Keys, Setup]]:
    if setup.sharding in ("none", "ddp"):
        count = max(setup.processes, 8 if setup.device == "cuda" else 2)
        yield f"training.fsdp, over {count} processes", {}, replace(setup, sharding="fsdp", processes=count)
