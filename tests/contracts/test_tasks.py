"""The contract of every task, the hub's part of it, and tasks by name, those of a user's package included.

What is common to all that packages plug in, `test_strategies` proves.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from conftest import write_csv
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from task_files import WRITERS

from crosslign.data.load import BUILTIN
from crosslign.evaluation import tasks
from crosslign.evaluation.tasks import Task, TaskData
from crosslign.evaluation.tasks.base import LABELS_OF
from crosslign.languages import is_language
from crosslign.types import CrosslignError

every_task = pytest.mark.parametrize("name", tasks.names())
FROM_HUB = [task.name for task in map(tasks.get_task, tasks.names()) if task.source.repo]
every_hub_task = pytest.mark.parametrize("name", FROM_HUB)


def load(name: str, folder: Path, languages: list[str] | None = None, **options: Any) -> TaskData:
    """A task's data from files of its shape, which are written into the folder."""
    path = None if name in BUILTIN else str(WRITERS[name](folder))
    return tasks.get_task(name).load(languages, path=path, **options)


def some(data: TaskData) -> list[str]:
    """English, where the set has it, and another language, where it has one."""
    return sorted(data.languages, key=lambda code: (code != "en", code))[:2]


@every_task
def test_every_task_describes_itself(name: str) -> None:
    task = tasks.get_task(name)
    assert isinstance(task, Task)
    assert task.name == name
    assert task.version
    assert task.kind in LABELS_OF
    assert task.licence
    assert task.citation
    assert all(is_language(code) for code in task.languages)
    assert len(set(task.languages)) == len(task.languages)
    if task.source.repo:
        assert task.source.files
        assert task.source.revision is None or re.fullmatch("[0-9a-f]{40}", task.source.revision)


@every_task
def test_every_task_gives_queries_that_results_can_be_paired_by(name: str, tmp_path: Path) -> None:
    data = load(name, tmp_path)
    task = tasks.get_task(name)
    assert (data.name, data.kind, data.version) == (name, task.kind, task.version)
    assert data.queries
    assert len({q.key for q in data.queries}) == len(data.queries)
    assert data.rows == len({q.id for q in data.queries})
    assert {q.language for q in data.queries} == set(data.languages)
    for query in data.queries:
        assert query.text.strip()
        assert query.source_text.strip()
        assert query.label in LABELS_OF[data.kind]
        assert query.source_language == "en"
        if query.language == "en":
            assert query.text == query.source_text


@every_task
def test_translations_share_an_id_a_source_text_a_label_and_a_category(name: str, tmp_path: Path) -> None:
    rows: dict[str, set[object]] = {}
    for query in load(name, tmp_path).queries:
        rows.setdefault(query.id, set()).add((query.source_text, query.label, query.category))
    assert all(len(values) == 1 for values in rows.values())


@every_task
def test_the_same_load_gives_the_same_queries_and_hash(name: str, tmp_path: Path) -> None:
    first, second = load(name, tmp_path, limit=3), load(name, tmp_path, limit=3)
    assert first == second
    assert re.fullmatch("[0-9a-f]{64}", first.sha256)
    assert load(name, tmp_path, limit=2).sha256 != first.sha256


@every_task
def test_the_order_of_languages_is_kept_and_does_not_change_the_hash(name: str, tmp_path: Path) -> None:
    wanted = some(load(name, tmp_path))
    forward, backward = load(name, tmp_path, wanted), load(name, tmp_path, wanted[::-1])
    assert backward.languages == tuple(wanted[::-1])
    assert backward.sha256 == forward.sha256
    assert {q.key for q in backward.queries} == {q.key for q in forward.queries}


@every_task
def test_fewer_languages_give_the_same_queries_in_those(name: str, tmp_path: Path) -> None:
    every = load(name, tmp_path)
    for code in some(every):
        assert load(name, tmp_path, [code]).queries == [q for q in every.queries if q.language == code]


@every_task
def test_a_smaller_limit_is_part_of_a_larger_one_and_languages_keep_the_same_rows(name: str, tmp_path: Path) -> None:
    drawn: list[set[str]] = []
    for limit in (1, 2, 5):
        data = load(name, tmp_path, limit=limit)
        by_language = {code: {q.id for q in data.queries if q.language == code} for code in data.languages}
        assert all(len(ids) == limit for ids in by_language.values())
        if name != "aya_redteaming":  # its languages are no translations of each other
            assert len({frozenset(ids) for ids in by_language.values()}) == 1
        drawn.append({q.id for q in data.queries})
    assert drawn[0] < drawn[1] < drawn[2]


