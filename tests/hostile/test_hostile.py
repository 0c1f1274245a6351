"""Whatever a command is given: it ends soon, with a short error that names the file, and loses nothing."""

from __future__ import annotations

import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import COMMANDS
from conftest import CHATML, small_recipe, write_csv
from hostile_evaluations import EVALUATIONS
from hostile_recipes import RECIPES
from hostile_tables import TABLES
from hostile_templates import CHAT_TEMPLATES, TEACHER_TEMPLATES
from inputs import Hostile

from crosslign.cli import main
from crosslign.storage import file_sha256

HOSTILE: dict[str, list[Hostile]] = {
    "recipe": RECIPES,
    "table": TABLES,
    "evaluation": EVALUATIONS,
    "chat template": CHAT_TEMPLATES,
    "teacher template": TEACHER_TEMPLATES,
}
SECONDS, BYTES = 20, 2 << 30  # that a command may take, and that it may add to the process
MOST_LINES = 12  # of an error; a recipe may have several mistakes, each with its line
CASES = [
    pytest.param(command, kind, hostile, id=f"{command}-{kind}-{hostile.name}".replace(" ", "_"))
    for command, entry in COMMANDS.items()
    for kind in entry.takes
    for hostile in HOSTILE.get(kind, ())
    if not hostile.only or command in hostile.only
]


def write_table(folder: Path) -> Path:
    rows = [{"id": str(n), "label": ("benign", "harmful")[n % 2], "en": f"q {n}", "sw": f"s {n}"} for n in range(8)]
    return write_csv(folder / "table.csv", rows)


@pytest.fixture(scope="session")
def evaluation_folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A finished evaluation, but for its page."""
    table = write_table(tmp_path_factory.mktemp("evaluation"))
    assert main(COMMANDS["eval"].arguments({"table": table, "model": model_folder})) == 0
    (table.parent / "evaluated" / "report.html").unlink()
    return table.parent / "evaluated"


@pytest.fixture
def good(tmp_path: Path, model_folder: Path, evaluation_folder: Path) -> dict[str, Path]:
    """A good input of every kind, each a copy that a test may spoil."""
    table = write_table(tmp_path)
    evaluation = tmp_path / "evaluation"
    shutil.copytree(evaluation_folder, evaluation)
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    raw = small_recipe(tmp_path, model, table)
    raw["data"]["languages"] = ["sw"]
    raw["training"]["max_steps"] = 1
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(raw), encoding="utf-8")
    chat, teacher = tmp_path / "chat.jinja", tmp_path / "teacher.yaml"
    chat.write_text(CHATML, encoding="utf-8")
    teacher.write_text("messages:\n- {role: user, content: 'q {query} {source_query}'}\n", encoding="utf-8")
    return {
        "recipe": recipe,
        "table": table,
        "model": model,
        "evaluation": evaluation,
        "chat template": chat,
        "teacher template": teacher,
    }


@contextmanager
def bounded() -> Iterator[None]:
    """Within this a Python process may take neither many seconds nor much more memory than it has."""

    def too_long(*_: Any) -> None:
        raise TimeoutError(f"still at work after {SECONDS} seconds")

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def contents(folder: Path) -> dict[str, str]:
    """The hash of every regular file below a folder."""
    return {str(file): file_sha256(file) for file in folder.rglob("*") if file.is_file() and not file.is_symlink()}


@pytest.mark.parametrize("command", COMMANDS)
def test_good_inputs_are_good(command: str, good: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMANDS[command].arguments(good)) == 0, capsys.readouterr().err


@pytest.mark.parametrize(("command", "kind", "hostile"), CASES)
def test_hostile_input_is_held(
    command: str,
    kind: str,
    hostile: Hostile,
    good: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CROSSLIGN_MAX_SECONDS", "2")
    given = {**good, kind: hostile.make(good[kind])}
    before = contents(tmp_path)
    with bounded():
        code = main(COMMANDS[command].arguments(given))
    said = capsys.readouterr()
    text = said.out + said.err
    assert code == (0 if hostile.handled else 1), text
    for part in hostile.says:
        assert part in text
    assert not any((c < " " and c not in "\n\t") or "\x7f" <= c < "\xa0" for c in text), ascii(text)
    if not hostile.handled:
        assert said.err.startswith("crosslign: ") or command == "validate", said.err
        assert len(text.splitlines()) <= MOST_LINES, text
    now = contents(tmp_path)
    assert {name: now.get(name) for name in before} == before
