"""Evaluation: of an artifact on a split, or of a configuration that needs no training."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vpt.config import (
    ClipPrompt,
    DataConfig,
    RunConfig,
    ZeroShotHead,
    full_words,
    given_keys,
    load_config,
    parse_overrides,
    read_yaml,
)
from vpt.config.metrics import MetricsConfig
from vpt.data.class_names import clean
from vpt.data.data_module import checked, resolved, with_window
from vpt.data.dataset import SPLITS, LabelledData, Record
from vpt.data.datasets.entries import NoTrainingImages
from vpt.data.datasets.registry import EMBEDDED
from vpt.data.deep_images import explained
from vpt.data.evaluation_data import EvaluationRequest, overlap
from vpt.data.validation import CheckReport
from vpt.heads.zero_shot import ZeroShot
from vpt.inference.load_model import load_model
from vpt.models.artifact import BEST, LAST, Artifact, read_artifact
from vpt.models.class_templates import templates_of, with_own_templates
from vpt.models.trusted_settings import Named, settings_for
from vpt.training.context import RunContext
from vpt.training.tasks import task_of
from vpt.utils.atomic_io import at_home
from vpt.utils.console import Console
from vpt.utils.device import pick_device, pick_precision, trained_precision
from vpt.utils.errors import FileError, UserError

MACHINE = ["train.device", "train.precision", "train.batch_size"]
EMBEDDED_DATA = (*EMBEDDED, "scenes")
NAMED_DATA = ("torchvision", "dassl", "vtab", "fgvc")  # before a colon; these data sets are in data.root
METRICS = [f"metrics.{key}" for key in MetricsConfig.model_fields if key != "unknown"]  # which is fitted in training
# Settings that affect evaluation without training.
UNTRAINED = ["task", "backbone", "prompt", "tuning", "head", "data", *METRICS, *MACHINE, "train.seed"]
# Settings that split or sample data. With other data, they request a split as training would create it.
SPLITTING = [
    f"data.{key}"
    for key in (
        *("val_fraction", "test_fraction", "split_seed", "shots", "val_shots", "join_val", "hold_test", "half"),
        *("folds", "fold"),
    )
]


class NoSplit(UserError):
    """Raised if data lacks the split to evaluate."""


def evaluate(
    artifact: str | Path,
    split: str | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    weights: str | Path | None = None,
) -> dict[str, Any]:
    """Evaluate an artifact on a split of its own data, or of other data given as `data.path=...`.

    Other data may consist of test images only. Without splits all of it is used, unless settings of splitting or
    sampling are given with it; see `vpt.data.evaluation_data`.

    Args:
        artifact: artifact file or run folder.
        split: train, val or test; default: test, or the only split of other data.
        overrides: `key=value` settings that affect evaluation, such as data, backbone, device, number of boxes.
        console: console for messages.
        weights: weight file of the backbone, as in `vpt.load`.

    Folders named by an artifact are not opened: its own data are those of the run folder that contains it, or a data
    set that is registered by name.

    Raises:
        UserError: no such artifact, backbone, data or split; no class of the artifact; several labels per image for an
            artifact with one; settings without effect.
    """
    console = console or Console()
    stored = read_artifact(artifact)
    overrides = full_words(overrides, stored.config.model_dump())
    named = _named(overrides, weights)
    config = evaluation_config(stored, split, overrides, named)
    device = pick_device(config.train.device)
    if "train.precision" in given_keys(overrides):
        precision = pick_precision(config.train.precision, device)
    else:
        precision = trained_precision(config.train.precision, device)
    config, data, split = evaluation_data(stored, config, split, overrides, console)
    built = stored.config.with_(backbone=config.backbone, head=config.head)
    model, _ = load_model(artifact, str(device), named, config=built, precision=precision)
    for note in model.backbone.notes:
        console.warn(note)
    if data.classes != stored.classes:
        assert isinstance(model.head, ZeroShot)
        console.say(f"the head uses the {len(data.classes)} class names of the data instead of the artifact's")
        model.head.set_names(data.classes, templates_of(with_own_templates(config)))
    context = RunContext(config, data, device, precision, console)
    return dict(task_of(config).measure(model, context, data.split(split), split))


def evaluation_config(
    stored: Artifact, split: str | None, overrides: Sequence[str], named: Named | None = None
) -> RunConfig:
    """The configuration in which an artifact is evaluated.

    Args:
        stored: the artifact.
        split: train, val or test; default: test.
        overrides: full names of settings, such as `data.path=...`.
        named: the user's backbone, weights and templates.

    Raises:
        UserError: as in `evaluate`.
    """
    base = settings_for(stored, named or Named()).model_dump(mode="json")
    places = _places(stored, overrides, split or "test")
    config = load_config(base={**base, "data": {**base["data"], **places}}, overrides=overrides)
    own = stored.config
    if (config.data.channels, config.backbone.channels) != (own.data.channels, own.backbone.channels):
        raise UserError(
            f"{stored.path} takes images of the channels that it was trained with; leave out these settings"
        )
    if config.data.window == "auto":
        config = with_window(config, stored.config.data.window)
    refuse_idle(overrides, _measured_by(config), "an artifact is evaluated as it was trained")
    # Images may have no label, even if none in the data has several.
    return config.with_({"data.multilabel": True}) if stored.multilabel else config


def evaluation_data(
    stored: Artifact, config: RunConfig, split: str | None, overrides: Sequence[str], console: Console
) -> tuple[RunConfig, LabelledData, str]:
    """The checked records that an artifact is evaluated on, with the configuration and the name of the split.

    Args:
        stored: the artifact.
        config: from `evaluation_config`, with the same split and overrides.
        split: train, val or test; default: test, or the only split of other data.
        overrides: full names of settings.
        console: console for messages.

    Raises:
        UserError: as in `evaluate`; NoSplit if the data of the run lacks the split.
    """
    reads_names = isinstance(stored.config.head, ZeroShotHead)
    if _as_trained(config, stored.config, split or "test", given_keys(overrides)):
        split = split or "test"
        data = _own_split(config, split, stored.classes, reads_names)
    else:
        if "data.group" not in given_keys(overrides):
            config = config.with_({"data.group": None})  # other data may have no such column or names
        data, split = task_of(config).load_for_evaluation(config, EvaluationRequest(split, stored.classes, reads_names))
        if overlap(config.data, stored.config.data, split):
            _warn_of_training_images(data.split(split), stored.config, console)
    if data.multilabel and not stored.multilabel:
        raise UserError(
            f"{config.data.path} has several labels per image, but the artifact predicts one; use data with one label "
            "per image, or train on data with several"
        )
    data = replace(
        data, multilabel=stored.multilabel
    )  # a multi-label artifact may be evaluated on images with one label
    data, report = checked(data, config)
    _say(console, data, report, config)
    return config, data, split


def evaluate_untrained(config: RunConfig, split: str | None = None, console: Console | None = None) -> dict[str, Any]:
    """Evaluate a configuration without training: a zero-shot head, or one that is computed from training images.

    Args:
        config: the configuration.
        split: train, val or test; default: test, or the only split of the data.
        console: console for messages.

    Raises:
        UserError: the configuration has trainable parameters.
    """
    console = console or Console()
    device = pick_device(config.train.device)
    precision = pick_precision(config.train.precision, device)
    task = task_of(config)
    whole = config.head.from_images  # whatever the split
    try:
        data, split = task.load(config), split or "test"
        _refuse_absent(data, config, split)
        data = data if whole else _only(data, split)
    except NoTrainingImages:
        if whole:
            raise
        data, split = task.load_for_evaluation(config, EvaluationRequest(split, None))
    data, report = checked(data, config)
    config = with_own_templates(with_window(config, resolved(config.data.window, report)))
    data = data.with_window(config.data.window)
    _say(console, data, report, config)
    model = task.build(config, data.classes).to(device)
    learning = sorted({role for _, role, _ in model.trainable()})
    if learning:
        raise UserError(
            f"these settings need training ({', '.join(learning)}); use vpt train, or set head=zeroshot prompt=none, "
            "or name a run to evaluate"
        )
    context = RunContext(config, data, device, precision, console)
    task.initialize(model, context)
    task.finish(model, context)
    return dict(task.measure(model, context, data.split(split), split))


def refuse_idle(words: Sequence[str], used: Collection[str], why: str) -> None:
    """Refuse settings without effect.

    Args:
        words: `key=value` settings.
        used: names of settings or whole sections that have an effect.
        why: why the others have none.

    Raises:
        UserError: a setting has no effect; the message names it.

    >>> refuse_idle(["data=photos", "train.epochs=3"], ["data", "train.device"], "nothing is trained")
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: train.epochs would have no effect because nothing is trained; leave it out
    """
    idle = [key for key in given_keys(words) if key not in used and key.partition(".")[0] not in used]
    if idle:
        those = "it" if len(idle) == 1 else "them"
        raise UserError(f"{', '.join(idle)} would have no effect because {why}; leave {those} out")


def _named(overrides: Sequence[str], weights: str | Path | None) -> Named:
    """Backbone, weights and templates named by the user's settings."""
    given = parse_overrides(overrides)
    backbone, head = given.get("backbone"), given.get("head")
    backbone = {"name": backbone} if isinstance(backbone, str) else backbone if isinstance(backbone, Mapping) else {}
    templates = head.get("templates") if isinstance(head, Mapping) else None
    return Named(backbone.get("name"), weights or backbone.get("weights"), templates)


