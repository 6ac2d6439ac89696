"""Adapts a network, created and loaded at its training size, to images of another size, or of any size.

Uses private members of timm; tests/backbones/test_image_sizes.py compares the result with networks that timm itself
created for that size.
"""

from __future__ import annotations

from typing import Any

from timm.layers import resample_abs_pos_embed
from timm.layers.format import Format
from torch import Tensor, nn

from vpt.backbones.adapters.open_clip import is_open_clip_vit
from vpt.backbones.adapters.swin import is_swin
from vpt.backbones.adapters.timm import is_timm_vit, patch_of
from vpt.utils.errors import UserError

MOST_PATCHES = 16_384  # in a square image; the cost of attention is quadratic in it


def fit_size(net: Any, native: int, size: int, dynamic: bool, name: str) -> bool:
    """Resample position embeddings (and rotary tables) for another size; convolutional networks need no change.

    Args:
        net: a timm network, or an image tower of open_clip, as loaded.
        native: side of the images it was trained on.
        size: side of the images it will get.
        dynamic: accept images of any size, if the network supports it: position embeddings stay unchanged and are
            resampled for each batch.
        name: of the network, for messages.

    Returns:
        Whether the network accepts images of any size.

    Raises:
        UserError: a size that the network does not support.

    >>> import timm
    >>> net = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    >>> fit_size(net, 224, 64, dynamic=False, name="vit"), tuple(net.pos_embed.shape)
    (False, (1, 17, 192))
    """
    inner = getattr(net, "trunk", net)  # open_clip towers that wrap a timm network
    if size != native:
        _check_patch(inner, size, name)
    if dynamic and _take_any_size(inner):
        return True
    if size != native:
        _resize(inner, size, name)
        if hasattr(net, "image_size"):
            net.image_size = (size, size)
    return False


def _check_patch(net: Any, size: int, name: str) -> None:
    if is_timm_vit(net) or is_swin(net):
        patch = patch_of(net)[0]
    elif _is_clip_vit(net):
        patch = int(net.patch_size[0])
    else:
        return
    if size % patch:
        below = size // patch * patch
        raise UserError(
            f"backbone.image_size={size} is not a multiple of {name}'s patch size of {patch} pixels; "
            f"use {max(below, patch)} or {below + patch}"
        )
    refuse_many_patches(size, patch, name)


def refuse_many_patches(size: int, patch: int, name: str) -> None:
    """Refuse squares of `size` pixels with too many patches for attention.

    >>> refuse_many_patches(224, 16, "vit")
    """
    if (patches := (size // patch) ** 2) > MOST_PATCHES:
        raise UserError(
            f"backbone.image_size={size} gives {patches} patches with {name}; the maximum is {MOST_PATCHES}"
        )


def _take_any_size(net: Any) -> bool:
    """Make the network accept any multiple of the patch size; returns whether it supports that."""
    if _is_clip_vit(net):
        return True  # its adapter resamples
    if not is_timm_vit(net):
        # Convolutional networks accept any size.
        cfg = getattr(net, "pretrained_cfg", None)
        return cfg is not None and not cfg.get("fixed_input_size", False)
    embed = net.patch_embed
    cut_off = any(side % patch for side, patch in zip(embed.img_size, patch_of(net), strict=True))
    if cut_off or not hasattr(embed, "strict_img_size"):
        return False
    # The same as `create_model(..., dynamic_img_size=True)`, which open_clip does not pass on.
    net.dynamic_img_size = True
    embed.strict_img_size, embed.flatten, embed.output_fmt = False, False, Format.NHWC
    if hasattr(getattr(net, "rope", None), "_use_cached_embed"):
        net.rope._use_cached_embed = False
    return True


def _resize(net: Any, size: int, name: str) -> None:
    try:
        if hasattr(net, "set_input_size"):
            net.set_input_size(img_size=(size, size))
        elif _is_clip_vit(net):
            grid = (size // int(net.patch_size[0]), size // int(net.patch_size[1]))
            net.positional_embedding = _resampled(net.positional_embedding, net.grid_size, grid)
            net.grid_size = grid
        elif hasattr(net, "attnpool"):
            # CLIP's ResNets: the last feature map, a 32nd of the image, goes through attention pooling.
            before, after = (side // 32 for side in (_side(net.image_size), size))
            pool = net.attnpool
            pool.positional_embedding = _resampled(pool.positional_embedding, (before, before), (after, after))
    except Exception as error:
        raise UserError(f"backbone {name} does not support backbone.image_size={size}: {error}") from error


def _resampled(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> nn.Parameter:
    """Resample position embeddings (1 + positions, C), with the class token's first, to another grid."""
    found = resample_abs_pos_embed(positions.detach()[None], list(new), list(old), num_prefix_tokens=1)[0]
    return nn.Parameter(found, requires_grad=positions.requires_grad)


def _side(size: Any) -> int:
    return int(size[0] if isinstance(size, tuple | list) else size)


def _is_clip_vit(net: nn.Module) -> bool:
    return type(net).__module__.startswith("open_clip.") and is_open_clip_vit(net)
