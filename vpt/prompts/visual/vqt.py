"""VQT: query-only tokens that read every layer of an unchanged backbone (Tu et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vpt.backbones.block import Block
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.config import VqtPrompt
from vpt.prompts.base import Shape, TokenPrompts, dropped, prompted_layers
from vpt.prompts.visual.vpt import uniform_


class QueryPrompts(TokenPrompts):
    """Tokens that attend to the tokens of a layer, which do not attend to them. Their outputs, L2-normalised layer by
    layer, are features for the head beside the backbone's own; no gradient passes through the backbone's tokens.

    Args:
        config: settings.
        shape: shape of the backbone.

    Parameters: LTC. The head reads LTC more channels.

    >>> shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    >>> prompt = QueryPrompts(VqtPrompt(), shape)
    >>> sum(parameter.numel() for parameter in prompt.parameters()), prompt.added_features
    (9216, 9216)
    """

    def __init__(self, config: VqtPrompt, shape: Shape) -> None:
        super().__init__({})
        self.prompted = prompted_layers(config.layers, shape.depth)
        self.dropout = config.dropout
        self.tokens = nn.Parameter(torch.empty(len(self.prompted), config.tokens, shape.width))
        self.added_features = self.tokens.numel()
        uniform_(self.tokens, shape.patch)

    def sets(self, batch: int) -> Sequence[Tensor]:
        """Query tokens of the prompted layers, (T, C) or (batch, T, C); none is inserted into the sequence."""
        return dropped(self.tokens, self.dropout, batch, self.training).unbind(0)

    def in_layer(self, layer: int, block: Block, plain: LayerPrompt, sets: Sequence[Tensor]) -> LayerPrompt:
        """The query tokens of a prompted layer."""
        return LayerPrompt(queries=sets[self.prompted.index(layer)]) if layer in self.prompted else plain
