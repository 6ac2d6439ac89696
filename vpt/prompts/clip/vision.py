"""Prompts in CLIP's image tower as inserted by its prompt learners (IVLP; MaPLe, Khattak et al. 2023, section 3.2).

The first layer's prompts pass through the tower's first norm, and the prompt outputs of the last prompted layer
continue as ordinary tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vpt.backbones.vit_spec import Tower
from vpt.prompts.base import TokenPrompts
from vpt.utils.errors import UserError


def first_layers(tower: Tower, depth: int) -> dict[int, int]:
    """A separate token set for each of the first `depth` layers.

    Raises:
        UserError: the tower has fewer layers.
    """
    if depth > len(tower.blocks):
        raise UserError(f"prompt.depth={depth}: the image tower has {len(tower.blocks)} layers")
    return {layer: layer for layer in range(depth)}


class ClipVisionPrompts(TokenPrompts):
    """Independent deep prompts: `tokens` (depth, M, C), normal with standard deviation 0.02."""

    def __init__(self, tower: Tower, count: int, depth: int) -> None:
        super().__init__(first_layers(tower, depth))
        self.tokens = nn.Parameter(0.02 * torch.randn(depth, count, tower.width))
        self.pre = _unregistered(tower.pre)

    def sets(self, batch: int) -> Sequence[Tensor]:
        """Token sets (M, C), the first one normalised."""
        return [self.pre(self.tokens[0]), *self.tokens[1:]]


class CoupledPrompts(TokenPrompts):
    """MaPLe's coupled prompts: text prompts `tokens` (depth, M, C_text), and linear projections to the image tower.

    The projections of deeper layers start equal. Parameters: depth * (M * C_text + C_text * C + C).
    """

    def __init__(self, tower: Tower, tokens: Tensor) -> None:
        depth, _, width = tokens.shape
        super().__init__(first_layers(tower, depth))
        self.tokens = nn.Parameter(tokens)
        first, other = nn.Linear(width, tower.width), nn.Linear(width, tower.width)
        self.maps = nn.ModuleList([first, *(nn.Linear(width, tower.width) for _ in range(depth - 1))])
        for layer in self.maps[1:]:
            layer.load_state_dict(other.state_dict())
        self.pre = _unregistered(tower.pre)

    def sets(self, batch: int) -> Sequence[Tensor]:
        """Token sets (M, C), the first one normalised."""
        mapped = [layer(tokens) for layer, tokens in zip(self.maps, self.tokens, strict=True)]
        return [self.pre(mapped[0]), *mapped[1:]]


def _unregistered(module: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Wrap a module that belongs to the backbone, so that it does not become a submodule of the caller."""
    return lambda rows: module(rows)
