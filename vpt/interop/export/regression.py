"""Exported regression, including resizing, cropping and normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpt.data.dataset import NumberRecord, Record
from vpt.heads.regression import Number
from vpt.inference.regression import NumberPredictor
from vpt.interop.export.classifier import CLOSE, FoldedModel, PooledExport
from vpt.interop.export.task_export import Outputs, Size
from vpt.metrics.regression import regression_metrics


class FoldedNumber(FoldedModel):
    """Numbers (B,) of images, in the unit of the targets."""

    outputs = ("number",)

    def read(self, features: Tensor, outputs: Tensor) -> Tensor:
        """See FoldedModel.read."""
        return outputs[:, 0]


class NumberExport(PooledExport):
    """A model that predicts a number, for export; differences are judged in standard deviations of the targets."""

    metric = "r2"

    def __init__(self, predictor: NumberPredictor, size: Size = None) -> None:
        head = predictor.model.head
        assert isinstance(head, Number)
        super().__init__(predictor, FoldedNumber(predictor, size), float(head.std), {"name": predictor.classes[0]})

    def reference(self, image: np.ndarray) -> Outputs:
        """See TaskExport.reference."""
        return (torch.tensor([self.answered(image).number]),)

    def measured(self, found: Outputs, record: Record) -> tuple[float, float]:
        """See TaskExport.measured: the number and its target."""
        assert isinstance(record, NumberRecord)
        return float(found[0][0]), record.number

    def score(self, measured: Sequence[Any]) -> float:
        """See TaskExport.score."""
        predicted, wanted = np.array(measured).T
        return float(regression_metrics(predicted, wanted, draws=0)["r2"])

    def agreement(self, mine: Outputs, theirs: Outputs) -> tuple[int, int]:
        """See TaskExport.agreement: whether the numbers are equal up to rounding."""
        return int(abs(float(mine[0][0]) - float(theirs[0][0])) < CLOSE * self.scale), 1
