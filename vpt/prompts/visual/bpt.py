"""BPT: prompts as a product of two low-rank matrices, one of which is initialised by whitening (Wang et al. 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vpt.backbones.liveness import After
from vpt.config import BptPrompt
from vpt.prompts.base import Shape, TokenPrompts, TrainingImages, dropped, set_per_layer


class BilinearPrompts(TokenPrompts):
    """Tokens A B^T of each prompted layer, with trainable A (P, c) and B (C, c).

    B is initialised Xavier uniform, or with columns of a whitening matrix of the layer, see init/whitening.py.

    Args:
        shape: shape of the backbone.
        inserted: layer -> index of its token set.
        tokens: number of tokens P of a set.
        rank: c.
        dropout: dropout on prompt values, with a mask for every image.
        after: see backbones/liveness.py.

    Parameters: L*c(P + C).

    >>> shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    >>> sum(parameter.numel() for parameter in BilinearPrompts(shape, {0: 0}, tokens=100, rank=75).parameters())
    65100
    """

    def __init__(
        self,
        shape: Shape,
        inserted: Mapping[int, int],
        tokens: int,
        rank: int = 75,
        dropout: float = 0.0,
        after: After = "carry",
    ) -> None:
        super().__init__(inserted, after)
        count = len(set(inserted.values()))
        self.dropout = dropout
        self.left = nn.Parameter(torch.randn(count, tokens, rank) * 0.02)
        self.right = nn.Parameter(torch.empty(count, shape.width, rank))
        bound = math.sqrt(6.0 / (shape.width + rank))
        nn.init.uniform_(self.right, -bound, bound)

    @classmethod
    def from_config(cls, config: BptPrompt, shape: Shape) -> BilinearPrompts:
        """The prompt of `prompt=bpt`."""
        return cls(shape, set_per_layer(config.layers, shape), config.tokens, config.rank, config.dropout)

    @torch.no_grad()
    def initialize(self, config: BptPrompt, data: TrainingImages) -> None:
        """Initialise B with columns of the whitening matrix of each prompted layer."""
        from vpt.prompts.init.whitening import whitened_columns

        tower = data.backbone.require_tower("token prompts")
        for layer, rows in data.entering(self.first_layers()).items():
            block, index = tower.blocks[layer], self.inserted[layer]
            with block.whole():
                normed = block.before1(rows.flatten(0, 1))
                columns = whitened_columns(block, normed, self.right.shape[2], data.seed + index)
            self.right[index] = columns

    def sets(self, batch: int) -> Sequence[Tensor]:
        """Token sets by index: (P, C) each, or (batch, P, C) with a separate dropout mask for every image."""
        return dropped(self.left @ self.right.transpose(1, 2), self.dropout, batch, self.training).unbind(0)
