"""Run folders: their names, whether a run has finished, and the settings that its result depends on.

Folders of several runs contain a file with the settings they were started with, so that they never mix two experiments.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vpt.config import RunConfig, read_yaml
from vpt.config.data import LEGACY
from vpt.metrics.metrics_file import read_metrics
from vpt.models.header import CHECKPOINT
from vpt.utils.atomic_io import at_home, make_folder, read_json, write_text
from vpt.utils.errors import UserError
from vpt.utils.file_names import cut
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
# Paths of data and weights. They may differ in a resumed run, which compares the fingerprints of their contents.
MOVABLE = {"data.path", "data.val", "data.test", "backbone.weights"}
# Settings that earlier versions did not have, with the value that matches their behaviour.
ADDED: dict[str, Any] = {
    "cases": [],
    "backbone.channels": "summed",
    "data.channels": None,
    "data.classes": None,
    "data.crop_scale": None,
    "data.fold": None,
    "data.folds": None,
    "data.group": None,
    "data.label_column": None,
    "data.positive": None,
    "data.multilabel": False,
    "data.slices": "middle",
    "head.bias": 0.0,
    "head.first_alpha": 1.0,
    "head.first_beta": 5.5,
    "head.init": "small",
    "metrics.unknown": None,
    "metrics": {"at": 0.95, "threshold": None, "unknown": None, "unsure": None},
    "prompt.pae": None,
    "prompt.rank": 4,  # of pixel prompts
    "train.drop_last": False,
    "train.drop_path": 0.0,
    "train.loss": {"kind": "cross_entropy"},
    "train.optimizer.eps": 1e-8,
}


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its folder, its artifact, and the content of metrics.json.

    It is a path too, that of the folder: `vpt.load(result)` and `vpt.write_report([result])` take it.
    """

    folder: Path
    artifact: Path
    metrics: dict[str, Any]

    def __fspath__(self) -> str:
        return str(self.folder)


def finished(folder: Path) -> TrainResult | None:
    """The finished run in a folder, or None.

    >>> finished(Path("no/such/run")) is None
    True
    """
    file = folder / "metrics.json"
    if not file.is_file():
        return None
    return TrainResult(folder, folder / "artifact.safetensors", read_metrics(file))


def identity(config: RunConfig) -> dict[str, Any]:
    """The settings that the result of a run depends on."""
    tree = config.model_dump(mode="json", exclude={"out", "name", "compare", "log"})
    for section, keys in FREE_AT_RESUME.items():
        for key in keys:
            tree[section].pop(key)
    if tree["data"]["window"] in LEGACY:  # as in identities written before this setting existed
        del tree["data"]["window"]
    return tree


def upgraded(tree: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run folder, completed by those that the version which wrote them did not have.

    >>> upgraded({"data": {"path": "photos"}})
    {'data': {'window': 'legacy', 'path': 'photos'}}
    """
    data, head = tree.get("data"), tree.get("head")
    if isinstance(data, dict):
        tree = {**tree, "data": {"window": "legacy", **data}}
    if isinstance(head, dict) and head.get("kind") in ("linear", "mlp"):
        tree = {**tree, "head": {"init": ADDED["head.init"], **head}}
    return tree


def with_recorded_batch_size(config: RunConfig, folder: Path) -> RunConfig:
    """The settings of a run with the batch size that `train.batch_size=auto` has found for it before, if it has.

    >>> with_recorded_batch_size(RunConfig(), Path("no/such/run")) == RunConfig()
    True
    """
    file = folder / "config.yaml"
    if config.train.batch_size != "auto" or not file.is_file():
        return config
    train = read_yaml(file).get("train")
    found = train.get("batch_size") if isinstance(train, dict) else None
    return config if found is None else config.with_({"train.batch_size": found})


def refuse_other(file: Path, new: dict[str, Any]) -> None:
    """Refuse to continue a folder of several runs with other settings.

    Args:
        file: file in the folder with the settings it was started with.
        new: the settings to continue with, as read from JSON.

    Raises:
        UserError: it was started with other settings, or contains something else.
    """
    folder = file.parent
    if not folder.is_dir() or all(item == file or is_lock(item.name) for item in folder.iterdir()):
        return
    if not file.is_file():
        raise UserError(f"{folder} exists and contains something else; choose another name=...")
    refuse_changed(folder, read_json(file, "run the same command again"), new)


def refuse_changed(place: object, old: Any, new: Any) -> None:
    """Refuse to continue something with other settings than it was started with.

    Args:
        place: what was started, for the message.
        old: the settings it was started with.
        new: the settings to continue with, as read from JSON.

    Raises:
        UserError: they differ.

    >>> refuse_changed("runs/a", {"train": {"epochs": 1}}, {"train": {"epochs": 3}})
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: runs/a was started with other settings (train.epochs); use the same, or another name=...
    """
    if names := differing(old, new):
        raise UserError(
            f"{place} was started with other settings ({', '.join(names[:5])}); use the same, or another name=..."
        )


def differing(old: Any, new: Any, path: str = "") -> list[str]:
    """Names of the settings that differ between two trees.

    Args:
        old: a tree, as read from JSON.
        new: the other tree.
        path: path of both within a larger tree.

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
    """Whether a setting that is missing in the older tree has the value that matches earlier versions."""
    name = path.removeprefix("settings.")
    return name in ADDED and value == ADDED[name]


def refuse_taken(config: RunConfig) -> None:
    """Refuse a run name that is already taken, before long work starts.

    Raises:
        UserError: the run has a name, and its folder exists and is not empty.

    >>> refuse_taken(RunConfig(name="no-such-run"))
    """
    if config.name is None:
        return
    folder = config.out / config.name
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise _taken(folder)


def claim(config: RunConfig) -> Path:
    """Create the folder of a run, with its settings; safe when several processes do so at the same time.

    A run without a name is named after its data, backbone and method, with a number if that folder exists.

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
        pass  # another process was faster
    return folder


def free_name(out: Path, stem: str) -> str:
    """The first of `stem`, `stem-2`, `stem-3` and so on that does not exist in a folder.

    >>> free_name(Path("no/such/folder"), "a")
    'a'
    """
    name, number = stem, 1
    while (out / name).exists():
        number += 1
        name = f"{stem}-{number}"
    return name


def write_config(folder: Path, config: RunConfig, name: str | None = None) -> None:
    """Write the settings of a run into its folder.

    Args:
        folder: the folder.
        config: the settings.
        name: name of the run; default: that of the folder.
    """
    stored = config.with_(name=name or folder.name)
    write_text(folder / "config.yaml", yaml.safe_dump(stored.model_dump(mode="json"), sort_keys=False))


def remove_leftovers(folder: Path) -> None:
    """Remove partly written checkpoints of a killed run; the caller must hold the lock of the folder.

    >>> remove_leftovers(Path("no/such/run"))
    """
    for temporary in folder.glob(f".{CHECKPOINT}.*.tmp"):
        temporary.unlink(missing_ok=True)


def _taken(folder: Path) -> UserError:
    return UserError(
        f"{folder} exists and is not overwritten; choose another name=..., or resume with: "
        f"vpt train resume={shlex.quote(str(folder))}"
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
    stem = "-".join([cut(data_name(config.data.path)), config.backbone.name, config.prompt.kind])
    stem += "" if config.tuning.kind == "frozen" else f"-{config.tuning.kind}"
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in stem)
