"""Whatever a command is given: it ends soon, with a short error that names the file, and loses nothing."""

from __future__ import annotations

import json
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
from hostile_directions import DIRECTIONS
from hostile_evaluations import EVALUATIONS
from hostile_finished import BASES, FINISHED_RUNS
from hostile_models import ADAPTERS, CONFIGURATIONS, MODELS, saying
from hostile_recipes import RECIPES
from hostile_runs import CACHES, CHAT_RUNS, EVALUATED_RUNS, OUTPUTS, RUNS
from hostile_tables import TABLES
from hostile_templates import CHAT_TEMPLATES, TEACHER_TEMPLATES
from inputs import Hostile

from crosslign.cli import main
from crosslign.evaluation.training_log import summary
from crosslign.storage import file_sha256

HOSTILE: dict[str, list[Hostile]] = {
    "recipe": RECIPES,
    "table": TABLES,
    "evaluation": EVALUATIONS,
    "direction": DIRECTIONS,
    "chat template": CHAT_TEMPLATES,
    "teacher template": TEACHER_TEMPLATES,
    "model": MODELS,
    "configuration": CONFIGURATIONS,
    "adapter": ADAPTERS,
    "cache": CACHES,
    "run": RUNS,
    "run to chat with": CHAT_RUNS,
    "evaluated run": EVALUATED_RUNS,
    "finished run": FINISHED_RUNS,
    "base": BASES,
    "output": OUTPUTS,
}
SECONDS, BYTES = 20, 2 << 30  # that a command may take, and that it may add to the process
MOST_LINES = 12  # of an error; a recipe may have several mistakes, each with its line
_AS_TRAIN = {("probe", kind) for kind in ("recipe", "table", "model", "cache")}
CASES = [
    pytest.param(
        command,
        kind,
        hostile,
        id=f"{command}-{kind}-{hostile.name}".replace(" ", "_"),
        # probe prepares what train does, and generate's templates are read as train's.
        marks=[pytest.mark.slow] if command == "generate by templates" or (command, kind) in _AS_TRAIN else [],
    )
    for command, entry in COMMANDS.items()
    for kind in entry.takes
    for hostile in HOSTILE.get(kind, ())
    if not hostile.only or command in hostile.only
]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A folder with a good input of every kind: what a run of one step has left. Treat as read-only."""
    folder = tmp_path_factory.mktemp("made")
    rows = [{"id": str(n), "label": ("benign", "harmful")[n % 2], "en": f"q {n}", "sw": f"s {n}"} for n in range(8)]
    table = write_csv(folder / "table.csv", rows)
    model = folder / "model"
    shutil.copytree(model_folder, model)
    shutil.copytree(model_folder, folder / "configuration", ignore=shutil.ignore_patterns("*.safetensors"))
    raw = small_recipe(folder, model, table)
    raw["data"]["languages"] = ["sw"]
    raw["training"] |= {"max_steps": 1, "save_steps": 1}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    (folder / "chat.jinja").write_text(CHATML, encoding="utf-8")
    (folder / "teacher.yaml").write_text("messages:\n- {role: user, content: 'q {query} {source_query}'}\n")
    assert main(["train", str(folder / "recipe.yaml")]) == 0
    for name in ("adapter", "finished run", "run to chat with"):
        shutil.copytree(folder / "run", folder / name, ignore=shutil.ignore_patterns("checkpoint-*"))
    given = {name: folder / name for name in ("model", "adapter")}
    assert main(COMMANDS["eval"].arguments({**given, "table": table, "output": folder / "evaluation"})) == 0
    (folder / "evaluation" / "report.html").unlink()
    assert main(["steer", str(folder / "recipe.yaml"), "--out", str(folder / "direction")]) == 0
    record = folder / "run" / "run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "status": "running"}))
    shutil.copytree(folder / "run", folder / "evaluated run", ignore=shutil.ignore_patterns("checkpoint-*"))
    found = summary(json.loads((folder / "evaluation" / "results.json").read_text()))
    saying("run.json", evaluations=[{"step": 0, **found}])(folder / "evaluated run")
    return folder


@pytest.fixture
def good(tmp_path: Path, made: Path) -> dict[str, Path]:
    """A good input of every kind, each a copy that a test may spoil; of an output, the place where it may be made."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    configurations = [f"{name}/config.yaml" for name in ("run", "finished run", "run to chat with")]
    places = ("recipe.yaml", "run/run.json", *configurations)
    for file in (tmp_path / place for place in places):
        file.write_text(file.read_text().replace(str(made), str(tmp_path)))
    names = {"recipe": "recipe.yaml", "table": "table.csv", "output": "out", "base": "model"}
    names |= {"chat template": "chat.jinja", "teacher template": "teacher.yaml"}
    return {kind: tmp_path / names.get(kind, kind) for kind in HOSTILE}


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
    # Few where time is what ends it; where memory is, enough of them to take it on a busy machine.
    monkeypatch.setenv("CROSSLIGN_MAX_SECONDS", "2" if "CROSSLIGN_MAX_SECONDS" in hostile.says else "15")
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
        assert "\ncrosslign: " in f"\n{said.err}" or command == "validate", said.err
        assert len(text.splitlines()) <= MOST_LINES, text
    now = contents(tmp_path)
    # What a command goes on with, it may mend.
    lost = [name for name in before if now.get(name) != before[name]]
    mended = [f"{given[name]}/" for name in (kind, *COMMANDS[command].writes) if hostile.handled]
    assert [name for name in lost if not name.startswith(tuple(mended))] == []
