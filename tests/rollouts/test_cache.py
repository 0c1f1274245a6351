"""The completion cache: what a key depends on, and a file that survives interruption and a full disk."""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import cached

from crosslign.rollouts import CachedSampler, CompletionCache, SamplingParameters, ScriptedSampler, completion_key
from crosslign.storage import read_rows
from crosslign.types import Completion, CrosslignError, Query

PARAMETERS = SamplingParameters()


def key(**changes: Any) -> str:
    arguments: dict[str, Any] = {
        "fingerprint": "f",
        "prompt": (1, 23),
        "parameters": PARAMETERS,
        "query_key": "a|sw",
        "seed": 0,
        **changes,
    }
    return completion_key(**arguments)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "completions.jsonl"


class Source:
    """Makes a new completion at each call, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.ids = itertools.count(100)

    def __call__(self, missing: list[int]) -> list[Completion]:
        self.asked.append(missing)
        return [Completion((next(self.ids), 0), truncated=False) for _ in missing]


def fill(cache: CompletionCache, keys: list[str], source: Callable[[list[int]], list[Completion]]) -> list[Completion]:
    return cache.fill(keys, [f"query of {k}" for k in keys], source)


def test_the_same_inputs_give_the_same_key() -> None:
    assert key() == key()
    assert key(prompt=[1, 23]) == key(prompt=(1, 23))
    assert key(parameters=SamplingParameters()) == key()


def test_the_key_is_the_same_in_every_process_and_version() -> None:
    # A changed key orphans everything that users have cached: change it on purpose only.
    assert key() == "290aba58cad7938de8420300777f2add"


def test_every_input_changes_the_key() -> None:
    keys = [
        key(),
        key(fingerprint="g"),
        key(prompt=(1, 24)),
        key(prompt=(12, 3)),
        key(prompt=(1, 2, 3)),
        key(prompt=()),
        key(query_key="a|bn"),
        key(query_key="b|sw"),
        key(query_key=""),
        key(seed=1),
        key(seed=None),
        *(
            key(parameters=replace(PARAMETERS, **change))
            for change in ({"temperature": 0.5}, {"top_p": 0.9}, {"top_k": 3}, {"max_completion_length": 255})
        ),
    ]
    assert len(set(keys)) == len(keys)


def test_text_that_is_no_unicode_has_a_key() -> None:
    assert key(query_key="a\ud800|sw") != key(query_key="a|sw")


def test_a_second_run_reads_what_the_first_one_sampled(path: Path) -> None:
    first, source = CompletionCache(path), Source()
    sampled = fill(first, ["a", "b"], source)
    assert (first.hits, first.misses) == (0, 2)
    second = CompletionCache(path)
    assert fill(second, ["b", "a"], source) == sampled[::-1]
    assert source.asked == [[0, 1]]
    assert (second.hits, second.misses) == (2, 0)


def test_completions_come_back_as_they_were(path: Path) -> None:
    completions = {"a": Completion((5, 6, 0), truncated=False), "b": Completion((7,), truncated=True)}
    cache = CompletionCache(path)
    for name, completion in completions.items():
        fill(cache, [name], lambda _, made=completion: [made])
    assert {name: cached(CompletionCache(path), name) for name in completions} == completions


def test_only_what_is_missing_is_sampled_by_its_index(path: Path) -> None:
    cache, source = CompletionCache(path), Source()
    [known] = fill(cache, ["b"], source)
    result = fill(cache, ["a", "b", "c"], source)
    assert source.asked == [[0], [0, 2]]
    assert result[1] == known
    assert [cached(CompletionCache(path), k) for k in "abc"] == result


def test_a_key_that_occurs_twice_in_one_fill_is_sampled_once(path: Path) -> None:
    cache, source = CompletionCache(path), Source()
    result = fill(cache, ["a", "b", "a", "b", "c"], source)
    assert source.asked == [[0, 1, 4]]
    assert result[0] == result[2]
    assert result[1] == result[3]
    assert len(path.read_bytes().splitlines()) == 3
    assert (cache.hits, cache.misses) == (2, 3)


def test_nothing_missing_means_no_call_and_no_file(path: Path) -> None:
    assert fill(CompletionCache(path), [], Source()) == []
    assert not path.exists()


@pytest.mark.parametrize("cut", [1, 20, "newline"])
def test_a_line_that_was_cut_off_is_sampled_again_and_the_file_stays_readable(path: Path, cut: int | str) -> None:
    source = Source()
    [a, b] = fill(CompletionCache(path), ["a", "b"], source)
    data = path.read_bytes()
    start = data.index(b"\n") + 1
    path.write_bytes(data[:-1] if cut == "newline" else data[: start + int(cut)])
    resumed = CompletionCache(path)
    assert cached(resumed, "a") == a
    if cut == "newline":
        assert cached(resumed, "b") == b  # whole but for its line end
    else:
        assert cached(resumed, "b") is None
    again = fill(resumed, ["a", "b", "c", "d"], source)
    assert again[0] == a
    final = CompletionCache(path)
    assert [cached(final, k) for k in "abcd"] == again


@pytest.mark.parametrize(
    "line",
    [b"", b"5", b"[]", b"null", b'{"key": "x"}', b'{"key": "x", "token_ids": 3, "truncated": false}', b"\xff\xfe"],
)
def test_a_line_of_something_else_is_skipped(path: Path, line: bytes) -> None:
    [a] = fill(CompletionCache(path), ["a"], Source())
    path.write_bytes(line + b"\n" + path.read_bytes())
    cache = CompletionCache(path)
    assert cached(cache, "a") == a


QUERY = Query("a", "sw", "swali", "en", "question")


@pytest.mark.parametrize(
    "ids",
    [[-1], ["1"], "12", [True], [1.5], [10**30], [50], [1] * 9, [], None, {"1": 2}],
    ids=["negative", "text", "one text", "boolean", "fraction", "huge", "unknown", "long", "none", "null", "mapping"],
)
def test_an_entry_that_no_sampler_can_have_made_is_sampled_again(path: Path, ids: Any) -> None:
    parameters = SamplingParameters(temperature=0, max_completion_length=8)

    def complete() -> tuple[list[Completion], CompletionCache]:
        cache = CompletionCache(path)
        sampler = CachedSampler(ScriptedSampler(0, 50, lambda _: [7]), cache, "f", vocabulary=50)
        return sampler.complete([(1, 2)], [QUERY], parameters), cache

    made, _ = complete()
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "token_ids": ids}) + "\n")
    again, cache = complete()
    assert again == made
    assert (cache.hits, cache.misses) == (0, 1)
    again, cache = complete()  # what was sampled again stands after it
    assert (cache.hits, cache.misses) == (1, 0)


def test_a_file_of_another_origin_is_neither_used_nor_added_to(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    for content in ("mine\n", "{}\n", " "):
        path.write_text(content)
        with pytest.raises(CrosslignError, match="nothing beside it says that crosslign made it"):
            CompletionCache(path)
        assert path.read_text() == content
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(CrosslignError, match="is a link"):
        CompletionCache(path)
    path.unlink()
    path.write_text('{"key')  # an entry that was cut off
    assert cached(CompletionCache(path), "a") is None


class Disk:
    """`os.write` on a disk with room for `room` more bytes; None means enough."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        if self.room is None:
            return self._write(descriptor, data)
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(descriptor, data[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("room", [0, 1, 30])
def test_a_full_disk_is_told_and_loses_nothing_that_was_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    disk, source = Disk(monkeypatch), Source()
    cache = CompletionCache(path)
    [a] = fill(cache, ["a"], source)
    disk.room = room
    with pytest.raises(OSError, match="No space left on device"):
        fill(cache, ["b"], source)
    assert cached(CompletionCache(path), "a") == a
    assert cached(CompletionCache(path), "b") is None
    # Space was made: the same process goes on in a file that stays readable.
    disk.room = None
    [c] = fill(cache, ["c"], source)
    reread = CompletionCache(path)
    assert (cached(reread, "a"), cached(reread, "c")) == (a, c)


def test_what_was_sampled_together_is_one_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda d, data: written.append(data) or write(d, data))
    fill(CompletionCache(path), ["a", "b"], Source())
    assert [line.count(b"\n") for line in written] == [2]


def test_what_was_sampled_before_an_interruption_within_a_fill_is_kept(path: Path) -> None:
    cache = CompletionCache(path)

    def stopped(missing: list[int]) -> list[Completion]:
        raise KeyboardInterrupt

    [a] = fill(cache, ["a"], Source())
    with pytest.raises(KeyboardInterrupt):
        fill(cache, ["b"], stopped)
    assert cached(CompletionCache(path), "a") == a
    assert cached(cache, "b") is None


def test_a_sampler_that_returns_too_few_completions_is_an_error(path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        fill(CompletionCache(path), ["a", "b"], lambda missing: [Completion((1,), truncated=True)])


def test_processes_of_a_run_exchange_what_they_have_sampled(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    first, second = (CompletionCache(path, shared=True) for _ in range(2))
    fill(first, ["a", "b"], lambda _: [Completion((1,), truncated=False), Completion((2,), truncated=False)])
    fill(second, ["b"], lambda _: [Completion((3,), truncated=True)])
    assert not path.exists()  # an interruption now would leave nothing by halves
    rows = [*first._waiting, *second._waiting]
    first.exchange(lambda _: rows, writes=True)
    second.exchange(lambda _: rows, writes=False)
    for cache in (first, second, CompletionCache(path)):
        assert (cached(cache, "a"), cached(cache, "b")) == (Completion((1,), False), Completion((2,), False))
    assert len(list(read_rows(path))) == 2
    second.exchange(lambda waiting: waiting, writes=True)
    assert len(list(read_rows(path))) == 2
