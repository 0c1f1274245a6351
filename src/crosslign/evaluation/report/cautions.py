"""What a reader must know before believing the numbers: made from results.json, said at the top of the page."""

from __future__ import annotations

from collections.abc import Sequence

from crosslign.evaluation.report.layout import Task, manifests, sides
from crosslign.evaluation.report.numbers import Numbers, pointer
from crosslign.evaluation.report.sentences import Name, Number, Sentence, sentence

_MUST_AGREE = {
    "judges": "Before and after were not judged by the same judges: their rates cannot be compared.",
    "tasks": "Before and after did not run on the same version of the tasks: their rates may not be comparable.",
    "sampling": "Before and after were sampled with different settings: a part of the change may come from that.",
}
_PROXY = "lexicon"


def cautions(numbers: Numbers, tasks: Sequence[Task]) -> list[Sentence]:
    """Differences of the two sides, proxies for judges, rows without a verdict, answers cut off; or nothing."""
    return [*_differences(numbers), *_proxies(numbers), *_counts(numbers, tasks)]


def _differences(numbers: Numbers) -> list[Sentence]:
    at = manifests(numbers)
    if len(at) < 2:
        return []
    return [
        sentence(words)
        for key, words in _MUST_AGREE.items()
        if len(values := [numbers.at(f"{path}/{key}") for path in at]) == 2 and values[0] != values[1]
    ]


def _proxies(numbers: Numbers) -> list[Sentence]:
    found: list[str] = []
    for manifest in manifests(numbers):
        for judge in numbers.keys(f"{manifest}/judges"):
            kind = numbers.at(f"{manifest}/judges{pointer(judge)}/kind")
            if _PROXY in (judge, kind) and judge not in found:
                found.append(judge)
    return [
        sentence(
            "The judge ", Name(judge), " is a list of phrases and patterns: a proxy, not a reading of the answers."
        )
        for judge in found
    ]


def _counts(numbers: Numbers, tasks: Sequence[Task]) -> list[Sentence]:
    said = []
    for task in tasks:
        if not task.all:
            continue
        without, cut = [], []
        for side in sides(numbers):
            cell = f"{task.all.path}{side.suffix}"
            rows, judged, ended = (numbers.number(f"{cell}/{key}") for key in ("n", "judged", "truncated"))
            of_rows = sentence(" of ", Number(f"{cell}/n", "count"), f" {side.name}" if side.name else "")
            if rows is not None and judged is not None and judged < rows:
                without.append(sentence(Number(f"{cell}/judged", "count"), of_rows))
            if rows and ended:
                cut.append(sentence(Number(f"{cell}/truncated", "count"), of_rows))
        name = sentence(Name(task.name), ": ")
        if without:
            said.append(sentence(name, "answers with a verdict: ", _listed(without), "; the others count nowhere."))
        if cut:
            said.append(sentence(name, "answers cut off by the length limit: ", _listed(cut), "."))
    return said


def _listed(parts: Sequence[Sentence]) -> Sentence:
    return sentence(*(sentence(", " if i else "", part) for i, part in enumerate(parts)))
