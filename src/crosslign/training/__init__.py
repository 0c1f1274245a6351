"""Training: rollouts, the trainer on `transformers.Trainer`, and the run's folder."""

from crosslign.training.arguments import training_arguments
from crosslign.training.callbacks import FrozenTeacherCallback, MetricsCallback, ProgressCallback, RolloutLog
from crosslign.training.collector import RolloutCollector
from crosslign.training.probe import DivergenceProbe
from crosslign.training.run_folder import BEST, EVALUATIONS, GATE, RunFolder, is_disk_full
from crosslign.training.summary import divergence_table, read_metrics
from crosslign.training.teacher_states import stored_bytes
from crosslign.training.trainer import DistillationTrainer

__all__ = [
    "BEST",
    "EVALUATIONS",
    "GATE",
    "DistillationTrainer",
    "DivergenceProbe",
    "FrozenTeacherCallback",
    "MetricsCallback",
    "ProgressCallback",
    "RolloutCollector",
    "RolloutLog",
    "RunFolder",
    "divergence_table",
    "is_disk_full",
    "read_metrics",
    "stored_bytes",
    "training_arguments",
]
