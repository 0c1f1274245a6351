"""`crosslign steer`: a refusal direction of a recipe's model, from its source-language queries. No training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crosslign.baselines.again import source_query
from crosslign.models import load_model, weights_mark
from crosslign.models.steering import Steering, find_direction
from crosslign.ownership import check_can_be_made
from crosslign.runs.config import RunConfig
from crosslign.runs.gate.queries import select
from crosslign.runs.prepare import prepare
from crosslign.types import Announce, CrosslignError, Label, silent


@dataclass(frozen=True)
class SteerRequest:
    """What `crosslign steer` was asked for; `queries`: at most so many harmful ones, and as many benign ones."""

    out: Path
    queries: int = 128
    layer: int | None = None
    overwrite: bool = False


def steer(config: RunConfig, request: SteerRequest, announce: Announce = silent) -> Steering:
    """Find the direction and write it; everything is checked before weights are loaded.

    Raises CrosslignError if the tables have no harmful, or no benign, query in the source language.
    """
    if request.out.exists():
        if not request.overwrite:
            raise CrosslignError(f"--out: {request.out} is there already. Replace it with --overwrite.")
        Steering.load(request.out)  # nothing else is replaced
    check_can_be_made(request.out.absolute().parent, "--out")
    run = prepare(config.model_copy(update={"gate": None, "evaluation": None}), check_folder=False)
    labels: tuple[Label, ...] = ("harmful", "benign")
    contexts = []
    for label in labels:
        rows = select(run.tables, run.languages, request.queries, label, config.seed)
        queries = {query.id: source_query(query) for found in rows.values() for query in found}
        if not queries:
            raise CrosslignError(
                f"the recipe's tables have no {label} query, and a direction leads from harmless to harmful ones. Mark "
                "such rows in a column 'label', or whole tables with `label:` in data.tables."
            )
        chosen = sorted(queries)[: request.queries]
        contexts.append([run.contexts.student(queries[id]).token_ids for id in chosen])
    announce(f"loading {run.source.path}")
    direction, layer = find_direction(
        load_model(run.source, device=run.arguments.device.type), contexts[0], contexts[1], request.layer
    )
    found = Steering(direction, layer, weights_mark(run.source))
    found.save(request.out)
    announce(
        f"layer {layer}, {len(contexts[0])} harmful and {len(contexts[1])} benign queries, length "
        f"{float(direction.norm()):.3g}: {request.out}"
    )
    return found
