"""A real model made safer: base, teacher and one change at a time, measured on the same held-out queries.

    python -m benchmarks.real --model FOLDER --queries xsafety.csv benchmarks/xsafety_ind_vi.csv --out runs/real --plan
    python -m benchmarks.real --model FOLDER --queries xsafety.csv benchmarks/xsafety_ind_vi.csv --out runs/real \\
        --validation benchmarks/xsafety_ind_vi_validation.csv

The first table has the columns `id`, `category` and a language each, all of its rows being harmful (XSafety's, for
example); another one may add languages to it (`id` and a language each). Of one category a part is trained on; the rest
of it and a part of another are held out. Harmless queries are those that ship with the package: `builtin:benign` and
`builtin:statements` are trained on, `builtin:benign-heldout` is not. So are the table's mild categories, harmless rows
that are written like the harmful ones. `--more` names further tables to train on (`id`, `label`, and what the others
lack): harmful rows of other kinds, and harmless ones. Such tables were fresh once.

`--plan` says what would be made, and in how many hours. Everything lies in one folder, a folder a cell (a change and a
seed), and is made by `crosslign train` and `crosslign eval`. An interrupted call goes on where it stopped; several
calls may work on different cells (`--only`, `--seeds`). A cell that fails is named, the others are made, and the call
ends with 1.

The change `best checkpoint` chooses a checkpoint by rows that are neither trained on nor held out: `--validation` names
a table of them (`id` and a language each; their English and their category are the first table's).

`--fresh` names a table of rows that nothing was chosen by (`id`, `label`, and what the others lack): the model itself
and all trained cells are measured on them too, into a file of verdicts of their own (`..._fresh.jsonl`; of another
table of them, rows_fresh2.csv, `..._fresh2.jsonl`).

The verdicts, without the replies, are kept in one file (`--verdicts`). A cell that it holds with the same settings is
not made again; `python -m benchmarks.real_tables FILE` makes the tables of it, and needs no model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.real_recipe import BENIGN, WATCH, recipe, settings
from benchmarks.real_rows import HELD_OUT, Plan, rows_of, split
from benchmarks.real_tables import report
from benchmarks.real_variants import BASE, BEST, CONTEXTS, PLANNED, VARIANTS
from benchmarks.real_verdicts import Cell, Verdicts, of_evaluation
from benchmarks.summary import machine
from crosslign.evaluation.folder import read_folder
from crosslign.evaluation.stages import RESULTS
from crosslign.storage import digest, write_atomically
from crosslign.types import CrosslignError

LOSSES, SECONDS = "losses.json", "seconds.json"
SETTINGS = ".settings.txt"  # ends a file beside a cell's folder: the digest of what it is made with
# Seconds before any was measured: of a step, and of an evaluation in three languages.
STEP, EVALUATING = 12, 480
WATCHED = 0.3  # of an evaluation's time, for one while training: 120 rows of 40 tokens in place of 256 of 64
Key = tuple[str, int | None]  # of a cell: its name and seed


def note_of(plan: Plan, name: str, seed: int | None, now: str) -> Path:
    """The file that says with what settings a cell's folder is made. Raises CrosslignError if these were others."""
    folder = plan.cell(name, seed)
    note = folder.with_name(folder.name + SETTINGS)
    before = note.read_text(encoding="utf-8") if note.exists() else "unknown"
    if folder.exists() and before != now:
        raise CrosslignError(f"{folder}: was made with other settings ({before}). Remove it, or name another --out.")
    return note


def check_made(plan: Plan, name: str, seed: int | None, now: str) -> None:
    """Note with what settings a cell's folder is made; see `note_of`."""
    write_atomically(note_of(plan, name, seed, now), now)


def check_all(plan: Plan, marks: Mapping[Key, str], asked: Path) -> None:
    """What would be refused at a cell's end, hours later. `asked` is the table that the cells are measured on.

    Raises CrosslignError for kept verdicts on other rows or of another model, and for folders of other settings.
    """
    if marks:
        Verdicts.read(plan.verdicts).check(rows_of(asked), about(plan))
    for (name, seed), mark in marks.items():
        note_of(plan, name, seed, mark)


def train(plan: Plan, name: str, seed: int) -> Path:
    """The folder of the finished run."""
    folder = plan.cell(name, seed)
    run = folder / "run"
    if not is_finished(run):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe(plan, VARIANTS[name], seed, folder), sort_keys=False), encoding="utf-8")
        call("crosslign.cli", "train", str(path), "--resume" if list(run.glob("checkpoint-*")) else "--overwrite")
    return run


