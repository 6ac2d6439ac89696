"""The shape of the code: imports point one way, files stay short, the README's tables are the benchmarks'."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "vpt").rglob("*.py"))

# From the bottom up: a module may import from its own layer's folder and from the layers before it.
LAYERS = [
    [
        "vpt.errors",
        "vpt.precision",
        "vpt.strictjson",
        "vpt.version",
        "vpt.names",
        "vpt.safe_yaml",
        "vpt.spreadsheet",
    ],
    [
        "vpt.files",
        "vpt.streams",
        "vpt.preprocess",
        "vpt.results",
        "vpt.metrics",
        "vpt.hub",
        "vpt.pickledata",
        "vpt.tensorbytes",
    ],
    [
        "vpt.config",
        "vpt.tensorfile",
        "vpt.torchfile",
        "vpt.device",
        "vpt.usage",
        "vpt.distributed",
        "vpt.plots",
        "vpt.runlog",
        "vpt.cachedir",
        "vpt.metrics_file",
        "vpt.predictions",
    ],
    ["vpt.locks"],
    ["vpt.console", "vpt.data", "vpt.header", "vpt.prompts.plan", "vpt.runfolder"],
    ["vpt.comparison", "vpt.inputs"],
    ["vpt.backbones"],
    ["vpt.prompts", "vpt.tuning"],
    ["vpt.heads"],
    ["vpt.clip"],
    ["vpt.prompted"],
    ["vpt.model", "vpt.detection"],
    ["vpt.artifact", "vpt.skeleton", "vpt.wrapped"],
    ["vpt.budget", "vpt.objectives", "vpt.reading", "vpt.training", "vpt.trust"],
    ["vpt.setting"],
    ["vpt.tasks"],
    ["vpt.fitting", "vpt.loading"],
    ["vpt.evaluation", "vpt.run", "vpt.predict"],
    ["vpt.attention", "vpt.convert", "vpt.export"],
    ["vpt.protocols", "vpt.bank"],
    ["vpt.together", "vpt.sweep", "vpt.report"],
    ["vpt.bench"],
    ["vpt.serve"],
    ["vpt.cli"],
    ["vpt"],
]


def layer_of(module: str) -> tuple[int, str]:
    """The layer of a module, and the name by which the table knows it: the longest that fits."""
    fits = [
        (len(name), level, name)
        for level, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    _, level, name = max(fits)
    return level, name


def imported(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vpt":
            for alias in node.names:
                inside = ROOT / Path(*node.module.split("."), f"{alias.name}.py")
                found.add(f"{node.module}.{alias.name}" if inside.exists() else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "vpt"}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file: Path):
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    level, name = layer_of(module)
    for other in imported(file):
        other_level, other_name = layer_of(other)
        assert other_level < level or other_name == name, f"{module} imports {other}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_are_short(file: Path):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 480


def test_the_readme_tables_are_the_benchmarks():
    done = subprocess.run([sys.executable, "benchmarks/tables.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_notebook_of_memory_is_written_into_the_repository():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert not [name for name in tracked if name.startswith(("runs/", "data/"))]
