"""CVPT: tokens attend to prompts in a separate cross-attention after self-attention (Huang et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from vpt.backbones.block import Block
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.config import CvptPrompt
from vpt.prompts.base import Shape, TokenPrompts, dropped, prompted_layers


class CrossPrompts(TokenPrompts):
    """Prompts outside of the sequence: x + CA(x, prompts) between self-attention and MLP, without a norm.

    The cross-attention uses the layer's own frozen weights (the paper's weight sharing), including the output
    projection and LayerScale, which the paper's backbones do not have: without it the branch would dominate the layer.
    Even zero prompts change the network, because values have a bias.

    Args:
        shape: shape of the backbone.
        prompted: layers with prompts.
        tokens: number of prompts P of a layer.
        dropout: dropout on prompt values, with a mask for every image.

    Parameters: L*P*C.

    >>> shape = Shape(depth=2, width=8, heads=2, patch=(4, 4), grid=(2, 2))
    >>> CrossPrompts(shape, [0, 1], tokens=3).tokens.shape
    torch.Size([2, 3, 8])
    """

    def __init__(self, shape: Shape, prompted: Sequence[int], tokens: int, dropout: float = 0.0) -> None:
        super().__init__({})
        self.prompted = tuple(prompted)
        self.dropout = dropout
        self.tokens = nn.Parameter(torch.empty(len(self.prompted), tokens, shape.width))
        # Xavier uniform over the whole tensor (layers, P, C).
        bound = math.sqrt(6.0 / (shape.width * (tokens + len(self.prompted))))
        nn.init.uniform_(self.tokens, -bound, bound)

    @classmethod
    def from_config(cls, config: CvptPrompt, shape: Shape) -> CrossPrompts:
        """The prompt of `prompt=cvpt`."""
        return cls(shape, prompted_layers(config.layers, shape.depth), config.tokens, config.dropout)

    def first_layers(self) -> list[int]:
        """The prompted layers."""
        return list(self.prompted)

    def sets(self, batch: int) -> Sequence[Tensor]:
        """Prompts of the prompted layers, each (P, C) or (batch, P, C); none of them is inserted into the sequence."""
        return dropped(self.tokens, self.dropout, batch, self.training).unbind(0)

    def in_layer(self, layer: int, block: Block, plain: LayerPrompt, sets: Sequence[Tensor]) -> LayerPrompt:
        """Add the cross-attention branch of a prompted layer."""
        if layer not in self.prompted:
            return plain
        return replace(plain, branch=block.keys_values(sets[self.prompted.index(layer)], norm=False))
