"""Top-K by group maxima is exact, ties included; chunks and blocks cover everything once."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslign.objective.groups import GROUP, choice_in, group_maxima, largest_in
from crosslign.objective.layout import MIB, blocks, pieces, rows_in_budget, whole_sequences
from crosslign.objective.weighting import teacher_choice

quick = settings(max_examples=60, deadline=None, derandomize=True)
CPU = torch.device("cpu")


@quick
@given(
    vocabulary=st.integers(1, 6 * GROUP + 5),
    k=st.integers(1, 12),
    values=st.integers(1, 40),
    seed=st.integers(0, 10**6),
)
def test_choice_and_largest_equal_a_full_search_with_many_ties(vocabulary: int, k: int, values: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-values, values, (5, vocabulary), generator=generator).float()
    maxima = group_maxima(logits)
    assert torch.equal(choice_in(logits, maxima), teacher_choice(logits))
    assert torch.equal(largest_in(logits, maxima, k), logits.topk(min(k, vocabulary)).values)


def test_group_maxima_of_blocks_are_those_of_the_whole() -> None:
    logits = torch.randn(3, 5 * GROUP + 7)
    parts = [group_maxima(logits[:, c]) for c in (slice(0, 2 * GROUP), slice(2 * GROUP, None))]
    assert torch.equal(torch.cat(parts, 1), group_maxima(logits))


@quick
@given(count=st.integers(0, 300), rows=st.integers(1, 50))
def test_pieces_cover_the_tokens_in_order_and_are_about_equal(count: int, rows: int) -> None:
    plan = pieces(count, rows)
    assert [i for p in plan for i in range(p.start, p.stop)] == list(range(count))
    lengths = [p.stop - p.start for p in plan]
    assert all(0 < n <= rows for n in lengths)
    assert not lengths or max(lengths) - min(lengths) <= 1
    assert len(plan) == -(-count // rows)


@quick
@given(lengths=st.lists(st.integers(0, 20), max_size=8), rows=st.integers(1, 15))
def test_whole_sequences_cuts_only_what_is_longer_than_a_chunk(lengths: list[int], rows: int) -> None:
    plan = whole_sequences(lengths, rows)
    assert [i for p in plan for i in range(p.start, p.stop)] == list(range(sum(lengths)))
    assert all(0 < p.stop - p.start <= rows for p in plan)
    ends = {sum(lengths[: i + 1]) for i in range(len(lengths))}
    starts = {0} | ends
    long_ends = {sum(lengths[: i + 1]) for i, n in enumerate(lengths) if n > rows}
    for p in plan:
        if not p.open:
            assert p.start in starts
            assert p.stop in ends
    assert {p.stop for p in plan if p.last} == long_ends
    assert all(p.open for p in plan if p.last)


@pytest.mark.parametrize("vocabulary", [1, 63, 151_936])
def test_blocks_cover_the_vocabulary_in_whole_groups(vocabulary: int) -> None:
    for rows in (1, 100, 5_000):
        plan = blocks(vocabulary, rows, CPU)
        assert [plan[0].start, plan[-1].stop] == [0, vocabulary]
        assert all(a.stop == b.start and a.stop % GROUP == 0 for a, b in itertools.pairwise(plan))
        assert all(c.stop - c.start <= 16_384 for c in plan)  # longer sums in float32 lose digits
    assert blocks(vocabulary, 100, torch.device("cuda")) == [slice(0, vocabulary)]


def test_a_chunk_fits_its_budget_and_a_large_vocabulary_still_has_one() -> None:
    assert 2 * 151_936 * 4 * rows_in_budget(151_936, 4, CPU) <= 128 * MIB
    assert rows_in_budget(151_936, 4, CPU) >= 96
    assert rows_in_budget(10**9, 4, CPU) == 8
    assert rows_in_budget(1_000, 4, CPU, floor=1024 * MIB) == 1024 * MIB // 8_000 // 8 * 8
