"""The memory of one process of a run, by parts, from numbers that are known before weights are read.

    kept all the time     libraries, weights, the teacher's copy, optimizer state
    at one moment only    loading; sampling: keys and values, logits; the teacher's pass; the student's step: gradients,
                          activations, hidden states, logits of a chunk

    total = what is kept + what the largest moment needs beside it

Of one token, a layer keeps for its backward pass (b bytes a number; H hidden, Q query, K key_value, I intermediate)

    norms       2 H in float32, and the same again in the weights' type where theirs are trained
    attention   (2 Q + 2 K) b, and 4 bytes a head for sdpa's or flash attention's log-sum-exp (Dao, arXiv 2307.08691);
                `eager` keeps heads x length probabilities instead, and repeats K for each query head
    MLP         3 I b: gate, its activation, the other half
    inputs      those of layers that learn: LoRA's A and B, or the weight itself; each layer's own copy under mixed
                precision, and with LoRA in half precision, which is computed in float32

With checkpointing it keeps its input, H b, and one layer at a time keeps all of that (Chen et al., arXiv 1604.06174).
AdamW has two moments in the type of the trained weight. Over N processes ZeRO-1 divides the optimizer's state, ZeRO-2
gradients too, ZeRO-3 and FSDP weights too; DeepSpeed keeps 12 bytes a half-precision weight for its optimizer:
float32 weights and two moments (Rajbhandari et al., arXiv 1910.02054, section 3). nf4 has 4 bits a weight and a scale
for 64 of them, itself packed into 8 bits (Dettmers et al., arXiv 2305.14314, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from crosslign.models.passes.grouping import CPU_GROUP_COST, CPU_MAX_TOKENS, length_groups
from crosslign.objective.chunks import tokens_in_budget
from crosslign.runs.memory.shape import ModelShape

# Measured. A process that has imported all that a run needs; a GPU's share of that is CUDA's context.
LIBRARIES = {"cpu": 600_000_000, "cuda": 500_000_000}
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
# DeepSpeed's defaults, in numbers: of weights that are whole at a time, and of gradients that are sent at once.
LIVE, BUCKET = 1_000_000_000, 500_000_000
SENT = 250 * 2**20  # bytes of weights that DDP sends at once when it is made, and two such at a time
# Times both sides' logits of a chunk: an accelerator computes in copies of them (objective/chunks.py).
CHUNK = {"cpu": 1, "cuda": 3}
LOGITS = 4  # of sampling: as they come, in float32, cut off, as probabilities

Sharding = Literal["none", "ddp", "fsdp", "zero1", "zero2", "zero3"]


@dataclass(frozen=True)
class Setup:
    """What of a run decides its memory.

    Fields:
        weight, teacher: bytes a number; teacher is 0 where it is the student's base.
        compute: bytes a number of activations; less than `weight` where mixed precision makes it so.
        lora: whether an adapter is trained, which is in float32 always.
        optimizer: a name of transformers.
        students, teachers: the longest contexts of one micro-batch, in tokens, longest first.
        completion: the longest completion.
        accumulation: micro-batches of a step.
        stored: bytes of the files that weights are read from; a CPU has them mapped beside the weights.
        prompt, written, rollouts: of sampling with `generate`: the longest prompt, the longest completion of it, and
            rows at once; 0 rows if another server samples.
    """

    device: Literal["cpu", "cuda"]
    weight: int
    teacher: int
    compute: int
    lora: bool
    students: tuple[int, ...]
    teachers: tuple[int, ...]
    completion: int
    prompt: int
    written: int
    rollouts: int
    stored: int = 0
    accumulation: int = 1
    optimizer: str = "adamw_torch"
    checkpointing: bool = False
    mixed: bool = False
    eager: bool = False
    nf4: bool = False
    sharding: Sharding = "none"
    processes: int = 1
    offload_optimizer: bool = False
    offload_weights: bool = False

    @property
    def sharded_weights(self) -> bool:
        return self.sharding in ("fsdp", "zero3")

    def part(self, *kinds: Sharding) -> float:
        """What each process holds of that which these kinds of sharding divide."""
        return 1 / self.processes if self.sharding in kinds else 1.0


@dataclass(frozen=True)
class Part:
    """Bytes of a process; `moment` is empty for what is kept all the time."""

    name: str
    bytes: int
    moment: str = ""


@dataclass(frozen=True)
class Estimate:
    parts: tuple[Part, ...]

    def of(self, moment: str) -> int:
        return sum(part.bytes for part in self.parts if part.moment == moment)

    @property
    def peak(self) -> str:
        """The moment that needs most."""
        return max(dict.fromkeys(part.moment for part in self.parts if part.moment), key=self.of)

    @property
    def total(self) -> int:
        return self.of("") + self.of(self.peak)


def estimate(shape: ModelShape, setup: Setup) -> Estimate:
    """The memory of one process."""
    weights = _weights(shape, setup)
    trained, gradients = _trained_bytes(setup), _gradients(shape, setup)
    teacher = shape.weights * setup.teacher
    optimizer = 0 if setup.offload_optimizer else _optimizer(shape, setup, trained)
    kept = [
        ("libraries", LIBRARIES[setup.device]),
        ("weights", 0 if setup.offload_weights else weights * setup.part("fsdp", "zero3") + _adapter(shape, setup)),
        ("teacher", 0 if setup.offload_weights else teacher * setup.part("fsdp", "zero3")),
        ("optimizer", optimizer),
    ]
    moments: dict[str, list[tuple[str, float]]] = {
        "step": [("gradients", gradients), *_step(shape, setup)],
        "teacher pass": [("gradients", gradients), *_teacher_pass(shape, setup)],
        "update": [("gradients", gradients), ("gradient of the embedding", _dense_embedding(shape, setup))],
    }
    if setup.rollouts:
        moments["sampling"] = _sampling(shape, setup)
    # While a model is loaded and sent, what comes later is not there yet.
    if setup.sharding == "ddp":
        moments["start of DDP"] = [("weights that are sent", max(_sent(shape, weights) - optimizer, 0))]
    if setup.sharded_weights and setup.device == "cpu":  # in the host's memory, whatever the device
        first = shape.weights * setup.weight + teacher - sum(count for _, count in kept[1:])
        moments["loading"] = [("whole model", max(first, 0))]
    elif setup.device == "cpu":
        moments["loading"] = [("mapped files", max(setup.stored - optimizer - teacher, 0))]
    parts = [Part(name, int(count)) for name, count in kept]
    parts += [Part(name, int(count), moment) for moment, found in moments.items() for name, count in found]
    return Estimate(tuple(part for part in parts if part.bytes))


def _weights(shape: ModelShape, setup: Setup) -> float:
    """Of the whole model, without an adapter."""
    if setup.nf4:
        return shape.linear * NF4 + (shape.weights - shape.linear) * setup.weight
    if setup.sharding == "fsdp" and not setup.lora and setup.compute < 4:
        return shape.weights * 4  # accelerate trains in float32 under mixed precision
    return shape.weights * setup.weight


def _sent(shape: ModelShape, weights: float) -> float:
    """Of two packets the last may end with the largest weight; a model of fewer is sent in one go."""
    largest = max(shape.embedding, shape.head) / shape.weights
    return min(2 * SENT + largest * weights, weights)


def _adapter(shape: ModelShape, setup: Setup) -> float:
    return shape.trained * 4 * setup.part("fsdp", "zero3") if setup.lora else 0


def _trained_bytes(setup: Setup) -> int:
    """Of a number that is trained."""
    if setup.lora or (setup.sharding == "fsdp" and setup.compute < 4):
        return 4
    return setup.weight


def _gradients(shape: ModelShape, setup: Setup) -> float:
    """With what processes send each other: DDP's buckets are a copy of all, DeepSpeed's of some."""
    size = _trained_bytes(setup)
    own = shape.trained * size * setup.part("fsdp", "zero2", "zero3")
    sent = {"ddp": shape.trained, "zero2": min(shape.trained, BUCKET), "zero3": min(shape.trained, BUCKET)}
    return own + sent.get(setup.sharding, 0) * size


def _optimizer(shape: ModelShape, setup: Setup, size: int) -> float:
    name, divided = setup.optimizer, setup.part("fsdp", "zero1", "zero2", "zero3")
    if setup.sharding.startswith("zero") and size == 2:
        return shape.trained * 12 * divided
    moments = {"sgd": 0, "adafactor": 0, "lion": 1, "adagrad": 1, "rmsprop": 1, "ademamix": 3}
    count = next((n for start, n in moments.items() if name.removeprefix("paged_").startswith(start)), 2)
    if "8bit" in name:
        return shape.trained * count * (1 + 4 / 256) * divided  # a scale for 256 numbers
    return shape.trained * count * (0.5 if "4bit" in name else size) * divided


def _groups(setup: Setup, lengths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Rows and longest row of each pass over a micro-batch of these lengths."""
    if setup.device != "cpu":
        return [(len(lengths), lengths[0])]
    groups = length_groups(lengths, group_cost=CPU_GROUP_COST, max_tokens=CPU_MAX_TOKENS)
    return [(len(group), lengths[group[0]]) for group in groups]


