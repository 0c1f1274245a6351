"""Top-K by group maxima is exact, ties included; chunks and blocks cover everything once."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslign.objective.blocks import SCRATCH, LogitBlocks, padded_width
from crosslign.objective.groups import GROUP, choice_in, largest_in
from crosslign.objective.layout import MIB, Piece, blocks, pieces, rows_in_budget, tile_rows, whole_sequences
from crosslign.objective.weighting import teacher_choice

quick = settings(max_examples=60, deadline=None, derandomize=True)
CPU = torch.device("cpu")


def filled(student: torch.Tensor, teacher: torch.Tensor, width: int, tile: int) -> LogitBlocks:
    """Blocks of at most `width` columns that hold these logits, `[n, V]` each."""
    rows, vocabulary = student.shape
    columns = [slice(a, min(a + width, vocabulary)) for a in range(0, vocabulary, width)]
    size = rows * padded_width(columns)
    memory = torch.full((2 * len(columns) * size,), torch.nan)
    logits = LogitBlocks(memory, torch.empty(SCRATCH * size), rows, columns, tile)
    logits.pad()
    for number, part in enumerate(columns):
        logits.both(number).copy_(torch.stack([student[:, part], teacher[:, part]]))
    return logits


@quick
@given(
    vocabulary=st.integers(1, 20 * GROUP + 5),
    k=st.integers(1, 12),
    values=st.integers(1, 40),
    width=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
def test_choice_and_largest_equal_a_full_search_with_many_ties(
    vocabulary: int, k: int, values: int, width: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randint(-values, values, (5, vocabulary), generator=generator).float()
    logits = filled(torch.zeros(5, vocabulary), teacher, width * GROUP, 2)
    maxima = torch.cat([torch.cat([t.groups[1].amax(-1) for t in logits.tiles(b)]) for b in range(len(logits))], 1)
    assert torch.equal(choice_in(logits.groups, maxima, vocabulary), teacher_choice(teacher))
    assert torch.equal(largest_in(logits.groups, maxima, k, vocabulary), teacher.topk(min(k, vocabulary)).values)


def test_the_largest_of_a_real_vocabulary_with_most_in_one_place() -> None:
    teacher = torch.randn(4, 151_936)
    teacher[:, 64 * 700 : 64 * 701] += 20  # one group holds the largest
    logits = filled(torch.zeros_like(teacher), teacher, 3_072, 3)
    maxima = torch.cat([torch.cat([t.groups[1].amax(-1) for t in logits.tiles(b)]) for b in range(len(logits))], 1)
    for k in (1, 32, 100, 1_000, 3_000):
        assert torch.equal(largest_in(logits.groups, maxima, k, 151_936), teacher.topk(k).values)


@pytest.mark.parametrize(("vocabulary", "width", "tile"), [(7, 64, 1), (200, 64, 2), (320, 128, 3), (1_000, 1_000, 5)])
def test_blocks_and_tiles_show_every_logit_where_it_is(vocabulary: int, width: int, tile: int) -> None:
    student, teacher = torch.arange(10.0 * vocabulary).view(2, 5, vocabulary)
    logits = filled(student, teacher, width, tile)
    whole = torch.cat([torch.cat([t.both for t in logits.tiles(b)], 1) for b in range(len(logits))], 2)
    assert torch.equal(whole, torch.stack([student, teacher]))
    for number in range(len(logits)):
        for part in logits.tiles(number):
            assert part.spare.shape == part.student.shape == part.teacher.shape
            assert part.work.shape == part.both.shape
            assert torch.equal(part.groups.flatten(2)[..., : part.both.shape[2]], part.both)
    choice = torch.tensor([0, vocabulary - 1, vocabulary // 2, 1, 3])
    block, place, around = logits.student_around(choice)
    assert torch.equal(block * logits.width + place, choice)
    assert torch.equal(around.gather(1, place[:, None])[:, 0], student.gather(1, choice[:, None])[:, 0])


@quick
@given(count=st.integers(0, 300), rows=st.integers(1, 50))
def test_pieces_cover_the_tokens_in_order_and_are_about_equal(count: int, rows: int) -> None:
    plan = pieces(count, rows)
    assert [i for p in plan for i in range(p.start, p.stop)] == list(range(count))
    lengths = [p.stop - p.start for p in plan]
    assert all(0 < n <= rows for n in lengths)
    assert len(set(lengths[:-1])) <= 1
    assert not lengths or lengths[-1] <= lengths[0]
    assert len(plan) == -(-count // rows)


def test_pieces_are_whole_vectors_of_a_product() -> None:
    assert [p.stop - p.start for p in pieces(1_024, 400)] == [344, 344, 336]
    assert pieces(400, 400) == [Piece(0, 400)]


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
    plan = blocks(vocabulary, CPU)
    assert [plan[0].start, plan[-1].stop] == [0, vocabulary]
    assert all(a.stop == b.start and a.stop % GROUP == 0 for a, b in itertools.pairwise(plan))
    assert all(c.stop - c.start <= 16_384 for c in plan)  # longer sums in float32 lose digits
    assert blocks(vocabulary, torch.device("cuda")) == [slice(0, vocabulary)]


@pytest.mark.parametrize("rows", [1, 100, 5_000])
def test_a_tile_fits_a_cache_and_has_a_row(rows: int) -> None:
    assert 1 <= tile_rows(3_072, rows, CPU) <= rows
    assert tile_rows(3_072, rows, CPU) * 3_072 * 5 * 4 <= 2 * MIB
    assert tile_rows(10**7, rows, CPU) == 1
    assert tile_rows(151_936, rows, torch.device("cuda")) == rows


def test_a_chunk_fits_its_budget_and_a_large_vocabulary_still_has_one() -> None:
    assert 2 * 151_936 * 4 * rows_in_budget(151_936, 4, CPU) <= 150 * MIB
    assert rows_in_budget(151_936, 4, CPU) >= 128
    assert rows_in_budget(10**9, 4, CPU) == 8
    assert rows_in_budget(1_000, 4, CPU, floor=1024 * MIB) == 1024 * MIB // 8_000 // 8 * 8