def _places(stored: Artifact, overrides: Sequence[str], split: str) -> dict[str, Any]:
    """Location of the data of an artifact, from the config.yaml in its folder. The header alone is not trusted, except
    for the name of a registered data set; data given by the user for the evaluated split is sufficient.

    Raises:
        FileError: only the header names data, and the user does not.
    """
    run = stored.path.parent / "config.yaml"
    if stored.path.name in (BEST, LAST) and run.is_file():
        data = load_config(base=read_yaml(run)).data
        return {key: getattr(data, key) for key in ("path", "val", "test", "root", "download")}
    data, given = stored.config.data, given_keys(overrides)
    plain = {"path": data.path, "val": None, "test": None, "root": DataConfig().root, "download": False}
    if f"data.{split}" in given and "data.path" not in given:
        return {**plain, "path": parse_overrides(overrides)["data"][split]}
    known = data.path in EMBEDDED_DATA or data.path.partition(":")[0] in NAMED_DATA
    splits = [f"data.{key}" for key in ("val", "test") if getattr(data, key) is not None]
    if "data.path" not in given and not (known and all(key in given for key in splits)):
        raise FileError(stored.path, "is not in a run folder that names its data; specify the data: data=PATH")
    return plain


def _measured_by(config: RunConfig) -> list[str]:
    """Settings that affect the evaluation of an artifact."""
    backbone = [f"backbone.{key}" for key in ("name", "pretrained", "weights", "seed", "dtype")]
    data = [f"data.{key}" for key in type(config.data).model_fields if key not in ("augment", "cache")]
    prompt, head = config.prompt, set(config.head.at_evaluation)
    if isinstance(prompt, ClipPrompt) and prompt.replaces_templates:
        head -= {"templates"}
    return [*METRICS, *data, *backbone, *(f"head.{key}" for key in head), *MACHINE]


