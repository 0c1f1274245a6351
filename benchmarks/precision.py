"""Our own step and sampling in bfloat16 and in float32: `python -m benchmarks.precision --configuration NAME`.

The configurations are those of `benchmarks.step`. Both types take turns in one process with heap reuse, on the same
completions; ratios are medians of pairs, of processor seconds. Sampling: one call for all rows of a batch, with a LoRA
adapter where the configuration has one. Memory: one fresh process a type, default allocator, peak of the process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.step import CONFIGURATIONS, SHAPES, peak_memory, random_model, real_models, steps_on
from benchmarks.step_sides import Ours, batches, quiet, run_config
from benchmarks.summary import machine
from benchmarks.timing import Seconds, alternate, fresh_process, median_ratio, median_seconds
from crosslign.evaluation.tables import markdown
from crosslign.rollouts import SamplingParameters
from crosslign.runs.prepare import prepare

MODULE = "benchmarks.precision"
TYPES: tuple[Literal["bfloat16", "float32"], ...] = ("bfloat16", "float32")
HEADER = ("configuration", "what", "bfloat16, s", "float32, s", "ratio", "bfloat16, peak GB", "float32, peak GB")


def measure(job: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of steps and of sampling in the job's types, taking turns; the peak memory of it all in GB."""
    torch.set_num_threads(1)
    quiet()
    base = next(c for c in CONFIGURATIONS if c.name == job["configuration"])
    steps: dict[str, Callable[[], object]] = {}
    sampling: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for dtype in job["types"]:
            made = dataclasses.replace(base, dtype=dtype)
            run = prepare(run_config(made, Path(job["folder"]), job["queries"], Path(temporary, dtype)))
            side, given = Ours(made, run), batches(run, made, job["pairs"] + 1)
            steps[dtype] = steps_on(side, given, cuda=False)
            prompts = [rollout.student_context.token_ids for rollout in given[0]]
            parameters = SamplingParameters(max_completion_length=made.tokens)
            sampling[dtype] = partial(side.trainer.collector.student.sample, prompts, parameters, seed=0)
        taken = {"step": alternate(steps, job["pairs"], warm=True)}
        if job["sampling"]:
            taken["sampling"] = alternate(sampling, job["pairs"], warm=True)
    seconds = {what: {name: list(map(astuple, s)) for name, s in found.items()} for what, found in taken.items()}
    return {"seconds": seconds, "peak": peak_memory()}


def rows(job: Mapping[str, Any]) -> list[list[str]]:
    """Lines of the table: the step, and the sampling."""
    both = fresh_process(MODULE, "--job", json.dumps({**job, "types": TYPES}), heap_reuse=True)
    alone = [{**job, "types": [dtype], "pairs": 1, "sampling": False} for dtype in TYPES]
    peaks = [f"{fresh_process(MODULE, '--job', json.dumps(one))['peak']:.2f}" for one in alone]
    found = []
    for what, sides in both["seconds"].items():
        taken = {name: [Seconds(*sample) for sample in samples] for name, samples in sides.items()}
        ratio = f"**{median_ratio(taken['bfloat16'], taken['float32']):.2f}**"
        medians = [f"{median_seconds(taken[dtype]).total:.2f}" for dtype in TYPES]
        found.append([job["configuration"], what, *medians, ratio, *(peaks if what == "step" else ("", ""))])
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configuration", default="qwen-8x64", choices=[c.name for c in CONFIGURATIONS if not c.cuda])
    parser.add_argument("--queries", default="builtin:demo", help="query table")
    parser.add_argument("--model", action="append", default=[], help="folder with real weights of that shape")
    parser.add_argument("--pairs", type=int, default=3, help="timed pairs")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    settings = parser.parse_args(arguments)
    if settings.job:
        print(json.dumps(measure(json.loads(settings.job))))
        return 0
    shape = next(c.shape for c in CONFIGURATIONS if c.name == settings.configuration)
    with tempfile.TemporaryDirectory() as temporary:
        folder = real_models(settings.model).get(shape, Path(temporary, shape))
        if not folder.exists():
            random_model(SHAPES[shape][1], folder, settings.queries)
        job = {
            "configuration": settings.configuration,
            "folder": str(folder),
            "queries": settings.queries,
            "pairs": settings.pairs,
            "sampling": True,
        }
        print(machine(), markdown([HEADER, *rows(job)]), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
