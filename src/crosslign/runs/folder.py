"""The output folder of a run: never overwritten unasked, written atomically, readable after an interruption."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crosslign.storage import LOCK, append_rows, damaged_files, is_empty, locked, write_atomically
from crosslign.types import Announce, CrosslignError, silent

RECORD = "run.json"
CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
ROLLOUTS = "rollouts.jsonl"
EVALUATIONS = "evaluations"
BEST = "best"
GATE = "gate.jsonl"
_STAGING = ".incomplete"
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
        """The record, or {} where there is none or it cannot be read."""
        try:
            record = json.loads((self.path / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def checkpoints(self) -> list[Path]:
        """Checkpoints that were written to their end, oldest first."""
        return [folder for folder in self._checkpoint_folders() if _has_state(folder)]

    def newest_checkpoint(self, announce: Announce = silent) -> Path:
        """The newest whole checkpoint; `announce` gets newer ones and what is wrong with them.

        Raises CrosslignError, with what is wrong with each, if there is none.
        """
        wrong: list[str] = []
        for checkpoint in reversed(self._checkpoint_folders()):
            damaged = damaged_files(checkpoint)
            if damaged is None:  # no manifest: an interruption came before it
                damaged = [] if _has_state(checkpoint) else ["it was not written to its end"]
            if not damaged:
                for text in wrong:
                    announce(text)
                return checkpoint
            wrong.append(f"{checkpoint} is damaged and is not used: {'; '.join(damaged)}.")
        raise CrosslignError("\n".join([f"{self.path}: {_NOTHING_TO_RESUME}", *wrong]))

    def _checkpoint_folders(self) -> list[Path]:
        found = [(folder.name.rpartition("-")[2], folder) for folder in self.path.glob("checkpoint-*")]
        return [folder for _, folder in sorted((int(step), folder) for step, folder in found if step.isdigit())]

    def check(self, *, overwrite: bool, resume: bool) -> None:
        """Raise CrosslignError if a run may not start here. Changes nothing."""
        if overwrite and resume:
            raise CrosslignError("--overwrite and --resume exclude each other.")
        if self.path.exists() and not self.path.is_dir():
            raise CrosslignError(f"output_dir: {self.path} is a file, not a folder.")
        status = self.record().get("status")
        if not status and not resume and not self.checkpoints() and self.path.exists() and not is_empty(self.path):
            raise CrosslignError(
                f"{self.path}: is not empty and holds no run of crosslign. Choose another --output_dir; nothing in it "
                "is overwritten, also not with --overwrite."
            )
        if resume:
            if status == "finished":
                raise CrosslignError(f"{self.path}: this run is finished; there is nothing to resume.")
            if not self._checkpoint_folders():
                raise CrosslignError(f"{self.path}: {_NOTHING_TO_RESUME}")
        elif not overwrite and status == "finished":
            raise CrosslignError(
                f"{self.path}: holds a finished run. Choose another --output_dir, or replace it with --overwrite."
            )
        elif not overwrite and (status or self.checkpoints()):
            raise CrosslignError(
                f"{self.path}: holds an unfinished run. Continue it with --resume, or replace it with --overwrite."
            )
        probe = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        if not os.access(probe, os.W_OK):
            raise CrosslignError(f"output_dir: {self.path} cannot be written: no permission in {probe}.")

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
        """Let `save(folder)` write into a staging folder, then move its files in: all of them or none are seen."""
        staging = self.path / _STAGING
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            save(str(staging))
            for file in sorted(staging.iterdir()):
                file.replace(self.path / file.name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def publish_folder(self, name: str, save: Callable[[str], None]) -> None:
        """Let `save(folder)` fill a new folder and put it in the place of `name`: the old one is there, or the new.

        A crash between the two moves leaves the old one under another name, from where `restore_folder` brings it back.
        """
        self.restore_folder(name)
        place, staging, old = (self.path / n for n in (name, f".{name}.incomplete", f".{name}.old"))
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            save(str(staging))
            if place.exists():
                place.rename(old)
            staging.rename(place)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)

    def restore_folder(self, name: str) -> None:
        """Finish or undo a `publish_folder` that was interrupted between its moves."""
        place, old = self.path / name, self.path / f".{name}.old"
        if old.exists() and not place.exists():
            old.rename(place)
        shutil.rmtree(old, ignore_errors=True)

    def forget_after(self, step: int) -> None:
        """Drop log lines and checkpoints later than `step`: a resumed run writes each step once, and a later
        checkpoint is damaged."""
        for checkpoint in self._checkpoint_folders():
            if int(checkpoint.name.rpartition("-")[2]) > step:
                shutil.rmtree(checkpoint)
        for name in (METRICS, ROLLOUTS):
            path = self.path / name
            if not path.exists():
                continue
            kept = []
            for line in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    if json.loads(line)["step"] <= step:
                        kept.append(line + "\n")
            write_atomically(path, "".join(kept))

    def forget_before(self, keep: int) -> None:
        """Delete all but the newest `keep` checkpoints, at least one."""
        for checkpoint in self._checkpoint_folders()[: -max(keep, 1)]:
            shutil.rmtree(checkpoint)

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        append_rows(self.path / name, [row])

    def _clear(self) -> None:
        for pattern in ("checkpoint-*", EVALUATIONS, BEST, f".{BEST}.*"):
            for folder in self.path.glob(pattern):
                shutil.rmtree(folder)
        for pattern in (
            RECORD,
            CONFIG,
            METRICS,
            ROLLOUTS,
            GATE,
            "*.safetensors",
            "*.safetensors.index.json",
            "adapter_config.json",
            "config.json",
            "generation_config.json",
            "tokenizer*.json",
            "special_tokens_map.json",
            "added_tokens.json",
            "vocab.json",
            "merges.txt",
            "chat_template.jinja",
        ):
            for file in self.path.glob(pattern):
                file.unlink()


def _has_state(checkpoint: Path) -> bool:
    """Whether the file that the trainer writes after all others is there and whole."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
