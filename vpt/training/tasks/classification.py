"""Classification: model, training objective, and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vpt.backbones.backbone import Backbone
from vpt.backbones.factory import check_backbone
from vpt.config import FullTuning, LabelMapHead, RunConfig, TipHead
from vpt.data.dataloader import Loader
from vpt.data.dataset import LabelledData, Record
from vpt.data.datasets.registry import load_data
from vpt.data.evaluation_data import EvaluationRequest, load_measured
from vpt.metrics import classification as scores
from vpt.metrics.classification import ClassificationMetrics
from vpt.metrics.predictions import answers_of, write_answers
from vpt.metrics.probabilities import probabilities
from vpt.metrics.score_metrics import intervals, positive_of, score_metrics
from vpt.metrics.threshold import choose_thresholds
from vpt.models.base import Prompted
from vpt.models.classifier import PromptedModel, backbone_for, build_model
from vpt.prompts.base import TokenPrompts
from vpt.prompts.init.initialize import start
from vpt.training.checkpoint import Baseline
from vpt.training.context import RunContext
from vpt.training.cuda_graphs import Replayed
from vpt.training.feature_cache import feature_loader, frozen_part
from vpt.training.losses import LabelInfo, build_objective, class_weights, classification_loss
from vpt.training.predict_loop import collect, inference
from vpt.training.step import Batches, Forward
from vpt.training.tasks.base import Metrics, Score, Task, TrainingParts
from vpt.training.tasks.probe import fit_head, without_prompt
from vpt.utils import plotting
from vpt.utils.distributed import ranks


class Classification(Task[PromptedModel]):
    """The task of `task=classification`, with one or several labels per image."""

    def load(self, config: RunConfig) -> LabelledData:
        """Read the data set without opening images."""
        check_backbone(config.backbone)
        return load_data(config.data).with_window(config.data.window)

    def load_for_evaluation(self, config: RunConfig, request: EvaluationRequest) -> tuple[LabelledData, str]:
        """Read the data that an artifact is evaluated on, without opening images."""
        check_backbone(config.backbone)
        data, split = load_measured(config.data, request)
        return data.with_window(config.data.window), split

    def build(self, config: RunConfig, classes: Sequence[str], backbone: Backbone | None = None) -> PromptedModel:
        """Build the model, on an already loaded backbone or on a new one."""
        return build_model(config, backbone or backbone_for(config), classes)

    def metric(self, data: LabelledData) -> str:
        """The metric that ranks epochs; larger is better."""
        return scores.main_metric(data.multilabel)

    def check(self, model: PromptedModel, context: RunContext) -> None:
        """Check augmentation and loss before anything is computed or written.

        Raises:
            UserError: an augmentation that does not exist or fails, or class weights that do not fit the classes.
        """
        positive_of(context.data.classes, context.config.data.positive)
        context.training_transform(model)
        loss_for(context)

    def initialize(self, model: PromptedModel, context: RunContext) -> Baseline | None:
        """Initialise the prompts and heads of a new model that are computed from data.

        Returns:
            The linear probe, if the head is initialised by one.
        """
        config, records = context.config, context.data.train
        if isinstance(model.prompt, TokenPrompts) and config.prompt.needs_images:
            chosen = torch.randperm(len(records), generator=torch.Generator().manual_seed(config.train.seed))
            loader = context.loader(model, [records[i] for i in chosen[: config.prompt.init_images].tolist()])
            model.eval()
            read = [batch.to(context.device) for batch in loader.epoch(0)]
            batches, labels = [model.normalise(batch.images) for batch in read], [batch.labels for batch in read]
            start(model.prompt, config.prompt, model.backbone, batches, config.train.seed, labels)
        if isinstance(config.head, TipHead | LabelMapHead):
            from vpt.training.tasks.fit_heads import make_head

            make_head(model, context)
        return fit_head(model, context)

    def untrained(self, model: PromptedModel, context: RunContext) -> tuple[Prompted, RunContext]:
        """The model that `initialize` evaluated, and its context."""
        return without_prompt(model, context)

    def finish(self, model: PromptedModel, context: RunContext) -> None:
        """Choose the parameters that are fitted after training."""
        if isinstance(context.config.head, TipHead):
            from vpt.training.tasks.fit_heads import finish_head

            finish_head(model, context)

    def is_trainable(self, model: PromptedModel) -> bool:
        """Whether the model has trainable parameters, or parts that are computed from data."""
        return super().is_trainable(model) or hasattr(model.head, "remember")  # a Tip-Adapter

    def examples(self, batch: Any, context: RunContext, most: int) -> list[tuple[np.ndarray, str]]:
        """Images with the names of their classes."""
        if batch.images.dtype != torch.uint8 or batch.images.ndim != 4:
            return []  # cached features
        classes = context.data.classes
        labels = [context.data.train[index].labels for index in batch.index.tolist()]
        names = [", ".join(classes[label] for label in each) or "no label" for each in labels]
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
            measured = _metrics(*collect(run, val_batches, context, "evaluating val"), context)
            return Score(scores.score_of(measured), measured["loss"])

        def before_epoch(epoch: int) -> None:
            head = config.head
            if isinstance(head, LabelMapHead) and head.method == "iterative" and epoch % head.every == 0:
                from vpt.training.tasks.fit_heads import map_by_frequency

                map_by_frequency(model, context)

        loss_of = loss_for(context)
        plain = forward is model and model.test_time is None and not config.prompt.objective
        plain = plain and not model.has_extra_losses
        step = _replayed(model, context) if plain else forward
        objective = build_objective(config.prompt, model, step, loss_of, cached=part is not None)
        validated = validate if val_batches is not None else None
        return TrainingParts(train_batches, objective, validated, before_epoch, loaders)

    def measure(
        self,
        model: PromptedModel,
        context: RunContext,
        records: Sequence[Record],
        split: str,
        folder: Path | None = None,
    ) -> ClassificationMetrics:
        """Metrics of a trained model on records; with a folder, predictions are written there as CSV."""
        loader: Loader = context.loader(model, records, split, distributed=True)
        try:
            logits, labels = collect(inference(model), loader, context, f"evaluating {split}")
        finally:
            loader.close()
        measured = _metrics(logits, labels, context)
        measured.update(_of_scores(logits, labels, records, split, context))  # type: ignore[typeddict-item]
        if folder is not None:
            names = [record.name for record in records]
            groups = [record.group for record in records]
            answers = answers_of(names, logits.numpy(), labels.numpy(), context.data.classes, groups)
            write_answers(folder / f"predictions-{split}.csv", answers)
        return measured

    def trial(self, model: PromptedModel, count: int, device: torch.device) -> Tensor:
        """The loss of a pass over `count` blank images, for estimating memory."""
        size = model.image_size
        out = model(torch.zeros(count, 3, size, size, dtype=torch.uint8, device=device))
        return nn.functional.cross_entropy(out.float(), torch.zeros(count, dtype=torch.long, device=device))

    def plots(self, model: PromptedModel, context: RunContext, measured: Mapping[str, Metrics], folder: Path) -> None:
        """Plot the confusion matrix."""
        shown = measured.get("test") or measured.get("val")
        if shown and "confusion" in shown:
            plotting.confusion_png(shown["confusion"], context.data.classes, folder / "confusion.png")


def loss_for(context: RunContext) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss function of a run, with its label smoothing and class weights."""
    data, config = context.data, context.config
    counts = [0] * len(data.classes)
    for record in data.train:
        for label in record.labels:
            counts[label] += 1
    weights = class_weights(config.train.class_weights, counts)
    labels = LabelInfo(tuple(data.classes), data.multilabel, config.train.label_smoothing, weights)
    return classification_loss(config.train.loss, labels)


