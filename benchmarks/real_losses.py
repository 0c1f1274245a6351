"""The likelihood of ordinary text, which `benchmarks.real` measures and no command does."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from crosslign.evaluation.tasks import get_task
from crosslign.models import ModelSource, load_tokenizer, load_with_adapter
from crosslign.storage import write_atomically


@torch.no_grad()
def measure_losses(model: str, adapter: str, out: Path, languages: Sequence[str]) -> None:
    """Mean negative log-likelihood a token, in nats, of each harmless held-out text, without a chat template."""
    from benchmarks.real_recipe import BENIGN

    source = ModelSource(model, dtype="bfloat16")
    tokenizer, loaded = load_tokenizer(source), load_with_adapter(source, adapter or None)
    found: dict[str, dict[str, float]] = {}
    for query in get_task(BENIGN).load(languages).queries:
        ids = torch.tensor([tokenizer(query.text)["input_ids"]])
        found.setdefault(query.language, {})[query.id] = round(loaded(ids, labels=ids).loss.item(), 4)
    write_atomically(out, json.dumps(found))


if __name__ == "__main__":
    model, adapter, out, languages = sys.argv[1:]
    measure_losses(model, adapter, Path(out), languages.split(","))
