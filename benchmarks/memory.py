"""The estimate of `crosslign train RECIPE --dry-run` beside the peak of real runs on a CPU.

    python -m benchmarks.memory NAME=MODEL --cases lora:1 lora:2 full:1 full:2 [--dtype bfloat16]

A case is a kind of fine-tuning and a number of processes. Each trains for two steps in processes of its own, one case
after the other; measured is the largest peak of resident memory among its processes, as the kernel tells it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.launch import start
from crosslign.runs.memory.estimate import estimate
from crosslign.runs.memory.inputs import needs_of
from crosslign.runs.prepare import prepare
from crosslign.runs.recipe import parse_config


def recipe(model: str, finetuning: str, dtype: str, folder: Path) -> dict[str, Any]:
    return {
        "model": {"path": model, "finetuning": finetuning, "dtype": dtype},
        "data": {
            "tables": [{"path": "builtin:demo", "where": {"label": ["harmful"]}, "limit": 12}],
            "languages": ["es", "zh", "sw"],
        },
        "sampling": {"max_completion_length": 48},
        "divergence_queries": 1,
        "output_dir": str(folder / "run"),
        "cache_dir": str(folder / "cache"),
        "training": {
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "save_strategy": "no",
            "use_cpu": True,
        },
    }


def measured(path: Path, processes: int) -> int:
    """Bytes: the largest peak of resident memory of `crosslign train` in so many processes."""
    started = start(["-m", "crosslign.cli", "train", str(path)], processes)
    peaks = []
    for process in started:
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"a run ended with exit code {os.waitstatus_to_exitcode(status)}")
        peaks.append(usage.ru_maxrss * 1024)
    return max(peaks)


def row(name: str, model: str, case: str, dtype: str) -> str:
    finetuning, _, processes = case.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        raw = recipe(model, finetuning, dtype, Path(folder))
        path = Path(folder, "recipe.yaml")
        path.write_text(yaml.safe_dump(raw), encoding="utf-8")
        needs = needs_of(prepare(parse_config(raw)), processes=int(processes))
        found = estimate(needs.shape, needs.setup)
        peak = measured(path, int(processes))
    difference = found.total / peak - 1
    cells = (name, finetuning, dtype, processes, f"{found.total / 1e9:.2f}", f"{peak / 1e9:.2f}", f"{difference:+.0%}")
    return "| " + " | ".join((*cells, found.peak)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="NAME=MODEL: a name for the table; a folder or .gguf file")
    parser.add_argument("--cases", nargs="+", default=["lora:1", "lora:2", "full:1", "full:2"])
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    name, _, model = arguments.model.partition("=")
    print("| model | fine-tuning | type | processes | estimate, GB | measured, GB | difference | peak at |")
    print("|---|---|---|---|---|---|---|---|")
    for case in arguments.cases:
        print(row(name, model, case, arguments.dtype), flush=True)


if __name__ == "__main__":
    main()
