"""Initialises prompts from the task's own images, where the configuration asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vpt.backbones.backbone import Backbone
from vpt.config import Prompt
from vpt.prompts.base import TokenPrompts, TrainingImages


def wants_images(config: Prompt) -> bool:
    """Whether a prompt starts from images.

    >>> from vpt.config import DeepPrompt
    >>> wants_images(DeepPrompt()), wants_images(DeepPrompt(init="sample"))
    (False, True)
    """
    return config.needs_images


@torch.no_grad()
def start(
    prompt: TokenPrompts,
    config: Prompt,
    backbone: Backbone,
    batches: Sequence[Tensor],
    seed: int,
    labels: Sequence[Any] = (),
) -> None:
    """Set the values a prompt trains from.

    Args:
        prompt: as it was built; random.
        config: says how, see `init` of the prompt's kind.
        backbone: frozen, without the prompt.
        batches: normalised images (B, 3, S, S).
        seed: of what is drawn.
        labels: of each batch, see `TrainingImages`.
    """
    backbone.require_tower("token prompts")
    prompt.initialize(config, TrainingImages(backbone, batches, labels, seed))
