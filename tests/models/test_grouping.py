"""Grouping by length: against all groupings there are, and what every grouping must keep."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslign.models.passes.grouping import common_prefix, length_groups

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=5)


def partitions(rows: list[int]) -> Iterator[list[list[int]]]:
    """All ways to split rows into groups, whatever their order."""
    if not rows:
        yield []
        return
    first, rest = rows[0], rows[1:]
    for smaller in partitions(rest):
        yield [[first], *smaller]
        for i, group in enumerate(smaller):
            yield [*smaller[:i], [first, *group], *smaller[i + 1 :]]


def cost(groups: list[list[int]], lengths: list[int], group_cost: int) -> int:
    return sum(len(g) * max(lengths[i] for i in g) + group_cost for g in groups)


@given(LENGTHS, st.integers(0, 20), st.one_of(st.none(), st.integers(1, 60)))
def test_no_grouping_at_all_is_cheaper(lengths: list[int], group_cost: int, max_tokens: int | None) -> None:
    def allowed(group: list[int]) -> bool:
        return max_tokens is None or len(group) == 1 or len(group) * max(lengths[i] for i in group) <= max_tokens

    found = length_groups(lengths, group_cost=group_cost, max_tokens=max_tokens)
    assert sorted(i for g in found for i in g) == list(range(len(lengths)))
    assert all(allowed(g) for g in found)
    best = min(
        cost(groups, lengths, group_cost)
        for groups in partitions(list(range(len(lengths))))
        if all(allowed(g) for g in groups)
    )
    assert cost(found, lengths, group_cost) == best


def test_the_longest_rows_come_first() -> None:
    assert length_groups([3, 90, 88, 4], group_cost=5) == [[1, 2], [3, 0]]
    assert length_groups([3, 90, 88, 4]) == [[1], [2], [3], [0]]
    assert sorted(map(len, length_groups([5, 5, 5], group_cost=1, max_tokens=10))) == [1, 2]
    assert length_groups([]) == []


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=1, max_size=5))
def test_the_common_prefix_is_the_longest_one_that_all_rows_have(rows: list[list[int]]) -> None:
    shared = [n for n in range(min(map(len, rows)) + 1) if all(row[:n] == rows[0][:n] for row in rows)]
    assert common_prefix(rows) == max(shared)


@pytest.mark.parametrize(("rows", "length"), [([], 0), ([(1, 2)], 2), ([(1, 2), (1, 2)], 2), ([(1,), (1, 2)], 1)])
def test_a_prefix_may_be_a_whole_row(rows: list[tuple[int, ...]], length: int) -> None:
    assert common_prefix(rows) == length


def test_the_limit_itself_is_allowed_and_one_position_more_is_not() -> None:
    assert length_groups([4, 4], group_cost=100, max_tokens=8) == [[0, 1]]
    assert length_groups([4, 4], group_cost=100, max_tokens=7) == [[0], [1]]
