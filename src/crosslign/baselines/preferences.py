"""Which of two answers of the same model is better, by a judge's verdicts. Pure.

    harmful queries   chosen: the teacher's answer, if it is safe and in the query's language
                      rejected: the student's answer, if it helps with harm
    benign queries    chosen: the answer, of student or teacher, that helps in the query's language
                      rejected: the other role's, if it refuses; else a refusal that the teacher gave to a harmful
                      query in this language: a borrowed one

The first rule is that of safety pairs made by a model itself (Zhao et al. 2025, arXiv 2505.16869, train on harmful
queries alone). The second one is ours, and the same thought: without it a model learns that a refusal is always the
better answer, which is how safety pairs end in over-refusal (Röttger et al. 2024, XSTest, arXiv 2308.01263, on the
symptom). A good teacher refuses no harmless query, and then nothing but a borrowed refusal says that one would be
wrong there. Of two answers that are alike nothing is learned: a pair between them would be taste.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from crosslign.evaluation.rates import SAFE, UNSAFE, JudgedRow
from crosslign.evaluation.tables import aligned
from crosslign.languages import english_name
from crosslign.types import CrosslignError, Role

Reason = Literal["chosen", "borrowed", "both_good", "no_good_answer", "no_bad_answer", "unsure"]
REASONS: tuple[Reason, ...] = get_args(Reason)
_HEAD = ("language", "label", "pairs", "borrowed", "both good", "none good", "none bad", "unsure")


@dataclass(frozen=True, slots=True)
class Choice:
    """What the verdicts say of a query's two answers; `chosen` is None where they are no pair, and `reason` says why:
    both are good; none is good; one is good and the other not bad (malformed, another language); or a judge abstains.

    `lender` is the place of the query whose refusal is the rejected answer, where it is borrowed.
    """

    chosen: Role | None
    reason: Reason
    lender: int | None = None


def choices(pairs: Sequence[tuple[JudgedRow, JudgedRow]]) -> list[Choice]:
    """Of each query's answers, of the student and of the teacher; see the module. Refusals are lent in turn."""
    found = [choose(student, teacher) for student, teacher in pairs]
    refusals: dict[str, list[int]] = defaultdict(list)
    for i, (_, teacher) in enumerate(pairs):
        if teacher.query.label == "harmful" and teacher.verdict.outcome == "refused" and teacher.fidelity != "other":
            refusals[teacher.query.language].append(i)
    lent: Counter[str] = Counter()
    for i, (student, _) in enumerate(pairs):
        language = student.query.language
        own = refusals[language]
        if student.query.label == "benign" and found[i].reason in ("both_good", "no_bad_answer") and own:
            helpful: Role = "student" if _is_good(student) else "teacher"
            found[i] = Choice(helpful, "borrowed", own[lent[language] % len(own)])
            lent[language] += 1
    return found


def choose(student: JudgedRow, teacher: JudgedRow) -> Choice:
    """The better one of the two answers to one query; see the module."""
    if None in (student.verdict.outcome, teacher.verdict.outcome) or student.query.label == "unlabelled":
        return Choice(None, "unsure")
    harmful = student.query.label == "harmful"
    bad = UNSAFE if harmful else ("refused",)
    is_good = {"student": _is_good(student), "teacher": _is_good(teacher)}
    is_bad = {"student": student.verdict.outcome in bad, "teacher": teacher.verdict.outcome in bad}
    if all(is_good.values()):
        return Choice(None, "both_good")
    pairs: tuple[tuple[Role, Role], ...] = (("teacher", "student"),)
    if not harmful:  # a teacher that is less safe than the student teaches nothing; one that refuses more does
        pairs += (("student", "teacher"),)
    for chosen, rejected in pairs:
        if is_good[chosen] and is_bad[rejected]:
            return Choice(chosen, "chosen")
    return Choice(None, "no_bad_answer" if any(is_good.values()) else "no_good_answer")


def _is_good(row: JudgedRow) -> bool:
    good = SAFE if row.query.label == "harmful" else ("safe_complied",)
    return row.verdict.outcome in good and row.fidelity != "other"


Counts = Mapping[str, Mapping[str, Mapping[Reason, int]]]


def counted(choices: Iterable[tuple[JudgedRow, Choice]], languages: Sequence[str]) -> Counts:
    """language -> label -> reason -> number of queries; each with one of its answers."""
    found = Counter((row.query.language, row.query.label, choice.reason) for row, choice in choices)
    return {
        code: {
            label: {reason: found[code, label, reason] for reason in REASONS}
            for label in ("harmful", "benign", "unlabelled")
            if any(found[code, label, reason] for reason in REASONS)
        }
        for code in languages
    }


def counts_text(counts: Counts) -> str:
    """What `counted` found, for a terminal."""
    rows: list[tuple[str, ...]] = [_HEAD]
    for code, labels in counts.items():
        rows += [
            (f"{code} ({english_name(code)})", label, *(str(numbers[reason]) for reason in REASONS))
            for label, numbers in labels.items()
        ]
    return aligned(rows, left=(0, 1))


def check_counts(counts: Counts, source_language: str) -> list[str]:
    """Languages other than the source that have harmful queries and no pair of them, since the model is safe there: at
    least half of these queries have two good answers.

    Raises CrosslignError for one that has none for another reason, for one that has some and in which no harmless query
    is helped with, and if no language has any.
    """
    empty = {
        code: numbers
        for code, labels in counts.items()
        if code != source_language and (numbers := labels.get("harmful")) is not None and not numbers["chosen"]
    }
    safe = [code for code, numbers in empty.items() if 2 * numbers["both_good"] >= sum(numbers.values())]
    none = not any(numbers["chosen"] for labels in counts.values() for numbers in labels.values())
    wrong = [
        f"{code}: no pair in {sum(numbers.values())} harmful queries: both answers were safe in "
        f"{numbers['both_good']}, the teacher's was unfit in {numbers['no_good_answer']}, the student's was not unsafe "
        f"but malformed or in another language in {numbers['no_bad_answer']}, and the judge abstained on "
        f"{numbers['unsure']}"
        for code, numbers in empty.items()
        if none or code not in safe
    ]
    wrong += [
        f"{code}: pairs of harmful queries, and none of harmless ones: the judge found help in neither answer to "
        f"{numbers['no_good_answer']} of {sum(numbers.values())} harmless queries"
        for code, labels in counts.items()
        if labels.get("harmful", {}).get("chosen")
        and (numbers := labels.get("benign")) is not None
        and numbers["no_good_answer"]
        and not any(numbers[reason] for reason in REASONS if reason not in ("no_good_answer", "unsure"))
    ]
    if wrong or none:
        raise CrosslignError(
            "\n".join(
                [
                    *(wrong or ["no query has a pair of answers"]),
                    "A method that learns from pairs needs some in every language in which the model is not safe. "
                    "Leave such languages out of data.languages, add harmful queries, or find a better teacher "
                    "template with `crosslign probe RECIPE --templates instruct,judged,dialogue`.",
                ]
            )
        )
    return safe


def without_harmless(counts: Counts) -> list[str]:
    """Languages that have pairs of harmful queries alone."""

    def pairs(labels: Mapping[str, Mapping[Reason, int]], label: str) -> int:
        numbers = labels.get(label)
        return 0 if numbers is None else numbers["chosen"] + numbers["borrowed"]

    return [code for code, labels in counts.items() if pairs(labels, "harmful") and not pairs(labels, "benign")]
