"""Regression head: a number, standardised by the targets of training; and its ridge regression before training."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vpt.config import MlpHead, RegressionHead
from vpt.heads.linear import build_linear, build_mlp

PENALTIES = tuple(10.0**power for power in range(-4, 5))  # relative to the number of images
FOLDS = 5
Floats = NDArray[np.float64]


class Number(nn.Module):
    """Maps features (B, D) to numbers (B, 1), in the unit of the targets.

    Args:
        layers: maps features to standardised numbers (B, 1).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("std", torch.ones(1))

    @torch.no_grad()
    def standardise(self, targets: Floats) -> None:
        """Take mean and standard deviation of the training targets (N,)."""
        self.mean.fill_(float(targets.mean()))
        self.std.fill_(float(targets.std()))

    @torch.no_grad()
    def put(self, weight: Floats, bias: float) -> None:
        """Set the last layer to a linear map from features to numbers."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        last.weight.copy_(torch.from_numpy(weight[None] / float(self.std)))
        last.bias.fill_((bias - float(self.mean)) / float(self.std))

    def forward(self, features: Tensor) -> Tensor:
        """Numbers (B, 1) of features (B, D)."""
        found: Tensor = self.layers(features)
        return found.float() * self.std + self.mean


def build_regression(config: RegressionHead, features: int, classes: int) -> Number:
    """Create the head of `head=regression`; `classes` is one, the target.

    >>> build_regression(RegressionHead(), features=8, classes=1)(torch.zeros(2, 8)).shape
    torch.Size([2, 1])
    """
    if not config.hidden:
        return Number(build_linear(config, features, classes))
    init: Literal["small", "fan_out"] = "fan_out" if config.init == "fan_out" else "small"
    mlp = MlpHead(dropout=config.dropout, init=init, bias=config.bias, hidden=config.hidden)
    return Number(build_mlp(mlp, features, classes))


def ridge(features: Floats, targets: Floats, penalties: Floats) -> list[tuple[Floats, float]]:
    """Weights (D,) and bias of ridge regression on standardised features, in closed form, for each penalty.

    Args:
        features: (N, D).
        targets: (N,).
        penalties: of the squared weights, for the mean squared error over images.

    >>> weight, bias = ridge(np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0]), np.array([1e-9]))[0]
    >>> weight.round(3), round(bias, 3)
    (array([2.]), 1.0)
    """
    mean, std = features.mean(0), features.std(0)
    std = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, np.inf)  # a constant feature says nothing
    rows, middle = (features - mean) / std, float(targets.mean())
    left, values, right = np.linalg.svd(rows, full_matrices=False)
    along = left.T @ (targets - middle)
    found = []
    for penalty in penalties:
        weight = right.T @ (values * along / (values**2 + penalty * len(rows))) / std
        found.append((weight, middle - float(weight @ mean)))
    return found


def fit_ridge(
    features: Floats, targets: Floats, val: tuple[Floats, Floats] | None = None
) -> tuple[Floats, float, float]:
    """Ridge regression with the penalty of the smallest squared error on validation, or over folds without it.

    Returns:
        weight (D,), bias and penalty.
    """
    penalties = np.array(PENALTIES)
    errors = np.zeros(len(penalties))
    if val is not None:
        parts = [(features, targets, *val)]
    else:
        fold = np.arange(len(targets)) % FOLDS
        whole = [(fold != part, fold == part) for part in np.unique(fold)] if len(targets) > FOLDS else []
        parts = [(features[rest], targets[rest], features[part], targets[part]) for rest, part in whole]
    for rows, wanted, others, truth in parts:
        for at, (weight, bias) in enumerate(ridge(rows, wanted, penalties)):
            errors[at] += float(((others @ weight + bias - truth) ** 2).sum())
    best = int(errors.argmin()) if parts else len(penalties) // 2
    return *ridge(features, targets, penalties[best : best + 1])[0], float(penalties[best])
