"""Adapter for timm's `VisionTransformer` and `Eva` families.

Uses private members of timm (`_pos_embed`); tests/backbones/test_parity.py compares every family with timm's own
forward pass. The parts of a network are typed Any: their members are defined by timm's classes and checked by the
tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from timm.layers import Attention, AttentionRope, PatchEmbed
from timm.layers.format import Format, nchw_to
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import Tensor, nn

from vpt.backbones.block import (
    BiasedProjection,
    Block,
    FusedProjection,
    Projection,
    SplitProjection,
    WrappedProjection,
)
from vpt.backbones.chain import Gain, chain
from vpt.backbones.kernels import patch_matmul
from vpt.backbones.quantization.linear import PLAIN
from vpt.backbones.vit_spec import Tower


class UnreadableError(Exception):
    """The network has a part that no adapter supports; the message names it."""


def is_timm_vit(net: nn.Module) -> bool:
    """Whether `net` belongs to a supported family."""
    return isinstance(net, VisionTransformer | Eva)


def patch_of(net: Any) -> tuple[int, int]:
    """Height and width of a patch in image pixels, including the stride of a convolutional stem.

    >>> import timm
    >>> patch_of(timm.create_model("vit_tiny_r_s16_p8_224", depth=1))
    (32, 32)
    """
    height, width = net.patch_embed.feat_ratio(as_scalar=False)
    return height, width


def read_timm(net: Any) -> Tower:
    """Describe a timm vision transformer created with `num_classes=0`.

    Raises:
        UnreadableError: an unknown attention or block variant, with its name.
    """
    assert isinstance(net, VisionTransformer | Eva)
    blocks = tuple(_block(block) for block in net.blocks)
    rope = isinstance(net, Eva)
    return Tower(
        embed=_EmbedWithRope(net) if rope else _Embed(net),
        pre=net.norm_pre,
        positions=_Positions(net),
        patches=_Patches(net),
        blocks=blocks,
        norm=net.norm,
        finish=net.fc_norm,
        pool=_Pool(net),
        classify=_Classify(net),
        pool_rows=_pool_rows(net),
        prefix=net.num_prefix_tokens,
        has_class_row=getattr(net, "cls_token", None) is not None,
        width=net.embed_dim,
        features=net.num_features if not isinstance(net, Eva) else net.head_hidden_size,
        patch=patch_of(net),
        grid=tuple(net.patch_embed.grid_size),
        rope_per_layer=bool(getattr(net, "rope_mixed", False)),
    )


def patch_embed(layer: Any, images: Tensor) -> Tensor:
    """timm's patch embedding of images (B, 3, H, W); on a GPU as one matrix product if it is a plain convolution."""
    if type(layer) is not PatchEmbed or not patch_matmul.worthwhile(layer.proj, images):
        return layer(images)
    if layer.strict_img_size and layer.img_size is not None and tuple(images.shape[2:]) != tuple(layer.img_size):
        return layer(images)  # raises timm's own error
    tokens = patch_matmul.patchify(layer.proj, images)
    if layer.flatten:
        tokens = tokens.flatten(1, 2)
    elif layer.output_fmt != Format.NHWC:
        tokens = nchw_to(tokens.permute(0, 3, 1, 2), layer.output_fmt)
    return layer.norm(tokens)


@dataclass(frozen=True)
class _Patches:
    net: Any

    def __call__(self, images: Tensor) -> Tensor:
        patches = patch_embed(self.net.patch_embed, images)
        return patches.flatten(1, 2) if patches.ndim == 4 else patches  # (B, H, W, C) with dynamic image size


@dataclass(frozen=True)
class _Embed:
    net: Any

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        net = self.net
        return net.norm_pre(net.patch_drop(net._pos_embed(patch_embed(net.patch_embed, images)))), None


