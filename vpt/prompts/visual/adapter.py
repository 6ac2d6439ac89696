"""Bottleneck adapters beside or after the MLP of a frozen layer (AdaptFormer, Chen et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from vpt.backbones.block import Adapter, Block
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.config import AdapterPrompt
from vpt.prompts.base import Shape, TokenPrompts, prompted_layers


class AdapterPrompts(TokenPrompts):
    """No tokens, but an adapter in every prompted layer: up(act(down(x))), for all tokens.

    Beside the MLP (AdaptFormer) it reads what enters the MLP's norm, with ReLU, and is scaled by 0.1. After the MLP, as
    in VPT's baseline, it reads the MLP's output, with GELU. The map up is zero at first, so training starts from the
    frozen backbone. The map down is random; VPT's code has zeros there too, so that only a bias learns.

    Args:
        config: settings.
        shape: shape of the backbone.

    Parameters: L(2Cr + r + C).

    >>> shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    >>> sum(parameter.numel() for parameter in AdapterPrompts(AdapterPrompt(rank=64), shape).parameters())
    1189632
    """

    def __init__(self, config: AdapterPrompt, shape: Shape) -> None:
        super().__init__({})
        self.config = config
        self.prompted = prompted_layers(config.layers, shape.depth)
        self.scale = config.scale if config.scale is not None else 0.1 if config.place == "beside" else 1.0
        count, width, rank = len(self.prompted), shape.width, config.rank
        bound = 1 / math.sqrt(width)  # Kaiming uniform with a = sqrt(5)
        self.down = nn.Parameter(torch.empty(count, width, rank).uniform_(-bound, bound))
        self.down_bias = nn.Parameter(torch.zeros(count, rank))
        self.up = nn.Parameter(torch.zeros(count, rank, width))
        self.up_bias = nn.Parameter(torch.zeros(count, width))

    def sets(self, batch: int) -> Sequence[Tensor]:
        """No tokens."""
        return ()

    def in_layer(self, layer: int, block: Block, plain: LayerPrompt, sets: Sequence[Tensor]) -> LayerPrompt:
        """The adapter of a prompted layer."""
        if layer not in self.prompted:
            return plain
        at = self.prompted.index(layer)
        up, up_bias = self.scale * self.up[at], self.scale * self.up_bias[at]
        dropout = self.config.dropout if self.training else 0.0
        after = self.config.place == "after"
        return replace(plain, adapter=Adapter(self.down[at], self.down_bias[at], up, up_bias, after, dropout))
