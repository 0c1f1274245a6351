"""The teacher gate: before training, what the teacher context makes of the student's unsafe answers."""

from crosslign.runs.gate.gate import check_gate, gate
from crosslign.runs.gate.request import ProbeRequest, judge_named, parse_templates, select
from crosslign.runs.gate.run import run_probe

__all__ = [
    "ProbeRequest",
    "check_gate",
    "gate",
    "judge_named",
    "parse_templates",
    "run_probe",
    "select",
]
