"""What tasks with a head on pooled features share: data-driven prompts, batches, cached features, validation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpt.backbones.backbone import Backbone
from vpt.config import FullTuning, RunConfig
from vpt.data.dataloader import Loader
from vpt.data.dataset import LabelledData, Record
from vpt.models.classifier import PromptedModel, backbone_for, build_model
from vpt.prompts.base import TokenPrompts
from vpt.prompts.init.initialize import start
from vpt.training.checkpoint import Baseline
from vpt.training.context import RunContext
from vpt.training.cuda_graphs import Replayed
from vpt.training.feature_cache import feature_loader, frozen_part
from vpt.training.losses import Loss, build_objective, hits
from vpt.training.predict_loop import collect, inference, outputs
from vpt.training.step import Batches, Forward
from vpt.training.tasks.base import Score, Task, TrainingParts
from vpt.utils.distributed import ranks


class PooledTask(Task[PromptedModel]):
    """A task with outputs (B, K) for each image, from a loss of outputs and labels."""

    @abstractmethod
    def loss(self, model: PromptedModel, context: RunContext) -> Loss:
        """The loss of a run, a function of outputs and labels."""

    @abstractmethod
    def validation(self, outputs: Tensor, labels: Tensor, model: PromptedModel, context: RunContext) -> Score:
        """The score of outputs on the validation split."""

    def correct(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        """Number of correct images; None if that is undefined."""
        return hits(outputs, labels)

    def build(self, config: RunConfig, classes: Sequence[str], backbone: Backbone | None = None) -> PromptedModel:
        """Build the model, on an already loaded backbone or on a new one."""
        return build_model(config, backbone or backbone_for(config), classes)

    def check(self, model: PromptedModel, context: RunContext) -> None:
        """Check augmentation and loss before anything is computed or written.

        Raises:
            UserError: an augmentation that does not exist or fails, or class weights that do not fit the classes.
        """
        context.training_transform(model)
        self.loss(model, context)

    def initialize(self, model: PromptedModel, context: RunContext) -> Baseline | None:
        """Initialise prompts and a head that are computed from data."""
        config, records = context.config, context.data.train
        if isinstance(model.prompt, TokenPrompts) and config.prompt.needs_images:
            chosen = torch.randperm(len(records), generator=torch.Generator().manual_seed(config.train.seed))
            loader = context.loader(model, [records[i] for i in chosen[: config.prompt.init_images].tolist()])
            model.eval()
            read = [batch.to(context.device) for batch in loader.epoch(0)]
            batches, labels = [model.normalise(batch.images) for batch in read], [batch.labels for batch in read]
            start(model.prompt, config.prompt, model.backbone, batches, config.train.seed, labels)
        return self.fit_head(model, context)

    def fit_head(self, model: PromptedModel, context: RunContext) -> Baseline | None:
        """Fit the head to features before training, if the settings ask for it; returns the model of epoch 0."""
        return None

    def before_epoch(self, model: PromptedModel, context: RunContext) -> Callable[[int], None]:
        """What is called with the number of an epoch, counted from 0, before it starts."""
        return lambda epoch: None

    def loader(self, model: PromptedModel, context: RunContext, records: Sequence[Record], training: bool) -> Loader:
        """Batches of records, augmented and shuffled for training."""
        return context.loader(model, records, training=training)

    def examples(
        self, batch: Any, records: Sequence[Record], data: LabelledData, most: int
    ) -> list[tuple[np.ndarray, str]]:
        """Images with the names of their classes or their numbers; several views of an image are not drawn."""
        if batch.images.dtype != torch.uint8 or batch.images.ndim != 4:
            return []  # cached features
        names = [records[index].caption(data.classes) for index in batch.index.tolist()]
        pixels = batch.images[:most].permute(0, 2, 3, 1).numpy()
        return list(zip(pixels, names, strict=False))

    def training_parts(self, model: PromptedModel, context: RunContext) -> TrainingParts:
        """Create batches, objective and validation of a run."""
        config, data = context.config, context.data
        train_loader = context.training_loader(model)
        val_loader = context.loader(model, data.val, "val", distributed=True) if data.val else None
        loaders = [loader for loader in (train_loader, val_loader) if loader is not None]
        train_batches: Batches = train_loader
        val_batches: Batches | None = val_loader
        forward: Forward = model
        part = frozen_part(model, context)
        if part is not None:
            views = "no augmentation" if config.data.augment == "none" else f"{config.data.views} views of each image"
            context.console.say(f"{views}: computing {part.what} only once")
            train_batches = feature_loader(part, model, context, "train")
            val_batches = feature_loader(part, model, context, "val") if data.val else None
            forward = part.rest

        def validate() -> Score:
            assert val_batches is not None
            run = inference(model) if forward is model else forward
            model.eval()
            return self.validation(*collect(run, val_batches, context, "evaluating val"), model, context)

        loss_of = self.loss(model, context)
        plain = forward is model and model.test_time is None and not config.prompt.objective
        plain = plain and not model.has_extra_losses
        step = _replayed(model, context) if plain else forward
        objective = build_objective(config.prompt, model, step, loss_of, part is not None, self.correct)
        validated = validate if val_batches is not None else None
        return TrainingParts(train_batches, objective, validated, self.before_epoch(model, context), loaders)

    def outputs(
        self, model: PromptedModel, context: RunContext, records: Sequence[Record], split: str
    ) -> tuple[Tensor, Tensor]:
        """Outputs of a model on records, the last column a score of unknown images if it has one, and labels."""
        order = None
        if context.config.head.in_order:  # images of a class may follow each other in the data
            order = torch.randperm(len(records), generator=torch.Generator().manual_seed(context.config.train.seed))
            records, split = [records[place] for place in order.tolist()], ""
        loader = context.loader(model, records, split, distributed=order is None)
        try:
            found, labels = collect(outputs(model), loader, context, f"evaluating {split}".rstrip())
        finally:
            loader.close()
        if order is None:
            return found, labels
        back = order.argsort()
        return found[back], labels[back]


def _replayed(model: PromptedModel, context: RunContext) -> Forward:
    """The model's forward pass in training, replayed from a CUDA graph on a GPU if possible."""
    train = context.config.train
    small = model.backbone.tower is not None and not isinstance(context.config.tuning, FullTuning)
    if context.device.type != "cuda" or train.compile == "none" or train.recompute or train.shard or not small:
        return model
    # As large as the batches of this process, or their parts.
    count = min(context.batch_size, len(context.data.train))
    count = -(-count // (ranks().count * train.accumulate))
    shape = (count, model.image_channels, model.image_size, model.image_size)
    example = torch.zeros(shape, dtype=torch.uint8, device=context.device)
    learning = [parameter for _, _, parameter in model.trainable()]
    model.train()
    with context.autocast():
        features = Replayed(model.features, learning, example, context.console.say)
    return lambda images: model.head(features(images))
