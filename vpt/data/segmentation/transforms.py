"""Transforms of images with masks to tensors: resized to whole patches, or cropped and augmented together."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from vpt.config.heads_segmentation import MaskHead
from vpt.data.segmentation.dataset import IGNORE
from vpt.data.transforms.classification import PRESETS, pipeline_file, to_tensor
from vpt.utils.errors import UserError

Resize = Literal["short", "square"]


@dataclass(frozen=True)
class MaskTransform:
    """Transform of an image and its mask.

    Without augmentation, as for evaluation, the image is resized and its mask keeps all its pixels, because predictions
    are compared at the original size. With augmentation both become squares of `size`.

    Args:
        size: short side, or side of the square, in pixels; a multiple of `patch`.
        patch: sides become multiples of it.
        resize: short (the aspect ratio is kept up to whole patches) or square.
        longest: limit of the long side, in pixels; it is reduced to it.
        augment: none, light (random crop of 50 to 100 % of the area, flip), standard (25 to 100 %, flip, mild colour
            jitter), crop (8 to 100 %, flip), strong, or a YAML file of albumentations.
    """

    size: int
    patch: int
    resize: Resize = "short"
    longest: int = 1 << 14
    augment: str = "none"
    pipeline: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pipeline", _pipeline(self.augment, self.size))

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn an image (H, W, 3) uint8 and its mask (H, W) uint8 into tensors (3, h, w) and (h', w') uint8, a function
        of both and of the seed."""
        if self.pipeline is None:
            return self.image(image), torch.from_numpy(np.array(mask))
        image, mask = self._changed(image, mask, seed)
        square = (self.size, self.size)
        if image.shape[:2] != square:
            image = np.asarray(Image.fromarray(image).resize(square, Image.Resampling.BILINEAR))
            mask = np.asarray(Image.fromarray(mask).resize(square, Image.Resampling.NEAREST))
        return to_tensor(image), torch.from_numpy(np.array(mask))

    def image(self, image: np.ndarray) -> torch.Tensor:
        """Resize an image (H, W, 3) uint8 without augmentation to a tensor (3, h, w)."""
        new = self.fitted(image.shape[1], image.shape[0])
        if new != (image.shape[1], image.shape[0]):
            image = np.asarray(Image.fromarray(image).resize(new, Image.Resampling.BILINEAR))
        return to_tensor(image)

    def fitted(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing without augmentation: multiples of the patch size.

        >>> MaskTransform(size=64, patch=16).fitted(640, 480), MaskTransform(64, 16, "square").fitted(640, 480)
        ((80, 64), (64, 64))
        """
        if self.resize == "square":
            return self.size, self.size
        scale = min(self.size / min(width, height), self.longest / max(width, height))
        most = max(1, self.longest // self.patch)
        sides = (min(most, max(1, round(side * scale / self.patch))) * self.patch for side in (width, height))
        return next(sides), next(sides)

    def _changed(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        if not image.flags.writeable:
            image = image.copy()
        # Steps fill what they move in from outside with 0, so 0 must mean "ignored" while they run.
        shifted = mask + np.uint8(256 - IGNORE)
        try:
            found = self.pipeline(image=image, mask=shifted)
            image, shifted = found["image"], found["mask"]
        except Exception as error:
            raise UserError(f"the augmentation {self.augment} fails on an image with a mask: {error}") from error
        if image.dtype != np.uint8 or image.shape[2:] != (3,) or shifted.shape != image.shape[:2]:
            raise UserError(
                f"the augmentation {self.augment} returns {image.dtype} of shape {tuple(image.shape)} and a mask of "
                f"shape {tuple(shifted.shape)}; remove Normalize, ToFloat and ToTensorV2: the model normalises"
            )
        return image, shifted.astype(np.uint8) - np.uint8(256 - IGNORE)


def mask_transforms(head: MaskHead, size: int, patch: int, augment: str) -> tuple[MaskTransform, MaskTransform]:
    """The transforms for training and for evaluation.

    Args:
        head: settings of the head: `size`, `resize` and `longest`.
        size: the backbone's own size of images, in pixels, where `head.size` is not given.
        patch: side of a patch, in pixels.
        augment: `data.augment`.

    Raises:
        UserError: a size that is no multiple of the patch, or no such augmentation.

    >>> from vpt.config.heads_segmentation import LinearMaskHead
    >>> mask_transforms(LinearMaskHead(size=60), 224, 16, "none")
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: head.size=60 is not a multiple of the patch size of 16 pixels; use 48 or 64
    """
    for name, value in (("size", head.size), ("window", head.window)):
        if value is not None and value % patch:
            below = max(patch, value // patch * patch)
            raise UserError(
                f"head.{name}={value} is not a multiple of the patch size of {patch} pixels; use {below} or "
                f"{below + patch}"
            )
    side = head.size or size
    plain = MaskTransform(side, patch, head.resize, int(side * head.longest))
    return (plain if augment == "none" else replace(plain, augment=augment)), plain


def _pipeline(augment: str, size: int) -> Any:
    if augment == "none":
        return None
    path = None if augment in PRESETS else pipeline_file(augment)
    from vpt.data.transforms.augment import from_yaml, mask_preset

    return mask_preset(augment, size) if path is None else from_yaml(path)
