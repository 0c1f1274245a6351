"""The output folder of a run: never overwritten unasked, written atomically, readable after an interruption."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerState

from crosslign.evaluation.stages import REPORT
from crosslign.ownership import check_no_link, check_output_folder, read_mark
from crosslign.storage import LOCK, append_rows, damaged_files, is_empty, line_of, locked, read_rows, write_atomically
from crosslign.types import Announce, CrosslignError, silent
from crosslign.untrusted import parse_json, read_text

RECORD = "run.json"
CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
ROLLOUTS = "rollouts.jsonl"
EVALUATIONS = "evaluations"
BEST, BEST_RECORD = "best", "best.json"  # the second is in the first
SERVED = "served"
GATE = "gate.jsonl"
EXAMPLES = "examples.jsonl"  # what a method other than msd learns from
CARD = "README.md"
NUMBERS = "evaluation.json"  # beside a card: the numbers that it shows, and the card's hash
_STAGING = ".incomplete"
# What --overwrite clears in a run's folder.
_FOLDERS = ("checkpoint-*", EVALUATIONS, BEST, SERVED, f".{BEST}.*", _STAGING, "additional_chat_templates")
_FILES = (RECORD, CONFIG, METRICS, ROLLOUTS, GATE, EXAMPLES, REPORT, CARD, NUMBERS,
          "adapter_model.safetensors", "adapter_config.json", "model*.safetensors", "model.safetensors.index.json",
          "config.json", "generation_config.json",
          "tokenizer*.json", "tokenizer.model", "*.tiktoken", "special_tokens_map.json", "added_tokens.json",
          "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja")  # fmt: skip
_LOADED_BY = ("adapter_config.json", "config.json")  # without which no reader takes a folder for a model
_NOTHING_TO_RESUME = "no complete checkpoint to resume from. Start the run anew with --overwrite."


class RunFolder:
    """One run's folder and its record `run.json`, whose `status` is `running` or `finished`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while a run goes on; a folder that then holds nothing goes too.

        Raises CrosslignError if another process holds it.
        """
        with locked(self.path / LOCK):
            try:
                yield
            finally:
                if is_empty(self.path):
                    shutil.rmtree(self.path, ignore_errors=True)

    def check_unlocked(self) -> None:
        """Raises CrosslignError if another process holds the lock."""
        if (self.path / LOCK).exists():
            with self.lock():
                pass

    def record(self) -> dict[str, Any]:
        """The record, or {} where there is none of crosslign's."""
        record = read_mark(self.path / RECORD)
        seconds, evaluations = record.get("seconds", 0.0), record.get("evaluations", [])
        whole = (
            isinstance(seconds, (int, float))
            and isinstance(evaluations, list)
            and all(isinstance(e, dict) and isinstance(e.get("step"), int) for e in evaluations)
        )
        return record if whole else {}

    @property
    def kept(self) -> Path:
        """The folder of what a finished run is for: its best checkpoint, or else its last weights."""
        return self.path / BEST if (self.path / BEST).is_dir() else self.path

    def is_ours(self) -> bool:
        """Whether the record says that crosslign made this folder."""
        return self.record().get("status") in ("running", "finished")

    def checkpoints(self) -> list[Path]:
        """Checkpoints that were written to their end, oldest first."""
        return [folder for folder in self._checkpoint_folders() if _has_state(folder)]

    def newest_checkpoint(self, announce: Announce = silent) -> Path:
        """The newest whole checkpoint; `announce` gets newer ones and what is wrong with them.

        Raises CrosslignError, with what is wrong with each, if there is none.
        """
        wrong: list[str] = []
        for checkpoint in reversed(self._checkpoint_folders()):
            damaged = damaged_files(checkpoint) or []  # no manifest: an interruption came before it
            if not damaged and not _has_state(checkpoint):
                damaged = ["it was not written to its end"]
            if not damaged:
                for text in wrong:
                    announce(text)
                return checkpoint
            wrong.append(f"{checkpoint} is damaged and is not used: {'; '.join(damaged)}.")
        raise CrosslignError("\n".join([f"{self.path}: {_NOTHING_TO_RESUME}", *wrong]))

    def _checkpoint_folders(self) -> list[Path]:
        found = [folder for folder in self.path.glob("checkpoint-*") if folder.is_dir() and _step(folder) is not None]
        return sorted(found, key=lambda folder: _step(folder) or 0)

    def check(self, *, overwrite: bool, resume: bool) -> None:
        """Raise CrosslignError if a run may not start here. Changes nothing."""
        if overwrite and resume:
            raise CrosslignError("--overwrite and --resume exclude each other.")
        check_output_folder(self.path, "run", self.is_ours(), "output_dir")
        check_no_link(*(place for pattern in _FOLDERS for place in self.path.glob(pattern)))
        status = self.record().get("status")
        if resume:
            if status == "finished":
                raise CrosslignError(f"{self.path}: this run is finished; there is nothing to resume.")
            if not self._checkpoint_folders():
                raise CrosslignError(f"{self.path}: {_NOTHING_TO_RESUME}")
        elif not overwrite and status == "finished":
            raise CrosslignError(
                f"{self.path}: holds a finished run. Choose another --output_dir, or replace it with --overwrite."
            )
        elif not overwrite and status:
            raise CrosslignError(
                f"{self.path}: holds an unfinished run. Continue it with --resume, or replace it with --overwrite."
            )

    def check_sources(self, sources: Mapping[str, str | None]) -> None:
        """Raise CrosslignError if a run here could clear or replace what it reads: `sources`, path by key.

        Another name for the same place (a link, `..`) is the same place.
        """
        for key, source in sources.items():
            if source is not None and self._would_replace(Path(source)):
                raise CrosslignError(
                    f"output_dir: a run in {self.path} would write over {key} ({source}). Choose another --output_dir."
                )

    def _would_replace(self, path: Path) -> bool:
        """Whether `path` is this folder, or lies in it under a name that `_clear` takes."""
        for place in (path.absolute(), path.resolve()):
            for parent in (place, *place.parents) if self.path.exists() else ():
                if parent.exists() and parent.samefile(self.path):
                    inside = place.relative_to(parent).parts
                    return not inside or any(fnmatch.fnmatch(inside[0], name) for name in (*_FOLDERS, *_FILES))
        return False

    def start(self, record: Mapping[str, Any], config: str, *, overwrite: bool) -> None:
        """Write the record and the resolved configuration; with `overwrite` first remove what an older run wrote."""
        if overwrite:
            self._clear()
        shutil.rmtree(self.path / _STAGING, ignore_errors=True)
        # The record first: it marks the folder as ours.
        self.update({**record, "status": "running"})
        write_atomically(self.path / CONFIG, config)

    def update(self, values: Mapping[str, Any]) -> None:
        write_atomically(
            self.path / RECORD, json.dumps({**self.record(), **values}, indent=2, ensure_ascii=False) + "\n"
        )

    def publish(self, save: Callable[[str], None]) -> None:
        """Let `save(folder)` write into a staging folder, then move its files in.

        What a reader needs to take the folder for a model goes first and comes last, so no part is ever taken for one.
        """
        staging = self.path / _STAGING
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            save(str(staging))
            for name in _LOADED_BY:
                (self.path / name).unlink(missing_ok=True)
            for file in sorted(staging.iterdir(), key=lambda file: (file.name in _LOADED_BY, file.name)):
                if file.is_dir():  # a tokenizer's further chat templates
                    shutil.rmtree(self.path / file.name, ignore_errors=True)
                file.replace(self.path / file.name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def forget_after(self, step: int) -> None:
        """Drop log lines and checkpoints later than `step`: a resumed run writes each step once, and a later
        checkpoint is damaged."""
        for checkpoint in self._checkpoint_folders():
            if (_step(checkpoint) or 0) > step:
                shutil.rmtree(checkpoint)
        for name in (METRICS, ROLLOUTS):
            path = self.path / name
            if path.exists():
                rows = [row for row in read_rows(path) if isinstance(row.get("step"), int) and row["step"] <= step]
                write_atomically(path, "".join(map(line_of, rows)))

    def forget_before(self, keep: int) -> None:
        """Delete all but the newest `keep` checkpoints, at least one."""
        for checkpoint in self._checkpoint_folders()[: -max(keep, 1)]:
            shutil.rmtree(checkpoint)

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        append_rows(self.path / name, [row])

    def _clear(self) -> None:
        for pattern in _FOLDERS:
            for folder in self.path.glob(pattern):
                if folder.is_dir():
                    shutil.rmtree(folder)
        for pattern in _FILES:
            for file in self.path.glob(pattern):
                file.unlink()


def run_of(path: Path) -> Path:
    """The run's own folder, if this is its `best/`; else this one."""
    is_best = path.name == BEST and (path / BEST_RECORD).is_file() and not (path / RECORD).exists()
    return path.absolute().parent if is_best else path


def _step(checkpoint: Path) -> int | None:
    """The step of a checkpoint's folder; None if its name is another's."""
    step = checkpoint.name.rpartition("-")[2]
    return int(step) if step.isascii() and step.isdigit() and len(step) < 16 else None


def _has_state(checkpoint: Path) -> bool:
    """Whether the file that the trainer writes after all others is there, whole, and of this checkpoint's step."""
    place = checkpoint / "trainer_state.json"
    try:
        state = parse_json(read_text(place, "FILE_MB"), place)
    except CrosslignError:
        return False
    usual = {f.name: f.default for f in dataclasses.fields(TrainerState)}
    return (
        isinstance(state, dict)
        and all(name in usual and _is_like(value, usual[name]) for name, value in state.items())
        and state.get("global_step") == _step(checkpoint)
        and isinstance(state.get("log_history"), list)
        and all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in state["log_history"])
    )


def _is_like(value: Any, usual: Any) -> bool:
    """Whether a value of the trainer's state is of the usual one's kind; what is usually None may be anything."""
    if isinstance(usual, bool):
        return isinstance(value, bool)
    return usual is None or (type(value) in (int, float) and 0 <= value < 1e30)
