"""The documentation as a site: it builds without a warning, and shows what was meant."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

PACKAGES = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers", "mkdocs_jupyter")


@pytest.mark.slow
@pytest.mark.skipif(any(find_spec(name) is None for name in PACKAGES), reason="needs the extra docs")
def test_the_site_builds(tmp_path: Path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"README"}
    assert not [name for name in pages if not (tmp_path / "site" / name / "index.html").is_file()]
    api = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    import vpt

    assert not [name for name in vpt.__all__ if f'id="vpt.{name}"' not in api]
    # Examples of docstrings are code: outside of it there is no ">>>".
    prose = re.sub(r"<pre.*?</pre>|<code.*?</code>", "", html.unescape(api), flags=re.S)
    assert ">>>" not in prose


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("notebooks/*.ipynb")]
    assert not [str(page) for page in pages if f": {page.relative_to(ROOT / 'docs')}\n" not in navigation]


def test_links_into_the_repository_exist():
    """Files outside of docs/ are linked by the address of the repository."""
    wrong = []
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("notebooks/*.ipynb")]:
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"github\.com/vpt-toolkit/vpt/(?:blob|tree)/main/([\w./-]+)", text)
        wrong += [f"{page.name}: {name}" for name in named if not (ROOT / name).exists()]
    assert not wrong