def _largest(setup: Setup, contexts: tuple[int, ...]) -> tuple[int, int]:
    """Rows and longest row, with its completion, of the pass with most tokens."""
    groups = _groups(setup, tuple(length + setup.completion for length in contexts))
    return max(groups, key=lambda group: group[0] * group[1])


def kept_by_layer(shape: ModelShape, setup: Setup, length: int) -> float:
    """Bytes a token that one layer keeps for its backward pass; `length` is that of the row."""
    b = setup.compute
    attention = 2 * (shape.query + shape.key_value) * b + 4 * shape.heads
    if setup.eager:
        attention = 4 * shape.query * b + shape.heads * length * (4 if b == 4 else 4 + b)
    norms = shape.normed * (4 + (setup.weight if shape.norms_trained else 0))
    cast = setup.lora and setup.weight < 4  # to float32, and back under mixed precision
    inputs = shape.inputs * b
    if cast or setup.weight > b:
        inputs = shape.copies * (b if setup.mixed else 4)
    return attention + norms + shape.mlp * b + inputs


def _working(shape: ModelShape, setup: Setup) -> int:
    """Bytes a token that a layer computes with and lets go of."""
    return (3 * shape.hidden + max(3 * shape.intermediate, 2 * shape.query + 2 * shape.key_value)) * setup.compute


