"""Context of a run after its configuration and data have been checked: device, data, loaders, console."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from vpt.backbones.backbone import Backbone
from vpt.config import DataConfig, RunConfig
from vpt.data.collate import ImageMaker, Maker
from vpt.data.data_module import DataCache, Load, with_window
from vpt.data.dataloader import Loader, loader_of
from vpt.data.dataset import LabelledData, Record
from vpt.data.image_cache import ImageCache
from vpt.data.transforms.classification import Transform, eval_transform, train_transform
from vpt.data.transforms.multi_view import Views
from vpt.data.worker_processes import default_workers
from vpt.models.class_templates import with_own_templates
from vpt.models.classifier import PromptedModel
from vpt.training.lr_schedule import default_epochs, probe_epochs
from vpt.utils.console import Console
from vpt.utils.device import Autocast, autocast, pick_device, pick_precision
from vpt.utils.distributed import own_device, ranks


@dataclass(frozen=True)
class RunContext:
    """Everything a run needs besides its model.

    Args:
        config: the settings, with epochs and window resolved.
        data: training and evaluation data.
        device: device of the run.
        precision: "fp32", "bf16" or "fp16".
        console: console for messages.
        caches: decoded images by split, if `data.cache` is set.
        backbone: an already loaded backbone, for a run that does not change its weights; default: load one.
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
        """Autocast context for forward passes in the run's precision."""
        return autocast(self.precision, self.device)

    @property
    def batch_size(self) -> int:
        """Number of images in one optimiser step."""
        count = self.config.train.batch_size
        assert not isinstance(count, str), "`prepare` resolves it"
        return count

    @property
    def pass_size(self) -> int:
        """Number of images in one forward pass of training."""
        return -(-self.batch_size // self.config.train.accumulate)

    @property
    def drop_last(self) -> bool:
        """Whether to drop the last batch of a training epoch if it is not full; never the only one."""
        return self.config.train.drop_last and len(self.data.train) >= self.batch_size

    def training_transform(self, model: PromptedModel) -> Transform:
        """Transform of decoded images for training `model`.

        Raises:
            UserError: an augmentation that does not exist, or fails.
        """
        pre, data = replace(model.backbone.preprocess, size=model.image_size), self.config.data
        return train_transform(pre, data.augment, data.resize, data.crop_pct, data.crop_scale, data.channels or 3)

    def training_loader(self, model: PromptedModel) -> Loader:
        """Batches of the training split, augmented and shuffled; each process gets its part of every batch."""
        return self.loader(model, self.data.train, "train", training=True, distributed=True)

    def loader(
        self,
        model: PromptedModel,
        records: Sequence[Record],
        split: str = "",
        training: bool = False,
        distributed: bool = False,
    ) -> Loader:
        """Batches of records for `model`, augmented and shuffled for training. `distributed` splits them across
        processes; otherwise every process gets all of them."""
        data = self.data
        transform = self.training_transform(model) if training else evaluation_transform(model, self.config.data)
        maker = ImageMaker(transform, len(data.classes), data.multilabel, data.numeric)
        pinned = self.device.type == "cuda"
        return self.loader_of(records, maker, split, training, distributed, pin_memory=pinned)

    def loader_of(
        self,
        records: Sequence[Record],
        maker: Maker,
        split: str = "",
        training: bool = False,
        distributed: bool = False,
        whole: bool = False,
        pin_memory: bool = False,
    ) -> Loader:
        """Batches of whatever `maker` makes of records; the other arguments are those of `loader`. `whole` splits whole
        batches across processes, instead of the images of each."""
        config = self.config
        return loader_of(
            records,
            maker,
            batch_size=self.batch_size,
            seed=config.train.seed,
            shuffle=training,
            drop_last=training and distributed and self.drop_last,
            workers=default_workers() if config.data.workers is None else config.data.workers,
            cache=self.caches.get(split),
            max_pixels=config.data.max_pixels,
            pin_memory=pin_memory,
            rank=ranks().rank if distributed else 0,
            ranks=ranks().count if distributed else 1,
            whole=whole,
            epochs=(config.train.epochs or 1) if training else 1,
            views=config.data.views,
        )


def evaluation_transform(model: PromptedModel, data: DataConfig) -> Transform:
    """Transform of decoded images for inference with `model`: one square, or several views of the image."""
    pre = replace(model.backbone.preprocess, size=model.image_size)
    plain = eval_transform(pre, data.resize, data.crop_pct, data.channels or 3)
    if model.test_time is None:
        return plain
    return Views(plain, model.test_time.views, model.test_time.augmix)


def prepare(config: RunConfig, load: Load, console: Console, cache: DataCache | None = None) -> RunContext:
    """Check a configuration against machine, backbone and data, and resolve the settings that it leaves open.

    Args:
        config: the run.
        load: function of the task that reads the data.
        console: console for messages.
        cache: data that was already read by other runs; default: none.

    Raises:
        UserError: the configuration cannot be run; raised before anything is written.
    """
    device = pick_device(own_device(config.train.device))
    precision = pick_precision(config.train.precision, device)
    loaded = (cache or DataCache()).of(config, load)
    data = loaded.data
    for note in loaded.notes:
        (console.warn if note.startswith("warning: ") else console.say)(note)
    if loaded.warning:
        console.warn(loaded.warning)
    console.say(f"data: {config.data.path}: {data.summary()}")
    # The window is stored with the run, so that predictions and a resumed run use the same one.
    config = with_own_templates(with_window(config, loaded.window))
    context = RunContext(config, data, device, precision, console, loaded.caches)
    if config.train.batch_size == "auto":
        from vpt.training.auto_batch_size import measured_batch_size

        with torch.random.fork_rng():
            config = config.with_({"train.batch_size": measured_batch_size(context)})
        context = replace(context, config=config)
    context = replace(context, config=config.with_(_decided(context)))
    if loaded.caches:
        cached = sum(each.nbytes for each in loaded.caches.values())
        console.say(f"{cached / 1e6:.0f} MB of decoded images cached in memory")
    return context


def _decided(context: RunContext) -> dict[str, int]:
    """Resolve the number of epochs and the validation interval if the settings leave them open."""
    train, images = context.config.train, len(context.data.train)
    probed = context.config.starts_from_probe
    epochs = train.epochs
    if epochs is None:
        batches = images / context.batch_size
        whole = math.floor(batches) if train.drop_last and batches >= 1 else math.ceil(batches)
        epochs = probe_epochs(images, whole) if probed else default_epochs(whole)
    return {"train.epochs": epochs, "train.eval_every": train.eval_every or (max(1, epochs // 5) if probed else 1)}
