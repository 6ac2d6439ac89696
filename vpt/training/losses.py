"""Losses for single-label and multi-label classification."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vpt.config.losses import LOSSES, CoralLoss, CrossEntropyLoss, LossSection
from vpt.config.prompts import PromptSection
from vpt.models.base import Prompted
from vpt.utils.errors import UserError
from vpt.utils.plugins import imported

Loss = Callable[[Tensor, Tensor], Tensor]
Count = Callable[[Tensor, Tensor], Tensor | None]  # maps scores and labels to the number of correct images
# Maps images or features, and labels, to the loss and the number of correct images; both stay on their device.
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class LabelInfo:
    """Description of the labels of a run, for losses.

    Args:
        classes: class names, in the order of the logits.
        multilabel: images may have several labels, given as (B, K) zeros and ones instead of (B,) indices.
        smoothing: `train.label_smoothing`.
        weights: class weights (K,) from `train.class_weights`; None without weights.
    """

    classes: tuple[str, ...]
    multilabel: bool = False
    smoothing: float = 0.0
    weights: Tensor | None = None


def classification_loss(config: LossSection, labels: LabelInfo) -> Loss:
    """Loss function described by `train.loss`: maps logits (B, K) and labels to a scalar.

    Raises:
        UserError: a plug-in that fails.

    >>> loss = classification_loss(CrossEntropyLoss(), LabelInfo(("a", "b", "c", "d")))
    >>> float(loss(torch.zeros(2, 4), torch.tensor([0, 1])))
    1.386...
    """
    loss: Loss = LOSSES.built(config, labels)
    return loss


def build_objective(
    prompt: PromptSection,
    model: Prompted,
    forward: Callable[[Tensor], Tensor],
    loss_of: Loss,
    cached: bool,
    correct: Count | None = None,
) -> Objective:
    """Training objective of a prompt.

    Args:
        prompt: configuration of the prompt.
        model: the prompted model.
        forward: maps images, or cached features, to scores.
        loss_of: loss of scores and labels.
        cached: whether `forward` gets cached features.
        correct: number of correct images of scores and labels, None if that is undefined; default: `hits`.
    """
    count = correct or hits
    if prompt.objective:
        regularized: Objective = imported(prompt.objective)(prompt, model, loss_of, cached, count)
        return regularized

    def plain(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        scores = forward(inputs)
        return loss_of(scores, labels), count(scores.detach(), labels)

    return plain


def hits(scores: Tensor, labels: Tensor) -> Tensor:
    """Number of correct images, as a scalar tensor that is not synchronised.

    >>> hits(torch.eye(3), torch.tensor([0, 1, 0]))
    tensor(2.)
    """
    if labels.ndim == 2:  # multi-label: an image counts by its fraction of correct labels
        return ((scores > 0) == (labels > 0.5)).float().mean(1).sum()
    return (scores.argmax(1) == labels).sum().float()


def cross_entropy(config: CrossEntropyLoss, labels: LabelInfo) -> Loss:
    """Loss function of `train.loss=cross_entropy`."""
    return build_loss(labels.multilabel, labels.smoothing, labels.weights)


def coral(config: CoralLoss, labels: LabelInfo) -> Loss:
    """Loss function of `train.loss=coral`: for each class but the last, the binary cross-entropy of the image being
    above it, summed (Cao et al. 2020, equation 4). The probability of being above is that of all higher classes.

    Raises:
        UserError: images with several labels.

    >>> loss = coral(CoralLoss(), LabelInfo(("low", "middle", "high")))
    >>> low, high = (loss(torch.tensor([[0.0, 0.0, 4.0]]), torch.tensor([label])) for label in (0, 2))
    >>> bool(low > high)
    True
    """
    if labels.multilabel:
        raise UserError("train.loss=coral is for one class an image; leave it out")

    def loss(scores: Tensor, wanted: Tensor) -> Tensor:
        logs = scores.float().log_softmax(1)
        below = logs.logcumsumexp(1)[:, :-1]
        above = logs.flip(1).logcumsumexp(1).flip(1)[:, 1:]
        is_above = (wanted[:, None] > torch.arange(below.shape[1], device=wanted.device)).to(logs.dtype)
        is_above = is_above * (1 - labels.smoothing) + labels.smoothing / 2
        each = -(is_above * above + (1 - is_above) * below).sum(1)
        if labels.weights is None:
            return each.mean()
        weight = labels.weights.to(each)[wanted]
        return (weight * each).sum() / weight.sum()

    return loss


def class_weights(setting: str | Sequence[float], counts: Sequence[int]) -> Tensor | None:
    """Class weights: None, 'balanced' (inverse frequency, mean one over the images) or given.

    Raises:
        UserError: the number of weights differs from the number of classes, or a weight is invalid.

    >>> class_weights("balanced", [1, 3])
    tensor([2.0000, 0.6667])
    """
    if setting == "none":
        return None
    if setting == "balanced":
        return torch.tensor([sum(counts) / (len(counts) * max(1, count)) for count in counts])
    assert not isinstance(setting, str)
    count = len(counts)
    if len(setting) != count or not all(0 <= weight < math.inf for weight in setting) or not any(setting):
        shown = ", ".join(f"{weight:g}" for weight in setting[:5]) + (", ..." if len(setting) > 5 else "")
        raise UserError(
            f"train.class_weights=[{shown}] has {len(setting)} numbers; {count} classes need {count} finite ones, none "
            "below zero and one above"
        )
    return torch.tensor(setting)


def build_loss(multilabel: bool, smoothing: float, weights: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Mean loss over a batch of logits (B, K) and labels, given as (B,) indices or (B, K) zeros and ones.

    >>> float(build_loss(False, 0.0, None)(torch.zeros(2, 4), torch.tensor([0, 1])))
    1.386...
    """
    if multilabel:

        def several(logits: Tensor, labels: Tensor) -> Tensor:
            soft = labels * (1 - smoothing) + smoothing / 2
            weight = None if weights is None else weights.to(logits.device)
            return F.binary_cross_entropy_with_logits(logits.float(), soft, pos_weight=weight)

        return several

    def single(logits: Tensor, labels: Tensor) -> Tensor:
        weight = None if weights is None else weights.to(logits.device)
        return F.cross_entropy(logits.float(), labels, weight=weight, label_smoothing=smoothing)

    return single
