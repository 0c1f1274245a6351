"""The pretrained model's folder: found by a hash of all that defines it, and verified on every use."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crosslign.ownership import check_no_link
from crosslign.storage import cache_folder, damaged_files, locked, versions, write_manifest
from crosslign.testbed import model as model_module
from crosslign.testbed.corpus import Corpus, CorpusSpec, Example, vocabulary
from crosslign.testbed.model import ModelSpec, PretrainSpec, make_model, make_tokenizer, pretrain
from crosslign.testbed.world import World
from crosslign.types import Announce, silent

_LONGEST = 24 * 3600  # seconds: no making takes a day


@dataclass(frozen=True)
class BaseSpec:
    """Everything that the pretrained model depends on; the world's seed is the model's seed too."""

    world: World = field(default_factory=World)
    corpus: CorpusSpec = field(default_factory=CorpusSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    pretraining: PretrainSpec = field(default_factory=PretrainSpec)


def base_hash(spec: BaseSpec, examples: Sequence[Example]) -> str:
    """16 hexadecimal digits: settings, every sequence of the corpus, and the code of model and pretraining.

    The corpus stands for the world's and the corpus' code, which may change without changing a sequence.
    """
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(spec), sort_keys=True).encode())
    digest.update(inspect.getsource(model_module).encode())
    for word in vocabulary(spec.world):
        digest.update(f"{word}\n".encode())
    for example in examples:
        digest.update(f"{example.prompt}|{example.completion}\n".encode())
    return digest.hexdigest()[:16]


def base_model(spec: BaseSpec, cache: Path | None = None, announce: Announce = silent) -> Path:
    """The folder of the pretrained model and its tokenizer, made if it is not there or not whole.

    It lies in `cache`, or in crosslign's folder in the user's cache. One that cannot be written is replaced by a
    temporary folder, which is announced. Of two processes that need the same model, the second waits for the first.
    """
    examples = list(Corpus(spec.world, spec.corpus).examples())
    name = base_hash(spec, examples)
    root = cache_folder() / "testbed" if cache is None else cache
    folder = root / name
    check_no_link(folder)
    if damaged_files(folder) == []:
        announce(f"testbed model {name} from {root}")
        return folder
    if not _can_be_written(root):
        full = root
        root = Path(tempfile.mkdtemp(prefix="crosslign-testbed-"))
        folder = root / name
        announce(f"{full} cannot be written; the testbed model goes to {root} and is not kept for the next run")
    with locked(root / f"{name}.lock", seconds=_LONGEST):
        if damaged_files(folder) == []:
            return folder  # made while this process waited
        if folder.exists():
            announce(f"{folder}: not whole (cut off or changed), so it is made anew")
            shutil.rmtree(folder)
        announce(f"pretraining the testbed model on {len(examples):,} sequences (once; kept in {root})")
        folder.mkdir()
        _make(spec, examples, folder)
    return folder


def _can_be_written(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _make(spec: BaseSpec, examples: Sequence[Example], folder: Path) -> None:
    tokenizer = make_tokenizer(vocabulary(spec.world))
    model = make_model(spec.model, tokenizer, spec.world.seed)
    losses = pretrain(model, tokenizer, examples, spec.pretraining, spec.world.seed)[-20:]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    final = sum(losses) / max(1, len(losses))
    write_manifest(folder, spec=dataclasses.asdict(spec), final_loss=final, versions=versions())
