"""Patch embeddings as one matrix product.

A convolution whose stride is its kernel is a product of flattened patches with its flattened weight. On a GPU cuDNN
takes the convolution ten times as long, half of it to turn the layout around; everywhere else the convolution stays.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from vpt.backbones.quantization.linear import asked_dtype, linear


def is_patchwise(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a layer looks at every pixel once: a plain convolution over patches that do not overlap.

    >>> is_patchwise(nn.Conv2d(3, 8, kernel_size=4, stride=4)), is_patchwise(nn.Conv2d(3, 8, kernel_size=4))
    (True, False)
    """
    if type(layer) is not nn.Conv2d:
        return False
    plain = layer.padding == (0, 0) and layer.dilation == (1, 1) and layer.groups == 1
    return plain and layer.stride == layer.kernel_size


def worthwhile(layer: nn.Module, images: Tensor) -> bool:
    """Whether `patchify` can stand in for a layer on these images, and is quicker."""
    if not images.is_cuda or not is_patchwise(layer):
        return False
    return all(side % patch == 0 for side, patch in zip(images.shape[2:], layer.kernel_size, strict=True))


def patchify(convolution: nn.Conv2d, images: Tensor) -> Tensor:
    """What a patchwise convolution makes of images (B, 3, H, W), H and W multiples of the patch: (B, h, w, C).

    >>> layer = nn.Conv2d(3, 8, kernel_size=4, stride=4)
    >>> images = torch.randn(2, 3, 8, 12)
    >>> torch.allclose(patchify(layer, images), layer(images).permute(0, 2, 3, 1), atol=1e-5)
    True
    """
    batch, channels, height, width = images.shape
    high, wide = convolution.kernel_size
    cut = images.view(batch, channels, height // high, high, width // wide, wide).permute(0, 2, 4, 1, 3, 5)
    # One pass turns the layout around and rounds.
    rows = cut.to(asked_dtype(images), memory_format=torch.contiguous_format).reshape(
        batch, height // high, width // wide, -1
    )
    return linear(rows, convolution.weight.flatten(1), convolution.bias)
