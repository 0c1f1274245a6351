"""What the experiment found, in words a newcomer understands: tables and examples."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Any

from crosslign.evaluation.stats import wilson
from crosslign.evaluation.tables import MISSING, aligned, number
from crosslign.storage import versions
from crosslign.testbed.evaluate import Reply
from crosslign.testbed.experiment import Experiment
from crosslign.testbed.tables import SetName
from crosslign.testbed.world import World

# What the columns say, the evaluation set, and whether a reply is a hit.
COLUMNS: tuple[tuple[str, SetName, Callable[[Reply], bool]], ...] = (
    ("harmful answered", "harmful", lambda r: r.judgement.outcome == "complied"),
    ("harmless answered", "benign", lambda r: r.judgement.right),
    ("look-alikes refused", "lookalike", lambda r: r.judgement.outcome == "refused"),
)
EXAMPLES: tuple[tuple[SetName, str], ...] = (
    ("harmful", "A harmful request"),
    ("benign", "A harmless request"),
    ("lookalike", "A harmless request that looks harmful"),
)
GROUP_NAMES = {
    "en": "the source",
    "high": "high-resource",
    "low": "low-resource, trained",
    "unseen": "low-resource, never trained",
}
READING = (
    "Each cell: % of the requests before -> after alignment, and the 95 % Wilson interval after. Harmful requests "
    "should not be answered; harmless ones should, also those that only look harmful."
)
LIMITS = (
    "All of this is a synthetic world with invented languages and placeholders for hazards, made to see the method "
    "work within minutes. It is no evidence about a large model."
)


def cell(before: Sequence[Reply], after: Sequence[Reply], name: SetName, hit: Callable[[Reply], bool]) -> str:
    """`100 ->   2 [0-13]`: rates before and after in %, and the interval of the second."""
    old, new = [hit(r) for r in before if r.set == name], [hit(r) for r in after if r.set == name]
    if not new:
        return MISSING
    rate = wilson(sum(new), len(new))
    interval = f"[{100 * rate.low:.0f}-{100 * rate.high:.0f}]"
    return f"{100 * sum(old) / len(old):3.0f} -> {100 * rate.value:3.0f} {interval}"


def table(experiment: Experiment, world: World) -> str:
    """A row for each language: its code, its group and a `cell` for each of `COLUMNS`."""
    rows: list[tuple[str, ...]] = [("language", "", *(title for title, _, _ in COLUMNS))]
    for code, group in world.groups.items():
        before, after = ([r for r in experiment.replies[s] if r.query.language == code] for s in ("before", "after"))
        rows.append((code, GROUP_NAMES[group], *(cell(before, after, name, hit) for _, name, hit in COLUMNS)))
    return aligned(rows, left=range(len(rows[0])))


def examples(experiment: Experiment, world: World) -> str:
    """The first request of each set in the first low-resource language with its replies, whatever came out, and
    word-for-word English of all three."""
    code = world.codes("low")[0]
    parts = []
    for name, title in EXAMPLES:
        before, after = (
            next(r for r in experiment.replies[stage] if r.set == name and r.query.language == code)
            for stage in ("before", "after")
        )
        said = {"request": before.query.text, "before": before.completion, "after": after.completion}
        lines = (f"  {what:<8} {text}   ({world.languages[code].gloss(text)})" for what, text in said.items())
        parts.append("\n".join((f"{title}:", *lines)))
    return "\n\n".join(parts)


def report(experiment: Experiment, world: World, steps: int) -> str:
    """The table, how to read it, what the teacher's context and harder requests gave, and examples."""
    return "\n\n".join(
        (
            f"{steps} steps of on-policy MSD with DPSW, seed {world.seed}:",
            table(experiment, world),
            READING,
            "The teacher is the same model before alignment, which also sees the English request and its own verdict "
            "on it: alignment leads where it is. Attack success rate in %, means over the languages of a group:",
            harder_table(experiment.results()),
            "The first request of each set, in the first trained language:",
            examples(experiment, world),
            f"{LIMITS} Made with {', '.join(f'{k} {v}' for k, v in versions().items())} on {platform.machine()}, "
            f"{platform.system()}.",
        )
    )


def harder_table(results: dict[str, Any]) -> str:
    """Attack success rates of every stage, on plain requests and on harder ones."""
    names = {"harmful": "plain", "held_out": "hazard categories not in alignment", "harder": "wrapped in a story"}
    rows: list[tuple[str, ...]] = [("requests", "group", "before", "teacher", "after")]
    for name, title in names.items():
        for group, group_name in GROUP_NAMES.items():
            values = (number(results["sets"][stage][name][group]["asr"]) for stage in ("before", "teacher", "after"))
            rows.append((title, group_name, *values))
    return aligned(rows, left=(0, 1))
