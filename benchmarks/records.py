"""Measurements on the testbed: many at a time, one core each, kept in files so that an interrupted call goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from crosslign.storage import write_atomically
from crosslign.testbed.cache import BaseSpec, base_model
from crosslign.testbed.world import World

Key = TypeVar("Key")
Record = dict[str, Any]


def kept(path: Path, settings: Mapping[str, Any], make: Callable[[], Record]) -> Record:
    """The record in the file if it was made with these settings; else what `make` returns, written there."""
    torch.set_num_threads(1)
    settings = json.loads(json.dumps(settings))
    if path.exists():
        found: Record = json.loads(path.read_text(encoding="utf-8"))
        if found.get("settings") == settings:
            return found
    record = {"settings": settings, **make()}
    write_atomically(path, json.dumps(record) + "\n")
    return record


def run_all(
    measure: Callable[..., Record], todo: Mapping[Key, tuple[Any, ...]], worlds: Iterable[World], jobs: int
) -> dict[Key, Record]:
    """`measure(*arguments)` of each key, `jobs` processes at a time, once the models of these worlds are made."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    records: dict[Key, Record] = {}
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        # Two processes that need the same model would both make it.
        list(pool.map(base_model, map(BaseSpec, worlds)))
        futures = {pool.submit(measure, *arguments): key for key, arguments in todo.items()}
        for future in tqdm(as_completed(futures), total=len(futures), desc="measuring", unit="run", disable=None):
            records[futures[future]] = future.result()
    return records
