"""Self-distillation strategies, found by name."""

from crosslign.strategies.base import ENTRY_POINT_GROUP, RolloutPlan, Strategy, available, get, register
from crosslign.strategies.msd import Mixed, OffPolicy, OnPolicy

__all__ = [
    "ENTRY_POINT_GROUP",
    "Mixed",
    "OffPolicy",
    "OnPolicy",
    "RolloutPlan",
    "Strategy",
    "available",
    "get",
    "register",
]
