"""Measuring without training: an artifact on a split, or what needs no training at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vpt.artifact import read_artifact
from vpt.clip import templates_of
from vpt.config import RunConfig, TipHead, ZeroShotHead, load_config
from vpt.console import Console
from vpt.data.records import SPLITS, LabelledData, Record
from vpt.device import pick_device, pick_precision
from vpt.errors import UserError
from vpt.heads.zeroshot import ZeroShot
from vpt.loading import load_model
from vpt.reading import checked
from vpt.setting import Setting
from vpt.tasks import task_of


def evaluate(
    artifact: str | Path,
    split: str = "test",
    overrides: Sequence[str] = (),
    console: Console | None = None,
    weights: str | Path | None = None,
) -> dict[str, Any]:
    """Metrics of an artifact on a split of its own data, or of other data given as `data.path=...`.

    Raises:
        UserError: no such artifact, backbone, data or split; classes that the artifact does not know.
    """
    console = console or Console()
    stored = read_artifact(artifact)
    config = load_config(base=stored.config.model_dump(mode="json"), overrides=overrides)
    backbone = None if config.backbone.name == stored.config.backbone.name else config.backbone.name
    other_weights = weights or (config.backbone.weights if config.backbone != stored.config.backbone else None)
    device = pick_device(config.train.device)
    precision = pick_precision(config.train.precision, device)
    data, records = _split_of(config, split, console)
    takes_names = isinstance(stored.config.head, ZeroShotHead) and data.classes != stored.classes
    if not takes_names:
        data = _in_order_of(data, stored.classes, config.data.path)
        records = data.split(split)
    model, _ = load_model(artifact, str(device), other_weights, backbone)
    if takes_names:
        assert isinstance(model.head, ZeroShot)
        model.head.set_names(data.classes, templates_of(config))
    setting = Setting(config, data, device, precision, console)
    return task_of(config).measure(model, setting, records, split)


def evaluate_untrained(config: RunConfig, split: str = "test", console: Console | None = None) -> dict[str, Any]:
    """Metrics of what needs no training: a zero-shot head, or one that is made from the training images alone.

    Raises:
        UserError: settings under which something would have to learn.
    """
    console = console or Console()
    device = pick_device(config.train.device)
    precision = pick_precision(config.train.precision, device)
    task = task_of(config)
    data, records = _split_of(config, split, console)
    model = task.build(config, data.classes).to(device)
    learning = sorted({role for _, role, _ in model.trainable()})
    if learning:
        raise UserError(
            f"these settings need training ({', '.join(learning)}); use vpt train, or set head=zeroshot prompt=none, "
            "or name a run to evaluate"
        )
    setting = Setting(config, data, device, precision, console)
    task.begin(model, setting)
    task.finish(model, setting)
    return task.measure(model, setting, records, split)


def _split_of(config: RunConfig, split: str, console: Console) -> tuple[LabelledData, tuple[Record, ...]]:
    data = task_of(config).load(config)
    if not data.split(split):
        raise UserError(f"{config.data.path} has no {split} split; use split=val or give data.{split}=FOLDER")
    # A Tip-Adapter's cache is made of training images, whatever the split.
    good, warning = checked(data if isinstance(config.head, TipHead) else _only(data, split), config)
    if warning:
        console.warn(warning)
    return good, good.split(split)


def _only(data: LabelledData, split: str) -> LabelledData:
    train, val, test = (data.split(name) if name == split else () for name in SPLITS)
    return replace(data, train=train, val=val, test=test)


def _in_order_of(data: LabelledData, classes: tuple[str, ...], path: str) -> LabelledData:
    """Labels as the artifact counts them: a data set seen alone may lack classes or know them in another order."""
    unknown = sorted(set(data.classes) - set(classes))
    if unknown:
        raise UserError(f"{path} has classes the artifact was not trained on: {', '.join(unknown[:5])}")
    place = [classes.index(name) for name in data.classes]

    def moved(records: tuple[Record, ...]) -> tuple[Record, ...]:
        return tuple(replace(record, labels=tuple(place[label] for label in record.labels)) for record in records)

    return replace(data, classes=classes, train=moved(data.train), val=moved(data.val), test=moved(data.test))
