"""Run folders: how they are called, what tells that a run has finished, and on which settings its result depends.

Folders that hold several runs keep a file of the settings they were begun with, so that they never mix two experiments.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vpt.config import RunConfig
from vpt.config.data import LEGACY
from vpt.metrics.metrics_file import read_metrics
from vpt.models.header import CHECKPOINT
from vpt.utils.atomic_io import at_home, make_folder, read_json, write_text
from vpt.utils.errors import UserError
from vpt.utils.folder_lock import is_lock

_DATA_FILES = (".yaml", ".yml", ".json", ".csv", ".tsv", ".data")
# Names of files that say nothing of the data set; then it is called by its folder.
_PLAIN_NAMES = {
    *("config", "data", "dataset", "obj", "coco", "voc", "yolo", "labels", "label", "annotations", "annotation"),
    *("train", "training", "val", "valid", "validation", "test", "metadata", "index", "images", "table"),
}
# Settings that change how a run is computed but not what comes out; a resumed run may change them.
FREE_AT_RESUME = {
    "data": {"workers", "cache", "root"},
    "train": {"device", "checkpoint_minutes", "recompute", "shard", "compile"},
}
# Where data and weights lie. A resumed run may find them elsewhere: it is held to the fingerprints of what they hold.
MOVABLE = {"data.path", "data.val", "data.test", "backbone.weights"}
# Settings that earlier versions did not have, and the value by which these behaved.
ADDED: dict[str, Any] = {
    "cases": [],
    "data.crop_scale": None,
    "head.bias": 0.0,
    "head.first_alpha": 1.0,
    "head.first_beta": 5.5,
    "head.init": "small",
    "train.drop_last": False,
    "train.drop_path": 0.0,
    "train.loss": {"kind": "cross_entropy"},
    "train.optimizer.eps": 1e-8,
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
    return TrainResult(folder, folder / "artifact.safetensors", read_metrics(file))


def identity(config: RunConfig) -> dict[str, Any]:
    """The settings on which a result depends."""
    tree = config.model_dump(mode="json", exclude={"out", "name", "compare"})
    for section, keys in FREE_AT_RESUME.items():
        for key in keys:
            tree[section].pop(key)
    if tree["data"]["window"] in LEGACY:  # as in identities written before there was the setting
        del tree["data"]["window"]
    return tree


def upgraded(tree: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run folder, with those that the version that wrote them did not have.

    >>> upgraded({"data": {"path": "photos"}})
    {'data': {'window': 'legacy', 'path': 'photos'}}
    """
    data, head = tree.get("data"), tree.get("head")
    if isinstance(data, dict):
        tree = {**tree, "data": {"window": "legacy", **data}}
    if isinstance(head, dict) and head.get("kind") in ("linear", "mlp"):
        tree = {**tree, "head": {"init": ADDED["head.init"], **head}}
    return tree


def refuse_other(file: Path, told: dict[str, Any]) -> None:
    """Whether a folder of several runs may be gone on with.

    Args:
        file: in the folder; holds the settings with which it was begun.
        told: the settings it is to be gone on with, as JSON gives them back.

    Raises:
        UserError: it was begun with others, or holds something else.
    """
    folder = file.parent
    if not folder.is_dir() or all(item == file or is_lock(item.name) for item in folder.iterdir()):
        return
    if not file.is_file():
        raise UserError(f"{folder} exists and holds something else; choose another name=...")
    refuse_changed(folder, read_json(file, "give the same command again"), told)


def refuse_changed(place: object, old: Any, told: Any) -> None:
    """Whether something is gone on with as it was begun.

    Args:
        place: what was begun, for the message.
        old: the settings it was begun with.
        told: the settings it is to be gone on with, as JSON gives them back.

    Raises:
        UserError: they differ.

    >>> refuse_changed("runs/a", {"train": {"epochs": 1}}, {"train": {"epochs": 3}})
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: runs/a was begun with other settings (train.epochs); give the same, or another name=...
    """
    if names := differing(old, told):
        raise UserError(
            f"{place} was begun with other settings ({', '.join(names[:5])}); give the same, or another name=..."
        )


