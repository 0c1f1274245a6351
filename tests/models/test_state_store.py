"""Stored hidden states: read back bit for bit, and never another's or a part."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from crosslign.models import StateStore, state_key

KEY = state_key("f", [1, 2], [3, 4, 5], "full")
STATES = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    found = StateStore(tmp_path / "hidden")
    found.put(KEY, STATES)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_was_put_is_read_back(tmp_path: Path, dtype: torch.dtype) -> None:
    states = STATES.to(dtype)[:, ::2]  # not contiguous
    StateStore(tmp_path).put(KEY, states)
    read = StateStore(tmp_path).get(KEY, 3)
    assert read is not None
    assert read.dtype == dtype
    assert torch.equal(read, states)
    assert [p.suffix for p in tmp_path.rglob("*") if p.is_file()] == [".safetensors"]


def test_a_missing_key_is_none_and_counted(store: StateStore, caplog: pytest.LogCaptureFixture) -> None:
    assert store.get("0" * 32, 3) is None
    assert store.get(KEY, 3) is not None
    assert (store.hits, store.misses) == (1, 1)
    assert not caplog.records


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    other = StateStore(path.parents[1].with_name("other"))
    key = state_key("another model", [1, 2], [3, 4, 5], "full")
    other.put(key, STATES)
    path.write_bytes(other.path(key).read_bytes())


@pytest.mark.parametrize("damage", [cut_off, flip, empty, foreign])
def test_a_damaged_or_foreign_file_is_reported_and_made_again(
    store: StateStore, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    damage(store.path(KEY))  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        assert store.get(KEY, 3) is None
    assert str(store.path(KEY)) in caplog.text
    store.put(KEY, STATES)
    read = store.get(KEY, 3)
    assert read is not None
    assert torch.equal(read, STATES)


def test_states_of_another_length_are_not_taken(store: StateStore) -> None:
    assert store.get(KEY, 2) is None


def test_every_part_of_a_key_counts() -> None:
    context, completion = [1, 2], [3, 4, 5]
    keys = {
        KEY,
        state_key("g", context, completion, "full"),
        state_key("f", [1], completion, "full"),
        state_key("f", [12], completion, "full"),
        state_key("f", context, [3, 4], "full"),
        state_key("f", [1, 2, 3], [4, 5], "full"),
        state_key("f", context, completion, "bf16"),
    }
    assert len(keys) == 7