@dataclass(frozen=True)
class _EmbedWithRope:
    net: Any

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        tokens, rotary = self.net._pos_embed(patch_embed(self.net.patch_embed, images))
        return self.net.norm_pre(tokens), rotary


@dataclass(frozen=True)
class _Positions:
    net: Any

    def __call__(self) -> tuple[Tensor | None, Tensor | None]:
        net, found, rotary = self.net, self.net.pos_embed, None
        height, width = net.patch_embed.grid_size
        if isinstance(net, Eva):
            like = next(each for each in net.parameters() if each.is_floating_point())
            grid = (height, width) if net.dynamic_img_size else (height * width,)
            rotary = net._pos_embed(like.new_zeros(1, *grid, net.embed_dim))[1]
        if found is not None:  # some networks have none for class and register tokens
            missing = net.num_prefix_tokens + height * width - found.shape[1]
            found = nn.functional.pad(found, (0, 0, missing, 0))
        return found, rotary


@dataclass(frozen=True)
class _Pool:
    net: Any

    def __call__(self, tokens: Tensor) -> Tensor:
        return self.net.forward_head(self.net.norm(tokens), pre_logits=True)


@dataclass(frozen=True)
class _Classify:
    net: Any

    def __call__(self, tokens: Tensor) -> Tensor:
        return self.net.forward_head(self.net.norm(tokens))


def _pool_rows(net: Any) -> int | None:
    """Number of leading tokens read: one for 'token' pooling, two for DeiT's distilled head, otherwise all (None)."""
    if net.attn_pool is not None or net.global_pool != "token":
        return None
    return 2 if hasattr(net, "dist_token") else 1


def _block(block: Any) -> Block:
    kind = type(block)
    if kind not in (TimmBlock, ResPostBlock, EvaBlock, EvaBlockPostNorm):
        raise UnreadableError(f"{kind.__module__}.{kind.__name__}")
    attention = block.attn
    scale1: list = [getattr(block, "ls1", None), getattr(block, "drop_path1", None)]
    scale2: list = [getattr(block, "ls2", None), getattr(block, "drop_path2", None)]
    if getattr(block, "gamma_1", None) is not None:
        scale1.insert(0, Gain(block, "gamma_1"))
    if getattr(block, "gamma_2", None) is not None:
        scale2.insert(0, Gain(block, "gamma_2"))
    post = kind in (ResPostBlock, EvaBlockPostNorm)
    return Block(
        before1=chain(None if post else block.norm1),
        project=_projection(attention),
        query_norm=chain(attention.q_norm),
        key_norm=chain(attention.k_norm),
        inner_norm=chain(attention.norm),
        out=chain(attention.proj),
        gate=getattr(attention, "gate", None),
        after1=chain(block.norm1 if post else None, *scale1),
        before2=chain(None if post else block.norm2),
        mlp=block.mlp,
        after2=chain(block.norm2 if post else None, *scale2),
        heads=attention.num_heads,
        layer=block,
        rotate_half=bool(getattr(attention, "rotate_half", False)),
    )


def _projection(attention: Any) -> Projection:
    kind = type(attention)
    grouped = getattr(attention, "num_kv_groups", 1) > 1
    if kind not in (Attention, AttentionRope, EvaAttention) or grouped:
        raise UnreadableError(f"{kind.__module__}.{kind.__name__}" + (" with grouped queries" if grouped else ""))
    if attention.qkv is None:
        return SplitProjection(attention.q_proj, attention.k_proj, attention.v_proj)
    if getattr(attention, "q_bias", None) is not None:
        return BiasedProjection(fused(attention.qkv), attention)
    return fused(attention.qkv)


def fused(layer: nn.Module) -> Projection:
    """The projection of a layer that computes queries, keys and values together.

    >>> fused(nn.Linear(2, 6))(nn.Linear(2, 2).weight[None], "kv")[0].shape
    torch.Size([1, 2, 2])
    """
    return FusedProjection(layer) if type(layer) in PLAIN else WrappedProjection(layer)
