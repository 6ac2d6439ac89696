"""The objective of a prompt with a branch of its own, which the same head reads (SA2VP, Pei et al. 2024)."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from vpt.config import Sa2vpPrompt
from vpt.models.classifier import PromptedModel
from vpt.prompts.visual.sa2vp import AlignedPrompts
from vpt.training.losses import Count, Loss, Objective, hits


def both_branches(
    prompt: Sa2vpPrompt, model: PromptedModel, loss_of: Loss, cached: bool, count: Count = hits
) -> Objective:
    """The weighted mean of the losses of the image branch, which alone predicts, and of the prompt branch."""
    aligned = cast(AlignedPrompts, model.prompt)

    def objective(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        scores = model.head(model.features(images))
        others = model.head(model.backbone.pooled(aligned.outputs(), 0, model.pool))
        loss = (1 - prompt.weight) * loss_of(scores, labels) + prompt.weight * loss_of(others, labels)
        return loss, count(scores.detach(), labels)

    return objective
