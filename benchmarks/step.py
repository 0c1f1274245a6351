"""A training step against TRL's SDFTTrainer: `python -m benchmarks.step`.

Both sides get the same model, contexts and completions: mixed-language queries, the `instruct` teacher, completions of
full length. Ours computes DPSW; TRL computes no weights. One core, float32 unless the name says bf16, AdamW, clipping,
no activation checkpointing. `benchmarks.precision` compares our own step in both types.

Time: both sides in one process, taking turns, in pairs; the ratio is the median of the pairs' ratios. The heap is
reused (`HEAP_REUSE`): first-touch page faults are dear on virtual machines and would flatter whoever allocates less.
The ratio with the default allocator stands beside it. Memory: one fresh process a side, default allocator, peak of the
whole process.

    --model FOLDER     real weights and tokenizer for the configurations of that shape, in place of random ones
    --queries FILE     a query table, in place of the built-in demo queries
    --languages CODE   of these languages only: what padding there is depends on them
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import resource
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import require_trl
from benchmarks.step_sides import Configuration, Ours, Side, Theirs, batches, quiet, run_config
from benchmarks.summary import machine
from benchmarks.timing import Seconds, alternate, fresh_process, median_ratio, median_seconds
from crosslign.data.load import TableSpec, require_table
from crosslign.evaluation.tables import markdown
from crosslign.runs.prepare import prepare
from crosslign.storage import write_atomically

MODULE = "benchmarks.step"
CONFIGURATIONS = (
    Configuration("smollm2-8x128", "smollm2", "full", 8, 128),
    Configuration("smollm2-4x256", "smollm2", "full", 4, 256),
    Configuration("qwen-8x64", "qwen", "lora", 8, 64),
    Configuration("smollm2-8x32-generated", "smollm2", "full", 8, 32, generated=True),
    Configuration("qwen-8x32-generated", "qwen", "lora", 8, 32, generated=True),
    Configuration("smollm2-8x128-topk", "smollm2", "full", 8, 128, mode="topk_logits"),
    Configuration("qwen7b-8x256-cuda", "qwen7b", "lora", 8, 256, cuda=True, dtype="bfloat16"),
    Configuration("smollm2-8x128-bf16", "smollm2", "full", 8, 128, dtype="bfloat16"),
    Configuration("qwen-8x64-bf16", "qwen", "lora", 8, 64, dtype="bfloat16"),
    Configuration("qwen-8x32-generated-bf16", "qwen", "lora", 8, 32, generated=True, dtype="bfloat16"),
)
DEFAULT = tuple(c.name for c in CONFIGURATIONS if c.mode == "full_logits")
SHAPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "smollm2": (
        "SmolLM2-135M's shape",
        {
            "model_type": "llama",
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49152,
            "max_position_embeddings": 8192,
            "rope_theta": 100000.0,
            "tie_word_embeddings": True,
        },
    ),
    "qwen": (
        "Qwen2.5-0.5B's shape",
        {
            "model_type": "qwen2",
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "max_position_embeddings": 32768,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
        },
    ),
    "qwen7b": (
        "Qwen2.5-7B's shape",
        {
            "model_type": "qwen2",
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "max_position_embeddings": 32768,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": False,
        },
    ),
}
TOY: Mapping[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 20000,
    "max_position_embeddings": 8192,
    "initializer_range": 0.5,
}
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
END = "<|im_end|>"
MEMORY_STEPS = 1  # after the warm-up step, so the optimiser's state is there


def from_values(values: Mapping[str, Any], **options: Any) -> Any:
    """A model with random bfloat16 weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**values, bos_token_id=1, eos_token_id=0, pad_token_id=0)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, **options)


def random_model(values: Mapping[str, Any], folder: Path, queries: str) -> None:
    """Random weights, and a byte-level BPE trained on the queries' English texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from_values(values).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=20000,
        special_tokens=[END, "<|im_start|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        [row.texts["en"] for row in require_table(TableSpec(queries), "en", None).rows], trainer
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    fast.chat_template = CHAT
    fast.save_pretrained(folder)


def real_models(folders: Sequence[str]) -> dict[str, Path]:
    """Shape -> folder, told by the hidden size in `config.json`."""
    found = {}
    for folder in map(Path, folders):
        size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"]
        found.update({name: folder for name, (_, values) in SHAPES.items() if values["hidden_size"] == size})
    return found


# In the measuring processes.


def steps_on(side: Side, given: Sequence[Any], cuda: bool) -> Callable[[], None]:
    """A step on the next batch at each call."""
    left = iter(given)

    def step() -> None:
        side.step(next(left))
        if cuda:
            torch.cuda.synchronize()

    return step


def measure(job: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of each step of both sides taking turns, or one side's peak memory in GB."""
    torch.set_num_threads(1 if not job["cuda"] else torch.get_num_threads())
    quiet()
    made = next(c for c in CONFIGURATIONS if c.name == job["configuration"])
    folder = Path(job["folder"])
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary)
        run = prepare(run_config(made, folder, job["queries"], output, job["languages"]))
        sides: dict[str, Side] = {}
        if "ours" in job["sides"]:
            sides["ours"] = Ours(made, run)
        if "theirs" in job["sides"]:
            sides["theirs"] = Theirs(made, run, output)
        given = batches(run, made, job["batches"] + 1)
        # Warmed up: optimiser state, heap.
        steps = {name: steps_on(side, given, made.cuda) for name, side in sides.items()}
        taken = alternate(steps, job["batches"], warm=True)
    seconds = {name: list(map(astuple, samples)) for name, samples in taken.items()}
    return {"seconds": seconds, "peak": peak_memory(made.cuda), "padding": padding(given)}


