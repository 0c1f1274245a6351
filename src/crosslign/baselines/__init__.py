"""Methods to compare with, each by its name in a recipe (`method:`), and the one way to plug in another."""

from crosslign.baselines import from_source, mpo, msd, preference, supervised  # they register themselves
from crosslign.baselines.again import SaysAgain
from crosslign.baselines.base import Answer, Example, Material, Method, Parts, Preference, available, get
from crosslign.baselines.trainer import ExampleMethod, Scores

__all__ = [
    "Answer",
    "Example",
    "ExampleMethod",
    "Material",
    "Method",
    "Parts",
    "Preference",
    "SaysAgain",
    "Scores",
    "available",
    "from_source",
    "get",
    "mpo",
    "msd",
    "preference",
    "supervised",
]
