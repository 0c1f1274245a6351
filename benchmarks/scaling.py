"""How memory and time grow with the number of tokens: `python -m benchmarks.scaling`. Writes benchmarks/scaling.md."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks import objective, peers
from benchmarks.states import QWEN, random_states
from benchmarks.summary import machine
from benchmarks.timing import fresh_process, peak_above, seconds

MODULE = "benchmarks.scaling"
OUT = Path(__file__).with_name("scaling.md")
TOKENS = (256, 1_024, 4_096, 8_192)
MOST_DENSE = 1_024  # beyond it TRL's dense path needs more than 8 GB
ROW = 128


def measure(side: str, tokens: int) -> dict[str, float]:
    states = random_states(replace(QWEN, rows=tokens // ROW, tokens=ROW))
    function = objective.SIDES[side](states, "reverse_kl")
    taken = 0.0

    def timed() -> None:
        nonlocal taken
        taken = seconds(function).total

    peak = peak_above(timed)
    return {"bytes": peak, "seconds": taken}


def report() -> str:
    lines = [
        "# The objective as the tokens grow",
        "",
        f"`python -m benchmarks.scaling`; V = 151,936, H = 896, float32, frozen head, reverse KL, seeded random hidden "
        f"states; each cell a fresh process with the default allocator; {machine()}.",
        "",
        "MB are the peak above the loaded tensors. The gradient of the hidden states is part of it and grows with them:"
        " 3.6 kB a token; the last column leaves it out.",
        "",
        "| tokens | dense, MB | chunked, MB | ours, MB | dense, s | chunked, s | ours, s | ours less gradients, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for tokens in TOKENS:
        found = {
            side: fresh_process(MODULE, "--one", side, str(tokens))
            for side in ("dense", "chunked", "ours")
            if side == "ours" or tokens <= MOST_DENSE
        }
        cells = [f"{found[s]['bytes'] / 1e6:.0f}" if s in found else "" for s in ("dense", "chunked", "ours")]
        cells += [f"{found[s]['seconds']:.1f}" if s in found else "" for s in ("dense", "chunked", "ours")]
        own = found["ours"]["bytes"] - 4 * QWEN.hidden * tokens
        lines.append("| " + " | ".join([f"{tokens:,}", *cells, f"{own / 1e6:.0f}"]) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> int:
    if len(sys.argv) > 1 and sys.argv[1] == "--one":
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    peers.require_trl()
    arguments.out.write_text(report(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