def peak_memory(cuda: bool = False) -> float:
    """GB of this process, or of its tensors on the GPU, at their peak."""
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return peak / 1e9


def padding(given: Sequence[Sequence[Any]]) -> float:
    """Share of positions that are padding when a batch is padded, student and teacher together."""
    real = padded = 0
    for batch in given:
        for role in ("student_context", "teacher_context"):
            lengths = [len(getattr(r, role).token_ids) + len(r.completion.token_ids) for r in batch]
            real, padded = real + sum(lengths), padded + max(lengths) * len(lengths)
    return 1 - real / padded


# In the first process.


def _run(job: Mapping[str, Any], heap_reuse: bool) -> dict[str, Any]:
    found = fresh_process(MODULE, "--job", json.dumps(job), heap_reuse=heap_reuse, one_core=not job["cuda"])
    found["seconds"] = {name: [Seconds(*taken) for taken in samples] for name, samples in found["seconds"].items()}
    return found


def row(made: Configuration, job: Mapping[str, Any], few: int) -> list[str]:
    """One line of the table."""
    both = {**job, "sides": ["ours", "theirs"]}
    timed = _run(both, heap_reuse=True)
    default = _run({**both, "batches": few}, heap_reuse=False)
    peaks = [_run({**job, "sides": [s], "batches": MEMORY_STEPS}, heap_reuse=False)["peak"] for s in ("ours", "theirs")]
    cells = [made.name, f"{timed['padding']:.0%}"]
    for name in ("ours", "theirs"):
        taken = median_seconds(timed["seconds"][name])
        cells.append(f"{taken.wall:.2f} ({taken.user:.2f} + {taken.system:.2f})")
    runs = (found["seconds"] for found in (timed, default))
    ratios = [median_ratio(taken["ours"], taken["theirs"], of="wall") for taken in runs]
    cells += [f"**{ratios[0]:.2f}**", f"{ratios[1]:.2f}"]
    return [*cells, f"{peaks[0]:.2f}", f"{peaks[1]:.2f}", f"**{peaks[0] / peaks[1]:.2f}**"]


HEADER = (
    "configuration",
    "padding",
    "ours, s (user + system)",
    "SDFTTrainer, s (user + system)",
    "time ratio",
    "the same, default allocator",
    "ours, peak GB",
    "SDFTTrainer, peak GB",
    "memory ratio",
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", nargs="+", default=DEFAULT, choices=[c.name for c in CONFIGURATIONS])
    parser.add_argument("--queries", default="builtin:demo", help="query table")
    parser.add_argument("--languages", nargs="+", help="of the queries (default: all but English)")
    parser.add_argument("--model", action="append", default=[], help="folder with real weights; may be given twice")
    parser.add_argument("--batches", type=int, default=10, help="timed pairs")
    parser.add_argument(
        "--default-allocator-batches", type=int, default=3, help="timed pairs with the default allocator"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("step.md"))
    parser.add_argument("--job", help=argparse.SUPPRESS)
    settings = parser.parse_args(arguments)
    if settings.job:
        print(json.dumps(measure(json.loads(settings.job))))
        return 0
    require_trl()
    real = real_models(settings.model)
    rows, notes = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for made in (c for c in CONFIGURATIONS if c.name in settings.configurations):
            if made.cuda and not torch.cuda.is_available():
                notes.append(f"`{made.name}` was not run: no GPU.")
                continue
            folder = real.get(made.shape, Path(temporary, made.shape))
            if not folder.exists():
                random_model(SHAPES[made.shape][1], folder, settings.queries)
            job = {
                "configuration": made.name,
                "folder": str(folder),
                "queries": settings.queries,
                "languages": settings.languages,
                "batches": settings.batches,
                "cuda": made.cuda,
            }
            rows.append(row(made, job, settings.default_allocator_batches))
            weights = "real weights" if made.shape in real else "random weights, byte-level BPE of the English queries"
            notes.append(f"`{made.name}`: {SHAPES[made.shape][0]}, {weights}; {made.finetuning} fine-tuning.")
            print(*rows[-1], sep=" | ", flush=True)
    given = sys.argv[1:] if arguments is None else arguments
    command = "python -m benchmarks.step " + " ".join(Path(a).name if "/" in a else a for a in given)
    queries = "the built-in demo queries" if settings.queries == "builtin:demo" else Path(settings.queries).name
    lines = [
        "# A training step against TRL's SDFTTrainer",
        f"Medians of {settings.batches} pairs, {queries} in mixed languages. {machine()}, "
        f"trl {importlib.metadata.version('trl')}.",
        markdown([HEADER, *rows]),
        "\n".join(f"- {note}" for note in notes),
        f"`{command.strip()}`; the columns are explained in `benchmarks/step.py`.",
    ]
    write_atomically(settings.out, "\n\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
