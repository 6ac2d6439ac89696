"""What a run computes with, once its configuration and data have been checked: device, data, loaders, console."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from vpt.backbones.backbone import Backbone
from vpt.config import DataConfig, LinearHead, RunConfig
from vpt.data.data_module import Load, Readings, with_window
from vpt.data.dataloader import Loader, make_loader
from vpt.data.dataset import LabelledData, Record
from vpt.data.image_cache import ImageCache
from vpt.data.transforms.classification import Transform, eval_transform, train_transform
from vpt.data.transforms.multi_view import Views
from vpt.data.worker_processes import default_workers
from vpt.models.classifier import PromptedModel
from vpt.training.lr_schedule import default_epochs, probe_epochs
from vpt.utils.console import Console
from vpt.utils.device import Autocast, autocast, pick_device, pick_precision
from vpt.utils.distributed import own_device, ranks


@dataclass(frozen=True)
class RunContext:
    """Everything a run needs beside its model.

    Args:
        config: the settings, with epochs and window decided.
        data: what it trains on and is measured on.
        device: where it computes.
        precision: in which: "fp32", "bf16" or "fp16".
        console: where it prints.
        caches: decoded images by split, where `data.cache` keeps them.
        backbone: one that is loaded already, for a run that does not change its weights; default: its own.
    """

    config: RunConfig
    data: LabelledData
    device: torch.device
    precision: str
    console: Console
    caches: Mapping[str, ImageCache] = field(default_factory=dict)
    backbone: Backbone | None = None

    @property
    def autocast(self) -> Autocast:
        """A context for forward passes in the run's precision."""
        return autocast(self.precision, self.device)

    @property
    def pass_size(self) -> int:
        """Images in one forward pass of training."""
        return -(-self.config.train.batch_size // self.config.train.accumulate)

    @property
    def drop_last(self) -> bool:
        """Whether the last batch of a training epoch is left out if it is not full: never the only one."""
        return self.config.train.drop_last and len(self.data.train) >= self.config.train.batch_size

    def training_transform(self, model: PromptedModel) -> Transform:
        """What makes of a decoded image what `model` trains on.

        Raises:
            UserError: an augmentation that does not exist, or fails.
        """
        pre, data = replace(model.backbone.preprocess, size=model.image_size), self.config.data
        return train_transform(pre, data.augment, data.resize, data.crop_pct, data.crop_scale)

    def training_loader(self, model: PromptedModel) -> Loader:
        """Batches of the training split, augmented and shuffled; each of several processes gets a part of a batch."""
        return self.loader(model, self.data.train, "train", training=True, dealt=True)

    def loader(
        self,
        model: PromptedModel,
        records: Sequence[Record],
        split: str = "",
        training: bool = False,
        dealt: bool = False,
    ) -> Loader:
        """Batches of records as `model` wants them; augmented and shuffled for training; dealt out to all processes,
        or all of them to each."""
        config, data = self.config, self.data
        transform = self.training_transform(model) if training else evaluation_transform(model, config.data)
        return make_loader(
            records,
            transform,
            batch_size=config.train.batch_size,
            classes=len(data.classes),
            multilabel=data.multilabel,
            seed=config.train.seed,
            shuffle=training,
            drop_last=training and dealt and self.drop_last,
            workers=default_workers() if config.data.workers is None else config.data.workers,
            cache=self.caches.get(split),
            max_pixels=config.data.max_pixels,
            pin_memory=self.device.type == "cuda",
            rank=ranks().rank if dealt else 0,
            ranks=ranks().count if dealt else 1,
            epochs=(config.train.epochs or 1) if training else 1,
        )


Setting = RunContext  # its name in tasks and evaluation


def evaluation_transform(model: PromptedModel, data: DataConfig) -> Transform:
    """What makes of a decoded image what `model` wants at inference: a square, or several views of one."""
    pre = replace(model.backbone.preprocess, size=model.image_size)
    plain = eval_transform(pre, data.resize, data.crop_pct)
    if model.test_time is None:
        return plain
    return Views(plain, model.test_time.views, model.test_time.augmix)


def prepare(config: RunConfig, load: Load, console: Console, readings: Readings | None = None) -> RunContext:
    """Check a configuration against machine, backbone and data, and decide what it leaves open.

    Args:
        config: the run.
        load: reads its data; a task's.
        console: where notes are printed.
        readings: data that other runs have read; default: none.

    Raises:
        UserError: whatever is wrong, before anything is written.
    """
    device = pick_device(own_device(config.train.device))
    precision = pick_precision(config.train.precision, device)
    reading = (readings or Readings()).of(config, load)
    data = reading.data
    for note in reading.notes:
        (console.warn if note.startswith("warning: ") else console.say)(note)
    if reading.warning:
        console.warn(reading.warning)
    console.say(f"data: {config.data.path}: {data.summary()}")
    # The run is written down with the window it used, which predictions and a resumed run use too.
    config = with_window(config, reading.window)
    config = config.with_(_decided(config, len(data.train)))
    if reading.caches:
        held = sum(cache.nbytes for cache in reading.caches.values())
        console.say(f"{held / 1e6:.0f} MB of decoded images kept in memory")
    return RunContext(config, data, device, precision, console, reading.caches)


def _decided(config: RunConfig, images: int) -> dict[str, int]:
    """The number of epochs, and how often is validated, where the settings leave these open."""
    train = config.train
    probed = isinstance(config.head, LinearHead) and config.head.init == "probe"
    epochs = train.epochs
    if epochs is None:
        batches = images / train.batch_size
        whole = math.floor(batches) if train.drop_last and batches >= 1 else math.ceil(batches)
        epochs = probe_epochs(images, whole) if probed else default_epochs(whole)
    return {"train.epochs": epochs, "train.eval_every": train.eval_every or (max(1, epochs // 5) if probed else 1)}
