"""Initialises prompts from training images, if the configuration requires it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vpt.backbones.backbone import Backbone
from vpt.config import Prompt
from vpt.prompts.base import TokenPrompts, TrainingImages


@torch.no_grad()
def start(
    prompt: TokenPrompts,
    config: Prompt,
    backbone: Backbone,
    batches: Sequence[Tensor],
    seed: int,
    labels: Sequence[Any] = (),
) -> None:
    """Initialise a prompt before training.

    Args:
        prompt: the prompt with random values.
        config: its settings; `init` of the prompt's kind selects the method.
        backbone: frozen, without the prompt.
        batches: normalised images (B, 3, S, S).
        seed: random seed.
        labels: for each batch, see `TrainingImages`.
    """
    backbone.require_tower("token prompts")
    data = TrainingImages(backbone, batches, labels, seed)
    if prompt.regularizer is not None and prompt.regularizer.needs_images:
        prompt.regularizer.initialize(prompt, data)
    else:
        prompt.initialize(config, data)
