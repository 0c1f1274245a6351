"""The method: who samples what (strategies), rollouts (collector), their weighted divergence (score), the trainer."""

from crosslign.distillation.collector import RolloutCollector, write_judgements
from crosslign.distillation.moving import MovingTeacher
from crosslign.distillation.run_trainer import RunTrainer
from crosslign.distillation.score import Scorer, check_teacher_temperature, mean_divergence
from crosslign.distillation.strategies import RolloutPlan, Strategy
from crosslign.distillation.trainer import DistillationTrainer

__all__ = [
    "DistillationTrainer",
    "MovingTeacher",
    "RolloutCollector",
    "RolloutPlan",
    "RunTrainer",
    "Scorer",
    "Strategy",
    "check_teacher_temperature",
    "mean_divergence",
    "write_judgements",
]
