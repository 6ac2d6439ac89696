"""Regression: a number for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vpt.backbones.factory import check_backbone
from vpt.config import RegressionHead, RunConfig
from vpt.data.dataset import LabelledData, NumberRecord, Record
from vpt.data.datasets.numbers import load_numbers, load_numbers_measured
from vpt.data.evaluation_data import EvaluationRequest
from vpt.heads.regression import Number, fit_ridge
from vpt.metrics.number_predictions import NumberAnswer, numbered_groups, read_numbers, write_numbers
from vpt.metrics.predictions_plot import numbers_picture
from vpt.metrics.regression import regression_metrics
from vpt.models.base import Prompted
from vpt.models.classifier import PromptedModel
from vpt.training.checkpoint import Baseline
from vpt.training.context import RunContext
from vpt.training.losses import Loss
from vpt.training.tasks.base import Metrics, Score
from vpt.training.tasks.pooled import PooledTask
from vpt.training.tasks.probe import features_of, without_prompt
from vpt.utils.errors import UserError
from vpt.utils.plotting import scatter_png


class Regression(PooledTask):
    """The task of `task=regression`."""

    def load(self, config: RunConfig) -> LabelledData:
        """Read the data set without opening images."""
        check_backbone(config.backbone)
        return load_numbers(config.data).with_window(config.data.window)

    def load_for_evaluation(self, config: RunConfig, request: EvaluationRequest) -> tuple[LabelledData, str]:
        """Read the data that an artifact is evaluated on, without opening images."""
        check_backbone(config.backbone)
        data, split = load_numbers_measured(config.data, request)
        return data.with_window(config.data.window), split

    def metric(self, data: LabelledData) -> str:
        """The metric that ranks epochs; larger is better."""
        return "r2"

    def loss(self, model: PromptedModel, context: RunContext) -> Loss:
        """The loss of the head's settings, of numbers divided by the standard deviation of the training targets."""
        return number_loss(_settings(context), _number(model))

    def correct(self, outputs: Tensor, labels: Tensor) -> None:
        """A number is neither right nor wrong."""

    def fit_head(self, model: PromptedModel, context: RunContext) -> Baseline | None:
        """Standardise the targets, and fit the head by ridge regression if the settings ask for it."""
        head = _number(model)
        head.standardise(numbers_of(context.data.train))
        if not context.config.starts_from_probe:
            return None
        train, val = features_of(model, context, numbers_of)
        weight, bias, penalty = fit_ridge(*train, val)
        head.put(weight, bias)
        if val is None:
            context.console.say(f"head: ridge regression on features of {len(train[1])} images (L2 {penalty:.2g})")
            return Baseline(None, {})
        score = regression_metrics(val[0] @ weight + bias, val[1], draws=0)["r2"]
        context.console.say(f"epoch 0: ridge regression, validation r2 {score:.4f} (L2 {penalty:.2g})")
        return Baseline(score, {name: value.to("cpu", copy=True) for name, value in model.owned_state().items()})

    def untrained(self, model: PromptedModel, context: RunContext) -> tuple[Prompted, RunContext]:
        """The model that `initialize` evaluated, and its context."""
        return without_prompt(model, context)

    def validation(self, outputs: Tensor, labels: Tensor, model: PromptedModel, context: RunContext) -> Score:
        """See PooledTask.validation."""
        found = regression_metrics(outputs[:, 0].double().numpy(), numbers_of(context.data.val), draws=0)
        return Score(found["r2"], _loss(outputs, labels, model, context), {key: found[key] for key in ("mae", "rmse")})

    def measure(
        self,
        model: PromptedModel,
        context: RunContext,
        records: Sequence[Record],
        split: str,
        folder: Path | None = None,
    ) -> Metrics:
        """Metrics of a trained model on records; with a folder, predictions are written there as CSV."""
        outputs, labels = self.outputs(model, context, records, split)
        predicted, wanted = outputs[:, 0].double().numpy(), numbers_of(records)
        groups = [record.group for record in records]
        measured = regression_metrics(predicted, wanted, groups)
        if folder is not None:
            rows = zip(records, wanted.tolist(), predicted.tolist(), numbered_groups(groups), strict=True)
            answers = [NumberAnswer(record.name, true, near, group) for record, true, near, group in rows]
            write_numbers(folder / f"predictions-{split}.csv", answers)
        return {"loss": _loss(outputs, labels, model, context), **measured}

    def trial(self, model: PromptedModel, count: int, device: torch.device) -> Tensor:
        """The loss of a pass over `count` blank images, for estimating memory."""
        size = model.image_size
        out: Tensor = model(torch.zeros(count, model.image_channels, size, size, dtype=torch.uint8, device=device))
        return out.float().square().mean()

    def predictions_picture(
        self, context: RunContext, measured: Mapping[str, Metrics], split: str, places: Sequence[int], folder: Path
    ) -> np.ndarray | None:
        """Images with predicted and true numbers."""
        found = read_numbers(folder / f"predictions-{split}.csv")
        records = [context.data.split(split)[place] for place in places]
        return numbers_picture(records, [found[place] for place in places], context.config.data.max_pixels)

    def plots(self, model: PromptedModel, context: RunContext, measured: Mapping[str, Metrics], folder: Path) -> None:
        """Plot predicted against true numbers."""
        split = next((split for split in ("test", "val") if measured.get(split)), None)
        if split is not None:
            found = read_numbers(folder / f"predictions-{split}.csv")
            name, points = context.data.classes[0], [(one.true, one.predicted) for one in found]
            scatter_png(points, name, f"R2 {measured[split]['r2']:.3f} on {split}", folder / "predicted.png")


def number_loss(config: RegressionHead, head: Number) -> Loss:
    """Loss of numbers (B, 1) and targets (B,), in standard deviations of the training targets.

    >>> from vpt.heads.regression import build_regression
    >>> config = RegressionHead(loss="l1")
    >>> float(number_loss(config, build_regression(config, 4, 1))(torch.zeros(2, 1), torch.tensor([1.0, 3.0])))
    2.0
    """

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        error = (outputs[:, 0].float() - labels) / head.std
        zero = torch.zeros_like(error)
        if config.loss == "huber":
            return F.huber_loss(error, zero, delta=config.delta)
        return F.l1_loss(error, zero) if config.loss == "l1" else F.mse_loss(error, zero)

    return loss


def numbers_of(records: Sequence[Record]) -> np.ndarray:
    """The targets (N,) of records.

    Raises:
        UserError: records of another task.
    """
    if not all(isinstance(record, NumberRecord) for record in records):
        raise UserError("the images have classes instead of numbers; choose task=classification")
    return np.array([record.number for record in records if isinstance(record, NumberRecord)])


def _settings(context: RunContext) -> RegressionHead:
    assert isinstance(context.config.head, RegressionHead)
    return context.config.head


def _number(model: PromptedModel) -> Number:
    assert isinstance(model.head, Number)
    return model.head


def _loss(outputs: Tensor, labels: Tensor, model: PromptedModel, context: RunContext) -> float:
    head = _number(model)
    return float(number_loss(_settings(context), head)(outputs.to(head.std.device), labels.to(head.std.device)))
