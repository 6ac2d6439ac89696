"""Adapter for timm's `SwinTransformer`: layers with windows, whose grid and width change between stages."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock, WindowAttention
from torch import Tensor, nn

from vpt.backbones.adapters.timm import UnreadableError, fused, patch_embed, patch_of
from vpt.backbones.block import Block, chain
from vpt.backbones.vit_spec import Tower
from vpt.backbones.windows import Windows


def is_swin(net: nn.Module) -> bool:
    """Whether `net` is a Swin transformer of timm, of the first version."""
    return isinstance(net, SwinTransformer)


def read_swin(net: Any) -> Tower:
    """Describe a Swin transformer created with `num_classes=0`.

    Raises:
        UnreadableError: an unknown part, or windows that depend on the image.
    """
    stages = list(net.layers)
    merges = [stage.downsample for stage in stages[1:]]
    if wrong := next((merge for merge in merges if type(merge) is not PatchMerging), None):
        raise UnreadableError(f"{type(wrong).__module__}.{type(wrong).__name__}")
    blocks: list[Block] = []
    for stage, after in pairwise([*stages, None]):
        for block in stage.blocks:
            last = after is not None and block is stage.blocks[-1]
            blocks.append(_block(block, after.downsample if last else None))
    return Tower(
        embed=_Embed(net),
        pre=nn.Identity(),
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
    attention = block.attn
    for part, kind in ((block, SwinTransformerBlock), (attention, WindowAttention)):
        if type(part) is not kind:
            raise UnreadableError(f"{type(part).__module__}.{type(part).__name__}")
    if block.dynamic_mask:
        raise UnreadableError("SwinTransformerBlock for images of any size; create it without dynamic_img_size")
    return Block(
        before1=chain(block.norm1),
        project=fused(attention.qkv),
        query_norm=chain(),
        key_norm=chain(),
        out=chain(attention.proj),
        after1=chain(block.drop_path1),
        before2=chain(block.norm2),
        mlp=block.mlp,
        after2=chain(block.drop_path2),
        heads=attention.num_heads,
        layer=block,
        windows=Windows(block, merge),
    )


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
