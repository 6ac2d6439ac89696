"""Starts prompts from the task's own images, where the configuration asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vpt.backbones.backbone import Backbone
from vpt.config import Prompt
from vpt.prompts.base import TokenPrompts
from vpt.prompts.init.spt import initial_tokens
from vpt.prompts.init.vipamin import vipamin
from vpt.prompts.init.whitening import whitened_columns
from vpt.prompts.visual.bpt import BilinearPrompts
from vpt.prompts.visual.vpt import VisualPrompts


def wants_images(config: Prompt) -> bool:
    """Whether a prompt starts from images.

    >>> from vpt.config import DeepPrompt
    >>> wants_images(DeepPrompt()), wants_images(DeepPrompt(init="sample"))
    (False, True)
    """
    return getattr(config, "init", "uniform") != "uniform"


@torch.no_grad()
def start(prompt: TokenPrompts, config: Prompt, backbone: Backbone, batches: Sequence[Tensor], seed: int) -> None:
    """Set the values a prompt trains from.

    Args:
        prompt: as it was built; random.
        config: says how, see `init` of the prompt's kind.
        backbone: frozen, without the prompt.
        batches: normalised images (B, 3, S, S).
        seed: of what is drawn.
    """
    tower = backbone.require_tower("token prompts")
    init: Any = getattr(config, "init", "uniform")
    layers = sorted({index: layer for layer, index in sorted(prompt.inserted.items(), reverse=True)}.values())
    if isinstance(prompt, BilinearPrompts):
        entering = _entering(backbone, batches, layers)
        for layer, rows in entering.items():
            block, index = tower.blocks[layer], prompt.inserted[layer]
            with block.whole():
                normed = block.before1(rows.flatten(0, 1))
                prompt.right[index] = whitened_columns(block, normed, prompt.right.shape[2], seed + index)
    elif isinstance(prompt, VisualPrompts):
        if init == "vipamin":
            tokens = vipamin(tower, batches[0], prompt.tokens, layers, config.nearest, config.expand)  # type: ignore[union-attr]
        else:
            entering = _entering(backbone, batches, layers)
            if 0 in entering:
                entering[0] = torch.cat([tower.patches(images) for images in batches])
            patches = {layer: rows.float().cpu() for layer, rows in entering.items()}
            tokens = initial_tokens(patches, prompt.inserted, prompt.tokens.shape[1], init, seed)
        prompt.tokens.copy_(tokens)


def _entering(backbone: Backbone, batches: Sequence[Tensor], layers: Sequence[int]) -> dict[int, Tensor]:
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for images in batches:
        for layer, rows in backbone.entering(images, layers).items():
            found[layer].append(rows)
    return {layer: torch.cat(rows) for layer, rows in found.items()}
