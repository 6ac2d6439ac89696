"""Classification: model, training objective, and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpt.backbones.backbone import Backbone
from vpt.backbones.factory import check_backbone
from vpt.config import FrozenTuning, FullTuning, LabelMapHead, RunConfig
from vpt.data.dataloader import Loader
from vpt.data.dataset import LabelledData, Record
from vpt.data.datasets.registry import load_data
from vpt.data.evaluation_data import Asked, load_measured
from vpt.heads.tip_adapter import TipAdapter
from vpt.metrics import classification as scores
from vpt.metrics.predictions import answers_of, write_answers
from vpt.models.base import Prompted
from vpt.models.classifier import PromptedModel, backbone_for, build_model
from vpt.prompts.base import TokenPrompts
from vpt.prompts.init.initialize import start, wants_images
from vpt.training.checkpoint import Baseline
from vpt.training.context import Setting
from vpt.training.cuda_graphs import Replayed
from vpt.training.feature_cache import FeatureLoader
from vpt.training.losses import LabelInfo, class_weights, classification_loss
from vpt.training.predict_loop import collect, inference
from vpt.training.regularizers import REGULATED, build_objective
from vpt.training.step import Batches, Forward
from vpt.training.tasks.base import TrainingParts
from vpt.training.tasks.fit_heads import finish_head, make_head, map_by_frequency
from vpt.training.tasks.probe import fit_head, without_prompt
from vpt.utils import plotting
from vpt.utils.distributed import ranks


class Classification:
    """The task of `task=classification`, with one or several labels per image."""

    def load(self, config: RunConfig) -> LabelledData:
        """Read the data set without opening images."""
        check_backbone(config.backbone)
        return load_data(config.data).with_window(config.data.window)

    def load_measured(self, config: RunConfig, asked: Asked) -> tuple[LabelledData, str]:
        """Read the data that an artifact is evaluated on, without opening images."""
        check_backbone(config.backbone)
        data, split = load_measured(config.data, asked)
        return data.with_window(config.data.window), split

    def backbone(self, config: RunConfig) -> Backbone:
        """Load the backbone to which `build` adds a prompt and a head."""
        return backbone_for(config)

    def build(self, config: RunConfig, classes: Sequence[str], backbone: Backbone | None = None) -> PromptedModel:
        """Build the model, on an already loaded backbone or on a new one."""
        return build_model(config, backbone or self.backbone(config), classes)

    def metric(self, data: LabelledData) -> str:
        """The metric that ranks epochs; larger is better."""
        return scores.main_metric(data.multilabel)

    def check(self, model: Prompted, setting: Setting) -> None:
        """Check augmentation and loss before anything is computed or written.

        Raises:
            UserError: an augmentation that does not exist or fails, or class weights that do not fit the classes.
        """
        assert isinstance(model, PromptedModel)
        setting.training_transform(model)
        loss_for(setting)

    def begin(self, model: Prompted, setting: Setting) -> Baseline | None:
        """Initialise the prompts and heads of a new model that are computed from data.

        Returns:
            The linear probe, if the head is initialised by one.
        """
        assert isinstance(model, PromptedModel)
        config, records = setting.config, setting.data.train
        if isinstance(model.prompt, TokenPrompts) and wants_images(config.prompt):
            chosen = torch.randperm(len(records), generator=torch.Generator().manual_seed(config.train.seed))
            loader = setting.loader(model, [records[i] for i in chosen[: config.prompt.init_images].tolist()])
            model.eval()
            read = [batch.to(setting.device) for batch in loader.epoch(0)]
            batches, labels = [model.normalise(batch.images) for batch in read], [batch.labels for batch in read]
            start(model.prompt, config.prompt, model.backbone, batches, config.train.seed, labels)
        make_head(model, setting)
        return fit_head(model, setting)

    def untrained(self, model: Prompted, setting: Setting) -> tuple[Prompted, Setting]:
        """The model that `begin` evaluated, and its context."""
        assert isinstance(model, PromptedModel)
        return without_prompt(model, setting)

    def finish(self, model: Prompted, setting: Setting) -> None:
        """Choose the parameters that are fitted after training."""
        assert isinstance(model, PromptedModel)
        finish_head(model, setting)

    def is_trainable(self, model: Prompted) -> bool:
        """Whether the model has trainable parameters, or parts that are computed from data."""
        return any(True for _ in model.trainable()) or isinstance(model.head, TipAdapter)

    def training_parts(self, model: Prompted, setting: Setting) -> TrainingParts:
        """Create batches, objective and validation of a run."""
        assert isinstance(model, PromptedModel)
        config, data = setting.config, setting.data
        train_loader = setting.training_loader(model)
        val_loader = setting.loader(model, data.val, "val", distributed=True) if data.val else None
        loaders = [loader for loader in (train_loader, val_loader) if loader is not None]
        train_batches: Batches = train_loader
        val_batches: Batches | None = val_loader
        forward: Forward = model
        if model.prompt is None and isinstance(config.tuning, FrozenTuning) and config.data.augment == "none":
            setting.console.say("backbone is frozen and there is no prompt or augmentation: features are computed once")
            train_batches = _features(setting, model, "train")
            val_batches = _features(setting, model, "val") if data.val else None
            forward = model.head

        def validate() -> dict[str, Any]:
            assert val_batches is not None
            run = inference(model) if forward is model else forward
            model.eval()
            return _metrics(*_scored(run, val_batches, setting, "val"), setting)

        def before_epoch(epoch: int) -> None:
            head = config.head
            if isinstance(head, LabelMapHead) and head.method == "iterative" and epoch % head.every == 0:
                map_by_frequency(model, setting)

        loss_of = loss_for(setting)
        plain = forward is model and model.test_time is None and not isinstance(config.prompt, REGULATED)
        plain = plain and not model.has_extra_losses
        step = _replayed(model, setting) if plain else forward
        objective = build_objective(config.prompt, model, step, loss_of, cached=forward is model.head)
        validated = validate if val_batches is not None else None
        return TrainingParts(train_batches, objective, validated, before_epoch, loaders)

    def measure(
        self, model: Prompted, setting: Setting, records: Sequence[Record], split: str, folder: Path | None = None
    ) -> dict[str, Any]:
        """Metrics of a trained model on records; with a folder, predictions are written there as CSV."""
        assert isinstance(model, PromptedModel)
        loader: Loader = setting.loader(model, records, split, distributed=True)
        try:
            logits, labels = _scored(inference(model), loader, setting, split)
        finally:
            loader.close()
        measured = _metrics(logits, labels, setting)
        if folder is not None:
            names = [record.name for record in records]
            answers = answers_of(names, logits.numpy(), labels.numpy(), setting.data.classes)
            write_answers(folder / f"predictions-{split}.csv", answers)
        return measured

    def trial(self, model: Prompted, count: int, device: torch.device) -> Tensor:
        """The loss of a pass over `count` blank images, for estimating memory."""
        assert isinstance(model, PromptedModel)
        size = model.image_size
        out = model(torch.zeros(count, 3, size, size, dtype=torch.uint8, device=device))
        return nn.functional.cross_entropy(out.float(), torch.zeros(count, dtype=torch.long, device=device))

    def pictures(self, model: Prompted, setting: Setting, measured: dict[str, Any], folder: Path) -> None:
        """Plots of a finished run besides its training curves."""
        shown = measured.get("test") or measured.get("val")
        if shown and "confusion" in shown:
            plotting.confusion_png(shown["confusion"], setting.data.classes, folder / "confusion.png")


def loss_for(setting: Setting) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss function of a run, with its label smoothing and class weights."""
    data, config = setting.data, setting.config
    counts = [0] * len(data.classes)
    for record in data.train:
        for label in record.labels:
            counts[label] += 1
    weights = class_weights(config.train.class_weights, counts)
    labels = LabelInfo(tuple(data.classes), data.multilabel, config.train.label_smoothing, weights)
    return classification_loss(config.train.loss, labels)


