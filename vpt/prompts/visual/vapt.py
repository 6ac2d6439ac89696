"""VAPT: prompts computed from the image's own patch tokens, layer by layer (Le et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from vpt.backbones.block import Block
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.config import VaptPrompt
from vpt.prompts.base import Shape
from vpt.prompts.visual.vpt import VisualPrompts
from vpt.utils.errors import UserError


class AdaptivePrompts(VisualPrompts):
    """Static tokens before the first layer, adaptive ones before all others.

    The input patch tokens of a layer pass through a norm, a small convolution shared by all channels, and a linear map
    from positions to tokens; then through a residual bottleneck over channels shared by all layers. The map to tokens
    is initialised with zeros, so training starts from zero prompts in all layers but the first.

    Args:
        shape: shape of the backbone.
        tokens: number of prompts P of a layer.
        kernel: side k of the convolution, in patches.
        bottleneck: width r of the shared projector.
        dropout: on the static tokens, on whole channels after the convolution, and inside the projector.

    Parameters: P*C + (L-1)(P*h*w + P + k*k + 2C) + 2rC, h = grid - k + 1.

    >>> shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    >>> sum(parameter.numel() for parameter in AdaptivePrompts(shape, tokens=10).parameters())
    55608
    """

    any_size = False

    def __init__(self, shape: Shape, tokens: int, kernel: int = 2, bottleneck: int = 8, dropout: float = 0.1) -> None:
        super().__init__(shape, {0: 0}, tokens, dropout)
        self.inserted = {layer: layer for layer in range(shape.depth)}
        self.shape = shape
        self.adapters = nn.ModuleList(Adapter(shape, tokens, kernel, dropout) for _ in range(shape.depth - 1))
        self.down = nn.Linear(shape.width, bottleneck, bias=False)
        self.up = nn.Linear(bottleneck, shape.width, bias=False)

    @classmethod
    def from_config(cls, config: VaptPrompt, shape: Shape) -> AdaptivePrompts:
        """The prompt of `prompt=vapt`.

        Raises:
            UserError: a kernel that is larger than the grid of patches.
        """
        if config.kernel > min(shape.grid):
            raise UserError(
                f"prompt.kernel={config.kernel} is larger than the backbone's grid of {shape.grid[0]} x "
                f"{shape.grid[1]} patches; lower it"
            )
        return cls(shape, config.tokens, config.kernel, config.bottleneck, config.dropout)

    def in_layer(self, layer: int, block: Block, plain: LayerPrompt, sets: Sequence[Tensor]) -> LayerPrompt:
        """In all layers but the first the tokens are a function of the image tokens."""
        return plain if layer == 0 else replace(plain, adapt=partial(self.adapted, layer))

    def adapted(self, layer: int, rows: Tensor) -> Tensor:
        """Tokens (B, P, C) of a layer, from its input image tokens (B, N, C)."""
        # Its own parameters keep their precision in a network of lower precision.
        tokens = self.adapters[layer - 1](rows[:, self.shape.prefix :].to(self.up.weight.dtype))
        hidden = nn.functional.dropout(torch.relu(self.down(tokens)), self.dropout, self.training)
        return tokens + self.up(hidden)


class Adapter(nn.Module):
    """Maps the patch tokens of one layer to prompt tokens, before the shared projector.

    >>> shape = Shape(depth=2, width=8, heads=2, patch=(4, 4), grid=(3, 3))
    >>> Adapter(shape, tokens=5, kernel=2, dropout=0.1)(torch.ones(2, 9, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, shape: Shape, tokens: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.grid = shape.grid
        self.norm = nn.LayerNorm(shape.width)
        self.kernel = nn.Parameter(torch.randn(1, 1, kernel, kernel))
        places = (shape.grid[0] - kernel + 1) * (shape.grid[1] - kernel + 1)
        self.tokens = nn.Linear(places, tokens)
        self.dropout = dropout
        nn.init.zeros_(self.tokens.weight)
        nn.init.zeros_(self.tokens.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """Patch tokens (B, N, C) to prompt tokens (B, P, C)."""
        batch, _, width = patches.shape
        maps = self.norm(patches).transpose(1, 2).reshape(batch * width, 1, *self.grid)
        maps = nn.functional.conv2d(maps, self.kernel.to(maps.dtype)).view(batch, width, -1)
        maps = nn.functional.dropout1d(maps, self.dropout, self.training)
        return self.tokens(maps).transpose(1, 2)
