"""Two processes of full fine-tuning, whole (DDP) and in parts (FSDP2), against one: memory and time on two CPU cores.

    python -m benchmarks.sharding NAME=MODEL [--steps 6]

Each side takes the same steps of 8 queries, off-policy, with completions of at most 48 tokens. Memory is that of the
tensors which FSDP divides, as they lie in the process of rank 0 just before an optimizer step. accelerate runs DDP on a
CPU where FSDP is asked for; the tests' own start (`tests/sharded_process.py`) makes it real.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from benchmarks.launch import start
from benchmarks.summary import machine

TESTS = Path(__file__).parents[1] / "tests"
SIDES = {"one process": 1, "ddp": 2, "fsdp": 2}


def recipe(model: str, side: str, steps: int, folder: Path) -> dict[str, Any]:
    engine: dict[str, Any] = {"fsdp": True, "ddp_backend": "gloo"} if side == "fsdp" else {"use_cpu": True}
    return {
        "model": {"path": model, "finetuning": "full", "dtype": "float32"},
        "data": {
            "tables": [{"path": "builtin:demo", "where": {"label": ["harmful"]}}],
            "languages": ["es", "zh", "sw"],
        },
        "strategy": {"name": "off_policy"},
        "sampling": {"max_completion_length": 48},
        "divergence_queries": 0,
        "output_dir": str(folder / "run"),
        "cache_dir": str(folder / "cache"),
        "training": {
            "max_steps": steps,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2 // SIDES[side],
            "save_strategy": "no",
            **engine,
        },
    }


def size(tensors: Iterable[Any]) -> int:
    """Bytes that lie in this process."""
    here = (t.to_local() if isinstance(t, DTensor) else t for t in tensors if isinstance(t, Tensor))
    return sum(t.numel() * t.element_size() for t in here)


class Memory(TrainerCallback):
    """Writes what weights, gradients, optimizer and teacher take."""

    def __init__(self, trainer: Any, out: Path) -> None:
        self.trainer, self.out = trainer, out
        self.found: dict[str, int] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from crosslign.models.sharding import reshard

        teacher = self.trainer.scorer.teacher.model
        reshard(self.trainer.model)
        reshard(teacher)
        parameters = list(self.trainer.model.parameters())
        self.found |= {"weights": size(parameters), "gradients": size(p.grad for p in parameters)}
        self.found["teacher"] = size(teacher.parameters())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        states = self.trainer.optimizer.state.values()
        self.found["optimizer"] = size(value for one in states for value in one.values())
        if state.is_world_process_zero:
            self.out.write_text(json.dumps(self.found), encoding="utf-8")


def worker(side: str, path: str, out: str) -> int:
    if side == "fsdp":
        sys.path.insert(0, str(TESTS))
        __import__("sharded_process")
    from crosslign.cli import main
    from crosslign.distillation import DistillationTrainer

    begin = DistillationTrainer.__init__

    def measured(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        self.add_callback(Memory(self, Path(out)))

    DistillationTrainer.__init__ = measured  # type: ignore[method-assign]
    return main(["train", path])


def run(model: str, side: str, steps: int) -> tuple[dict[str, int], dict[str, float]]:
    """Bytes by what they are for, and the seconds of a step: as a whole, and of its parts."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        path, out = folder / "recipe.yaml", folder / "memory.json"
        path.write_text(yaml.safe_dump(recipe(model, side, steps, folder)), encoding="utf-8")
        started = start(["-m", "benchmarks.sharding", "--worker", side, str(path), str(out)], SIDES[side])
        codes = [process.wait() for process in started]
        if any(codes):
            raise SystemExit(f"{side}: a run has failed")
        rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        steps_made = [row for row in rows if "loss" in row][1:]  # the first one warms up
        parts = ("seconds_generation", "seconds_teacher", "seconds_student")
        count = SIDES[side]  # the log adds up the processes' seconds
        seconds = {name: statistics.median(row[name] / count for row in steps_made) for name in parts}
        return json.loads(out.read_text()), seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="NAME=MODEL: a name for the table; a folder or .gguf file")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(*arguments.worker)
    name, _, model = (arguments.model or parser.error("which model?")).partition("=")
    print(f"{name}; {machine()}\n")
    print("| | weights, gradients, optimizer, GB | teacher, GB | of one process | sampling, s | step, s | queries/s |")
    print("|---|---|---|---|---|---|---|")
    first = 0
    for side in SIDES:
        found, seconds = run(model, side, arguments.steps)
        trained = found["weights"] + found["gradients"] + found["optimizer"]
        first = first or trained
        step = seconds["seconds_teacher"] + seconds["seconds_student"]
        cells = [side if SIDES[side] == 1 else f"two, {side}", f"{trained / 1e9:.2f}", f"{found['teacher'] / 1e9:.2f}"]
        cells += [f"{trained / first:.2f}", f"{seconds['seconds_generation']:.2f}", f"{step:.2f}", f"{8 / step:.2f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
