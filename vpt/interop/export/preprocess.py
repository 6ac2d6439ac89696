"""`EvalTransform` for photos of a fixed size, in traceable operators."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vpt.data.transforms.classification import EvalTransform
from vpt.interop.export.resize import resized
from vpt.utils.errors import UserError

FILTERS = ("bilinear", "bicubic")


class Square(nn.Module):
    """Squares (B, 3, S, S) from images (B, 3, H, W), uint8. Images that already have this size are unchanged.

    Args:
        transform: transform of validation and prediction.
        size: height and width of the images.

    Raises:
        UserError: a filter other than bilinear and bicubic.

    >>> Square(EvalTransform(size=4), (6, 8))(torch.zeros(1, 3, 6, 8, dtype=torch.uint8)).shape
    torch.Size([1, 3, 4, 4])
    """

    def __init__(self, transform: EvalTransform, size: tuple[int, int]) -> None:
        super().__init__()
        self.transform, self.size = transform, size
        self.whole = size == (transform.size, transform.size)
        if not self.whole and transform.interpolation not in FILTERS:
            raise UserError(
                f"this backbone needs images resized with the filter {transform.interpolation}, which no runtime "
                f"has; leave out the size and give it squares of {transform.size} pixels"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Squares of images."""
        if self.whole:
            return images
        square = {"crop": self._crop, "pad": self._pad, "squash": self._squash}[self.transform.resize](images)
        return square.to(torch.uint8)

    def _resized(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        return resized(images, size, "bilinear" if self.transform.interpolation == "bilinear" else "bicubic")

    def _squash(self, images: Tensor) -> Tensor:
        return self._resized(images, (self.transform.size, self.transform.size))

    def _crop(self, images: Tensor) -> Tensor:
        side = self.transform.size
        short = math.floor(side / self.transform.crop_pct)
        height, width = self.size
        images = _middle(images, min(height, 4 * width), min(width, 4 * height))
        height, width = images.shape[2:]
        least = min(height, width)
        new = (int(short * height / width), short) if least == width else (short, int(short * width / height))
        return _middle(self._resized(images, new), side, side)

    def _pad(self, images: Tensor) -> Tensor:
        side = self.transform.size
        scale = side / max(self.size)
        height, width = (max(1, min(side, round(length * scale))) for length in self.size)
        top, left = (side - height) // 2, (side - width) // 2
        ground = torch.tensor(self.transform.fill, dtype=torch.float32).view(1, 3, 1, 1)
        ground = ground.expand(images.shape[0], 3, side, side)
        margins = (left, side - width - left, top, side - height - top)
        inside = nn.functional.pad(torch.ones(1, 1, height, width), margins)
        return torch.where(inside > 0, nn.functional.pad(self._resized(images, (height, width)), margins), ground)


def _middle(images: Tensor, height: int, width: int) -> Tensor:
    top, left = round((images.shape[2] - height) / 2.0), round((images.shape[3] - width) / 2.0)
    return images[:, :, top : top + height, left : left + width]
