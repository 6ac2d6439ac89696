"""Patch embedding as one matrix product.

A convolution whose stride equals its kernel size is a product of flattened patches and its flattened weight. On a GPU
cuDNN's convolution takes ten times as long, half of it for changing the layout; on other devices the convolution is
kept.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from vpt.backbones.quantization.linear import asked_dtype, linear


def is_patchwise(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a layer reads every pixel once: a plain convolution over patches that do not overlap.

    >>> is_patchwise(nn.Conv2d(3, 8, kernel_size=4, stride=4)), is_patchwise(nn.Conv2d(3, 8, kernel_size=4))
    (True, False)
    """
    if type(layer) is not nn.Conv2d:
        return False
    plain = layer.padding == (0, 0) and layer.dilation == (1, 1) and layer.groups == 1
    return plain and layer.stride == layer.kernel_size


def worthwhile(layer: nn.Module, images: Tensor) -> bool:
    """Whether `patchify` can replace the layer for these images, and is faster."""
    if not images.is_cuda or layer._forward_hooks or not is_patchwise(layer):
        return False
    return all(side % patch == 0 for side, patch in zip(images.shape[2:], layer.kernel_size, strict=True))


def patchify(convolution: nn.Conv2d, images: Tensor) -> Tensor:
    """Output of a patchwise convolution for images (B, 3, H, W), H and W multiples of the patch size: (B, h, w, C).

    >>> layer = nn.Conv2d(3, 8, kernel_size=4, stride=4)
    >>> images = torch.randn(2, 3, 8, 12)
    >>> torch.allclose(patchify(layer, images), layer(images).permute(0, 2, 3, 1), atol=1e-5)
    True
    """
    batch, channels, height, width = images.shape
    high, wide = convolution.kernel_size
    cut = images.view(batch, channels, height // high, high, width // wide, wide).permute(0, 2, 4, 1, 3, 5)
    # One copy changes both layout and dtype.
    tokens = cut.to(asked_dtype(images), memory_format=torch.contiguous_format).reshape(
        batch, height // high, width // wide, -1
    )
    return linear(tokens, convolution.weight.flatten(1), convolution.bias)
