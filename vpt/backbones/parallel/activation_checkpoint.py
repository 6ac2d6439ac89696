"""Activation checkpointing: recomputes a layer's activations in the backward pass instead of storing them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vpt.backbones.block import Block


def recomputed(compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`compute(...)`, keeping only arguments and result for the backward pass (Chen et al. 2016).

    >>> x = torch.ones(2, requires_grad=True)
    >>> recomputed(torch.exp, x).sum().backward()
    >>> bool((x.grad == x.exp()).all())
    True
    """
    if not torch.is_grad_enabled():
        return compute(*args, **kwargs)
    return checkpoint(compute, *args, use_reentrant=False, **kwargs)


@dataclass(frozen=True)
class Recomputed(Block):
    """A layer of which only the input tokens are kept for the backward pass."""

    @classmethod
    def of(cls, block: Block) -> Self:
        """Create it from another view of the same layer."""
        return cls(**block.parts())

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """See Block.forward."""
        return recomputed(super().forward, *args, **kwargs)

    def attended(self, *args: Any, **kwargs: Any) -> Tensor:
        """See Block.attended."""
        return recomputed(super().attended, *args, **kwargs)
