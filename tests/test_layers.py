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
        "vpt.utils.errors",
        "vpt.utils.precision",
        "vpt.utils.strict_json",
        "vpt.utils.version",
        "vpt.utils.file_names",
        "vpt.utils.safe_yaml",
        "vpt.utils.csv_cells",
    ],
    [
        "vpt.utils.atomic_io",
        "vpt.utils.std_streams",
        "vpt.data.normalization",
        "vpt.inference.results",
        "vpt.metrics.classification",
        "vpt.utils.hub",
        "vpt.utils.pickle_data",
        "vpt.utils.safetensors_reader",
    ],
    [
        "vpt.config",
        "vpt.utils.tensor_io",
        "vpt.utils.torch_reader",
        "vpt.utils.device",
        "vpt.utils.resource_usage",
        "vpt.utils.distributed",
        "vpt.utils.plotting",
        "vpt.utils.run_log",
        "vpt.utils.cache_dir",
        "vpt.metrics.metrics_file",
        "vpt.metrics.predictions",
    ],
    ["vpt.utils.folder_lock"],
    ["vpt.utils.console", "vpt.data", "vpt.models.header", "vpt.backbones.liveness", "vpt.training.run_folder"],
    ["vpt.metrics.comparison", "vpt.inference.image_inputs"],
    ["vpt.backbones"],
    ["vpt.prompts", "vpt.backbones.peft"],
    ["vpt.heads"],
    ["vpt.models.clip"],
    ["vpt.models.base"],
    ["vpt.models.classifier", "vpt.models.detection"],
    ["vpt.models.artifact", "vpt.models.shape_check", "vpt.models.wrap"],
    [
        "vpt.training.memory_estimate",
        "vpt.training.regularizers",
        "vpt.data.data_module",
        "vpt.training",
        "vpt.models.trusted_settings",
    ],
    ["vpt.training.context"],
    ["vpt.training.tasks"],
    ["vpt.training.rounds", "vpt.inference.load_model"],
    ["vpt.inference.evaluate", "vpt.training.trainer", "vpt.inference.predictor"],
    ["vpt.models.attention_maps", "vpt.interop.convert", "vpt.interop.export"],
    ["vpt.experiments.protocols", "vpt.inference.bank"],
    ["vpt.training.multi_run", "vpt.experiments.sweep", "vpt.report"],
    ["vpt.experiments.benchmarks"],
    ["vpt.inference.server"],
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
