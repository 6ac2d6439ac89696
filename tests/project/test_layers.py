"""The shape of the code: imports point one way, files stay short, the README's tables are the benchmarks'."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

FILES = sorted((ROOT / "vpt").rglob("*.py"))

# From the bottom up: a module imports from its own room and from those before it, so no two rooms import each other.
ROOMS = [
    "utils",
    "config",
    "data",
    "backbones",
    "prompts",
    "heads",
    "metrics",
    "models",
    "training",
    "inference",
    "report",
    "interop",
    "experiments",
    "cli",
]


def room_of(module: str) -> str:
    """The room of a module; "" for the package itself, which every room may be imported by.

    >>> room_of("vpt.data.datasets.csv"), room_of("vpt")
    ('data', '')
    """
    return ".".join(module.split(".")[1:2])


def imported(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vpt":
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "vpt" else {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "vpt"}
    return found


def test_the_rooms_are_all_there():
    folders = {path.name for path in (ROOT / "vpt").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders == set(ROOMS)
    assert {path.name for path in (ROOT / "vpt").glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file: Path):
    room = room_of(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    if room in ("", "__main__"):
        return
    above = set(ROOMS[ROOMS.index(room) + 1 :]) | {"__main__"}
    assert not [module for module in imported(file) if room_of(module) in above or module == "vpt"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_are_short(file: Path):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_readme_tables_are_the_benchmarks():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tables", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_no_notebook_of_memory_is_written_into_the_repository():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert not [name for name in tracked if name.startswith(("runs/", "data/"))]
