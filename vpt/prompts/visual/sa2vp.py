"""SA2VP: a map of prompt tokens, aligned with the image's, in a branch of its own (Pei et al. 2024)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.backbones.block import Block, select_tokens
from vpt.backbones.layer_prompt import LayerPrompt
from vpt.backbones.liveness import Step
from vpt.backbones.vit_spec import Tower
from vpt.config import Sa2vpPrompt
from vpt.prompts.base import Shape, TokenPrompts


class AlignedPrompts(TokenPrompts):
    """A second sequence, of a token for each of the image, passes through the same frozen layers. In each layer one of
    the sequences attends to the other, by the layer's own attention: patches to the 3 x 3 patches around their place,
    class and register tokens to all. That, with the residual, passes through a norm and a bottleneck, and is added to
    the layer's output: in every fourth layer, from the first one on, to the prompt's sequence, in all others to the
    image's. In the former, except the first layer, the layer's output for a new map is added too.

    Args:
        config: settings.
        shape: shape of the backbone.

    Parameters: M(Nr + rC + C) + (M - 1)C + L(2rC + r + 3C) for N tokens and M maps, one for every fourth layer.

    >>> shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    >>> sum(parameter.numel() for parameter in AlignedPrompts(Sa2vpPrompt(), shape).parameters())
    202200
    """

    any_size = False
    of_step = ("_outputs",)
    near: Tensor  # (N, N)

    def __init__(self, config: Sa2vpPrompt, shape: Shape) -> None:
        super().__init__({})
        self.config, self.depth, self.prefix = config, shape.depth, shape.prefix
        self.top = max((layer for layer in range(shape.depth) if layer % config.every), default=0)
        places = shape.prefix + shape.grid[0] * shape.grid[1]
        maps = len(range(0, shape.depth, config.every))
        self.maps = nn.Parameter(torch.empty(maps, places, config.rank))
        self.projections = nn.ModuleList(_linear(config.rank, shape.width) for _ in range(maps))
        self.gains = nn.Parameter(torch.empty(maps - 1, shape.width))
        self.fusions = nn.ModuleList(Fusion(shape.width, config.rank, config.dropout) for _ in range(shape.depth))
        nn.init.trunc_normal_(self.maps, std=0.02)
        nn.init.normal_(self.gains, std=0.02)
        self.register_buffer("near", neighbours(shape.grid, shape.prefix), persistent=False)
        self._outputs: Tensor | None = None

    def sets(self, batch: int) -> Sequence[Tensor]:
        """No tokens in the sequence of the image."""
        return ()

    def layers(self, tower: Tower, plan: Sequence[Step], batch: int) -> list[LayerPrompt]:
        """What the branches add to each other. What does not depend on the image is computed here."""
        positions, rotary = tower.positions()
        fresh: dict[int, Fresh] = {}
        for index, layer in enumerate(range(0, self.depth, self.config.every)):
            block, tokens = tower.blocks[layer], self.projections[index](self.maps[index])[None]
            if not layer:
                tokens = tokens if positions is None else tokens + positions
                if self.training and self.config.dropout:
                    tokens = F.dropout(tokens.expand(batch, -1, -1), self.config.dropout)
                tokens = tower.pre(tokens.to(block.dtype))
            tokens = tokens.to(block.dtype)
            outputs = block.forward(tokens, rope=tower.rope(rotary, layer), prefix=self.prefix)
            fresh[layer] = Fresh(tokens, outputs if not layer else outputs * self.gains[index - 1].to(outputs.dtype))
        state = threading.local()
        return [
            LayerPrompt(added=partial(self._added, layer, block, fresh, state))
            for layer, block in enumerate(tower.blocks)
        ]

    def _added(
        self,
        layer: int,
        block: Block,
        fresh: dict[int, Fresh],
        state: Any,
        rows: Tensor,
        rope: Tensor | None,
        read: slice | None,
    ) -> Tensor | None:
        """What is added to the image's tokens. `state.tokens` are the prompt's at the input of a layer."""
        last, to_prompt = layer == self.depth - 1, layer % self.config.every == 0
        tokens = state.tokens if layer else fresh[0].tokens
        fuse = partial(self._fused, layer, block, rope)
        added = None if to_prompt else fuse(rows, tokens, read)
        if not self.training and layer >= self.top:  # the loss alone reads the outputs
            return added
        read = read if last else None
        outputs = (
            block.forward(tokens, None, read, rope, self.prefix) if layer else select_tokens(fresh[0].outputs, read)
        )
        if to_prompt:
            outputs = outputs + fuse(tokens, rows, read)
            if layer:
                outputs = outputs + select_tokens(fresh[layer].outputs, read)
        state.tokens = outputs
        if last:
            self._outputs = outputs
        return added

    def _fused(
        self, layer: int, block: Block, rope: Tensor | None, tokens: Tensor, others: Tensor, read: slice | None
    ) -> Tensor:
        """What tokens (1 or B, N, C) that attend to others (B, N, C) get, for those in `read`."""
        found = block.attended(tokens, others, self.near, read, rope, self.prefix)
        found = select_tokens(tokens, read) + F.dropout(found, self.config.dropout, self.training)
        return (self.config.scale * self.fusions[layer](found)).to(others.dtype)

    def outputs(self) -> Tensor:
        """The prompt's tokens (B, M, C) after the last layer, at the places that the head reads of the image, of the
        last forward pass in training; they can be taken once."""
        found, self._outputs = self._outputs, None
        assert found is not None
        return found


class Fresh(NamedTuple):
    """A map that enters a layer, and what the layer makes of it, (1 or B, N, C)."""

    tokens: Tensor
    outputs: Tensor


class Fusion(nn.Module):
    """A norm and a bottleneck, without a residual connection.

    Args:
        width: channels.
        rank: channels of the bottleneck.
        dropout: on both of its layers.

    >>> Fusion(8, 2, 0.1)(torch.zeros(1, 3, 8)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, width: int, rank: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.down, self.up = _linear(width, rank), _linear(rank, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """For tokens (B, N, C), in the precision of its own parameters."""
        hidden = F.gelu(self.down(self.norm(tokens.to(self.norm.weight.dtype))))
        return self.dropout(self.up(self.dropout(hidden)))


def neighbours(grid: tuple[int, int], prefix: int) -> Tensor:
    """Whether a token attends to another (N, N): patches to those at most one row and one column away, the `prefix`
    tokens before them to all.

    >>> neighbours((1, 3), 1).int().tolist()
    [[1, 1, 1, 1], [0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    """
    rows = torch.arange(grid[0]).repeat_interleave(grid[1])
    columns = torch.arange(grid[1]).repeat(grid[0])
    apart = torch.maximum((rows[:, None] - rows).abs(), (columns[:, None] - columns).abs())
    near = F.pad(apart <= 1, (prefix, 0, prefix, 0))
    near[:prefix] = True
    return near


def _linear(inputs: int, outputs: int) -> nn.Linear:
    made = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(made.weight)
    nn.init.normal_(made.bias, std=1e-6)
    return made
