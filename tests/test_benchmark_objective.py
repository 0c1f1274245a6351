"""What `benchmarks.objective` times is the same loss on every side, and its parts work on a tiny shape."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks import timing
from benchmarks.states import Shape, masked, random_states

from crosslign.objective import fused_weighted_divergence

TINY = Shape("tiny", 130, 8, 4, 6)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_mask_has_the_share_of_padding_that_was_asked_for(share: float) -> None:
    mask = masked(Shape("", 0, 0, 8, 128), share)
    assert 1 - mask.float().mean().item() == pytest.approx(share, abs=0.01)
    assert (mask.sum(-1) > 0).all()


def test_alternate_runs_in_turn_and_ratios_are_of_pairs() -> None:
    calls: list[str] = []

    def side(name: str) -> Callable[[], None]:
        return lambda: calls.append(name)

    found = timing.alternate({"a": side("a"), "b": side("b")}, 2, warm=True)
    assert calls == ["b", "a", "a", "b", "b", "a"]  # each first in half of the rounds
    assert [len(samples) for samples in found.values()] == [2, 2]
    ours = [timing.Seconds(user, 1.0, wall) for user, wall in ((1.0, 1.0), (3.0, 2.0), (5.0, 9.0))]
    theirs = [timing.Seconds(user, 0.0, wall) for user, wall in ((4.0, 4.0), (4.0, 4.0), (3.0, 9.0))]
    assert timing.median_ratio(ours, theirs) == 1.0
    assert timing.median_ratio(ours, theirs, of="wall") == 0.5
    assert timing.median_seconds(ours).total == 4.0


def test_peak_above_sees_memory_that_is_gone_at_the_end() -> None:
    size = 64 << 20
    assert size * 0.9 < timing.peak_above(lambda: torch.ones(size // 4).sum()) < size * 1.5


def test_peak_above_counts_memory_that_the_allocator_had_kept() -> None:
    """In a process of its own: what the tests before have left would be reused here."""
    program = """
import torch
from benchmarks import timing
size = 24_000_000
for _ in range(2):  # the first one freed raises glibc's threshold, so that the second one is kept
    torch.ones(size // 4)
assert timing.peak_above(lambda: torch.ones(size // 4).sum()) > size * 0.9
"""
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "jsd"])
@pytest.mark.parametrize("trained", [False, True])
def test_trls_losses_are_ours_without_weights(divergence: str, trained: bool) -> None:
    pytest.importorskip("trl")
    from benchmarks import peers

    states = random_states(TINY, trained=trained)
    heads = states.student_head, states.teacher_head
    options = {"divergence": divergence, "weighting": "uniform"}
    result = fused_weighted_divergence(states.student, states.teacher, *heads, states.mask, **options)  # type: ignore[arg-type]
    leaves = [states.student, *([states.student_head.weight] if trained else [])]
    ours = torch.autograd.grad(result.loss, leaves)
    for side in (peers.dense, peers.chunked):
        side(states, divergence)()
        for expected, leaf in zip(ours, leaves, strict=True):
            torch.testing.assert_close(leaf.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_table_of_a_tiny_shape_has_every_case() -> None:
    pytest.importorskip("trl")
    from benchmarks import objective

    shape = replace(TINY, vocabulary=300)
    rows = objective.timings(shape, random_states(shape), 1)
    assert len(rows) == len(objective.CASES)
    assert all(len(row) == 10 for row in rows)
    assert "ratio" in objective.gradient_error(random_states(shape))
