"""The cache of the pretrained model: whole, or made anew."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from small import BASE as SPEC

from crosslign.storage import MANIFEST, damaged_files
from crosslign.testbed.cache import BaseSpec, base_hash, base_model
from crosslign.testbed.corpus import Corpus, CorpusSpec
from crosslign.testbed.model import ModelSpec, PretrainSpec
from crosslign.testbed.world import World


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_model(SPEC, tmp_path_factory.mktemp("cache"))


def test_made_once(made: Path) -> None:
    said: list[str] = []
    before = (made / "model.safetensors").stat().st_mtime_ns
    assert base_model(SPEC, made.parent, said.append) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == before
    assert said == [f"testbed model {made.name} from {made.parent}"]


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "manifest cut", "manifest gone", "manifest empty"])
def test_damage_is_found_and_mended(made: Path, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(made, tmp_path / made.name)
    weights, manifest = folder / "model.safetensors", folder / MANIFEST
    whole = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(whole[: len(whole) // 2])
    elif damage == "changed":
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "missing":
        weights.unlink()
    elif damage == "manifest cut":
        manifest.write_text(manifest.read_text()[:40])
    elif damage == "manifest gone":
        manifest.unlink()
    else:
        manifest.write_text("[]")
    said: list[str] = []
    assert base_model(SPEC, tmp_path, said.append) == folder
    assert damaged_files(folder) == []
    assert weights.read_bytes() == whole  # equal specifications give equal weights
    assert any("made anew" in line for line in said)


def test_a_making_that_was_killed_is_begun_anew(made: Path, tmp_path: Path) -> None:
    half = tmp_path / made.name
    half.mkdir()
    shutil.copy(made / "model.safetensors", half / "model.safetensors")
    (half / "left_over").write_text("of another version")
    assert base_model(SPEC, tmp_path) == half
    assert {file.name for file in half.iterdir()} == {file.name for file in made.iterdir()}


def test_unwritable_cache_falls_back_and_says_so(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    said: list[str] = []
    folder = base_model(SPEC, blocked / "cache", said.append)
    assert damaged_files(folder) == []
    assert any("cannot be written" in line and "not kept" in line for line in said)


def test_hash_covers_what_defines_the_model() -> None:
    def digest(spec: BaseSpec) -> str:
        return base_hash(spec, list(Corpus(spec.world, spec.corpus).examples()))

    changes = [
        {"world": World(1)},
        {"corpus": CorpusSpec(sequences=65)},
        {"corpus": CorpusSpec(sequences=64, wrapped=0.5)},
        {"model": ModelSpec()},
        {"pretraining": PretrainSpec(learning_rate=1e-4)},
    ]
    digests = [digest(SPEC), *(digest(dataclasses.replace(SPEC, **c)) for c in changes)]
    assert len(set(digests)) == len(digests)
    assert digest(SPEC) == digests[0]


def test_manifest_says_what_was_made(made: Path) -> None:
    record = json.loads((made / MANIFEST).read_text())
    assert record["spec"]["corpus"]["sequences"] == 64
    assert set(record) == {"files", "spec", "final_loss", "versions"}


def test_the_default_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, made: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    there = shutil.copytree(made, tmp_path / "crosslign" / "testbed" / made.name)
    assert base_model(SPEC) == there
