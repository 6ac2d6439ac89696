"""Training objectives: the loss of the scores, and regularisers that keep a prompted CLIP close to the frozen one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vpt.config import KgcoopPrompt, PromptsrcPrompt
from vpt.heads.zero_shot import ZeroShot
from vpt.models.classifier import PromptedModel, plan_for

Loss = Callable[[Tensor, Tensor], Tensor]
# Maps images or features, and labels, to the loss and the number of correct images; both stay on their device.
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

REGULATED = (PromptsrcPrompt, KgcoopPrompt)  # their loss is more than a function of the scores


def build_objective(
    prompt: Any, model: PromptedModel, forward: Callable[[Tensor], Tensor], loss_of: Loss, cached: bool
) -> Objective:
    """Training objective of a prompt.

    Args:
        prompt: configuration of the prompt.
        model: the prompted model.
        forward: maps images, or cached features, to scores.
        loss_of: loss of scores and labels.
        cached: whether `forward` gets cached features.
    """
    if isinstance(prompt, PromptsrcPrompt):
        return self_regulating(model, loss_of, prompt.image_weight, prompt.text_weight, prompt.score_weight)
    if isinstance(prompt, KgcoopPrompt):
        return knowledge_guided(model, loss_of, prompt.weight, cached)

    def plain(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        scores = forward(inputs)
        return loss_of(scores, labels), hits(scores.detach(), labels)

    return plain


def hits(scores: Tensor, labels: Tensor) -> Tensor:
    """Number of correct images, as a scalar tensor that is not synchronised.

    >>> hits(torch.eye(3), torch.tensor([0, 1, 0]))
    tensor(2.)
    """
    if labels.ndim == 2:  # multi-label: an image counts by its fraction of correct labels
        return ((scores > 0) == (labels > 0.5)).float().mean(1).sum()
    return (scores.argmax(1) == labels).sum().float()


def knowledge_guided(model: PromptedModel, loss_of: Loss, weight: float, cached: bool) -> Objective:
    """Objective of KgCoOp (Yao et al. 2023): adds `weight` times one minus the mean cosine similarity between learned
    and fixed text features.

    This is the released code's term, half of the paper's squared distance at the same weight.
    """
    head = model.head
    assert isinstance(head, ZeroShot)

    def objective(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        features = inputs if cached else model.features(inputs)
        text = head.text()
        scores = head.scores(features, text)
        apart = 1 - (text.float() * head.fixed.float()).sum(-1).mean()
        return loss_of(scores, labels) + weight * apart, hits(scores.detach(), labels)

    return objective


def self_regulating(
    model: PromptedModel, loss_of: Loss, image_weight: float, text_weight: float, score_weight: float
) -> Objective:
    """Objective of PromptSRC (Khattak et al. 2023, section 3.2.1): adds the mean absolute differences of normalised
    image and text features from those of the frozen model, and the divergence of its scores from the prompted ones,
    divided by images and classes as in the released code."""
    head = model.head
    assert isinstance(head, ZeroShot)
    steps = plan_for(model.backbone, None, "native")

    def objective(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        features, text = model.features(images), head.text()
        scores = head.scores(features, text)
        with torch.no_grad():
            frozen = model.backbone.features(model.normalise(images), steps)
            frozen_scores = head.scores(frozen, head.fixed)
        image = (F.normalize(features.float(), dim=-1) - F.normalize(frozen.float(), dim=-1)).abs().mean()
        words = (text.float() - head.fixed.float()).abs().mean()
        mine, theirs = scores.float().log_softmax(1), frozen_scores.float().log_softmax(1)
        apart = F.kl_div(mine, theirs, log_target=True, reduction="sum") / mine.numel()
        regularizer = image_weight * image + text_weight * words + score_weight * apart
        return loss_of(scores, labels) + regularizer, hits(scores.detach(), labels)

    return objective
