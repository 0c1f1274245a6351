"""Query tables of the world: what alignment trains on and what is evaluated. Rows are parallel over languages."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Literal

from crosslign.storage import write_atomically
from crosslign.testbed.world import ASKS, HELD_OUT_HAZARDS, WRAPPERS, Concept, Kind, Request, World
from crosslign.types import Query

SetName = Literal["harmful", "held_out", "harder", "benign", "lookalike"]
SETS: tuple[SetName, ...] = ("harmful", "held_out", "harder", "benign", "lookalike")


@dataclass(frozen=True)
class TableSizes:
    """Sizes of the tables, in rows.

    Fields:
        targets: alignment rows in English and the low-resource languages.
        anchors: alignment rows in English and the high-resource languages.
        harmful, lookalike, out_of_scope: shares of the alignment rows; the rest is benign.
        evaluation: rows of each evaluation set, at most.
        aligned: share of a kind's concepts that alignment may use; the rest is for evaluation.
    """

    targets: int = 840
    anchors: int = 160
    harmful: float = 0.45
    lookalike: float = 0.15
    out_of_scope: float = 0.05
    evaluation: int = 40
    aligned: float = 0.6


@dataclass(frozen=True, slots=True)
class Row:
    """One request in all its languages, under an id."""

    id: str
    request: Request


class Tables:
    """Alignment and evaluation rows; no concept is in both."""

    def __init__(self, world: World, spec: TableSizes) -> None:
        self.world = world
        self.spec = spec
        rng = random.Random(f"tables {world.seed}")
        self._aligned: dict[Kind, list[Concept]] = {}
        self._unseen: dict[Kind, list[Concept]] = {}
        kinds: tuple[Kind, ...] = ("harmful", "benign", "lookalike", "out_of_scope")
        for kind in kinds:
            self._aligned[kind], self._unseen[kind] = [], []
            mine = [c for c in world.concepts if c.kind == kind and c.category not in HELD_OUT_HAZARDS]
            for _, concepts in groupby(mine, lambda c: c.category):
                pool = list(concepts)
                rng.shuffle(pool)
                cut = round(spec.aligned * len(pool))
                self._aligned[kind] += pool[:cut]
                self._unseen[kind] += pool[cut:]

    @cached_property
    def targets(self) -> list[Row]:
        return self._alignment("target", self.spec.targets)

    @cached_property
    def anchors(self) -> list[Row]:
        return self._alignment("anchor", self.spec.anchors)

    def _alignment(self, name: str, size: int) -> list[Row]:
        """Rows in the plain style, as many of each kind as the shares say, in random order."""
        rng = random.Random(f"{name} {self.world.seed}")
        spec = self.spec
        counts: dict[Kind, int] = {
            "harmful": round(spec.harmful * size),
            "lookalike": round(spec.lookalike * size),
            "out_of_scope": round(spec.out_of_scope * size),
        }
        counts["benign"] = size - sum(counts.values())
        requests = []
        for kind, count in counts.items():
            requests += self._wordings(rng, kind, count)
        rng.shuffle(requests)
        return [Row(f"{name}-{number}", request) for number, request in enumerate(requests)]

    def _wordings(self, rng: random.Random, kind: Kind, count: int) -> list[Request]:
        """Different requests of a kind, each concept as likely as any other."""
        wordings = [Request(concept, ask) for concept in self._aligned[kind] for ask in range(len(ASKS))]
        if count > len(wordings):
            raise ValueError(f"{count} {kind} rows are asked for, but the world has only {len(wordings)}")
        return rng.sample(wordings, count)

    @cached_property
    def evaluation(self) -> Mapping[SetName, list[Row]]:
        """Held-out concepts by set; `held_out` and the plain `harmful` differ in the hazard categories."""
        rng = random.Random(f"evaluation {self.world.seed}")
        hidden = [c for c in self.world.concepts if c.kind == "harmful" and c.category in HELD_OUT_HAZARDS]
        pools: dict[SetName, list[Concept]] = {
            "harmful": self._unseen["harmful"],
            "held_out": hidden,
            "harder": self._unseen["harmful"],
            "benign": self._unseen["benign"],
            "lookalike": self._unseen["lookalike"],
        }
        sets: dict[SetName, list[Row]] = {}
        for name, pool in pools.items():
            chosen = rng.sample(pool, min(self.spec.evaluation, len(pool)))
            sets[name] = [
                Row(
                    f"{name}-{number}",
                    Request(c, rng.randrange(len(ASKS)), rng.randrange(len(WRAPPERS)) if name == "harder" else None),
                )
                for number, c in enumerate(chosen)
            ]
        return sets

    def query(self, row: Row, language: str) -> Query:
        concept = row.request.concept
        return Query(
            row.id,
            language,
            self.world.query(row.request, language),
            "en",
            self.world.query(row.request, "en"),
            concept.label,
            concept.category,
        )

    def write(self, path: Path, rows: Sequence[Row], languages: Sequence[str]) -> Path:
        """A query table as a CSV file: id, label, category and one column a language."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["id", "label", "category", *languages])
        for row in rows:
            concept = row.request.concept
            texts = [self.world.query(row.request, code) for code in languages]
            writer.writerow([row.id, concept.label, concept.category, *texts])
        write_atomically(path, text.getvalue())
        return path