def adapter_of(plan: Plan, name: str, seed: int) -> str:
    """What is measured of a cell: its trained run, or a checkpoint of it."""
    return str(train(plan, name, seed) / VARIANTS[name].get("checkpoint", ""))


def is_finished(run: Path) -> bool:
    record = run / "run.json"
    return record.exists() and json.loads(record.read_text(encoding="utf-8")).get("status") == "finished"


def evaluate(
    plan: Plan,
    out: Path,
    tasks: Sequence[str],
    languages: Sequence[str],
    adapter: str = "",
    template: str | None = None,
) -> None:
    """Complete, judge and count these queries, in the context of a teacher's template if one is named."""
    if not (out / RESULTS).exists():
        flags = ["--model", plan.model, "--dtype", "bfloat16", "--out", str(out)]
        flags += ["--tasks", ",".join(tasks)]
        flags += ["--languages", ",".join(languages), "--trained-languages", ",".join(plan.trained)]
        flags += ["--max-completion-length", str(plan.completion), "--batch-size", str(plan.batch)]
        flags += ["--adapter", adapter] if adapter else []
        if template is not None:
            length = recipe(plan, {}, 0, out)["teacher"]["max_judgement_length"]
            flags += ["--context", "teacher", "--template", template, "--max-judgement-length", str(length)]
        start = time.perf_counter()
        call("crosslign.cli", "eval", *flags)
        if not (out / SECONDS).exists():  # judging again takes none
            write_atomically(out / SECONDS, json.dumps(round(time.perf_counter() - start)))


def measure_text(plan: Plan, out: Path, languages: Sequence[str], adapter: str = "") -> None:
    """How likely ordinary text is."""
    if not (out / LOSSES).exists():
        call("benchmarks.real_losses", plan.model, adapter, str(out / LOSSES), ",".join(languages))


def keep(plan: Plan, name: str, seed: int | None, mark: str, evaluation: Path) -> None:
    """Put a cell's verdicts into the file of all; `mark` is the digest of its settings."""
    seconds, gate = {}, {}
    if (evaluation / SECONDS).exists():
        seconds["evaluating"] = json.loads((evaluation / SECONDS).read_text(encoding="utf-8"))
    made = evaluation.with_name("run") / "run.json"
    if made.exists():
        record = json.loads(made.read_text(encoding="utf-8"))
        gate = record.get("gate", {}).get("rows", {})
        seconds["training"] = record.get("seconds")
    rows, letters = of_evaluation(read_folder(evaluation))
    losses = {}
    if (evaluation / LOSSES).exists():
        found = json.loads((evaluation / LOSSES).read_text(encoding="utf-8"))
        losses = {code: [by_id[id] for id, _ in rows["benign"]] for code, by_id in found.items()}
    cell = Cell(name, seed, mark, **letters, losses=losses, seconds=seconds, gate=gate)
    Verdicts.read(plan.verdicts).keep(cell, rows, {**about(plan), "machine": machine()})


def about(plan: Plan) -> dict[str, Any]:
    """What all verdicts of a file have in common."""
    return {"trained": list(plan.trained), "model": Path(plan.model).name}


def page(plan: Plan, seed: int) -> None:
    """The best recipe beside the base model as a page, where both were made in this folder."""
    base, best, out = plan.evaluation(BASE), plan.evaluation(BEST, seed), plan.out / "compared"
    if (base / RESULTS).exists() and (best / RESULTS).exists() and not out.exists():
        call("crosslign.cli", "compare", str(base), str(best), "--out", str(out))


