"""Tokens a second that a student samples: `generate` in this process against a vLLM server, on the same prompts.

Start the server with the command that `--command` prints (in `.venv-vllm` on a machine without a GPU), then:

    python -m benchmarks.rollouts --model FOLDER --url http://127.0.0.1:8000

Both sides sample at temperature 1 from the same LoRA student (r = 16 on the layers of peft's choice, its adapter not
zero and in the model's type), or with `--no-adapter` from its base, in turns, the same number of times, after a
warm-up. Completions end at a stop token, so tokens are counted, not rows. Both sides get the same cores: the server
waits while this process samples, and the other way round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from crosslign.data.load import TableSpec, require_table
from crosslign.models import ModelSource, add_lora, load_model, load_tokenizer, token_ids
from crosslign.rollouts import PublishedAdapter, Sampler, SamplingParameters, VllmSampler, VllmServer, sampler_of
from crosslign.runs.contexts import context_builder
from crosslign.runs.recipe import parse_config
from crosslign.runs.serve import serve_command


def prompts_of(config: Any, tokenizer: Any, count: int) -> list[tuple[int, ...]]:
    """Student contexts of the table that ships here, in its seven languages."""
    table = require_table(TableSpec("builtin:demo"), "en", None)
    contexts = context_builder(config, tokenizer)
    queries = list(table.queries(table.languages))
    return [contexts.student(queries[i * len(queries) // count]).token_ids for i in range(count)]


@contextmanager
def base_of(student: Any) -> Iterator[Any]:
    """The model without its adapter."""
    with student.disable_adapter():
        yield student


def measured(sampler: Sampler, prompts: list[tuple[int, ...]], length: int, seed: int) -> tuple[int, float]:
    """Tokens and seconds."""
    start = time.perf_counter()
    found = sampler.sample(prompts, SamplingParameters(max_completion_length=length), seed=seed)
    return sum(len(c.token_ids) for c in found), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--no-adapter", action="store_true", help="the base model, as a teacher samples")
    parser.add_argument("--command", action="store_true", help="print the server's command and stop")
    arguments = parser.parse_args()
    config = parse_config(
        {
            "model": {"path": arguments.model, "dtype": arguments.dtype},
            "data": {"tables": [{"path": "builtin:demo"}]},
            "student": {"max_length": 512},
            "teacher": {"max_length": 512},
            "sampling": {"max_completion_length": arguments.length},
            "rollouts": {"backend": "vllm", "url": arguments.url},
        }
    )
    if arguments.command:
        print(serve_command(config, cpu=not torch.cuda.is_available()))
        return
    source = ModelSource(arguments.model, dtype=arguments.dtype)
    tokenizer, model = load_tokenizer(source), load_model(source)
    student = add_lora(model, LoraConfig(r=16, lora_alpha=32))
    base = arguments.no_adapter
    ids, vocabulary = token_ids(tokenizer, model), model.get_input_embeddings().weight.shape[0]
    server = VllmServer(arguments.url, arguments.model, command=serve_command(config))
    server.check(512 + arguments.length)
    with tempfile.TemporaryDirectory() as folder:
        publish = PublishedAdapter(server, student, Path(folder) / "served", "benchmark")
        with torch.no_grad():
            for name, parameter in student.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.002)
        for batch in arguments.batches:
            prompts = prompts_of(config, tokenizer, batch)
            sides: dict[str, Sampler] = {
                "generate": sampler_of(student, tokenizer, batch, view=partial(base_of, student) if base else None),
                "vLLM": VllmSampler(
                    server, ids, vocabulary=vocabulary, batch_size=batch, publish=None if base else publish
                ),
            }
            for side in sides.values():
                measured(side, prompts, 4, 0)
            speeds: dict[str, list[float]] = {name: [] for name in sides}
            counts: dict[str, int] = dict.fromkeys(sides, 0)
            for pair in range(arguments.pairs):
                for name, side in sides.items():
                    tokens, seconds = measured(side, prompts, arguments.length, pair + 1)
                    counts[name] += tokens
                    speeds[name].append(tokens / seconds)
            own, served = (statistics.median(speeds[name]) for name in sides)
            ranges = " | ".join(f"{min(s):.0f} to {max(s):.0f}" for s in speeds.values())
            print(
                f"| {batch} | {arguments.dtype} | {own:.0f} | {served:.0f} | **{served / own:.1f}** | {ranges} | "
                f"{counts['generate']} | {counts['vLLM']} |",
                flush=True,
            )
        publish.release()


if __name__ == "__main__":
    main()
