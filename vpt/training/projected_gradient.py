"""ProGrad's objective: a gradient without the part that opposes zero-shot scores (Zhu et al. 2023, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from vpt.config.prompts_clip import ProgradPrompt
from vpt.heads.zero_shot import ZeroShot
from vpt.models.classifier import PromptedModel
from vpt.training.losses import Count, Loss, Objective, hits


def projected(
    prompt: ProgradPrompt, model: PromptedModel, loss_of: Loss, cached: bool, count: Count = hits
) -> Objective:
    """Objective whose value is the loss, and whose gradient is `without_opposing` of the gradients of the loss and of
    the cross-entropy to the scores of the templates.

    Each pass is projected by itself: with `train.accumulate` and several processes too.
    """
    head = cast(ZeroShot, model.head)

    def objective(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        features = inputs if cached else model.features(inputs)
        scores = head.scores(features, head.text())
        loss, correct = loss_of(scores, labels), count(scores.detach(), labels)
        learned = [parameter for _, _, parameter in model.trainable()]
        if not loss.requires_grad:
            return loss, correct
        teacher = head.scores(features.detach(), head.fixed).float().softmax(1)
        general = -(teacher * scores.float().log_softmax(1)).sum(1).mean()
        own = torch.autograd.grad(loss, learned, retain_graph=True)
        others = torch.autograd.grad(general, learned)
        kept = without_opposing(own, others, prompt.strength)
        # Zero, with this gradient: the trainer runs the backward pass.
        pairs = zip(learned, kept, strict=True)
        return loss.detach() + sum(((value - value.detach()) * gradient).sum() for value, gradient in pairs), correct

    return objective


def without_opposing(own: Sequence[Tensor], others: Sequence[Tensor], strength: float) -> list[Tensor]:
    """Remove from each gradient its part against the other one, if their scalar product is negative.

    >>> without_opposing([torch.tensor([1.0, -1.0])], [torch.tensor([0.0, 2.0])], 1.0)
    [tensor([1., 0.])]
    """
    kept = []
    for gradient, other in zip(own, others, strict=True):
        product, square = (gradient * other).sum(), (other * other).sum()
        part = torch.where((product < 0) & (square > 0), strength * product / square, 0.0)
        kept.append(gradient - part * other)
    return kept
