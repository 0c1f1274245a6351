"""What only a GPU can show, in one table: `python -m benchmarks.gpu`, or `make gpu-check`. Writes benchmarks/gpu.md.

- The objective at V = 152k, hidden states and heads in bfloat16: ours fused, ours with all logits at once, TRL's dense
  and chunked losses, Liger's kernel. Only ours weighs tokens.
- A training step of a random model of Qwen2.5-7B's shape in bfloat16 with LoRA: padded, packed (flash attention), with
  activation checkpointing, and TRL's SDFTTrainer. Where memory is short, of fewer layers; the table says how many.

What is not installed (TRL, Liger, flash attention) is named and left out. Times are medians by CUDA events; memory is
the peak beside weights and inputs. The rows of ours, and of training steps, end with their loss.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.objective import SIDES, fused
from benchmarks.states import Shape, random_states
from benchmarks.step import SHAPES, TOY, from_values, random_model
from benchmarks.step_sides import Configuration, Ours, Side, Theirs, batches, has_flash, quiet, run_config
from benchmarks.timing import device_time
from crosslign.evaluation.tables import markdown
from crosslign.models import disable_dropout
from crosslign.runs.prepare import PreparedRun, prepare
from crosslign.storage import versions, write_atomically

NO_GPU = "No GPU was found, so nothing was measured: this benchmark needs one that PyTorch can use."
HEADER = ("what", "side", "ms", "GB at the peak", "loss")
NEEDS = {"dense": "trl", "chunked": "trl", "liger": "liger_kernel"}


@dataclass(frozen=True)
class Sizes:
    """What is measured, and where.

    Fields:
        model: values of the step's model configuration.
        layers: the numbers of layers that are tried, until one fits.
        rows, tokens: sequences a step, and completion tokens of each.
    """

    device: str
    objective: Shape
    model: Mapping[str, Any]
    layers: tuple[int, ...]
    rows: int
    tokens: int
    repeats: int = 10


GPU = Sizes("cuda", Shape("Qwen2.5-7B", 152_064, 3_584, 16, 256), SHAPES["qwen7b"][1], (28, 14, 7), 8, 256)
SMALL = Sizes("cpu", Shape("toy", 300, 16, 2, 8), TOY, (2,), 2, 4, repeats=1)


def missing(side: str) -> str | None:
    """The package that a side needs and that is not installed."""
    name = NEEDS.get(side)
    return name if name is not None and importlib.util.find_spec(name) is None else None


def objective(sizes: Sizes) -> Iterator[list[str]]:
    """Rows of the table: forward and backward pass of each loss."""
    states = random_states(sizes.objective, device=sizes.device, dtype=torch.bfloat16)
    what = f"objective, V = {sizes.objective.vocabulary:,}, {sizes.objective.positions} tokens"
    for side in ("ours", "reference", "dense", "chunked", "liger"):
        if (package := missing(side)) is not None:
            yield [what, side, f"{package} is not installed", "", ""]
            continue
        if side == "liger" and sizes.device != "cuda":
            continue
        loss = f"{float(fused(states, 'reverse_kl').detach()):.4f}" if side == "ours" else ""
        yield [what, side, *measured(SIDES[side](states, "reverse_kl"), sizes), loss]


def measured(function: Callable[[], object], sizes: Sizes) -> list[str]:
    """Milliseconds and GB of a call."""
    try:
        milliseconds, peak = device_time(function, sizes.device, sizes.repeats)
    except torch.cuda.OutOfMemoryError:
        return ["out of memory", ""]
    return [f"{milliseconds:.1f}", f"{peak / 1e9:.2f}"]


def step(sizes: Sizes, folder: Path) -> Iterator[list[str]]:
    """Rows of the table: a whole optimiser step."""
    cuda = sizes.device == "cuda"
    made = Configuration("gpu", "", "lora", sizes.rows, sizes.tokens, cuda=cuda, dtype="bfloat16")
    random_model(TOY, folder / "model", "builtin:demo")  # for its tokenizer; the weights of the step are made below
    run = prepare(run_config(made, folder / "model", "builtin:demo", folder))
    given = batches(run, made, 1)[0]
    sides = [("padded, sdpa", "sdpa", "ours"), ("padded, sdpa, activation checkpointing", "sdpa", "checkpointing")]
    if cuda and has_flash():
        sides.append(("packed, flash attention", "flash_attention_2", "ours"))
    else:
        yield ["step", "packed, flash attention", "flash-attn is not installed", "", ""]
    if missing("dense") is None:
        sides.append(("SDFTTrainer, sdpa", "sdpa", "theirs"))
    layers = list(sizes.layers)
    for name, attention, kind in sides:
        while True:
            values = {**sizes.model, "num_hidden_layers": layers[0]}
            what = f"step, {layers[0]} layers, {sizes.rows} sequences of {sizes.tokens} tokens after their contexts"
            try:
                losses: list[float] = []
                side = _side(kind, made, run, from_values_on(sizes.device, values, attention), folder)
                # The loss before the first step, so that every side has the same weights.
                losses.append(side.step(given))
                row = [what, name, *measured(lambda side=side: side.step(given), sizes)]  # type: ignore[misc]
                yield [*row, f"{losses[0]:.4f}"]
                break
            except torch.cuda.OutOfMemoryError:
                yield [what, name, "out of memory", "", ""]
                if len(layers) == 1:
                    break
                layers.pop(0)
            finally:
                side = None  # type: ignore[assignment]
                _free()


def from_values_on(device: str, values: Mapping[str, Any], attention: str) -> Any:
    with torch.device(device):
        model = from_values(values, attn_implementation=attention)
    disable_dropout(model)
    return model.eval()


def _side(kind: str, made: Configuration, run: PreparedRun, model: Any, folder: Path) -> Side:
    if kind == "theirs":
        return Theirs(made, run, folder, model)
    ours = Ours(made, run, model)
    if kind == "checkpointing":
        ours.trainer.model.activation_checkpointing_enable()
    ours.trainer.model.train()
    return ours


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def report(sizes: Sizes) -> str:
    with tempfile.TemporaryDirectory() as temporary:
        rows = [*objective(sizes)]
        _free()
        rows += step(sizes, Path(temporary))
    name = torch.cuda.get_device_name() if sizes.device == "cuda" else sizes.device
    installed = {p: "installed" for p in ("trl", "liger_kernel", "flash_attn") if importlib.util.find_spec(p)}
    lines = [
        "# On a GPU",
        f"{name}, {', '.join(f'{k} {v}' for k, v in {**versions(), **installed}.items())}. bfloat16, LoRA; medians of "
        f"{sizes.repeats}.",
        markdown([HEADER, *rows], left=(0, 1)),
        "`python -m benchmarks.gpu`; the columns are explained in `benchmarks/gpu.py`.",
    ]
    return "\n\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("gpu.md"))
    settings = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(NO_GPU)
        return 0
    quiet()
    text = report(GPU)
    write_atomically(settings.out, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