def _step(shape: ModelShape, setup: Setup) -> list[tuple[str, float]]:
    rows, length = _largest(setup, setup.students)
    tokens = rows * length
    layer = kept_by_layer(shape, setup, length)
    if setup.checkpointing:
        activations = tokens * (shape.layers * shape.hidden * setup.compute + layer)
    else:
        activations = tokens * shape.layers * layer
    if setup.weight > setup.compute:  # mixed precision: each matrix once more in the compute type
        activations += shape.linear * setup.compute
    scored = rows * setup.completion
    states = len(setup.students) * setup.completion * shape.hidden * setup.compute
    states += scored * shape.hidden * (3 * setup.compute + 4)
    return [
        ("activations", activations + tokens * _working(shape, setup)),
        ("hidden states of the loss", states),
        ("logits of a chunk", _chunk(shape, setup, scored)),
        ("gradient of the head", shape.head * 4 if shape.head_trained else 0),
        ("weights in use", _gathered(shape, setup)),
    ]


def _chunk(shape: ModelShape, setup: Setup, scored: int) -> float:
    """Both sides' logits of a chunk, and what is computed of them."""
    floor = shape.head * 4 if shape.head_trained else 0
    tokens = min(tokens_in_budget(shape.vocabulary, 4, torch.device(setup.device), floor), scored)
    return 2 * tokens * shape.vocabulary * 4 * CHUNK[setup.device]


def _gathered(shape: ModelShape, setup: Setup) -> float:
    """Weights that are whole for as long as they are used: of FSDP two layers, and embedding and head while the root
    runs."""
    ends = shape.head + (0 if shape.tied else shape.embedding)
    if setup.sharding == "fsdp":
        return (2 * shape.block + ends) * setup.compute
    if setup.sharding == "zero3":
        return min(shape.weights, LIVE + ends) * setup.compute
    return shape.hidden * shape.intermediate * setup.compute if setup.nf4 else 0  # a matrix that is unpacked


def _teacher_pass(shape: ModelShape, setup: Setup) -> list[tuple[str, float]]:
    rows, length = _largest(setup, setup.teachers)
    one = replace(setup, compute=min(setup.compute, setup.teacher or setup.compute))
    keys = 2 * shape.layers * shape.key_value * one.compute  # of a start that is common to all, and what follows it
    return [
        ("activations", rows * length * (_working(shape, one) + keys)),
        ("weights in use", _gathered(shape, one)),
    ]


def _dense_embedding(shape: ModelShape, setup: Setup) -> float:
    return 0 if setup.lora or setup.sharded_weights else shape.embedding * _trained_bytes(setup)


def key_value_bytes(shape: ModelShape, size: int) -> int:
    """Of a token: keys and values of all layers."""
    return 2 * shape.layers * shape.key_value * size


def _sampling(shape: ModelShape, setup: Setup) -> list[tuple[str, float]]:
    token = key_value_bytes(shape, setup.compute)
    keys = setup.rollouts * (setup.prompt + setup.written) * token
    if setup.device == "cpu":  # prompts are run in groups, and put together (models/passes/prefill.py)
        keys = max(keys, 2 * setup.rollouts * setup.prompt * token)
    running = setup.rollouts * setup.prompt * _working(shape, setup)
    return [
        ("keys and values", keys),
        ("prompts", running),
        ("logits", setup.rollouts * shape.vocabulary * 4 * LOGITS),
        ("whole model", shape.weights * setup.compute if setup.sharded_weights else 0),  # beside its parts
    ]
