"""Chunks cover every token once, within their bound, and cut only sequences that are longer."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from crosslign.objective.chunks import pieces, tokens_in_budget, whole_sequences

CPU = torch.device("cpu")
MIB = 1 << 20


@given(count=st.integers(0, 300), most=st.integers(1, 50))
def test_pieces_cover_the_tokens_in_order_and_are_about_equal(count: int, most: int) -> None:
    plan = pieces(count, most)
    assert [i for p in plan for i in range(p.start, p.stop)] == list(range(count))
    lengths = [p.stop - p.start for p in plan]
    assert all(0 < n <= most for n in lengths)
    assert len(set(lengths[:-1])) <= 1
    assert not lengths or lengths[-1] <= lengths[0]
    assert len(plan) == -(-count // most)


def test_pieces_are_whole_vectors_of_a_product() -> None:
    assert [p.stop - p.start for p in pieces(1_024, 400)] == [344, 344, 336]
    assert pieces(400, 400) == [slice(0, 400)]


@given(lengths=st.lists(st.integers(0, 20), max_size=8), most=st.integers(1, 15))
def test_whole_sequences_cuts_only_what_is_longer_than_a_chunk(lengths: list[int], most: int) -> None:
    groups = whole_sequences(lengths, most)
    assert [i for group in groups for p in group for i in range(p.start, p.stop)] == list(range(sum(lengths)))
    assert all(0 < p.stop - p.start <= most for group in groups for p in group)
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    assert {group[-1].stop for group in groups} <= set(ends)
    assert [group[-1].stop for group in groups if len(group) > 1] == [
        end for end, length in zip(ends, lengths, strict=True) if length > most
    ]


def test_a_chunk_fits_its_budget_and_a_large_vocabulary_still_has_one() -> None:
    assert 2 * 151_936 * 4 * tokens_in_budget(151_936, 4, CPU) <= 150 * MIB
    assert tokens_in_budget(151_936, 4, CPU) >= 128
    assert tokens_in_budget(10**9, 4, CPU) == 8
    assert tokens_in_budget(1_000, 4, CPU, floor=1024 * MIB) == 1024 * MIB // 8_000 // 8 * 8
