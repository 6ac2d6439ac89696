"""Transforms from a decoded image of any size to the square uint8 tensor that a backbone takes.

Randomness depends only on the seed given with each image.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image

from vpt.data.channels import in_threes
from vpt.data.normalization import Preprocess
from vpt.utils.errors import UserError, nearest

Resize = Literal["crop", "squash", "pad"]
PRESETS = ("none", "light", "standard", "strong", "crop")
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Transform(Protocol):
    """Interface of the transform that a loader calls for each image."""

    @property
    def size(self) -> int:
        """Side of the output square, in pixels."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output."""

    def __call__(self, image: np.ndarray, seed: int) -> torch.Tensor:
        """Turn an image (H, W, C) uint8 into a new tensor (C, size, size) uint8."""


@dataclass(frozen=True)
class EvalTransform:
    """The deterministic transform from a photo to a square; `seed` is not used.

    crop: the short side is resized to size / crop_pct, then the centre is cropped, as timm and torchvision evaluate
    (with Pillow's antialiased filters). squash: both sides become `size`. pad: the long side becomes `size` and the
    rest is filled with the backbone's mean colour. squash and pad keep the whole picture, so crop_pct does not apply
    to them.
    """

    size: int
    resize: Resize = "crop"
    crop_pct: float = 1.0
    interpolation: str = "bicubic"
    fill: tuple[int, int, int] = (128, 128, 128)
    channels: int = 3

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return (self.channels, self.size, self.size)

    def __call__(self, image: np.ndarray, seed: int = 0) -> torch.Tensor:
        """Turn an image (H, W, C) uint8 into a new tensor (C, size, size) uint8."""
        return to_tensor(self.square(image))

    def square(self, image: np.ndarray) -> np.ndarray:
        """Turn an image (H, W, C) uint8 into an array (size, size, C) uint8."""
        return in_threes(image, self._square)

    def _square(self, image: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(image)
        method = _FILTERS[self.interpolation]
        if self.resize == "squash":
            square = picture.resize((self.size, self.size), method)
        elif self.resize == "pad":
            square = self._pad(picture, method)
        else:
            square = self._crop(picture, method)
        return np.asarray(square)

    def _crop(self, picture: Image.Image, method: Image.Resampling) -> Image.Image:
        short = math.floor(self.size / self.crop_pct)
        width, height = picture.size
        # A strip of 1x5000 pixels would grow to 224x1,120,000 before its centre is cropped.
        if max(width, height) > 4 * min(width, height):
            picture = _middle(picture, min(width, 4 * height), min(height, 4 * width))
            width, height = picture.size
        if width <= height:
            picture = picture.resize((short, int(short * height / width)), method)
        else:
            picture = picture.resize((int(short * width / height), short), method)
        return _middle(picture, self.size, self.size)

    def _pad(self, picture: Image.Image, method: Image.Resampling) -> Image.Image:
        longest = max(picture.size)
        width, height = (max(1, min(self.size, rounded(side * self.size, longest))) for side in picture.size)
        square = Image.new("RGB", (self.size, self.size), self.fill)
        square.paste(picture.resize((width, height), method), ((self.size - width) // 2, (self.size - height) // 2))
        return square


def rounded(value: int, by: int) -> int:
    """The nearest integer to a fraction, halves to even, exactly.

    >>> rounded(5, 2), rounded(7, 2), rounded(8, 3)
    (2, 4, 3)
    """
    found, rest = divmod(2 * value + by, 2 * by)
    return found - 1 if rest == 0 and found % 2 else found


@dataclass(frozen=True)
class TrainTransform:
    """Random augmentation with an albumentations pipeline.

    With resize=squash or pad the pipeline gets the squashed or padded photo. `fit` resizes outputs that are not
    squares. `name` is the preset or file, for messages.
    """

    pipeline: Any
    fit: EvalTransform
    name: str

    @property
    def size(self) -> int:
        """Side of the output square, in pixels."""
        return self.fit.size

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return self.fit.shape

    def __call__(self, image: np.ndarray, seed: int) -> torch.Tensor:
        """Turn an image (H, W, C) uint8 into a new tensor (C, size, size) uint8, a function of image and seed.

        Raises:
            UserError: the user's own pipeline fails on this image, or does not return an 8-bit RGB image.
        """
        shape = image.shape
        if self.fit.resize != "crop" and self.name in PRESETS:
            # Larger than the output if the photo has enough pixels, because a crop will be enlarged.
            side = min(max(self.size, *shape[:2]), 2 * self.size)
            image = replace(self.fit, size=side).square(image)
        # A step may modify the image in place, and the image may belong to a cache.
        if not image.flags.writeable:
            image = image.copy()
        # Compose.set_random_seed would start every step of the pipeline with the same random numbers, so that a flip
        # would always occur with the same jitter. One generator shared by all steps keeps them independent.
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        try:
            result = self.pipeline(image=image)["image"]
        except Exception as error:
            raise UserError(f"the augmentation {self.name} fails on an image of shape {shape}: {error}") from error
        if not isinstance(result, np.ndarray) or result.dtype != np.uint8 or result.shape[2:] != (self.fit.channels,):
            raise UserError(
                f"the augmentation {self.name} returns {result.dtype} of shape {tuple(result.shape)}, not a uint8 "
                f"image (height, width, {self.fit.channels}); remove Normalize, ToFloat and ToTensorV2: the model "
                "normalises on its device"
            )
        if result.shape[:2] != (self.size, self.size):
            result = self.fit.square(np.ascontiguousarray(result))
        return to_tensor(result)


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Copy an image (H, W, 3) uint8 into a tensor (3, H, W) uint8 that shares no memory with it.

    >>> to_tensor(np.zeros((2, 4, 3), np.uint8)).shape
    torch.Size([3, 2, 4])
    """
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))


def eval_transform(
    pre: Preprocess, resize: Resize = "crop", crop_pct: float | None = None, channels: int = 3
) -> EvalTransform:
    """The transform for validation, test and prediction of images of that many channels. `crop_pct` defaults to the
    backbone's.

    Raises:
        UserError: the backbone's interpolation is unknown.

    >>> eval_transform(Preprocess(size=8))(np.zeros((20, 10, 3), np.uint8)).shape
    torch.Size([3, 8, 8])
    """
    if pre.interpolation not in _FILTERS:
        raise UserError(
            f"interpolation '{pre.interpolation}' is unknown{nearest(pre.interpolation, _FILTERS)}; "
            f"known: {', '.join(_FILTERS)}"
        )
    red, green, blue = (max(0, min(255, round(channel * 255))) for channel in pre.mean)
    return EvalTransform(pre.size, resize, crop_pct or pre.crop_pct, pre.interpolation, (red, green, blue), channels)


def train_transform(
    pre: Preprocess,
    augment: str = "standard",
    resize: Resize = "crop",
    crop_pct: float | None = None,
    crop_scale: float | None = None,
    channels: int = 3,
) -> EvalTransform | TrainTransform:
    """The transform for training.

    `augment`: none (the same as evaluation); light (random resized crop of 70 to 100 % of the area, flip);
    standard (35 to 100 %, flip, mild colour jitter); crop (8 to 100 %, flip, as for CLIP's prompt learners); strong
    (standard with two of rotation, shear, colour, blur, grey, ..., and dropped patches); or a YAML file as written by
    `albumentations.save(..., data_format="yaml")`, which gets the whole photo and whose output is resized to a square
    of `pre.size` if necessary. `crop_scale` replaces the presets' smallest fraction of the area.

    Raises:
        UserError: no such preset or file, a pipeline that does not return 8-bit images of these channels, one that
            changes colours of images without, or a `crop_scale` without random crop.

    >>> train_transform(Preprocess(size=8), "none") == eval_transform(Preprocess(size=8))
    True
    """
    fit = eval_transform(pre, resize, crop_pct, channels)
    if channels != 3 and augment in ("standard", "strong"):
        raise UserError(
            f"data.augment={augment} changes colours, which images of {channels} channels do not have; choose none, "
            "light, crop, or an albumentations file"
        )
    if crop_scale is not None and (augment == "none" or augment not in PRESETS):
        raise UserError(f"data.crop_scale={crop_scale} needs a random crop, which data.augment={augment} lacks")
    if augment == "none":
        return fit
    if augment in PRESETS:
        from vpt.data.transforms.augment import preset

        return TrainTransform(preset(augment, fit, crop_scale), fit, augment)
    path = pipeline_file(augment)
    from vpt.data.transforms.augment import from_yaml

    transform = TrainTransform(from_yaml(path), fit, str(path))
    _try_out(transform)
    return transform


def pipeline_file(augment: str) -> Path:
    """The file named by `data.augment`, if it is not a preset.

    Raises:
        UserError: it is neither a preset nor a YAML file.

    >>> pipeline_file("mine.yaml").name
    'mine.yaml'
    """
    path = Path(augment)
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise UserError(
            f"data.augment={augment} does not exist{nearest(augment, PRESETS)}; "
            f"known: {', '.join(PRESETS)}, or an albumentations file ending in .yaml"
        )
    return path


def _try_out(transform: TrainTransform) -> None:
    """Run a user's pipeline on noise, so that errors are reported before training starts."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, transform.fit.channels), dtype=np.uint8)
    for seed in range(8):
        transform(noise, seed)


def _middle(picture: Image.Image, width: int, height: int) -> Image.Image:
    # Rounded as in torchvision's CenterCrop.
    left, top = round((picture.width - width) / 2.0), round((picture.height - height) / 2.0)
    return picture.crop((left, top, left + width, top + height))
