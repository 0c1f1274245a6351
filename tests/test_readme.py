"""The front page and the docs: what they show works when it is pasted in order."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import VOCABULARY, byte_tokenizer, tiny_llama
from transformers import GenerationConfig

from crosslign.cli import main
from crosslign.runs.recipe import merged, read_recipe

ROOT = Path(__file__).parents[1]
MODEL = "Qwen/Qwen2.5-7B-Instruct"
# Minutes, a network or a GPU: these are checked by their flags only.
LEFT_OUT = ("make ", "pip install", "crosslign demo", "multijail", "qwen3guard", "http://")


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """The lines of a page's bash blocks, without comments."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the repository as the pages see it, with a tiny model in the place of theirs and two steps a run."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "src").symlink_to(ROOT / "src")
    model = tiny_llama()
    # Half of all tokens end a reply, so that replies stay short.
    model.generation_config = GenerationConfig(eos_token_id=list(range(0, VOCABULARY, 2)))
    model.save_pretrained(folder / "tiny")
    byte_tokenizer().save_pretrained(folder / "tiny")
    small = {
        "model": {"path": str(folder / "tiny"), "dtype": "float32"},
        "student": {"max_length": 4096}, "teacher": {"max_length": 4096},
        "training": {"max_steps": 2, "warmup_steps": 0, "bf16": False, "use_cpu": True},
    }
    (folder / "recipes").mkdir()
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        (folder / "recipes" / recipe.name).write_text(yaml.safe_dump(merged(read_recipe(recipe), small)))
    return folder


@pytest.fixture(autouse=True)
def in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))


def paste(command: str) -> None:
    words = shlex.split(command.replace(MODEL, "tiny"), comments=True)
    if words[0] == "crosslign":
        import time
        t=time.time()
        assert main(words[1:]) == 0, command
        print(">>>", round(time.time()-t,2), command)
    else:
        subprocess.run(["bash", "-c", command], check=True)


def test_the_quickstart_of_the_readme_works() -> None:
    for command in commands("README.md"):
        if not any(word in command for word in LEFT_OUT):
            paste(command)
    import time
    t=time.time()
    for block in blocks("README.md", "python"):
        exec(block.replace(MODEL, "tiny"), {})
    print(">>>", time.time()-t)
