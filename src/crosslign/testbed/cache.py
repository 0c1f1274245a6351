"""The pretrained model's folder: found by a hash of all that defines it, verified on every use, written in one move."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crosslign.storage import versions
from crosslign.testbed import model as model_module
from crosslign.testbed import pretrain as pretrain_module
from crosslign.testbed.corpus import Corpus, CorpusSpec, Example, vocabulary
from crosslign.testbed.model import ModelSpec, make_model, make_tokenizer
from crosslign.testbed.pretrain import PretrainSpec, pretrain
from crosslign.testbed.world import World

MANIFEST = "testbed.json"
_STAGING = ".staging-"
_ABANDONED = 24 * 3600  # seconds: a killed process leaves its folder behind, and no making takes a day


@dataclass(frozen=True)
class BaseSpec:
    """Everything that the pretrained model depends on; the world's seed is the model's seed too."""

    world: World = field(default_factory=World)
    corpus: CorpusSpec = field(default_factory=CorpusSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    pretraining: PretrainSpec = field(default_factory=PretrainSpec)


def default_cache() -> Path:
    """crosslign's folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crosslign" / "testbed"


def base_hash(spec: BaseSpec, examples: Sequence[Example]) -> str:
    """16 hexadecimal digits: settings, every sequence of the corpus, and the code of model and pretraining.

    The corpus stands for the world's and the corpus' code, which may change without changing a sequence.
    """
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(spec), sort_keys=True).encode())
    for module in (model_module, pretrain_module):
        digest.update(inspect.getsource(module).encode())
    for word in vocabulary(spec.world):
        digest.update(f"{word}\n".encode())
    for example in examples:
        digest.update(f"{example.prompt}|{example.completion}\n".encode())
    return digest.hexdigest()[:16]


def is_complete(folder: Path) -> bool:
    """True if the folder holds every file of its manifest, each with its hash."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return bool(files) and all(_sha256(folder / name) == value for name, value in files.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def base_model(spec: BaseSpec, cache: Path | None = None, announce: Callable[[str], None] = lambda text: None) -> Path:
    """The folder of the pretrained model and its tokenizer, made if it is not there or not whole.

    A cache that cannot be written is replaced by a temporary folder, which is announced.
    """
    examples = list(Corpus(spec.world, spec.corpus).examples())
    name = base_hash(spec, examples)
    root = default_cache() if cache is None else cache
    folder = root / name
    if is_complete(folder):
        announce(f"testbed model {name} from {root}")
        return folder
    if folder.exists():
        announce(f"{folder}: not whole (cut off or changed), so it is made anew")
    staging = _staging(root)
    if staging is None:
        root = Path(tempfile.mkdtemp(prefix="crosslign-testbed-"))
        announce(
            f"{folder.parent} cannot be written; the testbed model goes to {root} and is not kept for the next run"
        )
        folder, staging = root / name, root / "staging"
        staging.mkdir()
    try:
        announce(f"pretraining the testbed model on {len(examples):,} sequences (once; kept in {root})")
        _make(spec, examples, staging)
        return _publish(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _staging(root: Path) -> Path | None:
    """A new folder to make the model in, or None if `root` cannot be written. Abandoned ones are removed."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        for old in root.glob(f"{_STAGING}*"):
            if time.time() - old.stat().st_mtime > _ABANDONED:
                shutil.rmtree(old, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=_STAGING, dir=root))
    except OSError:
        return None


def _make(spec: BaseSpec, examples: Sequence[Example], folder: Path) -> None:
    tokenizer = make_tokenizer(vocabulary(spec.world))
    model = make_model(spec.model, tokenizer, spec.world.seed)
    losses = pretrain(model, tokenizer, examples, spec.pretraining, spec.world.seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    files = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    record = {
        "files": files,
        "spec": dataclasses.asdict(spec),
        "final_loss": sum(losses[-20:]) / max(1, len(losses[-20:])),
        "versions": versions(),
    }
    (folder / MANIFEST).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _publish(staging: Path, folder: Path) -> Path:
    """Move the whole folder into place; of two processes that made the same model, the first one's stays."""
    if folder.exists() and not is_complete(folder):
        shutil.rmtree(folder)
    try:
        staging.rename(folder)
    except OSError:
        if not is_complete(folder):
            raise
    return folder


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
