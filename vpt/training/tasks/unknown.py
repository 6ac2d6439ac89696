"""Fitting the score of unknown images to the features of a trained model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vpt.data.dataset import LabelledData, Record
from vpt.models.classifier import PromptedModel
from vpt.training.context import RunContext
from vpt.training.predict_loop import collect_features, some_of
from vpt.utils.errors import UserError

MOST_IMAGES = 20_000  # training images that it is fitted to


def refuse_without_validation(data: LabelledData) -> None:
    """Raise a UserError if there are no images to choose the threshold on."""
    if not (data.train and data.val):
        raise UserError(
            "metrics.unknown needs training and validation images: set data.val_fraction=0.2, or leave it out"
        )


def fit_unknown(model: PromptedModel, context: RunContext) -> None:
    """Fit the score of unknown images to training images, and choose its threshold on validation images."""
    fraction = context.config.metrics.unknown
    if model.unknown is None or fraction is None:
        return
    data = context.data
    refuse_without_validation(data)
    train = some_of(data.train, MOST_IMAGES, context.config.train.seed)
    model.eval()
    model.unknown.fit(*_features(model, context, train, "train"))
    model.unknown.accept(*_features(model, context, data.val, "val"), 1 - fraction)


def _features(
    model: PromptedModel, context: RunContext, records: Sequence[Record], split: str
) -> tuple[Tensor, Tensor]:
    """Input (N, D) and output (N, K) of the head for records of a split."""
    with torch.inference_mode():
        layers, head = model.constants(), model.ready_head()

    def both(images: Tensor) -> Tensor:
        features = model.features(images, layers)
        return torch.cat([features.float(), head(features).float()], 1)

    found, _ = collect_features(model, context, both, records, split)
    width = len(model.unknown.center) if model.unknown is not None else 0
    return found[:, :width], found[:, width:]
