"""Logistic regression on features: the linear probe, and the initialisation of a head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRENGTHS = tuple(10.0**power for power in (0, -0.5, -1, -1.5, -2, -2.5, -3, -3.5, -4, -4.5, -5))
FOLDS = 5
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Targets:
    """Targets of a fit.

    Args:
        wanted: (N, classes), 0 or 1: one class per image, or any number of them.
        weights: weights of the images (N,), or None for equal weights.
        several: images have any number of classes; each class is a separate regression.
    """

    wanted: Floats
    weights: Floats | None = None
    several: bool = False

    @staticmethod
    def of(labels: Any, classes: int, class_weights: Any = None) -> Targets:
        """Targets from labels (N,), or (N, classes) if images have several labels.

        >>> Targets.of([0, 2], classes=3).wanted
        array([[1., 0., 0.],
               [0., 0., 1.]])
        """
        found = np.asarray(labels)
        if found.ndim == 2:
            return Targets(found.astype(np.float64), several=True)
        weights = None if class_weights is None else np.asarray(class_weights, np.float64)[found]
        return Targets(np.eye(classes)[found], weights)

    def __getitem__(self, chosen: Any) -> Targets:
        weights = None if self.weights is None else self.weights[chosen]
        return Targets(self.wanted[chosen], weights, self.several)

    def shares(self) -> Floats:
        """Relative weight of each image (N, 1); they sum to one."""
        weights = np.ones(len(self.wanted)) if self.weights is None else self.weights
        return np.asarray(weights / weights.sum())[:, None]

    def loss(self, scores: Floats) -> float:
        """Mean cross-entropy of scores (N, classes); with several labels, summed over classes."""
        from scipy.special import log_softmax  # only for training; takes half a second to import

        if self.several:
            each = np.logaddexp(0, scores) - scores * self.wanted
        else:
            each = -log_softmax(scores, axis=1) * self.wanted
        return float((each * self.shares()).sum())

    def hits(self, scores: Floats) -> float:
        """Accuracy of the highest score; with several labels, the fraction of correct labels."""
        if self.several:
            return float(((scores > 0) == (self.wanted > 0.5)).mean())
        return float((scores.argmax(1) == self.wanted.argmax(1)).mean())

    def error(self, scores: Floats) -> Floats:
        """Gradient of `loss` with respect to scores."""
        from scipy.special import expit, log_softmax

        found = expit(scores) if self.several else np.exp(log_softmax(scores, axis=1))
        return np.asarray((found - self.wanted) * self.shares())


@dataclass(frozen=True)
class Logistic:
    """A linear map from features to scores.

    Args:
        weight, bias: for standardised features, (classes, width) and (classes,).
        mean, std: of the training features, (width,); std is infinite for constant features.
        strength: L2 penalty.
    """

    weight: Floats
    bias: Floats
    mean: Floats
    std: Floats
    strength: float

    def scores(self, features: Any) -> Floats:
        """Scores (N, classes) of features (N, width)."""
        weight, bias = self.folded()
        return np.asarray(np.asarray(features, np.float64) @ weight.T + bias)

    def folded(self) -> tuple[Floats, Floats]:
        """Weight and bias for features that are not standardised."""
        weight = self.weight / self.std
        return weight, self.bias - weight @ self.mean


def fit(features: Any, targets: Targets, strength: float, start: Logistic | None = None) -> Logistic:
    """Minimise mean cross-entropy + strength / 2 * |weight|^2 over standardised features by L-BFGS, in float64.

    Args:
        features: (N, width).
        targets: targets of the N images.
        strength: L2 penalty of the weight; the bias has none.
        start: initial solution: a fit to the same features with another strength.

    >>> features, targets = [[0.0], [1.0], [2.0], [3.0]], Targets.of([0, 0, 1, 1], classes=2)
    >>> fit(features, targets, strength=0.01).scores(features).argmax(1)
    array([0, 0, 1, 1])
    """
    from scipy.optimize import minimize

    rows = np.asarray(features, np.float64)
    mean, std = rows.mean(0), rows.std(0)
    # Constant features carry no information and are left out.
    std = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, np.inf)
    x = (rows - mean) / std
    classes, width = targets.wanted.shape[1], x.shape[1]

    def objective(theta: Floats) -> tuple[float, Floats]:
        weight, bias = theta[: classes * width].reshape(classes, width), theta[classes * width :]
        scores = x @ weight.T + bias
        error = targets.error(scores)
        gradient = np.concatenate([(error.T @ x + strength * weight).ravel(), error.sum(0)])
        return targets.loss(scores) + strength / 2 * float((weight**2).sum()), gradient

    theta = np.zeros(classes * (width + 1)) if start is None else np.concatenate([start.weight.ravel(), start.bias])
    theta = minimize(objective, theta, jac=True, method="L-BFGS-B", options={"maxiter": 100, "gtol": 1e-5}).x
    return Logistic(theta[: classes * width].reshape(classes, width), theta[classes * width :], mean, std, strength)


def validated(features: Any, targets: Targets, val: Any, val_targets: Targets) -> Logistic:
    """The fit among `STRENGTHS` with the most hits on validation; of equal ones that with the lowest loss."""
    found: tuple[tuple[float, float], Logistic] | None = None
    fitted, worse = None, 0
    for strength in STRENGTHS:
        fitted = fit(features, targets, strength, fitted)
        scores = fitted.scores(val)
        rank = (val_targets.hits(scores), -val_targets.loss(scores))
        if found is None or rank > found[0]:
            found, worse = (rank, fitted), 0
        else:
            worse += 1
        if worse == 3:
            break
    assert found is not None
    return found[1]


def cross_validated(features: Any, targets: Targets) -> Logistic:
    """The fit with the strength of lowest mean loss over folds of the training images.

    Folds are stratified by class; if no class has two images, the middle strength is used.
    """
    rows = np.asarray(features, np.float64)
    fold = np.zeros(len(rows), np.int64)
    first = targets.wanted.argmax(1)
    for label in np.unique(first):
        members = np.flatnonzero(first == label)
        fold[members] = np.arange(len(members)) % FOLDS
    parts = [fold == number for number in np.unique(fold)]
    if len(parts) < 2:
        return fit(rows, targets, STRENGTHS[len(STRENGTHS) // 2])
    losses = np.full((len(parts), len(STRENGTHS)), np.inf)
    for number, outside in enumerate(parts):
        fitted, worse = None, 0
        for place, strength in enumerate(STRENGTHS):
            fitted = fit(rows[~outside], targets[~outside], strength, fitted)
            losses[number, place] = targets[outside].loss(fitted.scores(rows[outside]))
            worse = worse + 1 if losses[number, place] > losses[number].min() else 0
            if worse == 2:
                break
    return fit(rows, targets, STRENGTHS[int(losses.mean(0).argmin())])
