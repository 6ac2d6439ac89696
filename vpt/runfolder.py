"""Run folders: how they are called, what tells that a run has finished, and on which settings its result depends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpt.config import RunConfig
from vpt.errors import UserError
from vpt.files import read_json

# Settings that change how a run is computed but not what comes out; a resumed run may change them.
FREE_AT_RESUME = {
    "data": {"workers", "cache", "root"},
    "train": {"device", "checkpoint_minutes", "recompute", "shard", "compile"},
}


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its folder, its artifact, and what metrics.json holds."""

    folder: Path
    artifact: Path
    metrics: dict[str, Any]


def finished(folder: Path) -> TrainResult | None:
    """The run that finished in a folder, if one did.

    >>> finished(Path("no/such/run")) is None
    True
    """
    file = folder / "metrics.json"
    if not file.is_file():
        return None
    metrics = read_json(file, "train again", "remove it and train again")
    return TrainResult(folder, folder / "artifact.safetensors", metrics)


def identity(config: RunConfig) -> dict[str, Any]:
    """The settings on which a result depends."""
    tree = config.model_dump(mode="json", exclude={"out", "name", "compare"})
    for section, keys in FREE_AT_RESUME.items():
        for key in keys:
            tree[section].pop(key)
    return tree


def run_folder(config: RunConfig) -> Path:
    """A new folder. A name that was given is taken as it is, one that was made gets a number if it exists."""
    if config.name is not None:
        folder = config.out / config.name
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(
                f"{folder} exists and is not overwritten; choose another name=..., "
                f"or go on with: vpt train resume={folder}"
            )
        return folder
    stem = "-".join([Path(config.data.path).name, config.backbone.name, config.prompt.kind])
    stem += "" if config.tuning.kind == "frozen" else f"-{config.tuning.kind}"
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem)
    number = 1
    while (folder := config.out / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return folder
