"""What several test modules do with runs: start them, read what they wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from crosslign import build
from crosslign.cli import main
from crosslign.config import parse_config


def run(raw: dict[str, Any], *, resume: bool = False, overwrite: bool = False, **training: Any) -> Path:
    """Train as the command line does, in this process; returns the output folder."""
    raw = {**raw, "training": {**raw["training"], **training}}
    prepared = build.prepare(parse_config(raw), overwrite=overwrite, resume=resume)
    build.train(prepared, overwrite=overwrite, resume=resume)
    return Path(raw["output_dir"])


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in metrics(folder)]


def cli_train(tmp_path: Path, raw: dict[str, Any], *flags: str) -> int:
    """`crosslign train` on a recipe file; returns the exit code."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return main(["train", str(path), *flags])
