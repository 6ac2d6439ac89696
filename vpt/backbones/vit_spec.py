"""Description of a vision transformer: how it embeds images, its blocks, and how it pools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vpt.backbones.block import Block


@dataclass(frozen=True)
class Tower:
    """Views of the parts of a vision transformer; the weights stay in the library's modules."""

    embed: Callable[[Tensor], tuple[Tensor, Tensor | None]]  # (B, 3, S, S) -> tokens (B, N, C), rotary embedding
    pre: Callable[[Tensor], Tensor]  # norm already applied to embedded tokens (CLIP), or nothing
    positions: Callable[[], tuple[Tensor | None, Tensor | None]]  # position (1, N, C), rotary embedding of all tokens
    patches: Callable[[Tensor], Tensor]  # (B, 3, S, S) -> patch embeddings (B, N, C), no position, no class token
    blocks: tuple[Block, ...]
    norm: Callable[[Tensor], Tensor]  # of the last layer's tokens, before pooling
    finish: Callable[[Tensor], Tensor]  # after pooling
    pool: Callable[[Tensor], Tensor]  # the library's own pooling, from last tokens (before the norm) to features
    classify: Callable[[Tensor], Tensor]  # last tokens (before the norm) to scores of the library's own classifier
    pool_rows: int | None  # number of leading tokens that `pool` reads; None for all
    prefix: int  # number of class and register tokens before the patches
    has_class_row: bool  # whether there is a class token
    width: int  # C, of the last layer
    features: int  # width of pooled features
    patch: tuple[int, int]  # pixels
    grid: tuple[int, int]  # patches
    rope_per_layer: bool = False  # the rotary embedding has a leading axis over layers
    stage_widths: tuple[int, ...] = ()  # C of each layer, if width and grid change between layers

    @property
    def widths(self) -> tuple[int, ...]:
        """C of each layer."""
        return self.stage_widths or (self.width,) * len(self.blocks)

    def rope(self, rotary: Tensor | None, layer: int) -> Tensor | None:
        """The rotary embedding of one layer."""
        return rotary[layer] if rotary is not None and self.rope_per_layer else rotary
