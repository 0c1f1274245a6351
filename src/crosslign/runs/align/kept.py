"""Which stages are finished, and what they have decided: `align.json`, by which a call goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from crosslign.ownership import read_mark
from crosslign.storage import digest, write_atomically
from crosslign.types import Announce, CrosslignError

STAGES = ("queries", "before", "teacher", "plan", "train", "after", "card")
RECORD = "align.json"
Made = tuple[dict[str, Any], list[str]]  # what a stage has decided, and lines for a person


class Stage(BaseModel):
    """What is kept of a stage.

    Fields:
        inputs: digest of all that it depends on.
        said: why it has decided so, lines for a person.
    """

    inputs: str
    finished: bool
    decided: dict[str, Any] = {}
    said: list[str] = []
    seconds: float = 0.0


class _Record(BaseModel):
    kind: Literal["alignment"] = "alignment"
    schema_version: Literal[1] = 1
    stages: dict[str, Stage] = {}


class Kept:
    """The stages of a folder. `tables` is a digest of the tables, which all stages after the first depend on.

    Raises CrosslignError if the folder's record is damaged.
    """

    def __init__(self, out: Path, skip: Collection[str], overwrite: bool, announce: Announce) -> None:
        self.out, self.skip, self.overwrite, self.announce = out, skip, overwrite, announce
        self.tables = ""
        place = out / RECORD
        try:
            self._record = _Record.model_validate(read_mark(place)) if place.exists() else _Record()
        except ValidationError as error:
            raise CrosslignError(f"{place}: is damaged. Remove all of {out}, or choose another --out.") from error

    @property
    def stages(self) -> dict[str, Stage]:
        return self._record.stages

    def stage(self, name: str, inputs: Any, make: Callable[[], Made]) -> dict[str, Any] | None:
        """What the stage has decided, now or before; None if it is skipped.

        Raises CrosslignError if it was made with other inputs, unless everything may be overwritten.
        """
        head = f"[{STAGES.index(name) + 1}/{len(STAGES)} {name}]"
        if name in self.skip:
            self.announce(f"{head} skipped (--skip {name})")
            return None
        mark = digest([name, inputs, self.tables])
        found = self.stages.get(name)
        if found is not None and found.inputs != mark and not self.overwrite:
            raise CrosslignError(
                f"{self.out}: its stage {name!r} was made with other settings. Use --overwrite to make it and what "
                "follows anew, or another --out."
            )
        if found is not None and found.inputs == mark and found.finished:
            self.announce(f"{head} is there already")
        else:
            before = 0.0 if found is None else found.seconds
            self._keep(name, Stage(inputs=mark, finished=False, seconds=before))
            self.announce(f"{head} begins")
            start = time.perf_counter()
            decided, said = make()
            # What is there already takes no time: how long it took when it was made counts.
            seconds = max(round(time.perf_counter() - start, 1), before)
            found = Stage(inputs=mark, finished=True, decided=decided, said=said, seconds=seconds)
            self._keep(name, found)
        for line in found.said:
            self.announce(f"{head} {line}")
        return found.decided

    def _keep(self, name: str, stage: Stage) -> None:
        self.stages[name] = stage
        write_atomically(self.out / RECORD, self._record.model_dump_json(indent=1) + "\n")
