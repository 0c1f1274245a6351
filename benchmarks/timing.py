"""Timing two sides fairly: alternation, medians of pairs, user and system seconds apart, memory of a fresh process.

On a virtual machine the first touch of fresh memory is dear, which flatters whoever allocates less. With `reuse_heap`
the C library keeps freed memory, so both sides pay for their arithmetic alone. Memory is the opposite: kept memory
would hide a peak, so it is measured in a fresh process with the default allocator.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

HEAP_REUSE = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


def reuse_heap(module: str) -> None:
    """Start `python -m module` anew with heap reuse and one thread, unless this process is that one already."""
    wanted = {**HEAP_REUSE, "OMP_NUM_THREADS": "1"}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **wanted})  # noqa: S606 - ourselves, with our arguments


def fresh_process(module: str, *arguments: str, heap_reuse: bool = False, one_core: bool = True) -> dict[str, Any]:
    """What `python -m module ARGUMENTS` prints as its last line, a JSON object; default allocator unless asked.

    `one_core`: with one thread, and without any GPU.
    """
    environment = {k: v for k, v in os.environ.items() if k not in HEAP_REUSE}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} if one_core else {}
    environment |= HEAP_REUSE if heap_reuse else {}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)  # noqa: S603
    return json.loads(done.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Seconds:
    """Processor seconds of this process, and those of a clock."""

    user: float
    system: float
    wall: float

    @property
    def total(self) -> float:
        return self.user + self.system


def seconds(function: Callable[[], object]) -> Seconds:
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    function()
    after, end = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    return Seconds(after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, end - start)


def alternate(
    functions: Mapping[str, Callable[[], object]], rounds: int, warm: bool = False
) -> dict[str, list[Seconds]]:
    """Each function once a round, in turn, and in the opposite order in every second round; `warm` runs all once
    before, untimed."""
    result: dict[str, list[Seconds]] = {name: [] for name in functions}
    for number in range(-1 if warm else 0, rounds):
        for name in list(functions)[:: -1 if number % 2 else 1]:
            taken = seconds(functions[name])
            if number >= 0:
                result[name].append(taken)
    return result


def median_ratio(ours: Sequence[Seconds], theirs: Sequence[Seconds], of: Literal["total", "wall"] = "total") -> float:
    """Median over rounds of ours / theirs."""
    return statistics.median(getattr(a, of) / getattr(b, of) for a, b in zip(ours, theirs, strict=True))


def median_seconds(samples: Sequence[Seconds]) -> Seconds:
    return Seconds(*(statistics.median(column) for column in zip(*map(astuple, samples), strict=True)))


def device_time(function: Callable[[], object], device: str, repeats: int = 10) -> tuple[float, int]:
    """Median milliseconds of a call, and the bytes that it needs at its peak beside the tensors that were there.

    On CUDA by its events, after three calls that warm up. On a CPU, where only the code is tried, by a clock; bytes 0.
    """
    if device != "cuda":
        return 1000 * statistics.median(seconds(function).wall for _ in range(repeats)), 0
    for _ in range(3):
        function()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()  # type: ignore[no-untyped-call]
        function()
        end.record()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times), torch.cuda.max_memory_allocated() - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def peak_above(function: Callable[[], object]) -> int:
    """Bytes of resident memory that a call needs at its peak above what was resident before (Linux with glibc).

    Free memory that the allocator kept goes back first: a call that reused it would seem to need less.
    """
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    function()
    return _status("VmHWM") - before