def _as_trained(config: RunConfig, stored: RunConfig, split: str, given: Collection[str]) -> bool:
    """Whether to evaluate a split as created by training: of the run's data, or of other data given with settings of
    splitting or sampling."""
    if split in ("val", "test") and getattr(config.data, split) is not None:
        return False
    if any(key in given for key in SPLITTING):
        return True
    return os.path.realpath(at_home(config.data.path)) == os.path.realpath(at_home(stored.data.path))


def _own_split(config: RunConfig, split: str, classes: tuple[str, ...], reads_names: bool) -> LabelledData:
    """A split as created by training, with class indices of the artifact."""
    try:
        data = task_of(config).load(config)
    except UserError as error:
        if ":" in config.data.path or at_home(config.data.path).exists():
            raise
        raise UserError(
            f"{error}. This is the data of the run; if it is not available, specify the data to evaluate: data=FOLDER, "
            f"or data.{split}=FOLDER"
        ) from None
    _refuse_absent(data, config, split)
    data = _only(data, split)
    if reads_names and data.classes != classes:
        return data
    return _in_order_of(data, classes, config.data.path)


def _refuse_absent(data: LabelledData, config: RunConfig, split: str) -> None:
    if not data.split(split):
        there = [name for name in SPLITS if data.split(name)]
        choice = " or ".join(f"split={name}" for name in there)
        raise NoSplit(f"{config.data.path} has no {split} split; use {choice} or set data.{split}=FOLDER")


def _warn_of_training_images(records: Sequence[Record], stored: RunConfig, console: Console) -> None:
    try:
        own = task_of(stored).load(stored)
    except UserError:
        return  # the training data is not available
    seen = {os.path.realpath(record.source) for record in (*own.train, *own.val) if isinstance(record.source, Path)}
    again = sum(isinstance(record.source, Path) and os.path.realpath(record.source) in seen for record in records)
    if again:
        console.warn(
            f"warning: {again} of the {len(records)} images were used for training or validation of the run, so "
            "scores are too high"
        )


def _say(console: Console, data: LabelledData, report: CheckReport, config: RunConfig) -> None:
    """Print notes on the data, and what is evaluated."""
    for note in [*data.notes, *explained(config.data.window, report.deep)]:
        (console.warn if note.startswith("warning: ") else console.say)(note)
    if report.worrying:
        console.warn(report.text())
    console.say(f"evaluating {data.summary()}")


def _only(data: LabelledData, split: str) -> LabelledData:
    train, val, test = (data.split(name) if name == split else () for name in SPLITS)
    return replace(data, train=train, val=val, test=test)


def _in_order_of(data: LabelledData, classes: tuple[str, ...], path: str) -> LabelledData:
    """Convert labels to class indices of the artifact; a data set may lack classes or have another order."""
    places: dict[str, int] = {}
    for number, name in [*enumerate(classes), *((number, clean(name)) for number, name in enumerate(classes))]:
        places.setdefault(name, number)  # older artifacts may contain folder names
    unknown = sorted(set(data.classes) - set(places))
    if unknown:
        raise UserError(f"{path} has classes the artifact was not trained on: {', '.join(unknown[:5])}")
    place = [places[name] for name in data.classes]

    def moved(records: tuple[Record, ...]) -> tuple[Record, ...]:
        return tuple(replace(record, labels=tuple(place[label] for label in record.labels)) for record in records)

    return replace(data, classes=classes, train=moved(data.train), val=moved(data.val), test=moved(data.test))