def differing(old: Any, new: Any, path: str = "") -> list[str]:
    """The names of what differs between two trees of settings.

    Args:
        old: a tree, as JSON gives it back.
        new: the other.
        path: where in a larger tree they stand.

    >>> differing({"settings": {"train": {"epochs": 1, "seed": 0}}}, {"settings": {"train": {"epochs": 3, "seed": 0}}})
    ['train.epochs']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            found
            for key in sorted({*old, *new})
            if not (key not in old and _as_before(f"{path}.{key}" if path else key, new[key]))
            for found in differing(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if old == new else [path.removeprefix("settings.")]


def _as_before(path: str, value: Any) -> bool:
    """Whether a setting that the older tree does not have says what earlier versions did."""
    name = path.removeprefix("settings.")
    return name in ADDED and value == ADDED[name]


def refuse_taken(config: RunConfig) -> None:
    """Tell of a name that is taken before long work starts.

    Raises:
        UserError: the run has a name of its own, and something stands in that folder.

    >>> refuse_taken(RunConfig(name="no-such-run"))
    """
    if config.name is None:
        return
    folder = config.out / config.name
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise _taken(folder)


def claim(config: RunConfig) -> Path:
    """Make a run's folder, with its settings in it; no other process that wants one at the same time gets the same.

    A run without a name gets that of its data, backbone and method, with a number where there is such a folder already.

    Raises:
        UserError: the run's name is taken, or the folder cannot be written.

    >>> import tempfile
    >>> config = RunConfig(out=Path(tempfile.mkdtemp()))
    >>> [claim(config).name for _ in range(3)]
    ['digits-vpt_nano-deep', 'digits-vpt_nano-deep-2', 'digits-vpt_nano-deep-3']
    """

    def made(folder: Path) -> bool:
        return make_folder(folder, lambda new: write_config(new, config, folder.name))

    if config.name is not None:
        folder = config.out / config.name
        if not made(folder):
            raise _taken(folder)
        return folder
    while not made(folder := config.out / free_name(config.out, stem_of(config))):
        pass  # another process was quicker
    return folder


def free_name(out: Path, stem: str) -> str:
    """The first of `stem`, `stem-2`, `stem-3` and so on that is no name in a folder.

    >>> free_name(Path("no/such/folder"), "a")
    'a'
    """
    name, number = stem, 1
    while (out / name).exists():
        number += 1
        name = f"{stem}-{number}"
    return name


def write_config(folder: Path, config: RunConfig, name: str | None = None) -> None:
    """Write a run's settings into its folder.

    Args:
        folder: where.
        config: the settings.
        name: of the run; default: the folder's.
    """
    stored = config.with_(name=name or folder.name)
    write_text(folder / "config.yaml", yaml.safe_dump(stored.model_dump(mode="json"), sort_keys=False))


def remove_leftovers(folder: Path) -> None:
    """Remove checkpoints that a kill left half written; the caller holds the folder.

    >>> remove_leftovers(Path("no/such/run"))
    """
    for temporary in folder.glob(f".{CHECKPOINT}.*.tmp"):
        temporary.unlink(missing_ok=True)


def _taken(folder: Path) -> UserError:
    return UserError(
        f"{folder} exists and is not overwritten; choose another name=..., or go on with: vpt train resume={folder}"
    )


def data_name(path: str) -> str:
    """What a data set is called: its folder, or its file unless that has a name that tells nothing.

    >>> data_name("sets/fruit"), data_name("sets/fruit/data.yaml"), data_name("sets/fruit.yaml"), data_name("digits")
    ('fruit', 'fruit', 'fruit', 'digits')
    """
    place = Path(os.path.abspath(at_home(path))) if path in (".", "..") or "/" in path or os.sep in path else Path(path)
    if place.suffix.lower() in _DATA_FILES:
        if place.stem.lower() not in _PLAIN_NAMES and not place.stem.startswith(("instances_", "_annotations")):
            return place.stem
        place = Path(os.path.abspath(place)).parent
        while place.name.lower() in _PLAIN_NAMES and place.parent.name:
            place = place.parent
    return place.name or path


def stem_of(config: RunConfig) -> str:
    """Data, backbone and method, as part of a folder's name."""
    stem = "-".join([data_name(config.data.path), config.backbone.name, config.prompt.kind])
    stem += "" if config.tuning.kind == "frozen" else f"-{config.tuning.kind}"
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in stem)
