"""crosslign: make an open LLM as safe in every language as it already is in English, from queries alone.

A run from Python; the recipe's sections and keys are those of `crosslign train --help`:

    import crosslign

    model = "Qwen/Qwen2.5-7B-Instruct"
    data = {"tables": [{"path": "queries.csv"}], "languages": ["bn", "sw"]}
    recipe = {"model": {"path": model}, "data": data, "output_dir": "runs/aligned"}
    print(crosslign.probe(recipe)["verdict"])  # is the teacher safer? Training moves the model to it
    crosslign.train(recipe)
    crosslign.evaluate(model, ["table:heldout.csv"], "runs/before")
    crosslign.evaluate(model, ["table:heldout.csv"], "runs/after", adapter="runs/aligned")
    results = crosslign.compare("runs/before", "runs/after", "runs/compared")  # runs/compared/report.html shows it

The loss alone, in a training loop of your own, from logits or from hidden states:

    import torch

    head = torch.nn.Linear(64, 1000, bias=False)
    student = torch.randn(2, 8, 64, requires_grad=True)  # hidden states: [batch, tokens, hidden]
    teacher = torch.randn(2, 8, 64)
    mask = torch.ones(2, 8, dtype=torch.bool)  # the real tokens of the completions
    plain = crosslign.weighted_divergence(head(student), head(teacher), mask)
    fused = crosslign.fused_weighted_divergence(student, teacher, head, head, mask)  # the same, without all logits
    fused.loss.backward()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosslign.types import Announce, CrosslignError

if TYPE_CHECKING:
    from crosslign.objective import fused_weighted_divergence, weighted_divergence

__version__ = "0.1.0"
__all__ = [
    "CrosslignError",
    "compare",
    "evaluate",
    "fused_weighted_divergence",
    "probe",
    "train",
    "weighted_divergence",
]

Recipe = str | Path | Mapping[str, Any]


def train(
    recipe: Recipe, *, overwrite: bool = False, resume: bool = False, announce: Announce = print, **changes: Any
) -> Mapping[str, Any]:
    """Align a model by a recipe: a YAML file's path, or the mapping itself. Returns the run's record (`run.json`).

    Args:
        overwrite: replace the run in the recipe's `output_dir`.
        resume: go on from the newest whole checkpoint there.
        announce: gets lines for a person.
        changes: laid over the recipe, key by key: `train("recipe.yaml", training={"max_steps": 20})`.

    Raises CrosslignError, whose message says what to mend, for a wrong recipe, table, model or folder.
    """
    from crosslign.runs.prepare import prepare
    from crosslign.runs.recipe import configuration
    from crosslign.runs.train import train as run_training

    return run_training(prepare(configuration(recipe, changes), overwrite=overwrite, resume=resume), announce)


def probe(
    recipe: Recipe,
    *,
    queries: int = 20,
    judge: str | Sequence[str] | Mapping[str, Any] = "lexicon",
    templates: Mapping[str, str] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    divergence: bool = False,
    announce: Announce = print,
    **changes: Any,
) -> dict[str, Any]:
    """How often does the teacher context turn an unsafe answer into a safe one, in each language? No training.

    Args:
        recipe, changes: as for `train`.
        queries: harmful queries a language, and as many benign ones.
        judge: a judge's name, or the section `judge` of a recipe.
        templates: name -> teacher template, to compare several; None for the recipe's own.
        out: folder for `probe.json` and `pairs.jsonl`; None to write nothing.
        divergence: also measure it, and DPSW's weights, on the student's answers to harmful queries.

    Returns what `probe.json` holds: rates by template and language, `best`, and the `verdict` in a sentence.
    """
    from crosslign.runs.config import JudgeConfig
    from crosslign.runs.gate.probe import ProbeRequest
    from crosslign.runs.gate.probe import probe as run_probe
    from crosslign.runs.recipe import configuration, parse_section

    request = ProbeRequest(
        queries,
        parse_section(JudgeConfig, judge, "judge"),
        templates,
        None if out is None else Path(out),
        overwrite,
        divergence,
    )
    return run_probe(configuration(recipe, changes), request, announce)


def evaluate(
    model: str,
    tasks: Sequence[str | Mapping[str, Any]],
    out: str | Path,
    *,
    adapter: str | Path | None = None,
    endpoint: str | None = None,
    trained: Sequence[str] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    announce: Announce = print,
    **settings: Any,
) -> dict[str, Any]:
    """Complete the queries of tasks, judge the completions, count, and write `results.json` and `report.html`.

    Args:
        model: hub id, folder or `.gguf` file; with `endpoint` (the URL of an OpenAI-compatible server) its name there.
        tasks: by name, such as "multijail" or "table:harmful:FILE".
        out: folder of the evaluation; an interrupted one goes on where it stopped.
        adapter: folder of a finished LoRA run.
        trained: languages that the model was aligned in; None for what the run's record says.
        settings: other keys of a recipe's section `evaluation`: `languages`, `judge`, `limit`, ...

    Returns what `results.json` holds; `crosslign.evaluation.results` documents it.
    """
    from crosslign.models import ModelSource
    from crosslign.runs.config import EvaluationConfig
    from crosslign.runs.evaluate import EndpointSettings, EvaluationRequest
    from crosslign.runs.evaluate import evaluate as run_evaluation
    from crosslign.runs.recipe import parse_section

    request = EvaluationRequest(
        parse_section(EvaluationConfig, {"tasks": list(tasks), **settings}, "evaluate"),
        ModelSource(model),
        Path(out),
        None if adapter is None else str(adapter),
        None if endpoint is None else EndpointSettings(endpoint),
        trained=trained,
        seed=seed,
        overwrite=overwrite,
    )
    return run_evaluation(request, announce)


def compare(before: str | Path, after: str | Path, out: str | Path, *, seed: int = 0) -> dict[str, Any]:
    """Two evaluations over the same queries, paired by query: what changed, and is it real?

    Writes `results.json` and `report.html` into `out`; returns what `results.json` holds. `seed` is the bootstrap's.
    """
    from crosslign.evaluation.folder import compare as compare_folders
    from crosslign.evaluation.folder import read_folder

    return compare_folders(read_folder(Path(before)), read_folder(Path(after)), Path(out), seed)


def __getattr__(name: str) -> Any:
    # PyTorch is imported when it is needed, so that `crosslign --help` answers at once.
    if name in ("weighted_divergence", "fused_weighted_divergence"):
        from crosslign import objective

        return getattr(objective, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
