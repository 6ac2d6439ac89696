"""Runs of benchmarks that can be stopped and go on."""

from __future__ import annotations

from pathlib import Path

from vpt.config import load_config
from vpt.training.run_folder import TrainResult, finished
from vpt.training.trainer import resume, train
from vpt.utils.console import Console


def trained(words: list[str], folder: Path, console: Console) -> TrainResult:
    """The run in a folder: only read if it has finished, gone on with if it was stopped, else trained."""
    if (found := finished(folder)) is not None:
        return found
    if (folder / "checkpoint.safetensors").is_file():
        return resume(folder, console=console)
    return train(load_config(overrides=[*words, f"out={folder.parent}", f"name={folder.name}"]), console)
