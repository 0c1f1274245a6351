"""The fused objective against TRL 1.16: `python -m benchmarks.objective [--model FOLDER] [--queries TABLE]`.

Time on one core, alternating in one process with heap reuse, medians of pairs; memory in fresh processes; the error of
the gradient against float64. Ours computes the weights too, the others none. Writes benchmarks/objective.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import peers
from benchmarks.peers import States
from benchmarks.states import QWEN, SMOLLM2, Shape, masked, random_states, real_states
from benchmarks.summary import machine
from benchmarks.timing import (
    Seconds,
    alternate,
    fresh_process,
    median_ratio,
    median_seconds,
    peak_above,
    reuse_heap,
    seconds,
)
from crosslign.evaluation.tables import markdown
from crosslign.objective import Divergence, fused_weighted_divergence, weighted_divergence

MODULE = "benchmarks.objective"
OUT = Path(__file__).with_name("objective.md")
MASKED = 0.4
MEMORY_SHAPE = replace(QWEN, tokens=128)
SMALL_SHAPE = replace(QWEN, vocabulary=4_096, rows=1, tokens=8)
ERROR_TOKENS = 64


def fused(states: States, divergence: Divergence) -> torch.Tensor:
    heads = states.student_head, states.teacher_head
    return fused_weighted_divergence(states.student, states.teacher, *heads, states.mask, divergence=divergence).loss


def reference(states: States, divergence: Divergence) -> Callable[[], None]:
    """Ours with the logits of all tokens at once."""

    def run() -> None:
        states.forget_gradients()
        with torch.no_grad():
            teacher = states.teacher_head(states.teacher)
        logits = states.student_head(states.student)
        weighted_divergence(logits, teacher, states.mask, divergence=divergence).loss.backward()

    return run


def ours(states: States, divergence: Divergence) -> Callable[[], None]:
    def run() -> None:
        states.forget_gradients()
        fused(states, divergence).backward()

    return run


SIDES: Mapping[str, Callable[[States, Divergence], Callable[[], None]]] = {
    "ours": ours,
    "dense": peers.dense,
    "chunked": peers.chunked,
    "topk": peers.topk,
    "reference": reference,
    "liger": peers.liger,
}
# (what, divergence, masked, trained, shorter: half the rows, sides)
CASES: tuple[tuple[str, Divergence, bool, bool, bool, tuple[str, ...]], ...] = (
    ("reverse KL, frozen head", "reverse_kl", False, False, False, ("ours", "dense", "chunked", "topk")),
    ("the same, 40 % masked", "reverse_kl", True, False, False, ("ours", "dense", "chunked")),
    ("JSD, frozen head", "jsd", False, False, True, ("ours", "dense", "chunked")),
    ("reverse KL, trained head", "reverse_kl", False, True, True, ("ours", "dense", "chunked")),
)


def subset(states: States, rows: int) -> States:
    """The first rows."""
    student = states.student.detach()[:rows].clone().requires_grad_()
    return replace(states, student=student, teacher=states.teacher[:rows], mask=states.mask[:rows])


def timings(shape: Shape, states: States, rounds: int) -> list[list[str]]:
    """Rows of the table, one a case."""
    rows = []
    for number, (title, divergence, with_mask, trained, shorter, sides) in enumerate(CASES):
        fewer = replace(shape, rows=shape.rows // 2) if shorter and shape is QWEN else shape
        case = subset(states, fewer.rows)
        case.mask = masked(fewer, MASKED if with_mask else 0)
        case.student_head.requires_grad_(trained)
        functions = {name: SIDES[name](case, divergence) for name in sides}
        functions["products"] = peers.products(case, trained)
        found = alternate(functions, rounds, warm=number == 0)
        case.student_head.requires_grad_(False)
        case.forget_gradients()
        ratios = {name: f"{median_ratio(found['ours'], found[name]):.2f}" for name in sides if name != "ours"}
        share = f"{median_ratio(found['products'], found['ours']):.2f}"
        taken = {name: median_seconds(found[name]) for name in ("ours", "dense", "chunked")}
        cells = [shape.name, title, str(fewer.positions)]
        cells += [ratios.get(name, "") for name in ("dense", "chunked", "topk")]
        cells += [share, *(f"{t.user:.2f} + {t.system:.2f}" for t in taken.values())]
        rows.append(cells)
        print(*cells, sep=" | ", flush=True)
    return rows


def pair(arguments: list[str]) -> dict[str, float]:
    """One timed side with the default allocator, in this process: the first call and a second one."""
    shape, side = arguments
    states = random_states(QWEN if shape == "qwen" else SMOLLM2)
    found = alternate({side: SIDES[side](states, "reverse_kl")}, 2)[side]
    return {"user": found[1].user, "system": found[1].system}


def memory(arguments: list[str]) -> dict[str, float]:
    """Peak above the loaded tensors of one side, in this process, and its seconds; `loaded`: after a small call."""
    side, tokens, *loaded = arguments
    taken: list[Seconds] = []
    rows = max(int(tokens) // MEMORY_SHAPE.tokens, 1)
    states = random_states(replace(MEMORY_SHAPE, rows=rows))
    if loaded:
        SIDES[side](random_states(SMALL_SHAPE), "reverse_kl")()
    run = SIDES[side](states, "reverse_kl")
    peak = peak_above(lambda: taken.append(seconds(run)))
    return {"bytes": peak, "seconds": taken[0].total}


def peaks(*how: str) -> str:
    found = {s: fresh_process(MODULE, "--memory", s, "1024", *how)["bytes"] for s in ("ours", "dense", "chunked")}
    written = ", ".join(f"{side} {peak / 1e6:.0f} MB" for side, peak in found.items())
    return f"{written}; ours / dense {found['ours'] / found['dense']:.3f}"


def gradient_error(states: States) -> str:
    """Largest error of the hidden states' gradient over its largest entry, against float64: ours and the naive path."""
    part = replace(subset(states, 1), mask=states.mask[:1, :ERROR_TOKENS])
    part.student = part.student.detach()[:, :ERROR_TOKENS].clone().requires_grad_()
    part.teacher = part.teacher[:, :ERROR_TOKENS]
    wide = part.student.detach().double().requires_grad_()
    weight = part.student_head.weight.detach().double()
    loss = weighted_divergence(wide @ weight.T, part.teacher.double() @ weight.T, part.mask).loss
    (exact,) = torch.autograd.grad(loss, wide)
    errors = []
    for loss in (fused(part, "reverse_kl"), _naive(part)):
        (gradient,) = torch.autograd.grad(loss, part.student)
        errors.append(float((gradient.double() - exact).abs().max() / exact.abs().max()))
    return f"{errors[0]:.1e} (ours), {errors[1]:.1e} (naive), ratio {errors[0] / errors[1]:.2f}"


