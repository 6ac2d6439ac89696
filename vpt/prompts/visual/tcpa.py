"""TCPA: prompts of their own for class token and patches, of which each token attends to some (Liu et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.backbones.block import Block
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.config import TcpaPrompt
from vpt.prompts.base import Shape, TokenPrompts, dropped, set_per_layer
from vpt.prompts.visual.vfpt import transformed
from vpt.utils.errors import UserError


class CoordinatedPrompts(TokenPrompts):
    """Fresh tokens before every layer in two pools, one for the class token and one for patches. A token attends to
    those of its pool whose keys have the largest cosine to it. Its attention to all others is lost: it is computed, but
    their values are left out. A loss pulls the chosen keys and the tokens towards each other.

    Args:
        config: settings.
        shape: shape of the backbone.

    Parameters: 2LPC for P tokens in both pools, because each has a key.

    Raises:
        UserError: a backbone without a class token.

    >>> shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    >>> sum(parameter.numel() for parameter in CoordinatedPrompts(TcpaPrompt(), shape).parameters())
    663552
    """

    of_step = ("_distances",)

    def __init__(self, config: TcpaPrompt, shape: Shape) -> None:
        super().__init__(set_per_layer(config.layers, shape))
        if not shape.prefix:
            raise UserError("prompt=tcpa needs a class token, which the backbone lacks; choose prompt=deep")
        self.config, self.prefix = config, shape.prefix
        count = config.class_tokens + config.tokens  # those for the class token come first
        self.tokens = nn.Parameter(torch.empty(len(self.inserted), count, shape.width).uniform_(-1, 1))
        self.keys = nn.Parameter(torch.empty_like(self.tokens).uniform_(-1, 1))
        self.random = False
        self._distances: dict[int, Tensor] = {}

    def before_epoch(self, epoch: int, epochs: int) -> None:
        """In the first epochs the choice is random."""
        self.random = epoch < self.config.random_epochs

    def sets(self, batch: int) -> Sequence[Tensor]:
        """Token sets by layer, (P, C) or (batch, P, C)."""
        tokens = dropped(self.tokens, self.config.dropout, batch, self.training)
        return (transformed(tokens) if self.config.fourier else tokens).unbind(0)

    def in_layer(self, layer: int, block: Block, plain: LayerPrompt, sets: Sequence[Tensor]) -> LayerPrompt:
        """The choice among the tokens of the layer."""
        return replace(plain, weigh=partial(self.chosen, layer)) if layer in self.inserted else plain

    def chosen(self, layer: int, rows: Tensor) -> Tensor:
        """Ones for the tokens of a layer that each of its input image tokens (B, N, C) attends to, else zeros,
        (B, N, P). Remembers the distances for the loss, in training."""
        keys = F.normalize(self.keys[self.inserted[layer]], dim=-1)
        cosines = F.normalize(rows.to(keys.dtype), dim=-1) @ keys.T
        first = self.config.class_tokens
        parts = (cosines[:, : self.prefix, :first], cosines[:, self.prefix :, first:])
        picked = [self._picked(part) for part in parts]
        if self.training:
            losses = [1 - part.gather(-1, at).mean() for part, at in zip(parts, picked, strict=True)]
            self._distances[layer] = torch.stack(losses).sum()
        chosen = torch.zeros_like(cosines)
        chosen[:, : self.prefix].scatter_(-1, picked[0], 1.0)
        chosen[:, self.prefix :].scatter_(-1, picked[1] + first, 1.0)
        return chosen.detach()

    def _picked(self, cosines: Tensor) -> Tensor:
        """Indices (B, N, k) of the chosen tokens of a pool."""
        order = torch.rand_like(cosines) if self.random and self.training else cosines
        return order.topk(min(self.config.chosen, cosines.shape[-1]), dim=-1).indices

    def extra_losses(self, images: Any, labels: Any) -> Mapping[str, Tensor]:
        """The mean of one minus the cosine between tokens and chosen keys, summed over pools and layers."""
        distances, self._distances = self._distances, {}  # tensors of this step only
        return {"keys": self.config.weight * sum(distances.values(), self.keys.new_zeros(()))}
