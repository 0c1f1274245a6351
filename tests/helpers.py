"""What several test modules do with runs: start them, read what they wrote."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import VOCABULARY, byte_tokenizer, tiny_llama
from transformers import AutoModelForCausalLM, GenerationConfig, Trainer

from crosslign.cli import main
from crosslign.rollouts import CompletionCache, TransformersSampler
from crosslign.runs.prepare import prepare
from crosslign.runs.recipe import parse_config
from crosslign.runs.train import train
from crosslign.types import Completion, JudgeItem, Verdict


def run(raw: dict[str, Any], *, resume: bool = False, overwrite: bool = False, **training: Any) -> Path:
    """Train as the command line does, in this process; returns the output folder."""
    raw = {**raw, "training": {**raw["training"], **training}}
    prepared = prepare(parse_config(raw), overwrite=overwrite, resume=resume)
    train(prepared)
    return Path(raw["output_dir"])


class SayingJudge:
    """A judge that says what `say` does of each item, and keeps the items."""

    name = "scripted"

    def __init__(self, say: Callable[[JudgeItem], Verdict]) -> None:
        self.say = say
        self.items: list[JudgeItem] = []

    def identity(self) -> Mapping[str, str]:
        return {"kind": "scripted"}

    def judge(self, items: Sequence[JudgeItem]) -> list[Verdict]:
        self.items += items
        return [self.say(item) for item in items]


@contextmanager
def interrupted_after(step: int, error: BaseException) -> Iterator[None]:
    """Within this every training raises `error` when it begins the step after `step`."""
    training_step = Trainer.training_step

    def interrupted(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step:
            raise error
        return training_step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", interrupted)
        yield


def power_cut(step: int, raw: dict[str, Any]) -> None:
    """A run that does nothing more when it begins the step after `step`."""
    with interrupted_after(step, RuntimeError("power cut")), pytest.raises(RuntimeError, match="power cut"):
        run(raw)


@contextmanager
def sampling_interrupted_after(calls: int) -> Iterator[None]:
    """Within this a model's sampler is interrupted, as by Ctrl-C, when it is called once more than that."""
    made: list[int] = []
    sample = TransformersSampler.sample

    def interrupted(self: Any, prompts: Any, parameters: Any, *, seed: int) -> Any:
        if len(made) == calls:
            raise KeyboardInterrupt
        made.append(len(prompts))
        return sample(self, prompts, parameters, seed=seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransformersSampler, "sample", interrupted)
        yield


def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on loading a model fails the test."""
    refuse = staticmethod(lambda *args, **kwargs: pytest.fail("weights were loaded"))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)


def terse_model(folder: Path) -> Path:
    """The tiny model, saved so that half of all tokens end a reply: replies are short under any length limit."""
    model = tiny_llama()
    model.generation_config = GenerationConfig(eos_token_id=list(range(0, VOCABULARY, 2)))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def cached(cache: CompletionCache, key: str) -> Completion | None:
    """What the cache gives a sampler for this key; None if it would be sampled."""

    def sample(missing: list[int]) -> list[Completion]:
        raise LookupError

    try:
        return cache.fill([key], ["q"], sample)[0]
    except LookupError:
        return None


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in metrics(folder)]


def cli_train(tmp_path: Path, raw: dict[str, Any], *flags: str) -> int:
    """`crosslign train` on a recipe file; returns the exit code."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return main(["train", str(path), *flags])


def two_processes(tmp_path: Path, raw: dict[str, Any], *flags: str) -> list[int]:
    """`crosslign train` on a recipe in two data-parallel processes; returns their exit codes."""
    return [p.wait(timeout=300) for p in processes(tmp_path, raw, *flags)]


def processes(
    tmp_path: Path, raw: dict[str, Any], *flags: str, engine: str = "ddp", number: int = 2, **environment: str
) -> list[subprocess.Popen[bytes]]:
    """Start `crosslign train` on a recipe in several processes.

    `engine`: ddp, or fsdp, zero2 or zero3, which are then at work on CPUs as on GPUs (`sharded_process.py`). The
    environment says what one of them does: FAILING_RANK fails in its second step, SILENT_RANK samples no token,
    NAN_RANK has a weight that is not a number from its second step on, with IN_PARTS a student that is gathered fails.
    """
    path = tmp_path / "processes.yaml"
    path.write_text(yaml.safe_dump(raw))
    begin = (
        ["-m", "crosslign.cli"] if engine == "ddp" else [str(Path(__file__).with_name("sharded_process.py")), engine]
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return [
        subprocess.Popen(
            [sys.executable, *begin, "train", str(path), *flags],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(number),
                "LOCAL_WORLD_SIZE": str(number),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                **environment,
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(number)
    ]
