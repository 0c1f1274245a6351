"""Mixing tables: what an epoch holds, in which order, and that it is a pure function of the seed."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslign.data.mixture import QueryMixture
from crosslign.data.schema import QueryTable, Row
from crosslign.types import CrosslignError, Query

LANGUAGES = ("en", "sw", "bn")
COUNTS = st.dictionaries(st.sampled_from(LANGUAGES), st.integers(1, 7), min_size=1)


def make_table(number: int, counts: dict[str, int], weight: float = 1.0) -> QueryTable:
    """A table whose first `counts[language]` rows have a text in the language; every row has the source text."""
    rows = tuple(
        Row(
            n + 1,
            f"t{number}-{n}",
            {"en": f"en {number} {n}", **{lang: f"{lang} {number} {n}" for lang, c in counts.items() if n < c}},
            "benign",
            None,
        )
        for n in range(max(counts.values()))
    )
    return QueryTable(f"table {number}", "en", tuple(counts), rows, weight=weight)


def cell_of(query: Query) -> tuple[str, str]:
    return query.id.split("-")[0], query.language


@st.composite
def tables(draw: st.DrawFn) -> list[QueryTable]:
    weights = st.sampled_from([0.5, 1.0, 3.0])
    return [make_table(n, draw(COUNTS), draw(weights)) for n in range(draw(st.integers(1, 3)))]


def epoch(mixture: QueryMixture, number: int) -> list[Query]:
    return [mixture.draw(number, p) for p in range(len(mixture))]


def exact_shares(parts: list[QueryTable], balance: str) -> dict[tuple[str, str], Fraction]:
    """The share of every cell, in exact arithmetic."""
    shares = {}
    total = sum(Fraction(t.weight) for t in parts)
    for number, table in enumerate(parts):
        sizes = {lang: sum(lang in r.texts for r in table.rows) for lang in table.languages}
        for lang, size in sizes.items():
            part = Fraction(1, len(sizes)) if balance == "languages" else Fraction(size, sum(sizes.values()))
            shares[f"t{number}", lang] = Fraction(table.weight) / total * part
    return shares


@given(tables(), st.integers(0, 9), st.integers(0, 3))
def test_draw_is_a_function_of_seed_epoch_and_position_alone(parts: list[QueryTable], seed: int, number: int) -> None:
    one, other = (QueryMixture(parts, LANGUAGES, seed=seed) for _ in range(2))
    in_order = epoch(one, number)
    # Another instance, asked backwards and after another epoch, as after a resume.
    other.draw(number + 1, 0)
    assert [other.draw(number, p) for p in reversed(range(len(other)))] == in_order[::-1]


def test_seeds_and_epochs_give_different_orders() -> None:
    part = make_table(0, {"en": 12, "sw": 12})
    orders = {
        tuple(q.key for q in epoch(QueryMixture([part], LANGUAGES, seed=s), e)) for s in range(3) for e in range(3)
    }
    assert len(orders) == 9
    uneven = QueryMixture([make_table(0, {"en": 12, "sw": 7})], LANGUAGES, balance="none")
    assert len({tuple(q.language for q in epoch(uneven, e)) for e in range(3)}) == 3


@given(tables(), st.sampled_from(["languages", "none"]), st.integers(1, 60))
def test_cells_get_their_shares_by_largest_remainder(parts: list[QueryTable], balance: str, size: int) -> None:
    mixture = QueryMixture(parts, LANGUAGES, balance=balance, epoch_size=size)  # type: ignore[arg-type]
    drawn = Counter(cell_of(q) for q in epoch(mixture, 0))
    exact = {cell: share * size for cell, share in exact_shares(parts, balance).items()}
    assert drawn.total() == len(mixture) == size
    assert set(drawn) <= set(exact)
    raised = [value - int(value) for cell, value in exact.items() if drawn[cell] == int(value) + 1]
    left = [value - int(value) for cell, value in exact.items() if drawn[cell] == int(value)]
    assert len(raised) + len(left) == len(exact)
    # Floats may break exact ties in either way, and nothing else.
    assert not raised or not left or min(raised) >= max(left)


def test_balance_over_languages_gives_a_rare_language_as_much_as_a_common_one() -> None:
    part = make_table(0, {"en": 30, "sw": 3})
    balanced = QueryMixture([part], LANGUAGES, balance="languages")
    proportional = QueryMixture([part], LANGUAGES, balance="none")
    assert Counter(q.language for q in epoch(balanced, 0)) == {"en": 17, "sw": 16}
    assert Counter(q.language for q in epoch(proportional, 0)) == {"en": 30, "sw": 3}


def test_weights_share_the_epoch_between_tables_whatever_their_sizes() -> None:
    parts = [make_table(0, {"en": 2}, weight=3.0), make_table(1, {"en": 40}, weight=1.0)]
    drawn = Counter(cell_of(q)[0] for q in epoch(QueryMixture(parts, LANGUAGES, epoch_size=40), 0))
    assert drawn == {"t0": 30, "t1": 10}


def test_only_the_languages_asked_for_are_drawn() -> None:
    parts = [make_table(0, {"en": 4, "sw": 4}), make_table(1, {"sw": 2, "bn": 2})]
    drawn = {cell_of(q) for q in epoch(QueryMixture(parts, ["bn", "sw"]), 0)}
    assert drawn == {("t0", "sw"), ("t1", "sw"), ("t1", "bn")}


@given(tables(), st.integers(0, 9), st.integers(1, 25))
def test_every_query_of_a_cell_comes_before_any_comes_again_also_across_epochs(
    parts: list[QueryTable], seed: int, size: int
) -> None:
    mixture = QueryMixture(parts, LANGUAGES, seed=seed, epoch_size=size)
    sizes = {cell_of(queries[0]): len(queries) for queries in mixture.cells}
    stream = [q for number in range(4) for q in epoch(mixture, number)]
    for cell, length in sizes.items():
        keys = [q.key for q in stream if cell_of(q) == cell]
        for start in range(0, len(keys), length):
            lap = keys[start : start + length]
            assert len(set(lap)) == len(lap)


def test_laps_of_a_cell_have_different_orders() -> None:
    mixture = QueryMixture([make_table(0, {"en": 20})], LANGUAGES)
    laps = [[q.key for q in epoch(mixture, n)] for n in range(3)]
    assert len({tuple(lap) for lap in laps}) == 3
    assert {frozenset(lap) for lap in laps} == {frozenset(laps[0])}


@given(tables(), st.integers(0, 9), st.integers(1, 60))
def test_any_window_of_an_epoch_holds_each_cell_near_its_share(parts: list[QueryTable], seed: int, size: int) -> None:
    """Evenly spaced slots of K cells: a cell of share s is off by at most 1 + s (K - 2), 2 where shares are equal."""
    mixture = QueryMixture(parts, LANGUAGES, seed=seed, epoch_size=size)
    order = [cell_of(q) for q in epoch(mixture, 1)]
    counts = Counter(order)
    for cell, count in counts.items():
        share = count / len(order)
        bound = 1 + share * max(0, len(counts) - 2)
        for start in range(len(order)):
            held = 0
            for stop in range(start, len(order)):
                held += order[stop] == cell
                assert abs(held - share * (stop + 1 - start)) <= bound + 1e-9


def test_small_batches_are_balanced_where_languages_are() -> None:
    order = [q.language for q in epoch(QueryMixture([make_table(0, dict.fromkeys(LANGUAGES, 40))], LANGUAGES), 0)]
    for start in range(0, len(order), 12):
        held = Counter(order[start : start + 12])
        assert all(abs(held[lang] - 4) < 2 for lang in LANGUAGES)


def test_items_are_positions_so_that_samplers_and_shards_stay_exact() -> None:
    mixture = QueryMixture([make_table(0, {"en": 5})], LANGUAGES)
    assert [mixture[p] for p in range(len(mixture))] == [{"position": p} for p in range(5)]


def test_epoch_defaults_to_the_number_of_texts() -> None:
    mixture = QueryMixture([make_table(0, {"en": 5, "sw": 2}), make_table(1, {"bn": 3})], LANGUAGES)
    assert len(mixture) == mixture.number_of_queries == 10


def test_id_in_two_tables_is_an_error_that_names_both() -> None:
    part = make_table(0, {"en": 2})
    with pytest.raises(CrosslignError) as caught:
        QueryMixture([make_table(1, {"en": 2}), part, part], LANGUAGES)
    assert str(caught.value) == (
        "the id 't0-0' is in two tables: number 2 (table 0) and number 3 (table 0); ids must be unique over all tables."
    )


def test_table_without_a_query_leaves_its_share_to_the_others() -> None:
    parts = [make_table(0, {"en": 4}), make_table(1, {"sw": 4}), make_table(2, {"en": 8}, weight=2.0)]
    mixture = QueryMixture(parts, ["en"], epoch_size=12)
    assert Counter(cell_of(q)[0] for q in epoch(mixture, 0)) == {"t0": 4, "t2": 8}


def test_table_of_weight_zero_is_never_drawn() -> None:
    parts = [make_table(0, {"en": 3}, weight=0.0), make_table(1, {"en": 3, "sw": 3, "bn": 3})]
    for size in range(1, 12):
        assert {cell_of(q)[0] for q in epoch(QueryMixture(parts, LANGUAGES, epoch_size=size), 0)} == {"t1"}


def test_weights_that_leave_nothing_to_draw_are_an_error() -> None:
    for parts in ([make_table(0, {"en": 3}, 0.0)], [make_table(0, {"en": 3}, 0.0), make_table(1, {"sw": 3})]):
        with pytest.raises(CrosslignError, match="weights sum to 0; give at least one table a positive weight"):
            QueryMixture(parts, ["en"])


def test_languages_that_no_table_has_are_an_error() -> None:
    with pytest.raises(CrosslignError, match="no table has a query in any of the languages sw, bn"):
        QueryMixture([make_table(0, {"en": 3})], ["sw", "bn"])
