"""What tests of the server share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.serving import fill


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks to serve, of a test module's own."""
    return fill(tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("made"))