@pytest.mark.parametrize("name", ["multijail", "or_bench"])
def test_a_limit_draws_from_the_whole_set_and_not_from_its_start(name: str, tmp_path: Path) -> None:
    path = str(WRITERS[name](tmp_path, 400))
    ids = [q.id for q in tasks.get_task(name).load(["en"], path=path).queries]
    places = [ids.index(q.id) for q in tasks.get_task(name).load(["en"], path=path, limit=100).queries]
    assert places == sorted(places)
    quarters = [sum(low <= place < low + 100 for place in places) for low in (0, 100, 200, 300)]
    assert min(quarters) >= 15  # 25 each on average, with a standard deviation of 3.8


@every_task
def test_skip_leaves_out_the_first_rows_and_a_limit_draws_from_the_rest(name: str, tmp_path: Path) -> None:
    every = load(name, tmp_path)
    code = some(every)[0]
    ids = [q.id for q in every.queries if q.language == code]
    assert [q.id for q in load(name, tmp_path, [code], skip=3).queries] == ids[3:]
    assert {q.id for q in load(name, tmp_path, [code], skip=3, limit=2).queries} <= set(ids[3:])


@every_task
def test_a_limit_beyond_the_set_gives_all_of_it_and_says_so(name: str, tmp_path: Path) -> None:
    every = load(name, tmp_path)
    more = load(name, tmp_path, limit=10_000)
    assert more.sha256 == every.sha256
    assert any("10000 rows were asked for; there are " in note for note in more.notes)


@every_task
def test_a_language_that_is_missing_is_named_with_those_that_are_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(CrosslignError, match=rf"^{re.escape(name)}: .* has no language 'fo'\. It has: .*en"):
        load(name, tmp_path, ["en", "fo"])


@every_task
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, r"limit \(0\) at least 1"),
        ({"skip": -1}, r"skip \(-1\) must not be negative"),
        ({"skip": 10_000}, r"has no query left in .* after skip=10000"),
        ({"languages": []}, "no language was asked for"),
    ],
)
def test_a_selection_of_nothing_is_an_error(name: str, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CrosslignError, match=message):
        load(name, tmp_path, **options)


@every_task
def test_a_path_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(CrosslignError, match=r"there is no file or folder nowhere/at_all"):
        tasks.get_task(name).load(path="nowhere/at_all")


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_is_read_as_its_file_is(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    assert tasks.get_task(name).load(path=str(tmp_path)).queries == load(name, tmp_path).queries


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_folder_and_a_file_of_another_shape_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CrosslignError, match=r"It holds: nothing\."):
        tasks.get_task(name).load(path=str(tmp_path / "empty"))
    other = write_csv(tmp_path / "other.csv", [{"id": "1", "colour": "blue"}])
    with pytest.raises(CrosslignError, match=r"other\.csv: .* needs a column '.*Its columns: id, colour\."):
        tasks.get_task(name).load(path=str(other))


# --- The hub.


class Hub:
    """Stands in for hf_hub_download: notes its arguments, answers with files of a folder, or with an exception."""

    def __init__(self, answer: Path | Exception) -> None:
        self.answer = answer
        self.calls: list[tuple[str, str, str | None, str | None]] = []

    def __call__(self, repo_id: str, filename: str, *, repo_type: str | None, revision: str | None) -> str:
        self.calls.append((repo_id, filename, repo_type, revision))
        if isinstance(self.answer, Exception):
            raise self.answer
        return str(self.answer / filename)


def http_error(kind: type[Exception], text: str) -> Exception:
    """An error of the hub's client, without the reply that it usually carries."""
    error = kind.__new__(kind)
    error.args = (text,)
    return error


