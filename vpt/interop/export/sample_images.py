"""Images for checking exported files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vpt.config.data import Window
from vpt.data.channels import in_threes
from vpt.data.decode import decode
from vpt.inference.image_inputs import Picture, find_images


def noise(count: int, size: tuple[int, int], channels: int = 3) -> Tensor:
    """Noise, uint8 (count, H, W, channels), deterministic for a given count.

    >>> noise(2, (4, 6)).shape
    torch.Size([2, 4, 6, 3])
    """
    chance = np.random.default_rng(count)
    return torch.from_numpy(chance.integers(0, 256, (count, *size, channels), dtype=np.uint8))


def drawn(count: int, size: tuple[int, int]) -> Tensor:
    """Flat rectangles on a shaded background, uint8 (count, H, W, 3): edges and areas, in contrast to noise.

    >>> drawn(3, (8, 6)).shape
    torch.Size([3, 8, 6, 3])
    """
    chance = np.random.default_rng(count)
    height, width = size
    made = []
    for _ in range(count):
        ground = Image.fromarray(chance.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        image = np.array(ground.resize((width, height), Image.Resampling.BICUBIC))
        for top, left, share in chance.random((6, 3)):
            rows = slice(int(top * height), int((top + share / 2) * height) + 1)
            columns = slice(int(left * width), int((left + share / 2) * width) + 1)
            image[rows, columns] = chance.integers(0, 256, 3)
        made.append(image)
    return torch.from_numpy(np.stack(made))


def photos(
    images: Picture | Sequence[Picture], size: tuple[int, int], window: Window = "full", channels: int | None = None
) -> Tensor:
    """Images of the user, read with `data.window` and resized to one size without cropping, uint8 (count, H, W, C).

    Raises:
        UserError: no image, or an image that cannot be read, with its name.

    >>> photos(np.zeros((5, 7, 3), dtype=np.uint8), (4, 4)).shape
    torch.Size([1, 4, 4, 3])
    """

    def resized(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels).resize((size[1], size[0])))

    return torch.from_numpy(np.stack([in_threes(pixels, resized) for pixels in decoded(images, window, channels)]))


# Height and width of test photos: landscape, portrait, small, a panorama, one that is enlarged, and a large one.
SIZES = ((427, 640), (640, 427), (90, 120), (150, 600), (61, 47), (1200, 1500))


def real_photos(size: tuple[int, int] | None, channels: int = 3) -> list[np.ndarray]:
    """Photos that come with scikit-learn, uint8 (H, W, channels): a temple and a flower, in several sizes or in one;
    their colours are repeated if there are more channels.

    >>> [photo.shape for photo in real_photos((4, 6))]
    [(4, 6, 3), (4, 6, 3)]
    """
    from sklearn.datasets import load_sample_image

    originals = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    made = []
    for number, (height, width) in enumerate([size] * 2 if size else SIZES):
        picture = ImageOps.fit(originals[number % 2], (width, height), Image.Resampling.BICUBIC)
        made.append(np.array(picture)[..., np.arange(channels) % 3])
    return made


def decoded(
    images: Picture | Sequence[Picture], window: Window = "full", channels: int | None = None
) -> list[np.ndarray]:
    """Images of the user in their own sizes, read with `data.window` and `data.channels`, uint8 (H, W, C).

    Raises:
        UserError: no image, or an image that cannot be read, with its name.
    """
    return [decode(source, name=name, window=window, channels=channels) for name, source in find_images(images)]


def windowed(window: Window) -> dict[str, Any]:
    """Metadata of a file for images deeper than 8 bits: the values from which its uint8 pixels are scaled.

    >>> windowed((0.0, 4095.0)), windowed("full")
    ({'window': [0.0, 4095.0]}, {})
    """
    return {} if isinstance(window, str) else {"window": list(window)}
