"""Mix several query tables by weight, balanced over languages: seeded, the same everywhere and after a resume."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Literal

from torch.utils.data import Dataset

from crosslign.data.schema import QueryTable
from crosslign.types import CrosslignError, Query

Balance = Literal["languages", "none"]


class QueryMixture(Dataset[dict[str, int]]):
    """A dataset of positions; which query stands at a position of an epoch is a pure function of the seed.

    A *cell* is one table in one language. A table's share of an epoch is its weight's share; with
    `balance="languages"` the table's share is split evenly over its languages, otherwise in proportion to their
    texts. Within a cell, queries come in shuffled order without repetition until all have been seen; then a new order
    begins, also across epochs. The cells are interleaved evenly, so that small batches are balanced too.

    Items are positions, not queries, so that any sampler, sharding or skipping of the training framework stays exact;
    `draw(epoch, position)` gives the query.
    """

    def __init__(
        self,
        tables: Sequence[QueryTable],
        languages: Sequence[str],
        *,
        seed: int = 0,
        balance: Balance = "languages",
        epoch_size: int | None = None,
    ) -> None:
        self.seed = seed
        self.cells: list[list[Query]] = []
        shares: list[float] = []
        seen: dict[str, int] = {}
        for number, table in enumerate(tables):
            for row in table.rows:
                first = seen.setdefault(row.id, number)
                if first != number:
                    raise CrosslignError(
                        f"the id {row.id!r} is in two tables: number {first + 1} ({tables[first].name}) and number "
                        f"{number + 1} ({table.name}); ids must be unique over all tables."
                    )
            cells = {lang: list(table.queries([lang])) for lang in languages if lang in table.languages}
            cells = {lang: queries for lang, queries in cells.items() if queries}
            size = sum(len(q) for q in cells.values())
            for queries in cells.values():
                part = 1 / len(cells) if balance == "languages" else len(queries) / size
                self.cells.append(queries)
                shares.append(table.weight * part)
        self.number_of_queries = sum(len(c) for c in self.cells)
        if not self.number_of_queries:
            raise CrosslignError(f"no table has a query in any of the languages {', '.join(languages)}.")
        total = sum(shares)  # of the tables that have a query: the others take no share
        if total <= 0:
            raise CrosslignError("data.tables: the weights sum to 0; give at least one table a positive weight.")
        length = epoch_size or self.number_of_queries
        self.counts = _largest_remainder([s / total for s in shares], length)
        self._order: tuple[int, list[Query]] | None = None

    def __len__(self) -> int:
        return sum(self.counts)

    def __getitem__(self, position: int) -> dict[str, int]:
        return {"position": position}

    def draw(self, epoch: int, position: int) -> Query:
        """The query at a position of an epoch (both from 0)."""
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._epoch(epoch))
        return self._order[1][position]

    def _epoch(self, epoch: int) -> list[Query]:
        placed: list[tuple[float, int, Query]] = []
        for index, (queries, count) in enumerate(zip(self.cells, self.counts, strict=True)):
            phase = _rng(self.seed, "phase", epoch, index).random()
            for slot, query in enumerate(self._stretch(index, queries, epoch * count, count)):
                placed.append(((slot + phase) / count, index, query))
        placed.sort(key=lambda item: item[:2])
        return [query for _, _, query in placed]

    def _stretch(self, cell: int, queries: list[Query], start: int, count: int) -> list[Query]:
        """Queries `start` to `start + count` of the cell's endless sequence of shuffled laps."""
        result: list[Query] = []
        while len(result) < count:
            lap, offset = divmod(start + len(result), len(queries))
            order = list(range(len(queries)))
            _rng(self.seed, "order", lap, cell).shuffle(order)
            result.extend(queries[i] for i in order[offset : offset + count - len(result)])
        return result


def _rng(*parts: object) -> random.Random:
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def _largest_remainder(shares: Sequence[float], total: int) -> list[int]:
    exact = [s * total for s in shares]
    counts = [int(e) for e in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
