"""Low-rank updates of queries, keys and values that a prompt trains, of which the tasks of a batch may have their own.

layer_changes.py adds those of `tuning=lora` in a bank: without gradients, in any layer of a network, by its name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from vpt.backbones.block import PARTS, Block, Part, Projection


class LowRank(NamedTuple):
    """Low-rank updates of queries, keys and values, for (3, C, r) matrices or those of each image, (B, 3, C, r)."""

    down: Tensor  # (3, C, r) or (B, 3, C, r)
    up: Tensor  # (3, r, C) or (B, 3, r, C)
    dropout: float = 0.0  # of the input

    def __call__(self, tokens: Tensor, at: int) -> Tensor:
        """What is added to the queries (0), keys (1) or values (2) of tokens (B, N, C)."""
        down, up = (part[..., at, :, :].to(tokens.dtype) for part in self[:2])
        return F.dropout(tokens, self.dropout, training=self.dropout > 0) @ down @ up


@dataclass(frozen=True)
class UpdatedProjection:
    """A projection with low-rank updates."""

    inner: Projection
    update: LowRank

    def __call__(self, tokens: Tensor, part: Part) -> tuple[Tensor, ...]:
        found = zip(self.inner(tokens, part), range(3)[PARTS[part]], strict=True)
        return tuple(out + self.update(tokens, at).to(out.dtype) for out, at in found)


def with_low_rank(block: Block, update: LowRank) -> Block:
    """A view of the same layer with updates of its queries, keys and values."""
    return replace(block, project=UpdatedProjection(block.project, update))
