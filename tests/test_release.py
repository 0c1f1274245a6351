"""What is published: a source archive, and a wheel made from it, installed where nothing of the checkout is seen.

`make release` runs this and leaves both files in dist/.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import crosslign

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "crosslign"
# With CROSSLIGN_DIST the files stay there; an earlier folder of them is replaced.
DIST = os.environ.get("CROSSLIGN_DIST")


def package_files() -> set[str]:
    found = (p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {f"crosslign/{p.relative_to(PACKAGE).as_posix()}" for p in found}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both files, built from a copy that no earlier build has left its lists in."""
    folder = tmp_path_factory.mktemp("release")
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, folder / "copy" / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "copy")
    made = Path(DIST).resolve() if DIST else folder / "dist"
    shutil.rmtree(made, ignore_errors=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made), str(folder / "copy")]
    subprocess.run(command, check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel. It sees what is installed here (torch is large), but not this crosslign."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    (wheel,) = dist.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    # What a .pth file names comes after the wheel. It reads no .pth files in there, such as an editable crosslign's.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder


def run_outside(installed: Path, folder: Path, *command: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    made = subprocess.run(
        [str(installed / "bin" / command[0]), *command[1:]],
        cwd=folder,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        text=True,
        capture_output=True,
    )
    assert made.returncode == 0, made.stderr
    return made.stdout


@pytest.mark.slow
def test_both_files_hold_the_whole_package_and_nothing_else(dist: Path) -> None:
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in names if ".dist-info/" not in name} == package_files()
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    with tarfile.open(source) as archive:
        members = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert {name for name in members if ".egg-info/" not in name} == {
        *(f"src/{name}" for name in package_files()),
        *("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "setup.cfg"),
    }


@pytest.mark.slow
def test_the_wheel_runs_the_demo_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = run_outside(installed, tmp_path, "python", "-c", "import crosslign; print(crosslign.__file__)")
    assert Path(where.strip()).is_relative_to(installed)
    assert run_outside(installed, tmp_path, "crosslign", "--version") == f"crosslign {crosslign.__version__}\n"
    assert "0 errors" in run_outside(installed, tmp_path, "crosslign", "validate", "builtin:benign")
    said = run_outside(installed, tmp_path, "crosslign", "demo", "--steps", "10", "--out", "demo")
    assert "10 steps of on-policy MSD" in said
    assert "</html>" in (tmp_path / "demo" / "evaluation" / "compared" / "report.html").read_text(encoding="utf-8")


def test_the_citation_names_this_version_and_the_papers_authors() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == crosslign.__version__
    (paper,) = citation["references"]
    bibtex = (ROOT / "README.md").read_text(encoding="utf-8").partition("```bibtex")[2].partition("```")[0]
    (authors,) = re.findall(r"author *= \{(.*)\}", bibtex)
    assert " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"]) == authors
    assert f"{{{paper['title']}}}" in bibtex


@pytest.mark.parametrize("name", ["tests", "publish"])
def test_a_workflow_runs_commands_that_exist_and_may_do_little(name: str) -> None:
    """They cannot be run here. What can be checked is that they are read, and that each target and file is there."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands:
        for target in re.findall(r"^make (\S+)$", command, re.MULTILINE):
            assert f"\n{target}:" in targets
        for file in re.findall(r"^bash (\S+)$", command, re.MULTILINE):
            assert (ROOT / file).is_file()
    assert commands