def _naive(states: States) -> torch.Tensor:
    """The textbook formulas in float32, differentiated automatically, with our weights."""
    with torch.no_grad():
        logits = states.teacher_head(states.teacher)
    own = states.student_head(states.student)
    weight = weighted_divergence(own.detach(), logits, states.mask).weight
    log_p, log_q = own.log_softmax(-1), logits.log_softmax(-1)
    return (weight * (log_p.exp() * (log_p - log_q)).sum(-1)).sum() / states.mask.sum()


INTERNAL: Mapping[str, Callable[[list[str]], dict[str, Any]]] = {"--pair": pair, "--memory": memory}


def report(arguments: argparse.Namespace) -> str:
    torch.set_num_threads(1)
    lines = [
        "# The objective: time, memory, precision",
        "",
        f"`python -m benchmarks.objective{' --model MODEL' if arguments.model else ''}"
        f"{' --queries TABLE' if arguments.queries else ''} --rounds {arguments.rounds}`; {machine()}.",
        "",
        "Ratios are ours / TRL 1.16, alternating in one process with heap reuse, medians of pairs; seconds are user + "
        "system of one core. Share: the unavoidable matrix products of the valid positions, alone, over ours; a ratio "
        "times its share is the lowest that any implementation could reach on this machine.",
        "",
    ]
    ratios = ["/ dense", "/ chunked", "/ topk"]
    table = [["model", "case", "positions", *ratios, "share", "ours, s", "dense, s", "chunked, s"]]
    errors = []
    for shape in (SMOLLM2, QWEN):
        real = arguments.model if shape is QWEN else None
        states = real_states(real, arguments.queries, shape.rows, shape.tokens) if real else random_states(shape)
        table += timings(shape, states, arguments.rounds)
        kind = "a real model's hidden states" if real else "seeded random hidden states"
        errors.append(f"- {shape.name}, {kind}: {gradient_error(states)}")
        del states
    lines += [markdown(table, left=(0, 1)), "", "## Default allocator", ""]
    lines += ["Fresh processes, second call, reverse KL, frozen head; user + system.", ""]
    for name in ("smollm2", "qwen"):
        sides = {s: fresh_process(MODULE, "--pair", name, s) for s in ("ours", "dense")}
        written = ", ".join(f"{s} {v['user']:.2f} + {v['system']:.2f} s" for s, v in sides.items())
        ratio = sum(sides["ours"].values()) / sum(sides["dense"].values())
        lines.append(f"- {name}: {written}; ratio {ratio:.2f}")
    lines += ["", "## Memory", "", "Peak above the loaded tensors, N = 1024, V = 151,936, frozen head, fresh process."]
    lines += ["A process's first call loads the libraries' code too.", ""]
    lines += [f"- {when}: {peaks(*how)}" for when, how in (("first call", ()), ("after a small call", ("loaded",)))]
    lines += ["", "## Gradient error", ""]
    lines += ["Largest error of the hidden states' gradient over its largest entry, against float64:", "", *errors]
    lines += ["", "On a GPU: `python -m benchmarks.gpu`."]
    return "\n".join(lines) + "\n"


def main() -> int:
    if len(sys.argv) > 1 and sys.argv[1] in INTERNAL:
        print(json.dumps(INTERNAL[sys.argv[1]](sys.argv[2:])))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a real model of Qwen2.5-0.5B's shape")
    parser.add_argument("--queries", type=Path, help="query table for its prompts (default: the demo's)")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of each case (default: 3)")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    peers.require_trl()
    reuse_heap(MODULE)
    arguments.out.write_text(report(arguments), encoding="utf-8")
    print(arguments.out.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
