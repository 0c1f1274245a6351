"""What a run says of its divergences when it ends."""

from __future__ import annotations

from crosslign.runs.summary import divergence_table


def test_no_percentage_is_taken_of_a_divergence_that_was_nothing_before() -> None:
    """Of queries that are left unchanged, student and teacher are equal before, up to rounding."""
    probe = {"before": {"all": 0.5, "en": 1e-15, "sw": -1e-15}, "after": {"all": 0.25, "en": 0.006, "sw": 0.02}}
    metrics = [{"step": 1, "divergence": 0.1, "divergence/en": 0.0, "divergence/sw": 0.2}]
    of_all, of_en, of_sw = divergence_table(metrics, probe).splitlines()[1:]
    assert of_all.split()[1:5] == ["0.500", "0.250", "-50", "%"]
    assert of_en.split()[2:4] == ["0.000", "0.006"]
    assert of_sw.split()[2:4] == ["0.000", "0.020"]
    assert "%" not in of_en + of_sw