@every_hub_task
def test_every_file_is_fetched_at_the_pinned_revision(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load(name, tmp_path)
    hub = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    task = tasks.get_task(name)
    data = task.load()
    assert data.queries == expected.queries
    assert data.sha256 == expected.sha256
    source = task.source
    assert source.revision is not None
    assert hub.calls == [(source.repo, file, "dataset", source.revision) for file in source.files]


@every_hub_task
def test_a_language_that_the_set_lacks_is_told_before_anything_is_fetched(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(ConnectionError("no network"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    with pytest.raises(CrosslignError, match=r"has no language 'fo'\. It has: en"):
        tasks.get_task(name).load(["fo"])
    assert hub.calls == []


@every_hub_task
@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (http_error(GatedRepoError, "403 Client Error.\nAccess is restricted."), "accept its licence on https://"),
        (http_error(GatedRepoError, "403 Client Error."), "log in with `hf auth login`"),
        (LocalEntryNotFoundError("not in the cache"), r"there is no network, or it is switched off \(HF_HUB_OFFLINE\)"),
        (
            ConnectionError("refused"),
            "run `hf download .* --repo-type dataset --revision [0-9a-f]{40} --local-dir DIR`",
        ),
        (TimeoutError(), r"TimeoutError: no message.*there is no network"),
        (http_error(RepositoryNotFoundError, "401 Client Error."), "may have been moved or withdrawn, or be private"),
        (RuntimeError("something else"), "If it happens again: on a machine with a network"),
    ],
)
def test_a_set_that_cannot_be_had_says_what_to_do(
    name: str, error: Exception, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", Hub(error))
    with pytest.raises(CrosslignError, match=advice) as caught:
        tasks.get_task(name).load()
    assert "\n" not in str(caught.value)
    assert str(tasks.get_task(name).source.repo) in str(caught.value)


@every_hub_task
def test_offline_without_a_cache_the_real_client_is_understood(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CrosslignError, match=r"could not be fetched from the hub .*there is no network"):
        tasks.get_task(name).load()


@pytest.mark.parametrize("name", sorted(set(tasks.names()) - set(FROM_HUB) - set(BUILTIN)))
def test_a_set_without_a_copy_on_the_hub_asks_for_a_file_and_says_which(name: str) -> None:
    with pytest.raises(
        CrosslignError, match=rf"{name}: no copy .* so name a file as its path\. It is .*\b(goal|prompt)\b"
    ):
        tasks.get_task(name).load()


# --- The registry.


def test_every_task_has_its_own_name() -> None:
    assert [task.name for task in map(tasks.get_task, tasks.names())] == list(tasks.names())
    assert set(tasks.names()) == {*WRITERS, "builtin:demo", "builtin:benign-heldout"}


def test_an_unknown_name_gets_the_nearest_one_or_all_valid_ones() -> None:
    with pytest.raises(CrosslignError, match=r"unknown task 'multijal'\. Did you mean 'multijail'\?"):
        tasks.get_task("multijal")
    with pytest.raises(CrosslignError, match=r"unknown task 'zzz'\. Valid: .*table:PATH.*xsafety"):
        tasks.get_task("zzz")


def test_an_unknown_option_is_named_with_the_valid_ones() -> None:
    with pytest.raises(CrosslignError, match=r"task 'xstest' takes no option 'wrapper'\. It takes: none\."):
        tasks.get_task("xstest", {"wrapper": "x"})
    with pytest.raises(CrosslignError, match=r"takes no option 'wraper'\. It takes: wrapper\."):
        tasks.get_task("multijail_intentional", {"wraper": "x"})
    with pytest.raises(CrosslignError, match=r"takes no option 'kind'\. It takes: columns, where\."):
        tasks.get_task("table:x.csv", {"kind": "harmful"})


MY_PACKAGE = """
from crosslign.evaluation.tasks import Reading, Source, Task
from crosslign.types import Query


def make(topic: str = "any") -> Task:
    def read(place, source_language, languages):
        queries = [
            Query(f"{topic}-{n}", code, f"{topic} {code} {n}", "en", f"{topic} en {n}", "benign")
            for n in range(4)
            for code in ("en", "sw")
        ]
        return Reading(queries, ("en", "sw"), ("a note",))

    return Task(
        name="my_task",
        version="3",
        kind="benign",
        languages=("en", "sw"),
        source=Source(),
        licence="CC0",
        citation="nobody",
        reader=read,
    )


READY = make("ready")
NUMBER = 5


def not_a_task():
    return object()
"""


@pytest.fixture
def users_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that a user has installed, with tasks in its entry points."""
    (tmp_path / "my_task_package.py").write_text(MY_PACKAGE)
    info = tmp_path / "my_task_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-task-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[crosslign.tasks]\n"
        "my_task = my_task_package:make\n"
        "my_ready = my_task_package:READY\n"
        "number = my_task_package:NUMBER\n"
        "wrong = my_task_package:not_a_task\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("users_package")
@pytest.mark.parametrize(("name", "topic"), [("my_task", "any"), ("my_ready", "ready")])
def test_a_task_of_a_users_package_is_found_by_its_entry_point(name: str, topic: str) -> None:
    assert name in tasks.names()
    task = tasks.get_task(name)
    assert [(q.id, q.language) for q in task.load(["sw"]).queries] == [(f"{topic}-{n}", "sw") for n in range(4)]
    assert task.load(["sw"]).notes == ("a note",)
    assert tasks.get_task("my_task", {"topic": "cats"}).load(["en"], limit=1).queries[0].text.startswith("cats en ")


@pytest.mark.usefixtures("users_package")
def test_a_users_task_that_cannot_be_had_is_told() -> None:
    with pytest.raises(CrosslignError, match=r"'number': its package names a int, which is no task"):
        tasks.get_task("number")
    with pytest.raises(CrosslignError, match=r"'wrong': its package makes a object, which is no task"):
        tasks.get_task("wrong")
    with pytest.raises(CrosslignError, match=r"'my_ready' takes no option 'topic'\. It takes: none\."):
        tasks.get_task("my_ready", {"topic": "cats"})
