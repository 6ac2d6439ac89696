"""`EvalTransform` for photos of any size, in traceable operators."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vpt.data.transforms.classification import EvalTransform
from vpt.interop.export.integer_division import quotient

# Halves are rounded up, as in Pillow; the small offset makes runtimes agree about them.
HALF = 0.5 + 1e-4


class Square(nn.Module):
    """Squares (B, C, S, S) uint8 from photos (B, C, H, W) uint8, as `EvalTransform` makes them with Pillow.

    Resizing and cropping are a multiplication by a (W, S) matrix and one by a (S, H) matrix. They hold the weights of
    Pillow's filters and are computed from H and W inside the program, so H and W may vary.

    Args:
        transform: transform of validation and prediction.

    >>> Square(EvalTransform(size=4))(torch.zeros(1, 3, 6, 8, dtype=torch.uint8)).shape
    torch.Size([1, 3, 4, 4])
    """

    def __init__(self, transform: EvalTransform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, images: Tensor) -> Tensor:
        """Squares of images."""
        rows, shown_rows = self._axis(images.shape[2], images.shape[3])
        columns, shown_columns = self._axis(images.shape[3], images.shape[2])
        # Along rows and then along columns, with rounding after each, as in Pillow; of photos that are more than twice
        # as high as wide Pillow 13 resizes columns first, which differs by a level or two.
        pixels = _rounded(rows @ _rounded(images.float() @ columns.T))
        if self.transform.resize == "pad":
            fill = torch.tensor(self.transform.fill, dtype=torch.float32).view(1, 3, 1, 1)
            count = self.transform.channels
            fill = fill if count == 3 else fill[:, torch.arange(count) % 3]
            pixels = torch.where(shown_rows & shown_columns.T, pixels, fill)
        return pixels.to(torch.uint8)

    def _axis(self, length: int, other: int) -> tuple[Tensor, Tensor]:
        """Weights (S, length) of an axis of a photo, and whether each of its S pixels shows the photo (S, 1).

        Args:
            length: of the photo along this axis, in pixels.
            other: along the other axis.
        """
        # As tensors, so that no comparison decides anything while the program is traced.
        long, wide = (torch.full((), value, dtype=torch.int64) for value in (length, other))
        side, none = torch.tensor(self.transform.size), torch.tensor(0)
        start, part, first = none, long, none
        if self.transform.resize == "squash":
            new = side
        elif self.transform.resize == "pad":
            new = _rounded_quotient(long * side, torch.maximum(long, wide)).clamp(1, self.transform.size)
            first = -_halved(side - new)
        else:
            part, least = torch.minimum(long, 4 * wide), torch.minimum(long, wide)
            short = math.floor(self.transform.size / self.transform.crop_pct)
            new = quotient(short * part, least)
            start, first = _middle(long - part), _middle(new - side)
        there = torch.arange(self.transform.size)[:, None] + first  # pixels of the resized part
        read = torch.arange(length)[None] - start
        shown = (there >= 0) & (there < new)
        if self.transform.interpolation == "nearest":
            weights = (read == quotient((2 * there + 1) * part, 2 * new)).float()
        else:
            # In integers up to the division, so that large photos lose no digits.
            distance = (new * (2 * read + 1) - part * (2 * there + 1)).float() / (2 * torch.maximum(part, new)).float()
            weights = FILTERS[self.transform.interpolation](distance.abs())
        weights = weights * (shown & (read >= 0) & (read < part))
        return weights / torch.where(shown, weights.sum(1, keepdim=True), 1.0), shown


class Resize(nn.Module):
    """Images (B, 3, H, W) uint8 of one size, resized bilinearly as by Pillow.

    Args:
        old: H and W.
        new: height and width of the result.

    >>> Resize((6, 8), (4, 2))(torch.zeros(1, 3, 6, 8, dtype=torch.uint8)).shape
    torch.Size([1, 3, 4, 2])
    """

    def __init__(self, old: tuple[int, int], new: tuple[int, int]) -> None:
        super().__init__()
        self.rows: Tensor
        self.columns: Tensor
        for name, length, side in zip(("rows", "columns"), old, new, strict=True):
            whole = EvalTransform(side, resize="squash", interpolation="bilinear")
            self.register_buffer(name, Square(whole)._axis(length, length)[0], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The resized images, uint8."""
        return _rounded(self.rows @ _rounded(images.float() @ self.columns.T)).to(torch.uint8)


def _bilinear(x: Tensor) -> Tensor:
    return (1 - x).clamp_min(0)


def _bicubic(x: Tensor) -> Tensor:
    near, far = (1.5 * x - 2.5) * x * x + 1, -0.5 * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)


# Pillow's filters, of the distance in pixels of the larger grid.
FILTERS = {"bilinear": _bilinear, "bicubic": _bicubic, "lanczos": _lanczos}


def _rounded(pixels: Tensor) -> Tensor:
    return (pixels + HALF).floor().clamp(0, 255)


def _rounded_quotient(value: Tensor, by: Tensor) -> Tensor:
    """See `vpt.data.transforms.classification.rounded`; in integers, for not all runtimes have double precision."""
    found = quotient(2 * value + by, 2 * by)
    is_half = found * 2 * by == 2 * value + by
    return found - (is_half & (found - 2 * quotient(found, 2) == 1)).long()


def _halved(value: Tensor) -> Tensor:
    return torch.div(value, 2, rounding_mode="floor")


def _middle(margin: Tensor) -> Tensor:
    """Half of a margin, with halves rounded to even, as in `round(margin / 2)`."""
    return _halved(margin + torch.remainder(_halved(margin), 2))
