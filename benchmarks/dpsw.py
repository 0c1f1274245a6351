"""DPSW beside uniform weights in one regime after another: the tables of docs/dpsw.md.

    python -m benchmarks.testbed --seeds 5
    crosslign bench benchmarks/testbed_dpsw.yaml
    python -m benchmarks.testbed --seeds 5 --polite
    crosslign bench benchmarks/testbed_dpsw_long.yaml
    python -m benchmarks.dpsw

A regime is a method of these files; its partner has the same name and `, uniform`, or is that of the file's reference
where the weights alone are others. Their difference is paired by query and seed, with Holm's correction over the
regimes of a column. The last table says how the weight lies on the tokens that decide between refusal and help, before
any step.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.methods import Method, objective, prepared, trainer_of
from crosslign.evaluation.tables import markdown, number
from crosslign.runs.bench.cells import cells_of
from crosslign.runs.bench.config import load_bench
from crosslign.runs.bench.numbers import Change, Numbers, corrected
from crosslign.runs.bench.outcomes import read_blocks
from crosslign.runs.bench.tables import change_text, quantities
from crosslign.testbed.cache import BaseSpec, base_model
from crosslign.testbed.experiment import Alignment
from crosslign.testbed.tables import Tables, TableSizes
from crosslign.testbed.world import World
from crosslign.types import Rollout

FILES = {"short": Path("benchmarks/testbed_dpsw.yaml"), "long": Path("benchmarks/testbed_dpsw_long.yaml")}
UNIFORM = ", uniform"
SHOWN = ("ASR seen", "over-refusal seen", "separation seen", "ASR harder", "separation unseen")
WEIGHTINGS = ("dpsw", "teacher", "student")
ROLES = ("decision", "content", "other")  # of a reply's tokens


def differences(path: Path) -> dict[str, dict[str, tuple[str, str, Change]]]:
    """Regime -> quantity -> the rates of uniform weights and of DPSW, and DPSW less uniform."""
    bench = load_bench(path)
    cells = cells_of(bench)
    if missing := [cell.name for cell in cells if not cell.is_ready()]:
        raise SystemExit(f"{path}: {len(missing)} cells are not finished: {', '.join(missing[:3])} ...")
    numbers = Numbers(read_blocks(bench, cells))
    columns = [one for one in quantities(numbers, cells[0].trained, cells[0].source_language) if one.name in SHOWN]
    found: dict[str, dict[str, tuple[str, str, Change]]] = {}
    for name, partner in partners(bench.methods, bench.reference).items():
        found[name] = {}
        for one in columns:
            uniform, dpsw = one.rate(numbers, partner), one.rate(numbers, name)
            change = one.change(numbers, name, partner)
            if uniform and dpsw and change:
                found[name][one.name] = number(100 * uniform.value), number(100 * dpsw.value), change
    return found


def partners(methods: Collection[str], reference: str) -> dict[str, str]:
    """Regime -> the method with uniform weights that it is compared with."""
    own = {name: f"{name}{UNIFORM}" for name in methods if not name.endswith(UNIFORM)}
    return {name: partner if partner in methods else f"{reference}{UNIFORM}" for name, partner in own.items()}


def table(found: Mapping[str, Mapping[str, tuple[str, str, Change]]]) -> str:
    """A row a regime: uniform → DPSW, the difference with its interval, * where Holm's p is below 0.05."""
    names = [name for name in SHOWN if all(name in values for values in found.values())]
    sure = {name: corrected({regime: values[name][2] for regime, values in found.items()}) for name in names}
    lines = [["regime", *names]]
    for regime, values in found.items():
        rates = {name: values[name][:2] for name in names}
        shown = [f"{a} → {b}: {change_text(sure[name][regime])}" for name, (a, b) in rates.items()]
        lines.append([regime, *shown])
    return markdown(lines)


def token_roles(rollout: Rollout, world: World) -> list[str]:
    """What each token of a well-formed reply is: the first word that tells refusal from help ("decision"), the other
    words of refusal or help ("content"), or preamble, closing and end of turn ("other")."""
    length = len(rollout.completion.token_ids)
    around = 8 if world.polite else 0
    roles = ["other"] * length
    for position in range(around, length - around - 1):
        roles[position] = "decision" if position == around else "content"
    return roles


@torch.no_grad()
def weights_by_role(trainer: Any, world: World, queries: int = 200) -> dict[str, dict[str, float]]:
    """label -> role -> mean normalised weight, on the first rollouts of the untrained student."""
    drawn = [trainer.mixture.draw(0, p) for p in range(queries)]
    drawn = [q for q in drawn if world.groups[q.language] == "low"]
    rollouts = trainer.collector.collect(drawn, 0)
    result, _ = trainer.scorer(trainer.model, rollouts)
    found: dict[tuple[str, str], list[float]] = {}
    for row, rollout in enumerate(rollouts):
        for position, role in enumerate(token_roles(rollout, world)):
            found.setdefault((rollout.query.label, role), []).append(float(result.weight[row, position]))
    made: dict[str, dict[str, float]] = {}
    for (label, role), values in sorted(found.items()):
        made.setdefault(label, {})[role] = float(np.mean(values))
    return made


def weights(seeds: Sequence[int], styles: Sequence[str]) -> str:
    """Mean normalised weights of tokens by their role, over worlds."""
    lines = [["replies", "weights", "request", *ROLES]]
    for style in styles:
        for weighting in WEIGHTINGS:
            found = [_weights(World(seed=seed, polite=style == "long"), weighting) for seed in seeds]
            for label in ("harmful", "benign"):
                means = [np.mean([one[label][role] for one in found if role in one[label]]) for role in ROLES]
                lines.append([style, weighting, label, *(f"{mean:.2f}" for mean in means)])
    return markdown(lines, left=(0, 1, 2))


def _weights(world: World, weighting: str) -> dict[str, dict[str, float]]:
    method = Method(weighting, objective(weighting=weighting))
    with tempfile.TemporaryDirectory() as folder:
        run = prepared(method, base_model(BaseSpec(world)), Tables(world, TableSizes()), Path(folder), Alignment())
        return weights_by_role(trainer_of(method, run), world)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dpsw", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--styles", nargs="+", choices=FILES, default=[*FILES], help="of replies (default: both)")
    parser.add_argument("--weights", type=int, default=5, metavar="N", help="worlds of the last table; 0 leaves it out")
    arguments = parser.parse_args(argv)
    found = [differences(FILES[style]) for style in arguments.styles]
    print(table({regime: values for one in found for regime, values in one.items()}))
    if arguments.weights:
        print(f"\n{weights(range(arguments.weights), arguments.styles)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
