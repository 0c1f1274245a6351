"""The method: who samples what, rollouts, their score, and the trainer."""

from crosslign.distillation.collector import RolloutCollector
from crosslign.distillation.fixed_completions import DivergenceProbe
from crosslign.distillation.trainer import DistillationTrainer

__all__ = ["DistillationTrainer", "DivergenceProbe", "RolloutCollector"]
