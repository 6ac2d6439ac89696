"""Adapter for timm's `SwinTransformer` and `SwinTransformerV2`, whose grid and width change between stages.

Uses private members of timm; tests/backbones/test_swin.py compares it with timm's own forward pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from timm.models import swin_transformer as v1
from timm.models import swin_transformer_v2 as v2
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.backbones.adapters.timm import UnreadableError, fused, patch_embed, patch_of
from vpt.backbones.block import BiasedProjection, Block
from vpt.backbones.chain import chain
from vpt.backbones.vit_spec import Tower
from vpt.backbones.windows import Windows

PARTS = (v1.PatchMerging, v1.SwinTransformerBlock, v1.WindowAttention)
PARTS_V2 = (v2.PatchMerging, v2.SwinTransformerV2Block, v2.WindowAttention)


def is_swin(net: nn.Module) -> bool:
    """Whether `net` is a Swin transformer of timm."""
    return isinstance(net, v1.SwinTransformer | v2.SwinTransformerV2)


def read_swin(net: Any) -> Tower:
    """Describe a Swin transformer created with `num_classes=0`.

    Raises:
        UnreadableError: an unknown part, or windows that depend on the image.
    """
    stages = list(net.layers)
    blocks = []
    for stage, after in pairwise([*stages, None]):
        ends = [None] * (len(stage.blocks) - 1) + [None if after is None else after.downsample]
        blocks += [_block(block, merge) for block, merge in zip(stage.blocks, ends, strict=True)]
    return Tower(
        embed=_Embed(net),
        pre=nn.Identity(),
        positions=lambda: (None, None),
        patches=lambda images: _Embed(net)(images)[0],
        blocks=tuple(blocks),
        norm=net.norm,
        finish=nn.Identity(),
        pool=_Head(net, pre_logits=True),
        classify=_Head(net, pre_logits=False),
        pool_rows=None,
        prefix=0,
        has_class_row=False,
        width=net.num_features,
        features=net.head_hidden_size,
        patch=patch_of(net),
        grid=tuple(net.patch_embed.grid_size),
        stage_widths=tuple(block.dim for stage in stages for block in stage.blocks),
    )


def _block(block: Any, merge: nn.Module | None) -> Block:
    """A layer, and what merges patches after it."""
    attention = block.attn
    for part in (block, attention, *([] if merge is None else [merge])):
        if type(part) not in (*PARTS, *PARTS_V2):
            raise UnreadableError(f"{type(part).__module__}.{type(part).__name__}")
    if block.dynamic_mask:
        raise UnreadableError(f"{type(block).__name__} for images of any size; leave out dynamic_img_size")
    second = type(block) in PARTS_V2  # post-norm, cosines as scores, and a network that computes the position bias
    project = fused(attention.qkv)
    scale1, scale2 = [block.norm1, block.drop_path1], [block.norm2, block.drop_path2]
    return Block(
        before1=chain(None if second else block.norm1),
        project=BiasedProjection(project, attention) if getattr(attention, "q_bias", None) is not None else project,
        query_norm=chain(_ScaledCosine(attention) if second else None),
        key_norm=chain(partial(F.normalize, dim=-1) if second else None),
        out=chain(attention.proj),
        after1=chain(*scale1[0 if second else 1 :]),
        before2=chain(None if second else block.norm2),
        mlp=block.mlp,
        after2=chain(*scale2[0 if second else 1 :]),
        heads=attention.num_heads,
        layer=block,
        windows=Windows(block, _ComputedBias(attention) if second else attention._get_rel_pos_bias, merge),
    )


@dataclass(frozen=True)
class _ScaledCosine:
    """Norms of queries in the second version; attention divides by the square root of head_dim."""

    attention: Any

    def __call__(self, query: Tensor) -> Tensor:
        scale = self.attention.logit_scale.clamp(max=math.log(100)).exp()
        return F.normalize(query, dim=-1) * (scale * query.shape[-1] ** 0.5)


@dataclass(frozen=True)
class _ComputedBias:
    """The position bias of the second version."""

    attention: Any

    def __call__(self) -> Tensor:
        table = self.attention.cpb_mlp(self.attention.relative_coords_table).flatten(0, 2)
        return 16 * table[self.attention.relative_position_index].permute(2, 0, 1)[None].sigmoid()


@dataclass(frozen=True)
class _Embed:
    net: Any

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return patch_embed(self.net.patch_embed, images).flatten(1, 2), None


@dataclass(frozen=True)
class _Head:
    net: Any
    pre_logits: bool

    def __call__(self, tokens: Tensor) -> Tensor:
        grid = self.net.norm(tokens).unflatten(1, self.net.layers[-1].output_resolution)
        return self.net.forward_head(grid, pre_logits=self.pre_logits)
