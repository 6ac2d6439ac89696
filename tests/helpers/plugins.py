"""Plug-ins for tests: the files that docs/adding-a-method.md shows, in a folder, or in an installed package."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from vpt.config.plugins import REGISTRIES

PAGE = ROOT / "docs" / "adding-a-method.md"


def shown_files() -> dict[str, str]:
    """The Python files that the page shows, by name: blocks that begin with their name as a comment."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.S | re.M)
    found = {}
    for block in blocks:
        if name := re.match(r"# (\w+\.py)\n", block):
            found[name[1]] = block
    return found


def shown_entry_points() -> str:
    """What the page's `pyproject.toml` offers, as installers write it into `entry_points.txt`."""
    (table,) = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.S | re.M)
    lines = re.sub(r'^\[project\.entry-points\."(.*)"\]$', r"[\1]", table, flags=re.M)
    return lines.replace('"', "")


def install(folder: Path, files: dict[str, str], entry_points: str, name: str = "my-package") -> None:
    """Put files and the metadata of a package into a folder, as pip leaves them."""
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")


@contextmanager
def nothing_named() -> Iterator[pytest.MonkeyPatch]:
    """A process in which the user has named no plug-in yet; modules of the user imported meanwhile are forgotten."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        for registry in REGISTRIES:
            patch.setattr(registry, "_named", {})
        yield patch
    for name in set(sys.modules) - before:
        # Libraries stay: of one that is imported twice, the second does not know the classes of the first.
        file = getattr(sys.modules[name], "__file__", None)
        if file and not any(Path(file).is_relative_to(root) for root in (sys.prefix, sys.base_prefix, ROOT)):
            del sys.modules[name]
