"""A little of benchmarks/robustness/faults.py in every test run: damaged files and configurations end cleanly."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.robustness import faults

CLEAN = {
    "a clean error",
    "a clean error with its name",
    "a picture",
    "still valid",
    "the same state",
    "checkpoint.safetensors: a clean error",
    "checkpoint.safetensors: the same state",
    "artifact.safetensors: a clean error",
    "artifact.safetensors: the same state",
}


@pytest.mark.parametrize("name", ["configs", "images", "checkpoints"])
def test_faults_end_cleanly(name: str, tmp_path: Path):
    found = faults.FAULTS[name](tmp_path, random.Random(12345), 120)
    assert set(found["outcomes"]) <= CLEAN
    assert sum(found["outcomes"].values()) == found["times"] == 120
