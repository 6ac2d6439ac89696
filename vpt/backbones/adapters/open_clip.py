"""Adapter for open_clip's image towers; towers that wrap timm use the timm adapter.

Uses private members of open_clip (`_embeds`, `_pool`); tests/backbones/test_parity.py compares the result with
open_clip's own forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from vpt.backbones.adapters.timm import UnreadableError, is_timm_vit, read_timm
from vpt.backbones.block import Block, FusedProjection
from vpt.backbones.chain import chain
from vpt.backbones.kernels import patch_matmul
from vpt.backbones.vit_spec import Tower


def is_open_clip_vit(visual: nn.Module) -> bool:
    """Whether an open_clip image tower is a supported vision transformer."""
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    return isinstance(visual, VisionTransformer) or (isinstance(visual, TimmModel) and is_timm_vit(visual.trunk))


def read_open_clip(visual: Any) -> Tower:
    """Describe `clip.visual` of an open_clip model.

    Raises:
        UnreadableError: an unknown attention or block variant, with its name.
    """
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    if isinstance(visual, TimmModel):
        trunk = read_timm(visual.trunk)
        return replace(trunk, pool=_TrunkPool(visual), features=_trunk_features(visual, trunk.features))
    assert isinstance(visual, VisionTransformer)
    blocks = tuple(read_block(block) for block in visual.transformer.resblocks)
    class_only = visual.attn_pool is None and visual.pool_type == "tok"
    width = visual.conv1.out_channels
    return Tower(
        embed=_Embed(visual),
        pre=visual.ln_pre,
        positions=_Positions(visual),
        patches=_Patches(visual),
        blocks=blocks,
        norm=visual.ln_post if visual.attn_pool is None else nn.Identity(),
        finish=nn.Identity(),
        pool=_Pool(visual),
        classify=_Pool(visual),
        pool_rows=1 if class_only else None,
        prefix=1,
        has_class_row=True,
        width=width,
        features=width if visual.proj is None else visual.proj.shape[1],
        patch=tuple(visual.patch_size),
        grid=tuple(visual.grid_size),
    )


@dataclass(frozen=True)
class _TrunkPool:
    """In some towers the projection to CLIP's space is the trunk's own classifier, in others a layer after it."""

    visual: Any

    def __call__(self, tokens: Tensor) -> Tensor:
        trunk = self.visual.trunk
        return self.visual.head(trunk.forward_head(trunk.norm(tokens)))


def _trunk_features(visual: Any, trunk: int) -> int:
    for layer in reversed(list(visual.head.modules())):
        if isinstance(layer, nn.Linear):
            return layer.out_features
    return visual.trunk.num_classes or trunk


@dataclass(frozen=True)
class _Patches:
    visual: Any

    def __call__(self, images: Tensor) -> Tensor:
        convolution = self.visual.conv1
        if patch_matmul.worthwhile(convolution, images):
            return patch_matmul.patchify(convolution, images).flatten(1, 2)
        return convolution(images).flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class _Embed:
    visual: Any

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        visual = self.visual
        patch, grid = tuple(visual.patch_size), tuple(visual.grid_size)
        wanted = (images.shape[2] // patch[0], images.shape[3] // patch[1])
        if wanted == grid and not patch_matmul.worthwhile(visual.conv1, images):
            return visual._embeds(images), None
        # The same steps, with the position embedding resampled to another size.
        tokens = _Patches(visual)(images)
        first = visual.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1)
        positions = visual.positional_embedding[None]
        if wanted != grid:
            positions = resample_abs_pos_embed(positions, list(wanted), list(grid), num_prefix_tokens=1)
        return visual.ln_pre(torch.cat([first, tokens], dim=1) + positions.to(tokens.dtype)), None


@dataclass(frozen=True)
class _Positions:
    visual: Any

    def __call__(self) -> tuple[Tensor | None, Tensor | None]:
        return self.visual.positional_embedding[None], None


@dataclass(frozen=True)
class _Pool:
    visual: Any

    def __call__(self, tokens: Tensor) -> Tensor:
        pooled, _ = self.visual._pool(tokens)
        return pooled if self.visual.proj is None else pooled @ self.visual.proj


def read_block(block: Any) -> Block:
    """Describe a layer of an open_clip transformer, of either tower.

    Raises:
        UnreadableError: an unknown variant, with its name.
    """
    from open_clip import transformer as oc

    attention = block.attn
    if type(block) is oc.ResidualAttentionBlock and type(attention) is nn.MultiheadAttention:
        query_norm = key_norm = inner_norm = chain()
    elif type(block) is getattr(oc, "CustomResidualAttentionBlock", None) and type(attention) is oc.Attention:
        if attention.scaled_cosine or attention.scale_heads:
            raise UnreadableError("open_clip Attention with scaled cosine or scaled heads")
        query_norm, key_norm = chain(attention.ln_q), chain(attention.ln_k)
        inner_norm = chain(attention.ln_inner)
    else:
        raise UnreadableError(f"{type(block).__module__}.{type(block).__name__} with {type(attention).__name__}")
    return Block(
        before1=chain(block.ln_1),
        project=FusedProjection(attention, weight="in_proj_weight", bias="in_proj_bias"),
        query_norm=query_norm,
        key_norm=key_norm,
        inner_norm=inner_norm,
        out=chain(attention.out_proj),
        after1=chain(getattr(block, "ln_attn", None), block.ls_1),
        before2=chain(block.ln_2),
        mlp=block.mlp,
        after2=chain(block.ls_2),
        heads=attention.num_heads,
        layer=block,
    )
