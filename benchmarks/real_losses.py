"""The likelihood of ordinary text, which `benchmarks.real` measures and no command does."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from crosslign.evaluation.tasks import get_task
from crosslign.models import ModelSource, load_tokenizer, load_with_adapter
from crosslign.storage import write_atomically


@torch.no_grad()
def losses(tokenizer: Any, model: Any, texts: Sequence[str]) -> list[float]:
    """Of each text x of T tokens, without a chat template, -1/(T-1) sum_{t=2..T} log p(x_t | x_<t), in nats."""
    rows = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts]
    return [round(model(row, labels=row).loss.item(), 4) for row in rows]


def measure_losses(model: str, adapter: str, out: Path, languages: Sequence[str]) -> None:
    """Of each harmless held-out text, to a file: language -> id -> loss."""
    from benchmarks.real_recipe import BENIGN

    source = ModelSource(model, dtype="bfloat16")
    tokenizer, loaded = load_tokenizer(source), load_with_adapter(source, adapter or None)
    queries = get_task(BENIGN).load(languages).queries
    found: dict[str, dict[str, float]] = {}
    for query, loss in zip(queries, losses(tokenizer, loaded, [query.text for query in queries]), strict=True):
        found.setdefault(query.language, {})[query.id] = loss
    write_atomically(out, json.dumps(found))


if __name__ == "__main__":
    model, adapter, out, languages = sys.argv[1:]
    measure_losses(model, adapter, Path(out), languages.split(","))
