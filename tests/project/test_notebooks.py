"""The notebooks of the documentation run, and are stored with small output."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's packages
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    from tests.helpers.notebooks import executed

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    cells = [cell for cell in executed(file, tmp_path).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_what_is_stored(file: Path):
    """Small, without errors and without paths of the machine that ran it; links lead somewhere."""
    text = file.read_text(encoding="utf-8")
    assert len(text) < 250_000
    assert not re.search(r"(/tmp|/root|/home|/work)/", text)
    cells = json.loads(text)["cells"]
    assert not [out for cell in cells for out in cell.get("outputs", []) if out["output_type"] == "error"]
    prose = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^):#]+)", prose)
    assert links
    assert not [link for link in links if not (file.parent / link).exists()]
