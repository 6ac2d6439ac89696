"""Pictures of a run: its labels, images as the model gets them, and afterwards predictions beside the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vpt.data.dataset import LabelledData, spread
from vpt.metrics.label_plots import label_picture
from vpt.models.base import Prompted
from vpt.training.callbacks import Callback
from vpt.training.context import RunContext
from vpt.training.step import AnyBatch
from vpt.utils.console import Console
from vpt.utils.distributed import is_first
from vpt.utils.image_grid import grid, scaled, tile
from vpt.utils.plotting import picture_jpeg

if TYPE_CHECKING:
    from vpt.training.tasks.base import Metrics, Task
    from vpt.training.trainer import Trainer

MOST = 12  # images
TRAIN, VAL, LABELS = "train_batch.jpg", "val_batch.jpg", "labels.jpg"


class BatchPictures(Callback):
    """Draws the labels of a new run, and its first batch and validation images unless it trains on cached features."""

    def before_step(self, trainer: Trainer, batch: AnyBatch) -> None:
        """Draw before the first step."""
        folder, context, task = trainer.folder, trainer.context, trainer.task
        if trainer.progress.step > 0 or folder is None or not is_first():
            return
        attempt(context.console, LABELS, lambda: draw_labels(context.data, folder))
        examples = attempt(context.console, TRAIN, lambda: task.examples(batch, context.data.train, context.data, MOST))
        if examples:
            attempt(context.console, TRAIN, lambda: _draw(examples, folder / TRAIN))
            attempt(context.console, VAL, lambda: draw_batch(task, trainer.model, context, "val", folder))


def attempt(console: Console, name: str, draw: Callable[[], Any]) -> Any:
    """Draw a picture; whatever goes wrong is a warning, because training needs no pictures."""
    try:
        return draw()
    except Exception as error:
        console.warn(f"{name} is not drawn: {' '.join(str(error).split())[:300] or type(error).__name__}")
        return None


def draw_labels(data: LabelledData, folder: Path) -> Path:
    """Write `labels.jpg`: images or boxes of each class by split, and sizes of boxes."""
    return picture_jpeg(label_picture(data), folder / LABELS)


def draw_batch(task: Task[Any], model: Prompted, context: RunContext, split: str, folder: Path) -> Path | None:
    """Write `train_batch.jpg`, the first images of training after augmentation, or `val_batch.jpg`, images of the
    validation split, evenly spaced, as the model gets them. None if there are no images, or the task draws none."""
    records = context.data.split(split)
    if split != "train":
        records = tuple(records[at] for at in spread(len(records), MOST))
    # In this process, and only as many images as are drawn.
    small = {"data.workers": 0, "train.batch_size": MOST, "train.accumulate": 1}
    loader = task.loader(model, replace(context, config=context.config.with_(small)), records, split == "train")
    if loader is None or not records:
        return None
    try:
        examples = task.examples(next(iter(loader.epoch(0))), records, context.data, MOST)
    finally:
        loader.close()
    return _draw(examples, folder / (TRAIN if split == "train" else VAL)) if examples else None


def draw_predictions(
    task: Task[Any], context: RunContext, measured: Mapping[str, Metrics], folder: Path
) -> Path | None:
    """Write `val_predictions.jpg`, or `test_predictions.jpg` without a validation split: images with the predictions
    that `Task.measure` wrote into the folder beside the truth. None if the task draws none."""
    split = next((split for split in ("val", "test") if measured.get(split)), None)
    if split is None:
        return None
    pixels = task.predictions_picture(context, measured, split, spread(len(context.data.split(split)), MOST), folder)
    return None if pixels is None else picture_jpeg(pixels, folder / f"{split}_predictions.jpg")


def _draw(examples: Sequence[tuple[np.ndarray, str]], path: Path) -> Path:
    return picture_jpeg(grid([tile(scaled(pixels)[0], [line]) for pixels, line in examples]), path)
