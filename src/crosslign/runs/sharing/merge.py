"""`crosslign merge`: a finished run's adapter and its base as one ordinary model, in a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from crosslign.models import adapter_sha256
from crosslign.models.files import TOKENIZER
from crosslign.models.load import Dtype
from crosslign.models.merge import Merged, merge_adapter
from crosslign.ownership import check_no_link, check_output_folder, read_mark
from crosslign.runs.prepare import check_trusted
from crosslign.runs.sharing.card import card_text, put_card
from crosslign.runs.sharing.evidence import read_numbers
from crosslign.runs.sharing.finished import FinishedRun
from crosslign.runs.sharing.outward import recipe_text, without_folders
from crosslign.storage import (
    MANIFEST,
    is_disk_full,
    is_empty,
    locked,
    publish_folder,
    versions,
    write_atomically,
    write_manifest,
)
from crosslign.types import Announce, CrosslignError, Interrupted, silent

MERGED = "merged"  # the manifest's key that says how a folder was merged
RECIPE = "recipe.yaml"
_SUFFIXES = (".json", ".txt", ".jinja", ".model", ".tiktoken")


def merge(
    run: FinishedRun,
    out: Path,
    *,
    base: str | None = None,
    dtype: Dtype = "auto",
    trust_remote_code: bool = False,
    overwrite: bool = False,
    announce: Announce = silent,
) -> Merged:
    """Write weights, configuration, tokenizer, recipe and card into `out`; it is there whole, or as it was.

    `manifest.json` there says what was merged, with which versions, and has the hashes of all files but the card's.

    Args:
        base: where the base model is now; None: where the run had it.
        dtype: of the weights; "auto": the base's own.
        trust_remote_code: run code that comes with the base model. The run's own word for it does not count.

    Raises CrosslignError for a run without an adapter, a base that is not the adapter's, or a folder of another origin.
    """
    if not run.is_adapter:
        raise CrosslignError(
            f"{run.folder}: has no adapter to merge: this run trained all weights, so the folder is a whole model."
        )
    check_merged(out, overwrite)
    check_trusted(run.source, trust_remote_code, str(run.folder))
    source = run.source if base is None else replace(run.source, path=base, revision=None)
    quantized = run.config.model.quantization
    if quantized:
        announce(
            f"the adapter was trained on the base in 4 bits ({quantized}), and is merged into the unquantised one: its "
            "answers will differ a little, and that it is the same base cannot be proved."
        )
    results = read_numbers(run.folder).get("results")

    made: list[Merged] = []

    def fill(folder: str) -> None:
        place = Path(folder)
        expected = None if quantized else run.record["teacher_fingerprint"]
        merged = merge_adapter(source, run.folder, place, dtype=dtype, fingerprint=expected, announce=announce)
        made.append(merged)
        for file in tokenizer_files(run.folder):
            (place / file.relative_to(run.folder)).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, place / file.relative_to(run.folder))
        write_atomically(place / RECIPE, recipe_text(run.config))
        write_manifest(place, **{MERGED: _provenance(run, merged)})
        put_card(place, card_text(run, results, "merged", merged=asdict(merged)), results)

    announce(f"merging {run.folder} into {source.path}")
    try:
        with locked(out.absolute().with_name(f".{out.absolute().name}.lock")):
            publish_folder(out.absolute(), fill)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted. {out} is as it was.") from None
    except Exception as error:
        if is_disk_full(error):
            raise CrosslignError(f"the disk is full: {error}. {out} is as it was. Free some space.") from error
        raise
    return made[0]


def check_merged(out: Path, overwrite: bool) -> None:
    """Raise CrosslignError unless a merged model may be written here."""
    check_no_link(out)
    ours = is_merged(out)
    check_output_folder(out, "merged model", ours)
    if ours and not overwrite:
        raise CrosslignError(f"{out}: holds a merged model. Choose another --out, or replace it with --overwrite.")
    if out.is_dir() and not is_empty(out):
        check_no_link(*out.iterdir())


def is_merged(folder: Path) -> bool:
    """Whether `merge` has made this folder."""
    return isinstance(read_mark(folder / MANIFEST).get(MERGED), dict)


def tokenizer_files(folder: Path) -> Iterator[Path]:
    """The files of a tokenizer, which are of few kinds, and none of them a link."""
    for file in sorted({file for pattern in TOKENIZER for file in folder.glob(pattern)}):
        if file.is_file() and not file.is_symlink() and file.suffix in _SUFFIXES:
            yield file


def _provenance(run: FinishedRun, merged: Merged) -> dict[str, Any]:
    base = {"path": run.source.path, "revision": run.source.revision, "fingerprint": run.record["teacher_fingerprint"]}
    found = {
        "base": base,
        "adapter_sha256": adapter_sha256(run.adapter),
        "steps": run.step,
        "trained_with": dict(run.record["versions"]),
        "versions": versions(),
        **asdict(merged),
    }
    shared: dict[str, Any] = without_folders(found)
    return shared
