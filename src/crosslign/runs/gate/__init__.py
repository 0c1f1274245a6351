"""The teacher gate: what the teacher context makes of the student's unsafe answers, before any training."""
