"""A finished run as it is shared: its record, its configuration, and the folder with its adapter or model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from crosslign.evaluation.tables import one_line
from crosslign.models import ModelSource, adapter_sha256, check_adapter, check_source, weights_mark
from crosslign.models.files import ADAPTER_CONFIG
from crosslign.runs.config import RunConfig
from crosslign.runs.folder import BEST_RECORD, CONFIG, RECORD, RunFolder, run_of
from crosslign.runs.prepare import model_source
from crosslign.runs.recipe import parse_config, read_recipe
from crosslign.runs.sharing.base import BaseFacts, base_facts
from crosslign.types import CrosslignError, excerpt
from crosslign.untrusted import read_json

MOST = 200  # characters of a text from outside that a card or a message shows


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended.

    Fields:
        folder: where its adapter or model lies: the run's own folder, or `best/` in it.
        root: the run's own folder, with its record and configuration.
        base: what is said of the base model; of an older run, whose record does not, what its card says now.
        step: the optimiser steps that this adapter or model has seen.
    """

    folder: Path
    root: Path
    record: Mapping[str, Any]
    config: RunConfig
    step: int
    base: BaseFacts

    @property
    def is_adapter(self) -> bool:
        return self.config.model.finetuning == "lora"

    @property
    def source(self) -> ModelSource:
        """Where the run had its base model."""
        return model_source(self.config)

    @property
    def adapter(self) -> str | None:
        """The folder, if it holds an adapter."""
        return str(self.folder) if self.is_adapter else None

    def identity(self) -> dict[str, str | None]:
        """What an evaluation's manifest says of this adapter, or of this model. Reads weights."""
        if self.is_adapter:
            return {"adapter_sha256": adapter_sha256(self.adapter)}
        return {"weights": weights_mark(ModelSource(str(self.folder)))}


def read_finished(path: Path) -> FinishedRun:
    """The run in this folder, or whose `best/` this is; no weights are read.

    Raises CrosslignError if there is none, it has not ended, its record or configuration is damaged, or its adapter or
    model is not there.
    """
    root = run_of(path)
    record = RunFolder(root).record()
    if record.get("status") == "running":
        raise CrosslignError(
            f"{root}: this run is not finished. Let it end, or go on with an interrupted one by crosslign train RECIPE "
            "--resume."
        )
    if record.get("status") != "finished":
        raise CrosslignError(f"{path}: holds no run of crosslign ({RECORD}). Name the output_dir of a finished run.")
    known = _checked(record, _Record, root / RECORD)
    step = known.steps
    if root != path:
        step = _checked(read_json(path / BEST_RECORD), _Best, path / BEST_RECORD).step
    config = parse_config(read_recipe(root / CONFIG), str(root / CONFIG))
    run = FinishedRun(path, root, known.model_dump(), config, step, known.base or base_facts(model_source(config)))
    if run.is_adapter:
        check_adapter(run.adapter, "")
    elif (path / ADAPTER_CONFIG).exists():
        raise CrosslignError(
            f"{path}: holds an adapter, but {root / CONFIG} says that all weights were trained. Is it another run's?"
        )
    else:
        check_source(ModelSource(str(path)))
    return run


class Resumed(BaseModel):
    """Where an interrupted run has gone on, and the keys of `training` that it changed there: before and after."""

    step: NonNegativeInt
    training: dict[str, tuple[Any, Any]] = {}


class _Record(BaseModel):
    """What is shared of a run's record, and relied on."""

    model: str
    base: BaseFacts | None = None
    finetuning: Literal["lora", "full"]
    languages: list[str] = Field(min_length=1)
    teacher_fingerprint: str
    data: list[dict[str, Any]]
    dropped: list[Any] = []
    versions: dict[str, str]
    steps: NonNegativeInt
    seconds: float | None = None
    divergence: dict[str, Any] = {}
    gate: dict[str, Any] | None = None
    evaluations: list[dict[str, Any]] = []
    resumed: list[Resumed] = []


class _Best(BaseModel):
    step: NonNegativeInt


Model = TypeVar("Model", bound=BaseModel)


def _checked(found: Mapping[str, Any], model: type[Model], where: Path) -> Model:
    try:
        return model.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = one_line(".".join(map(str, first["loc"])))
        raise CrosslignError(
            f"{where}: is damaged ({excerpt(place, MOST)}: {first['msg']}). It must be as crosslign train wrote it."
        ) from error