def call(module: str, *arguments: str) -> None:
    """Run a Python module on one core; its messages go where ours go. Raises CrosslignError if it fails."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    if subprocess.run([sys.executable, "-m", module, *arguments], env=environment).returncode:  # noqa: S603
        raise CrosslignError(f"{module} {arguments[0]} has failed, as it says above.")


def hours(plan: Plan, cells: Sequence[Key], fresh: Sequence[Key] = ()) -> str:
    """About what cells, and these evaluations on fresh rows, take on one core, by what was measured so far: of cells
    that train and sample alike, if there are any. A run that is measured on fresh rows may have to be made first."""

    def way(name: str) -> tuple[str, str]:
        raw = recipe(plan, VARIANTS[name], 0, Path())
        return raw["strategy"]["name"], raw.get("method", {}).get("name", "msd")

    def steps(name: str) -> int:
        return int(recipe(plan, VARIANTS[name], 0, Path())["training"]["max_steps"])

    made = Verdicts.read(plan.verdicts).cells
    evaluating = [cell.seconds["evaluating"] for cell in made if "evaluating" in cell.seconds] or [EVALUATING]
    by_way: dict[tuple[str, str], list[float]] = {}
    for cell in made:
        if cell.name in VARIANTS and cell.seconds.get("training"):
            by_way.setdefault(way(cell.name), []).append(cell.seconds["training"] / steps(cell.name))
    known = [step for found in by_way.values() for step in found] or [STEP]
    evaluation = statistics.mean(evaluating)
    number = len(cells) + len(fresh)
    seconds = number * evaluation
    gone = [key for key in fresh if key not in cells and not is_finished(plan.cell(*key) / "run")]
    for name in (name for name, _ in [*cells, *gone] if name in VARIANTS):
        seconds += steps(name) * statistics.mean(by_way.get(way(name), known))
        if "checkpoint" in VARIANTS[name]:
            seconds += steps(name) / WATCH["every_steps"] * WATCHED * evaluation
    said = "" if made else ", by another machine's times until one cell is made"
    return f"{number} cells, about {seconds / 3600:.1f} hours on one core{said}."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument(
        "--queries", required=True, nargs="+", type=Path, help="CSV: id, category, and a language each; more languages"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--trained", nargs="+", default=["ind", "vi"], help="languages that are trained on")
    parser.add_argument(
        "--watched", nargs="+", default=["ar", "ru", "zh"], help="others that are measured, beside English"
    )
    parser.add_argument("--category", default="crimes_and_illegal_activities", help="of the rows that are trained on")
    parser.add_argument("--other", default="unsafe_instruction_topic", help="category of which held-out rows are added")
    parser.add_argument(
        "--mild",
        nargs="*",
        default=["mental_health", "ethics_and_morality"],
        help="categories of harmless rows, which are trained on as such",
    )
    parser.add_argument("--more", nargs="*", type=Path, default=[], help="CSV: id, label and languages; trained on too")
    parser.add_argument("--validation", type=Path, help="CSV: id and a language each; rows to choose a checkpoint by")
    parser.add_argument("--fresh", type=Path, help="CSV: id, label and languages; rows that nothing was chosen by")
    parser.add_argument("--rows", type=int, default=110, help="rows to train on")
    parser.add_argument("--held-out", type=int, default=160, help="rows to measure on")
    parser.add_argument("--completion", type=int, default=64, help="longest answer that is measured, in tokens")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--only", nargs="+", default=[*PLANNED, *CONTEXTS], help="cells: %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--plan", action="store_true", help="say what would be made, and stop")
    parser.add_argument("--verdicts", type=Path, help="the file of all verdicts (default: OUT/verdicts.jsonl)")
    arguments = vars(parser.parse_args())
    only, seeds, plan_only = (arguments.pop(name) for name in ("only", "seeds", "plan"))
    if unknown := set(only) - {*VARIANTS, *CONTEXTS}:
        parser.error(f"unknown cells: {', '.join(sorted(unknown))}")
    arguments |= {name: tuple(arguments[name]) for name in ("trained", "watched", "mild", "more")}
    out = arguments["out"].absolute()
    plan = Plan(**{**arguments, "out": out, "verdicts": (arguments["verdicts"] or out / "verdicts.jsonl").absolute()})
    try:
        split(plan, only_say=plan_only)
        contexts, variants = ([name for name in known if name in only] for known in (CONTEXTS, VARIANTS))
        failed = make(plan, contexts, variants, seeds, plan_only)
        if not plan_only:
            if plan.fresh is not None:
                runs = [(name, seed) for name in variants for seed in seeds]
                failed |= measure_fresh(plan, [run for run in runs if run not in failed])
            write_atomically(out / "real.md", report(Verdicts.read(plan.verdicts)))
            print(out / "real.md")
            if failed:
                names = ", ".join(sorted(title(*cell) for cell in failed))
                print(f"failed: {names}. The same command tries them again.", file=sys.stderr)
            page(plan, seeds[0])
    except CrosslignError as error:
        raise SystemExit(f"benchmarks.real: {error}") from None
    return 1 if failed else 0


def title(name: str, seed: int | None) -> str:
    return name if seed is None else f"{name}, seed {seed}"


def make(
    plan: Plan, contexts: Sequence[str], variants: Sequence[str], seeds: Sequence[int], only_say: bool
) -> set[Key]:
    """Every cell whose verdicts are not kept yet: first the model itself, then the best recipe. Returns those that have
    failed."""
    cells = [*((name, None) for name in contexts), *((name, seed) for name in variants for seed in seeds)]
    kept = Verdicts.read(plan.verdicts)
    missing = {
        (name, seed): mark for name, seed in cells if kept.find(name, seed, mark := settings(plan, name)) is None
    }
    fresh = missing_fresh(plan, [(name, seed) for name in variants for seed in seeds])
    print(f"{len(cells) - len(missing)} cells are there. To make: {hours(plan, [*missing], [*fresh])}", flush=True)
    check_all(plan, missing, plan.out / HELD_OUT)
    check_all(of_fresh(plan), fresh, plan.fresh_rows)
    for name, seed in fresh:
        if seed is not None:  # the run that is measured there
            note_of(plan, name, seed, settings(plan, name))
    if only_say:
        print(
            "\n".join(
                [*(f"  {title(*cell)}" for cell in missing), *(f"  fresh rows: {title(*cell)}" for cell in fresh)]
            )
        )
        return set()
    if plan.validation is None and (watching := [n for n, _ in missing if "checkpoint" in VARIANTS.get(n, {})]):
        raise CrosslignError(
            f"{watching[0]!r} needs rows to choose a checkpoint by. Name a table of them, --validation FILE, or leave "
            "this cell out by --only."
        )

    def one(name: str, seed: int | None, mark: str) -> None:
        check_made(plan, name, seed, mark)
        languages, tasks = plan.measured(name), [f"table:{plan.out / HELD_OUT}", BENIGN]
        evaluation, template = plan.evaluation(name, seed), CONTEXTS.get(name)
        adapter = "" if seed is None else adapter_of(plan, name, seed)
        evaluate(plan, evaluation, tasks, languages, adapter, template)
        if template is None:
            measure_text(plan, evaluation, languages, adapter)
        keep(plan, name, seed, mark, evaluation)

    return each(missing, one)


def each(marks: Mapping[Key, str], one: Callable[[str, int | None, str], None], of: str = "") -> set[Key]:
    """Make one cell after the other; a failure is told, and stops no other. Returns the cells that have failed."""
    failed = set()
    for (name, seed), mark in marks.items():
        print(f"{of}{title(name, seed)}", flush=True)
        try:
            one(name, seed, mark)
        except CrosslignError as error:
            print(f"{of}{title(name, seed)}: failed: {error}", file=sys.stderr, flush=True)
            failed.add((name, seed))
    return failed


def of_fresh(plan: Plan) -> Plan:
    """Where evaluations on fresh rows lie, and their verdicts."""
    verdicts = plan.verdicts.with_stem(f"{plan.verdicts.stem}_{plan.fresh_name}")
    return replace(plan, out=plan.out / plan.fresh_name, verdicts=verdicts)


def missing_fresh(plan: Plan, runs: Sequence[Key]) -> dict[Key, str]:
    """The evaluations on fresh rows that are not kept yet, with the digests of their settings: of the model itself, and
    of these runs."""
    if plan.fresh is None:
        return {}
    rows, kept = plan.fresh_rows.read_text(encoding="utf-8"), Verdicts.read(of_fresh(plan).verdicts)
    cells: list[Key] = [(BASE, None), *runs]
    marks = {cell: digest([settings(plan, cell[0]), rows])[:16] for cell in cells}
    return {cell: mark for cell, mark in marks.items() if kept.find(*cell, mark) is None}


def measure_fresh(plan: Plan, runs: Sequence[Key]) -> set[Key]:
    """The model itself and these runs on the fresh rows. Returns those that have failed."""
    own = of_fresh(plan)

    def one(name: str, seed: int | None, mark: str) -> None:
        check_made(own, name, seed, mark)
        adapter = ""
        if seed is not None:
            check_made(plan, name, seed, settings(plan, name))
            adapter = adapter_of(plan, name, seed)
        evaluation = own.evaluation(name, seed)
        evaluate(own, evaluation, [f"table:{plan.fresh_rows}"], plan.measured(name), adapter)
        keep(own, name, seed, mark, evaluation)

    failed = each(missing_fresh(plan, runs), one, "fresh rows: ")
    print(f"Tables of the fresh rows: python -m benchmarks.real_tables {own.verdicts}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
