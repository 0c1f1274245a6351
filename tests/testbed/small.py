"""A demo that takes seconds: a model that knows nothing, and few rows; finished once for all workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crosslign.storage import locked
from crosslign.testbed.cache import BaseSpec
from crosslign.testbed.corpus import CorpusSpec
from crosslign.testbed.demo import run_demo
from crosslign.testbed.experiment import Alignment
from crosslign.testbed.model import ModelSpec
from crosslign.testbed.tables import TableSizes

BASE = BaseSpec(corpus=CorpusSpec(sequences=64), model=ModelSpec(hidden=32, layers=1, heads=2, feed_forward=48))
TABLES = TableSizes(targets=20, anchors=20, evaluation=2)
SHORT = Alignment(steps=2, batch_size=8)


def finished_demo(factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished demo in `out`, its base model in `cache`, and what it said in `said.txt`.

    Made on one core, where the system can bind a process to one. Treat it as read-only.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "small-demo"
    with locked(folder / "making.lock", seconds=300):
        said = folder / "said.txt"
        if not said.exists():
            lines: list[str] = []
            with _one_core():
                text = run_demo(
                    BASE, SHORT, folder / "out", tables=TABLES, cache=folder / "cache", announce=lines.append
                )
            said.write_text("\n".join((*lines, text)))
    return folder


@contextmanager
def _one_core() -> Iterator[None]:
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
