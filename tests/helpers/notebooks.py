"""Notebooks of the documentation: executed, and stored with their output in a compact form.

python -m tests.helpers.notebooks [NAME...]
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.helpers.paths import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def executed(file: Path, folder: Path) -> Any:
    """The notebook after it ran in `folder`; an error of a cell is raised."""
    notebook = nbformat.read(file, as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def compact(notebook: Any) -> None:
    """Keep what a cell prints as one text, pictures as PNG, and results as text; leave out warnings of libraries."""
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata.clear()
        if cell.cell_type != "code":
            continue
        text, kept = "", []
        for output in cell.outputs:
            data = output.get("data", {})
            if output.output_type == "stream":
                text += output.text if output.name == "stdout" else ""
            elif output.output_type == "display_data" and "image/png" not in data:  # a line that rich has printed
                text += re.sub(r"\x1b\[[0-9;]*m", "", data["text/plain"])
            else:
                content = {name: data[name] for name in ("image/png", "text/plain") if name in data}
                kept.append(nbformat.v4.new_output("execute_result", content, execution_count=None))
        cell.execution_count = None
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []
        cell.outputs += kept


def main() -> None:
    """Execute notebooks and store them."""
    for file in NOTEBOOKS:
        if sys.argv[1:] and file.stem not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(file, Path(folder))
        compact(notebook)
        nbformat.write(notebook, file)


if __name__ == "__main__":
    main()