def _replayed(model: PromptedModel, setting: Setting) -> Forward:
    """The model's forward pass in training, replayed from a CUDA graph on a GPU if possible."""
    train = setting.config.train
    small = model.backbone.tower is not None and not isinstance(setting.config.tuning, FullTuning)
    if setting.device.type != "cuda" or train.compile == "none" or train.recompute or train.shard or not small:
        return model
    # As large as the batches of this process, or their parts.
    count = min(train.batch_size, len(setting.data.train))
    count = -(-count // (ranks().count * train.accumulate))
    example = torch.zeros(count, 3, model.image_size, model.image_size, dtype=torch.uint8, device=setting.device)
    learning = [parameter for _, _, parameter in model.trainable()]
    model.train()
    with setting.autocast():
        features = Replayed(model.features, learning, example, setting.console.say)
    return lambda images: model.head(features(images))


def _features(setting: Setting, model: PromptedModel, split: str) -> FeatureLoader:
    model.eval()
    loader = setting.loader(model, setting.data.split(split), split)
    features, labels = collect(
        model.features, loader, setting.device, setting.autocast, setting.console, f"features of {split}"
    )
    loader.close()
    train = setting.config.train
    training = split == "train"
    return FeatureLoader(
        features,
        labels,
        batch_size=train.batch_size,
        seed=train.seed,
        shuffle=training,
        drop_last=training and setting.drop_last,
    )


def _scored(forward: Forward, loader: Batches, setting: Setting, split: str) -> tuple[Tensor, Tensor]:
    return collect(forward, loader, setting.device, setting.autocast, setting.console, f"evaluating {split}")


def _metrics(logits: Tensor, labels: Tensor, setting: Setting) -> dict[str, Any]:
    data = setting.data
    return scores.classification_metrics(
        logits.numpy(), labels.numpy(), classes=data.classes, multilabel=data.multilabel
    )
