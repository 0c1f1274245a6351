"""The teacher gate: before training, what the teacher context makes of the student's unsafe answers."""

from crosslign.probing.gate import check_gate, gate
from crosslign.probing.request import ProbeRequest, judge_named, parse_templates, select
from crosslign.probing.run import run_probe

__all__ = [
    "ProbeRequest",
    "check_gate",
    "gate",
    "judge_named",
    "parse_templates",
    "run_probe",
    "select",
]