def _replayed(model: PromptedModel, context: RunContext) -> Forward:
    """The model's forward pass in training, replayed from a CUDA graph on a GPU if possible."""
    train = context.config.train
    small = model.backbone.tower is not None and not isinstance(context.config.tuning, FullTuning)
    if context.device.type != "cuda" or train.compile == "none" or train.recompute or train.shard or not small:
        return model
    # As large as the batches of this process, or their parts.
    count = min(train.batch_size, len(context.data.train))
    count = -(-count // (ranks().count * train.accumulate))
    example = torch.zeros(count, 3, model.image_size, model.image_size, dtype=torch.uint8, device=context.device)
    learning = [parameter for _, _, parameter in model.trainable()]
    model.train()
    with context.autocast():
        features = Replayed(model.features, learning, example, context.console.say)
    return lambda images: model.head(features(images))


def _of_scores(
    logits: Tensor, labels: Tensor, records: Sequence[Record], split: str, context: RunContext
) -> dict[str, Any]:
    """Metrics of scores with their intervals, and on validation the thresholds."""
    config = context.config
    chance = probabilities(logits.numpy().astype("float64"), context.data.multilabel)
    positive = positive_of(context.data.classes, config.data.positive)
    truth, at = labels.numpy(), config.metrics.at
    found: dict[str, Any] = dict(score_metrics(chance, truth, at, positive))
    limits = intervals(chance, truth, [record.group for record in records], at, positive)
    found["intervals"] = {name: list(edges) for name, edges in limits.items()}  # as JSON has them
    if split == "val":
        found |= choose_thresholds(chance, truth, config.metrics.threshold or "youden", at, positive)
    return found


def _metrics(logits: Tensor, labels: Tensor, context: RunContext) -> ClassificationMetrics:
    data = context.data
    return scores.classification_metrics(
        logits.numpy(), labels.numpy(), classes=data.classes, multilabel=data.multilabel
    )
