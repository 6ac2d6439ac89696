"""Runs of benchmarks that can be stopped and go on."""

from __future__ import annotations

from pathlib import Path

from vpt.config import load_config
from vpt.training.run import train_or_resume
from vpt.training.run_folder import TrainResult
from vpt.utils.console import Console


def trained(words: list[str], folder: Path, console: Console) -> TrainResult:
    """The run in a folder: read if it has finished, resumed if it was stopped, else trained."""
    config = load_config(overrides=[*words, f"out={folder.parent}", f"name={folder.name}"])
    return train_or_resume(config, folder, console)
