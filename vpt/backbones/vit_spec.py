"""What a reader finds in a library's vision transformer: how to embed, its blocks, and how it pools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vpt.backbones.block import Block


@dataclass(frozen=True)
class Tower:
    """Views on the parts of a vision transformer; the weights stay where the library put them."""

    embed: Callable[[Tensor], tuple[Tensor, Tensor | None]]  # (B, 3, S, S) -> rows (B, N, C), rotary embedding
    pre: Callable[[Tensor], Tensor]  # the norm that embedded rows have been through already (CLIP), or nothing
    patches: Callable[[Tensor], Tensor]  # (B, 3, S, S) -> patch embeddings (B, N, C), no position, no class row
    blocks: tuple[Block, ...]
    norm: Callable[[Tensor], Tensor]  # over the last layer's rows, before pooling
    finish: Callable[[Tensor], Tensor]  # after pooling
    pool: Callable[[Tensor], Tensor]  # the library's own way from last rows (unnormed) to features
    classify: Callable[[Tensor], Tensor]  # last rows (unnormed) to scores of the library's own classifier
    pool_rows: int | None  # how many leading rows that pool reads; None for all
    prefix: int  # class and register rows before the patches
    has_class_row: bool
    width: int  # C
    features: int  # width of pooled features
    patch: tuple[int, int]  # pixels
    grid: tuple[int, int]  # patches
    rope_per_layer: bool = False  # the rotary embedding has a leading axis over layers

    def rope(self, rotary: Tensor | None, layer: int) -> Tensor | None:
        """The rotary embedding of one layer."""
        return rotary[layer] if rotary is not None and self.rope_per_layer else rotary
