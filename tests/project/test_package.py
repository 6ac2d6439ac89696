"""The package as it is distributed: its name, its version, and the files that are not Python."""

from __future__ import annotations

import re
import subprocess
import tomllib
from fnmatch import fnmatch

import pytest

from tests.helpers.paths import ROOT
from vpt.utils.version import DISTRIBUTION

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXTS = ("*.py", "*.md", "*.toml", "*.yml", "*.yaml", "*.ipynb", "Dockerfile")


def tracked(*patterns: str) -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    names = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, check=True).stdout
    return [name for name in names.decode().split("\0") if name and (ROOT / name).is_file()]


def test_one_name_everywhere():
    """`vpt` on PyPI is another project: no text tells anybody to install an extra of that."""
    assert PROJECT["name"] == DISTRIBUTION
    wrong = r"(?<![\w-])vpt\[(?:\w+,?)+\]|pip install '?vpt\b"
    found = [name for name in tracked(*TEXTS) if re.search(wrong, (ROOT / name).read_text(encoding="utf-8"))]
    assert found in ([], ["tests/project/test_package.py"])


def test_the_extras_that_texts_name_exist():
    extras = PROJECT["optional-dependencies"]
    for name in tracked(*TEXTS):
        text = (ROOT / name).read_text(encoding="utf-8")
        named = re.findall(rf"{DISTRIBUTION}\\?\[([\w,]+)", text) + re.findall(r"\binstall\('(\w+)'\)", text)
        for extra in ",".join(named).split(",") if named else []:
            assert extra in extras, name


def test_the_version_is_that_of_the_newest_changes():
    changes = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    assert changes[:2] == ["Unreleased", PROJECT["version"]]
    assert f"version: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_all_files_of_the_package_are_shipped():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    files = [name.removeprefix("vpt/") for name in tracked("vpt") if not name.endswith(".py")]
    assert "py.typed" in files
    assert not [name for name in files if not any(fnmatch(name, pattern) for pattern in patterns["vpt"])]
