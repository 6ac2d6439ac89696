"""Classification: model, training objective, and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vpt.backbones.factory import check_backbone
from vpt.config import LabelMapHead, MemoryHead, OrdinalHead, RunConfig, TipHead
from vpt.data.dataset import LabelledData, Record
from vpt.data.datasets.registry import load_data
from vpt.data.evaluation_data import EvaluationRequest, load_measured
from vpt.metrics import classification as scores
from vpt.metrics.classification import ClassificationMetrics
from vpt.metrics.predictions import answers_of, read_answers, write_answers
from vpt.metrics.predictions_plot import answers_picture
from vpt.metrics.probabilities import probabilities
from vpt.metrics.regression import rank_metrics
from vpt.metrics.score_metrics import intervals, positive_of, score_metrics
from vpt.metrics.threshold import choose_thresholds
from vpt.models.base import Prompted
from vpt.models.classifier import PromptedModel
from vpt.training.checkpoint import Baseline
from vpt.training.context import RunContext
from vpt.training.losses import LabelInfo, Loss, class_weights, classification_loss
from vpt.training.tasks.base import Metrics, Score
from vpt.training.tasks.pooled import PooledTask
from vpt.training.tasks.probe import fit_head, fit_ordinal, without_prompt
from vpt.training.tasks.unknown import fit_unknown, refuse_without_validation
from vpt.utils import plotting


class Classification(PooledTask):
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

    def metric(self, data: LabelledData) -> str:
        """The metric that ranks epochs; larger is better."""
        return scores.main_metric(data.multilabel)

    def check(self, model: PromptedModel, context: RunContext) -> None:
        """Check augmentation and loss before anything is computed or written.

        Raises:
            UserError: an augmentation that does not exist or fails, or class weights that do not fit the classes.
        """
        positive_of(context.data.classes, context.config.data.positive)
        super().check(model, context)
        if model.unknown is not None:
            refuse_without_validation(context.data)

    def initialize(self, model: PromptedModel, context: RunContext) -> Baseline | None:
        """Initialise the prompts and heads of a new model that are computed from data.

        Returns:
            The linear probe, if the head is initialised by one.
        """
        baseline = super().initialize(model, context)
        if isinstance(context.config.head, TipHead | LabelMapHead | MemoryHead):
            from vpt.training.tasks.fit_heads import make_head

            make_head(model, context)
        return baseline

    def fit_head(self, model: PromptedModel, context: RunContext) -> Baseline | None:
        """Fit the head to features before training, if the settings ask for it."""
        fit = fit_ordinal if isinstance(context.config.head, OrdinalHead) else fit_head
        return fit(model, context)

    def untrained(self, model: PromptedModel, context: RunContext) -> tuple[Prompted, RunContext]:
        """The model that `initialize` evaluated, and its context."""
        return without_prompt(model, context)

    def finish(self, model: PromptedModel, context: RunContext) -> None:
        """Choose the parameters that are fitted after training."""
        if isinstance(context.config.head, TipHead):
            from vpt.training.tasks.fit_heads import finish_head

            finish_head(model, context)
        if getattr(context.config.prompt, "keep_features", 1) < 1:
            from vpt.training.tasks.select_features import select_features

            select_features(model, context, self.loss(model, context))
        fit_unknown(model, context)

    def is_trainable(self, model: PromptedModel) -> bool:
        """Whether the model has trainable parameters, or parts that are computed from data."""
        return super().is_trainable(model) or hasattr(model.head, "remember")  # a Tip-Adapter

    def loss(self, model: PromptedModel, context: RunContext) -> Loss:
        """The loss of a run, with its label smoothing and class weights."""
        return loss_for(context)

    def validation(self, outputs: Tensor, labels: Tensor, model: PromptedModel, context: RunContext) -> Score:
        """See PooledTask.validation."""
        measured = _metrics(outputs, labels, context)
        return Score(scores.score_of(measured), measured["loss"])

    def before_epoch(self, model: PromptedModel, context: RunContext) -> Callable[[int], None]:
        """Update a label mapping by frequency."""
        head = context.config.head

        def update(epoch: int) -> None:
            if isinstance(head, LabelMapHead) and head.method == "iterative" and epoch % head.every == 0:
                from vpt.training.tasks.fit_heads import map_by_frequency

                map_by_frequency(model, context)

        return update

    def measure(
        self,
        model: PromptedModel,
        context: RunContext,
        records: Sequence[Record],
        split: str,
        folder: Path | None = None,
    ) -> ClassificationMetrics:
        """Metrics of a trained model on records; with a folder, predictions are written there as CSV."""
        found, labels = self.outputs(model, context, records, split)
        logits, unknown = found.split([len(context.data.classes), found.shape[1] - len(context.data.classes)], 1)
        measured = _metrics(logits, labels, context)
        if unknown.numel():
            measured["unknown_rate"] = float((unknown > 0.5).double().mean())
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
        out = model(torch.zeros(count, model.image_channels, size, size, dtype=torch.uint8, device=device))
        return nn.functional.cross_entropy(out.float(), torch.zeros(count, dtype=torch.long, device=device))

    def predictions_picture(
        self, context: RunContext, measured: Mapping[str, Metrics], split: str, places: Sequence[int], folder: Path
    ) -> np.ndarray | None:
        """Images with predicted and true classes."""
        answers = read_answers(folder / f"predictions-{split}.csv", places)
        records = [context.data.split(split)[place] for place in places]
        return answers_picture(records, answers, context.config.data.max_pixels)

    def plots(self, model: PromptedModel, context: RunContext, measured: Mapping[str, Metrics], folder: Path) -> None:
        """Plot the confusion matrix."""
        shown = measured.get("test") or measured.get("val")
        if shown and "confusion" in shown:
            plotting.confusion_png(shown["confusion"], context.data.classes, folder / "confusion.png")


def loss_for(context: RunContext) -> Loss:
    """The loss function of a run, with its label smoothing and class weights."""
    data, config = context.data, context.config
    counts = [0] * len(data.classes)
    for record in data.train:
        for label in record.labels:
            counts[label] += 1
    weights = class_weights(config.train.class_weights, counts)
    labels = LabelInfo(tuple(data.classes), data.multilabel, config.train.label_smoothing, weights)
    return classification_loss(config.train.loss, labels)


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
    if isinstance(config.head, OrdinalHead):
        groups = [record.group for record in records]
        ranks_found, rank_limits = rank_metrics(chance.argmax(1), truth, len(context.data.classes), groups)
        found |= ranks_found
        limits = {**limits, **rank_limits}
    found["intervals"] = {name: list(edges) for name, edges in limits.items()}  # as JSON has them
    if split == "val":
        found |= choose_thresholds(chance, truth, config.metrics.threshold or "youden", at, positive)
    return found


def _metrics(logits: Tensor, labels: Tensor, context: RunContext) -> ClassificationMetrics:
    data = context.data
    return scores.classification_metrics(
        logits.numpy(), labels.numpy(), classes=data.classes, multilabel=data.multilabel
    )
