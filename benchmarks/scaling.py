"""How memory and time grow with the number of tokens: `python -m benchmarks.scaling`. Writes benchmarks/scaling.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import objective, peers
from benchmarks.states import QWEN
from benchmarks.summary import machine
from benchmarks.timing import fresh_process
from crosslign.evaluation.tables import markdown

OUT = Path(__file__).with_name("scaling.md")
TOKENS = (256, 1_024, 4_096, 8_192)
MOST_DENSE = 1_024  # beyond it TRL's dense path needs more than 8 GB
SIDES = ("dense", "chunked", "ours")


def report() -> str:
    table = [["tokens", *(f"{side}, MB" for side in SIDES), *(f"{side}, s" for side in SIDES)]]
    table[0].append("ours less gradients, MB")
    for tokens in TOKENS:
        found = {
            side: fresh_process(objective.MODULE, "--memory", side, str(tokens))
            for side in SIDES
            if side == "ours" or tokens <= MOST_DENSE
        }
        cells = [f"{found[s]['bytes'] / 1e6:.0f}" if s in found else "" for s in SIDES]
        cells += [f"{found[s]['seconds']:.1f}" if s in found else "" for s in SIDES]
        own = found["ours"]["bytes"] - 4 * QWEN.hidden * tokens
        table.append([f"{tokens:,}", *cells, f"{own / 1e6:.0f}"])
        print(*table[-1], sep=" | ", flush=True)
    return (
        "# The objective as the tokens grow\n\n"
        "`python -m benchmarks.scaling`; V = 151,936, H = 896, float32, frozen head, reverse KL, seeded random hidden "
        f"states; each cell a fresh process with the default allocator; {machine()}.\n\n"
        "MB are the peak above the loaded tensors. The gradient of the hidden states is part of it and grows with them:"
        f" 3.6 kB a token; the last column leaves it out.\n\n{markdown(table)}\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    peers.require_trl()
    arguments.out.write_text(report(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
