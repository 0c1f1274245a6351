"""A finished evaluation whose files are damaged or edited in every way: it is told, never a traceback, and evaluated
again the folder is right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluations import Phrase, Table, task

from crosslign.evaluation import stages
from crosslign.evaluation.folder import check_folder, compare, read_folder, report
from crosslign.evaluation.stages import ANSWERS, Evaluation, folder_name, run
from crosslign.evaluation.stats import wilson
from crosslign.storage import FINISHED
from crosslign.types import OUTCOMES, CrosslignError

DATA = task("bad", "harmful", ("en", "bn"), 10)
STAGES = ("completions.jsonl", "verdicts-phrase.jsonl", "fidelity.jsonl")
FILES = [*(f"bad/{name}{more}" for name in STAGES for more in ("", ".identity.json")), "results.json"]
DEEP = "[" * 100_000
WRONG: tuple[Any, ...] = (None, -1, 10**30, 0.5, True, "no such thing", "", [], {}, [[1]], {"en": None}, "\x1b[2J")
Damage = Callable[[bytes], bytes]


def evaluated(folder: Path) -> dict[str, Any]:
    """Evaluate into the folder as `crosslign eval` does."""
    check_folder(folder, "evaluation")
    return run(Evaluation(folder, [DATA], [Phrase()], {"model": "table"}), Table())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("good") / "evaluation"
    return folder, evaluated(folder)


def places(value: Any, depth: int = 3) -> Iterator[tuple[Any, ...]]:
    """The place of every key in what JSON holds; deeper down `results.json` holds what is counted anew."""
    for key in value if isinstance(value, dict) and depth else ():
        yield (key,)
        yield from ((key, *place) for place in places(value[key], depth - 1))


def wrong(data: bytes) -> Iterator[tuple[str, bytes]]:
    """A JSON document with each of its values deleted, and replaced by some that it cannot be."""
    for number, place in enumerate(places(json.loads(data))):
        for value in (..., *(WRONG[(number + i) % len(WRONG)] for i in (0, 3, 7))):
            yield f"{place} is {value!r}", changed(data, place, value)


def changed(data: bytes, place: tuple[Any, ...], value: Any) -> bytes:
    """The document with another value at the place; ... deletes it."""
    document = json.loads(data)
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return json.dumps(document, ensure_ascii=False).encode()


def damages(path: Path) -> Iterator[tuple[str, Damage]]:
    data = path.read_bytes()
    for text in (b"", b"\n", bytes(range(256)) * 9, b"\0" * 300, DEEP.encode(), b"9" * 10_000, b"null", b"[]", b"{}"):
        yield f"is {text[:9]!r}", lambda _, text=text: text
    # Also within a character of several bytes, just before a line's end, and just after.
    middle = next((i for i, byte in enumerate(data) if byte >= 0xC0), 0) + 1
    line = data.index(b"\n")
    for end in {1, 2, middle, line, line + 1, line + 30, len(data) // 2, len(data) - 30, len(data) - 1}:
        yield f"ends at {end}", lambda data, end=end: data[:end]
    yield "lacks a byte", lambda data: data[:middle] + data[middle + 1 :]
    if path.suffix == ".json":
        yield from ((what, lambda _, document=document: document) for what, document in wrong(data))
        return
    rows = data.splitlines(keepends=True)
    yield "twice", lambda data: data + data
    yield "first row again", lambda data: data + rows[0]
    yield "a row of another query", lambda data: data + changed(rows[0], ("id",), "new") + b"\n"
    yield "in another order", lambda data: b"".join(reversed(rows))
    yield "an empty line and noise", lambda data: rows[0] + b"\n\xff\xfe\n" + b"".join(rows[1:])
    for value in (DEEP, "9" * 10_000, "null", "3", '"text"'):
        yield f"row is {value[:9]}", lambda data, value=value: b"".join((*rows[:3], value.encode(), b"\n", *rows[4:]))
    for what, row in wrong(rows[3]):
        yield f"row's {what}", lambda data, row=row: b"".join((*rows[:3], row, b"\n", *rows[4:]))


def told(action: Callable[[], Any]) -> Any:
    """What the action gives, or the error that it tells in one line."""
    try:
        return action()
    except CrosslignError as error:
        return error if len(str(error).splitlines()) == 1 and len(str(error)) < 1000 else pytest.fail(str(error))


# One file of rows, one identity; the others go the same way.
@pytest.mark.parametrize(
    "name", [n if n in (FILES[0], FILES[-1]) else pytest.param(n, marks=pytest.mark.slow) for n in FILES]
)
def test_every_damage_is_told_and_mended(good: tuple[Path, dict[str, Any]], tmp_path: Path, name: str) -> None:
    source, right = good
    for number, (what, damage) in enumerate(damages(source / name)):
        folder = tmp_path / str(number)
        shutil.copytree(source, folder)
        (folder / name).write_bytes(damage((source / name).read_bytes()))

        found = told(lambda folder=folder: read_folder(folder))
        if not isinstance(found, CrosslignError):
            report(found)
            told(lambda found=found, number=number: compare(found, read_folder(source), tmp_path / f"c{number}"))

        results = told(lambda folder=folder: evaluated(folder))
        if isinstance(results, CrosslignError):
            # Completions are never thrown away unasked: not if what they depend on is lost.
            assert name == "bad/completions.jsonl.identity.json" or "holds no evaluation" in str(results), what
        elif results != right:
            finished = read_folder(folder)
            assert any(name in note for note in finished.notes), what
            assert name.removeprefix("bad/") in "completions.jsonl verdicts-phrase.jsonl", what
        else:
            assert {**read_folder(folder).results, "manifest": 0} == {**right, "manifest": 0}, what
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["bad", *FILES, "report.html"])
def test_a_folder_in_the_place_of_a_file_is_told(good: tuple[Path, dict[str, Any]], tmp_path: Path, name: str) -> None:
    folder = tmp_path / "evaluation"
    shutil.copytree(good[0], folder)
    place = folder / name
    if place.is_dir():
        shutil.rmtree(place)
        place.write_text("a file in the place of a folder")
    else:
        place.unlink(missing_ok=True)
        place.mkdir()
    for action in (lambda: report(read_folder(folder)), lambda: evaluated(folder)):
        told(action)


def edited(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text(encoding="utf-8")
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")


def test_an_edited_verdict_is_counted_and_said_whoever_reads_it(
    good: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    source, right = good
    folder = tmp_path / "evaluation"
    shutil.copytree(source, folder)
    assert read_folder(folder).notes == ()
    edited(folder, "bad/verdicts-phrase.jsonl", '"unsafe"', '"refused"')

    for _ in range(2):  # also when it was evaluated again, which judges nothing anew
        finished = read_folder(folder)
        assert any("verdicts-phrase.jsonl: was changed after crosslign had finished it" in n for n in finished.notes)
        before, now = (part["tasks"]["bad"]["all"]["outcomes"] for part in (right, finished.results))
        assert (now["unsafe"], now["refused"]) == (before["unsafe"] - 1, before["refused"] + 1)
        assert "Changed by hand after crosslign had finished it" in report(finished).read_text(encoding="utf-8")
        compare(read_folder(source), finished, tmp_path / "c")
        page = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
        assert "counted as it is now: after bad/verdicts-phrase.jsonl" in page
        shutil.rmtree(tmp_path / "c")
        evaluated(folder)

    (folder / "bad" / "verdicts-phrase.jsonl").unlink()  # as the note says
    assert evaluated(folder) == right
    assert read_folder(folder).notes == ()


def test_edited_results_are_not_believed(good: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    shutil.copytree(good[0], folder)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    results["tasks"]["bad"]["all"]["asr"] = {"value": 0.0, "low": 75.8, "high": 100.0, "count": 0, "n": 20}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    finished = read_folder(folder)
    assert finished.results == good[1]
    [note] = finished.notes
    assert "results.json: says other numbers than the rows of its stages" in note
    evaluated(folder)
    assert read_folder(folder).notes == ()


def test_utility_is_counted_from_its_answers(good: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    shutil.copytree(good[0], folder)
    answers = [{"task": "mgsm", "language": "en", "correct": i < 3} for i in range(12)]
    (folder / ANSWERS).write_text("".join(json.dumps(row) + "\n" for row in answers) + '{"task": "mg', encoding="utf-8")
    right = {"metric": "exact_match", **wilson(3, 12).percent(), "n": 12}
    for value, notes in ((25.0, 0), (90.0, 1)):
        results = {**good[1], "utility": {"mgsm": {"en": {**right, "value": value}, "sw": right}}}
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
        finished = read_folder(folder)
        assert finished.results["utility"] == {"mgsm": {"en": right, "sw": right}}
        assert len(finished.notes) == notes


def test_what_was_interrupted_or_extended_is_no_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "CHUNK", 3)
    for size, batches, verdicts in ((4, 3, None), (6, None, 5), (10, 2, None), (10, None, None)):
        evaluation = Evaluation(tmp_path, [task("bad", "harmful", rows=size)], [Phrase(dies_after=verdicts)], {})
        try:
            run(evaluation, Table(dies_after=batches))
        except KeyboardInterrupt:
            continue
        assert read_folder(tmp_path).notes == ()
    assert FINISHED in json.loads((tmp_path / "bad" / "completions.jsonl.identity.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("outcome", [*OUTCOMES, None])
def test_every_outcome_is_a_verdict_and_an_abstention_says_why(outcome: str | None) -> None:
    row = {"outcome": outcome, "reason": "because", "lenient": None, "details": {}}
    assert stages.is_verdict(row)
    assert stages.is_verdict({**row, "reason": ""}) == (outcome is not None)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/etc", "con", "NUL", "com1.txt", "x" * 10_000, "..." * 40, "a\0b", "é" * 61, "a "],
)
def test_no_task_leaves_the_folder(name: str) -> None:
    made = folder_name(name)
    assert Path(made).name == made
    assert made.strip(".") == made
    assert len(made.encode()) < 200
    assert made.lower().partition(".")[0] not in ("con", "nul", "com1")
    assert made != folder_name(f"{name}x")


@pytest.mark.parametrize("name", ["multijail", "xsafety", "verdicts.v2", "a-b_c"])
def test_a_plain_name_stays(name: str) -> None:
    assert folder_name(name) == name
