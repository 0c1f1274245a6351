"""The front page and the docs: what can be pasted from them works, and what they name is there.

Bash blocks are pasted in order into a copy of the repository's folders in which recipes train a tiny model for two
steps. Commands that need a network, a GPU or minutes are checked by their flags only.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tomllib
import yaml
from helpers import terse_model

from crosslign.baselines import Method
from crosslign.cli import main
from crosslign.data.load import TableSpec, require_table
from crosslign.distillation import Strategy
from crosslign.evaluation.judges.base import Judge
from crosslign.runs.bench.config import BenchConfig
from crosslign.runs.prepare import prepare
from crosslign.runs.recipe import load_recipe, merged, parse_config, parse_section, read_recipe
from crosslign.untrusted import parse_yaml

ROOT = Path(__file__).parents[1]
MODEL = "Qwen/Qwen2.5-7B-Instruct"
PAGES = sorted(
    p.relative_to(ROOT).as_posix() for folder in (".", "docs", "benchmarks") for p in (ROOT / folder).glob("*.md")
)
SMALL = {
    "model": {"path": "tiny", "dtype": "float32"},
    "training": {"max_steps": 2, "warmup_steps": 0, "bf16": False, "use_cpu": True},
}
# Commands that are not pasted, by what stands in them, and where they are run or why they cannot be.
NOT_PASTED = {
    "crosslign align": "minutes, and the model of a user; tests/runs/test_align.py",
    "crosslign demo": "minutes: `make demo` in .ci/run, tests/test_release.py",
    "make ": ".ci/run, or it needs what its line in the Makefile says",
    "pip ": "the environment of .ci/run is made so",
    "python -m benchmarks": "minutes to hours: `make claims` in .ci/run, tests/test_benchmarks.py",
    "scripts/fetch_smollm2.py": "a download",
    "crosslign preferences": "a teacher that is safer than its model; tests/baselines/test_preferences.py",
    "--context teacher": "tests/baselines/test_prompt.py",
    "steer": "tests/baselines/test_steer.py",
    "benchmarks/testbed": "minutes to hours; tests/runs/test_bench.py reads these files",
    "benchmarks/paper.yaml": "a GPU node; its plan is in tests/runs/test_bench.py",
    "inspect eval": "tests/evaluation/test_inspect.py, in Python",
    "multijail": "the hub; tests/contracts/test_tasks.py reads files of the same shape",
    "qwen3guard": "the hub; tests/evaluation/judges/test_guard.py has tiny guards",
    "http://": "a server; tests/evaluation/test_endpoint.py has a scripted one",
    "seq2seq:": "a translation model; tests/translation/test_seq2seq.py has tiny ones",
    "--web": "a server; tests/runs/test_chat_page.py has it in a browser",
    "OWNER/": "the hub; tests/runs/test_push.py has a stand-in",
}
NEEDS = re.compile(r"# needs (a GPU|\d+ GPUs|the server)")  # what a page says beside a command that cannot run anywhere
# Pages whose commands are pasted, with what is put in the place of large models and long runs.
TINY = {MODEL: "tiny"}
PASTED = {
    "README.md": TINY,
    **{f"docs/{name}.md": TINY for name in ("training", "probe", "evaluation", "chat", "sharing", "translate")},
    **{f"docs/own_{name}.md": TINY for name in ("languages", "judge", "strategy")},
    "docs/bench.md": TINY,
    "docs/scale.md": {"RECIPE": "recipes/qwen2.5_7b.yaml"},
    "docs/rollouts.md": {"RECIPE": "recipes/served.yaml"},
    "docs/tutorial.md": {".cache/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "tiny", "max_steps 50": "max_steps 2"},
}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, kind: str) -> list[str]:
    found = re.findall(r"^```([^\n]*)\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)
    return [text for named, text in found if named == kind]


def commands(page: str) -> list[str]:
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def save_files(page: str) -> None:
    """Write the files that the page shows under the names it gives them; a package counts as installed."""
    for name, text in re.findall(
        r"`([\w./]+\.\w+)`[^`]*:\n\n```\w+\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE
    ):
        file = Path(name)
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        if file.name == "pyproject.toml":
            project = tomllib.loads(text)["project"]
            info = file.parent / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
            info.mkdir(exist_ok=True)
            (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
            groups = [
                "\n".join((f"[{group}]", *(f"{key} = {value}" for key, value in points.items())))
                for group, points in project["entry-points"].items()
            ]
            (info / "entry_points.txt").write_text("\n".join(groups))


def is_run(command: str) -> bool:
    return not NEEDS.search(command) and not any(mark in command for mark in NOT_PASTED)


def paste(page: str) -> None:
    for command in filter(is_run, commands(page)):
        for long, short in PASTED[page].items():
            command = command.replace(long, short)
        words = shlex.split(command, comments=True)
        if words[0] == "crosslign":
            assert main(words[1:]) == 0, command
        else:
            subprocess.run(["/bin/sh", "-c", command], check=True)


def execute(block: str) -> dict[str, Any]:
    made: dict[str, Any] = {"__name__": "pasted"}
    exec(compile(block.replace(MODEL, "tiny"), "pasted", "exec", dont_inherit=True), made)  # noqa: S102
    return made


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's folders, in which the README's commands have been pasted."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "src").symlink_to(ROOT / "src")
    (folder / "recipes").mkdir()
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        (folder / "recipes" / recipe.name).write_text(yaml.safe_dump(merged(read_recipe(recipe), SMALL)))
    served = {**SMALL, "rollouts": {"backend": "vllm", "url": "http://localhost:8000"}}
    (folder / "recipes" / "served.yaml").write_text(
        yaml.safe_dump(merged(read_recipe(ROOT / "recipes" / "qwen2.5_7b.yaml"), served))
    )
    terse_model(folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        paste("README.md")
    return folder


@pytest.fixture
def pasted(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(clone)
    monkeypatch.setenv("XDG_CACHE_HOME", str(clone / "cache"))
    return clone


def test_the_commands_of_the_readme_work_in_order(pasted: Path) -> None:
    assert [c.split()[1] for c in filter(is_run, commands("README.md")) if c.startswith("crosslign ")] == [
        "validate", "probe", "train", "eval", "eval", "compare",
    ]  # fmt: skip
    assert (pasted / "runs" / "compared" / "report.html").is_file()


@pytest.mark.processes  # eight recipes' queries are measured
def test_every_recipe_takes_a_users_table_and_trains_on_no_row_that_the_readme_tests_on(pasted: Path) -> None:
    held_out = {row.id for row in require_table(TableSpec("heldout.csv"), "en", None).rows}
    assert len(held_out) == 24
    flags = ["--data.tables.0.path", "queries.csv", "--training.fsdp", "null", "--training.deepspeed", "null"]
    flags += ["--model.quantization", "null"]
    # What shards needs several processes, and 4 bits a library of their own. One recipe takes a harmless.csv too.
    demo = (ROOT / "src/crosslign/data/demo_queries.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    Path("harmless.csv").write_text("".join(demo[:1] + demo[25:37]), encoding="utf-8")
    for recipe in Path("recipes").glob("*.yaml"):
        run = prepare(load_recipe(recipe, flags), check_folder=False, check_server=False)
        rows = [row for table in run.tables for row in table.rows]
        assert {row.label for row in rows} == {"harmful", "benign"}
        assert not held_out & {row.id for row in rows}


def test_the_python_of_the_readme_works(pasted: Path) -> None:
    first, second = map(execute, blocks("README.md", "python"))
    assert first["results"]["tasks"]["table:heldout.csv harmful"]["all"]["change"]["metric"] == "asr"
    assert second["result"].divergence.shape == (2, 8)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_pasted_or_says_what_it_needs(page: str) -> None:
    unknown = [c for c in commands(page) if is_run(c) and page not in PASTED]
    assert not unknown, "paste the page in a test, or say beside the command what it needs"


# Whole pages take seconds each: most of them run beside the other tests that do.
LONG = ("chat", "sharing", "translate", "scale", "rollouts")


@pytest.mark.parametrize(
    "page",
    ["training", "probe", "evaluation", *(pytest.param(page, marks=pytest.mark.processes) for page in LONG)],
)
def test_commands_and_python_of_the_docs_work_after_those_of_the_readme(pasted: Path, page: str) -> None:
    paste(f"docs/{page}.md")
    for block in blocks(f"docs/{page}.md", "python"):
        execute(block)


@pytest.mark.processes
@pytest.mark.parametrize(
    "page", ["docs/own_languages.md", "docs/own_judge.md", "docs/own_strategy.md", "docs/bench.md"]
)
def test_the_how_tos_work_with_the_files_that_they_show(
    pasted: Path, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_files("docs/own_languages.md")  # its tables serve the others too
    save_files(page)
    for package in pasted.glob("*/pyproject.toml"):
        monkeypatch.syspath_prepend(package.parent)
    if page == "docs/bench.md":
        Path("bench.yaml").write_text(Path("bench.yaml").read_text(encoding="utf-8").replace(MODEL, "tiny"))
    paste(page)


def test_the_plug_ins_that_the_docs_show_keep_their_protocols() -> None:
    strategy, judge, task = map(execute, blocks("docs/architecture.md", "python"))
    assert isinstance(strategy["TeacherFirst"](), Strategy)
    assert isinstance(judge["LengthJudge"](), Judge)
    (method,) = map(execute, blocks("docs/baselines.md", "python"))
    assert isinstance(method["Contrast"](), Method)
    assert [query.language for query in task["my_task"].load(["es"]).queries] == ["es"]
    for block in blocks("docs/objective.md", "python"):
        assert execute(block)["student"].grad is not None


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_has_flags_modules_and_targets_that_exist(
    page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in commands(page):
        words = shlex.split(command, comments=True)
        if is_run(command) or words[0] in ("pip", "inspect", "accelerate", "torchrun"):
            continue
        if words[0] == "make":
            known = text_of("Makefile")
            words = [f"\n{word}:" for word in words[1:]]
        elif words[0] == "python":
            known = text_of(f"{words[2].replace('.', '/')}.py" if words[1] == "-m" else words[1])
        else:
            with contextlib.suppress(SystemExit):
                main([words[1], "--help"])
            known = capsys.readouterr().out
        missing = [word for word in words if word.startswith(("--", "\n")) and word not in known]
        assert not missing, command
    base = {"model": {"path": "tiny"}, "data": {"tables": [{"path": "queries.csv"}]}}
    if page == "docs/bench.md":
        whole, *parts = map(parse_yaml, blocks(page, "yaml"))
        for part in ({}, *parts):
            parse_section(BenchConfig, merged(whole, part), page)
        return
    for block in blocks(page, "yaml"):
        parse_config(merged(base, parse_yaml(block)), page)
    for block in blocks(page, "python"):
        compile(block, page, "exec")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", text_of(page)):
        assert target.startswith("https://") or (ROOT / page).parent.joinpath(target).exists(), target


def tree(page: str) -> set[str]:
    """The paths that the page's tree of src/crosslign names; a folder ends with a slash."""
    (text,) = (block for block in blocks(page, "") if block.startswith("src/crosslign/"))
    named, folder = set(), ""
    for line in text.splitlines()[1:]:
        inner = line.startswith(" " * 4)
        for name in re.split(r" {2,}", line.strip()):
            if not re.fullmatch(r"\w+(/|\.\w+)", name):
                break
            folder = folder if inner else name
            named.add(folder + name if inner else name)
    return named


def test_the_trees_name_what_is_there_and_all_of_it() -> None:
    package = ROOT / "src" / "crosslign"
    files = {p.relative_to(package).as_posix() for p in package.rglob("*.py")} - {"__init__.py"}
    rooms = {f"{file.split('/')[0]}/" if "/" in file else file for file in files} | {"__init__.py"}
    assert tree("README.md") == rooms
    named = tree("docs/architecture.md")
    assert rooms <= named
    assert [name for name in named if not (package / name).exists()] == []
    whole = tuple(n for n in named if n.endswith("/") and not any(other.startswith(n) for other in named - {n}))
    assert [f for f in files if f not in named and not f.startswith(whole) and not f.endswith("__init__.py")] == []


def test_the_badges_say_what_the_project_says() -> None:
    project = text_of("pyproject.toml")
    assert 'requires-python = ">=3.10"' in project
    assert 'license = "Apache-2.0"' in project
    badges = re.findall(r"img\.shields\.io/badge/([^)]*)", text_of("README.md"))
    assert badges == ["python-%E2%89%A5%203.10-3776ab", "licence-Apache--2.0-555555", "arXiv-2605.02971-b31b1b"]
