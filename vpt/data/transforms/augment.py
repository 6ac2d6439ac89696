"""Augmentation pipelines, for images and for images with boxes or masks.

The only module that imports albumentations, and only for training: its last MIT release must stay replaceable, and it
takes half a second to import.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

# albumentations looks for a newer version on the network when it is imported, unless told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2

from vpt.config import read_yaml
from vpt.data.transforms.classification import EvalTransform
from vpt.utils.errors import UserError, nearest

_CV2 = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}


def preset(name: str, fit: EvalTransform, crop_scale: float | None = None) -> A.Compose:
    """Create the pipeline called light, standard, crop or strong; it outputs squares of `fit.size` pixels.

    `crop_scale` is the smallest fraction of the area that the random crop keeps; default: the preset's own.

    >>> import numpy as np
    >>> image = np.zeros((30, 40, 3), np.uint8)
    >>> preset("light", EvalTransform(8))(image=image)["image"].shape
    (8, 8, 3)
    """
    crop = A.RandomResizedCrop(
        (fit.size, fit.size),
        scale=(crop_scale or {"light": 0.7, "crop": 0.08}.get(name, 0.35), 1.0),
        interpolation=_CV2[fit.interpolation],
        area_for_downscale="image",  # cubic and linear interpolation alias when downscaling
    )
    steps: list[Any] = [crop, A.HorizontalFlip(p=0.5)]
    if name == "standard":
        steps += [_jitter(0.2, hue=0.0, p=0.8)]
    if name == "strong":
        steps += [A.SomeOf(_strong_steps(), n=2, p=1.0), A.CoarseDropout((1, 4), (0.1, 0.25), (0.1, 0.25), fit.fill)]
    return A.Compose(steps)


def box_preset(name: str) -> A.Compose:
    """The presets of the same names for images with boxes, which keep their size or become smaller.

    >>> len(box_preset("light").transforms)
    1
    """
    steps: list[Any] = [A.HorizontalFlip(p=0.5)]
    if name in ("standard", "strong", "crop"):
        steps.append(A.BBoxSafeRandomCrop(erosion_rate=0.2, p=0.5))
    if name in ("standard", "strong"):
        steps.append(_jitter(0.2 if name == "standard" else 0.4, hue=0.0, p=0.8))
    if name == "strong":
        steps += [A.Affine(scale=(0.8, 1.2), rotate=(-8, 8), p=0.5), A.ToGray(p=0.1)]
    return A.Compose(steps)


def with_boxes(pipeline: A.Compose) -> A.Compose:
    """The steps of a pipeline for images with boxes, which are given in relative coordinates with an index each; boxes
    cut to less than a fifth are dropped."""
    params = A.BboxParams(format="albumentations", label_fields=["places"], min_visibility=0.2, clip=True)
    return A.Compose(pipeline.transforms, bbox_params=params)


def mask_preset(name: str, size: int) -> A.Compose:
    """The presets of the same names for images with masks; they output squares of `size` pixels. Masks are never
    interpolated.

    >>> len(mask_preset("light", 32).transforms)
    2
    """
    smallest = {"light": 0.5, "crop": 0.08}.get(name, 0.25)
    crop = A.RandomResizedCrop(
        (size, size), scale=(smallest, 1.0), mask_interpolation=cv2.INTER_NEAREST, area_for_downscale="image"
    )
    steps: list[Any] = [crop, A.HorizontalFlip(p=0.5)]
    if name in ("standard", "strong"):
        steps.append(_jitter(0.2 if name == "standard" else 0.4, hue=0.0, p=0.8))
    if name == "strong":
        steps += [A.Affine(scale=(0.8, 1.2), rotate=(-15, 15), p=0.5), A.GaussianBlur(p=0.2), A.ToGray(p=0.1)]
    return A.Compose(steps)


def _strong_steps() -> list[Any]:
    border = {"border_mode": cv2.BORDER_REFLECT_101, "interpolation": cv2.INTER_LINEAR, "p": 1.0}
    return [
        A.Affine(rotate=(-30, 30), **border),
        A.Affine(shear={"x": (-15, 15), "y": (-15, 15)}, **border),
        A.Affine(translate_percent=(-0.15, 0.15), **border),
        _jitter(0.5, hue=0.05, p=1.0),
        A.GaussianBlur(blur_limit=0, sigma_limit=(0.3, 1.5), p=1.0),
        A.Sharpen(p=1.0),
        A.ToGray(p=1.0),
        A.Posterize(num_bits=(4, 6), p=1.0),
        A.Solarize(threshold_range=(0.5, 0.9), p=1.0),
        A.Equalize(p=1.0),
        A.AutoContrast(p=1.0),
        A.NoOp(p=1.0),
    ]


def _jitter(strength: float, hue: float, p: float) -> A.ColorJitter:
    span = (1 - strength, 1 + strength)
    return A.ColorJitter(brightness=span, contrast=span, saturation=span, hue=(-hue, hue), p=p)


def from_yaml(path: Path) -> A.Compose:
    """Create the pipeline described by a YAML file in albumentations' own format.

    Raises:
        UserError: the file is missing, names an unknown step, or has invalid settings for a step.
    """
    tree = read_yaml(path)
    example = "'transform: {__class_fullname__: Compose, transforms: [...]}', as albumentations.save writes"
    if not isinstance(tree.get("transform"), dict):
        raise UserError(f"{path} must contain {example}")
    for name, step in _steps(tree["transform"]):
        if name not in _known():
            raise UserError(f"{path}: albumentations has no step '{name}'{nearest(name, _known())}")
        if "p" not in step and name not in ("Compose", "Sequential"):
            # albumentations would use 0.5, which is not what the same step does in Python.
            raise UserError(f"{path}: the step {name} has no probability; give it 'p: 1.0' for always")
    try:
        with warnings.catch_warnings():
            # albumentations only warns about unknown settings of a step.
            warnings.simplefilter("error")
            pipeline = A.from_dict(tree)
    except Exception as error:
        raise UserError(f"{path} does not describe a pipeline: {' '.join(str(error).split())}") from error
    return pipeline if isinstance(pipeline, A.Compose) else A.Compose([pipeline])


def _known() -> set[str]:
    kinds = (A.BasicTransform, A.BaseCompose)
    return {name for name, value in vars(A).items() if isinstance(value, type) and issubclass(value, kinds)}


def _steps(tree: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Names and settings of a step and of all steps within it."""
    name = str(tree.get("__class_fullname__", "")).rpartition(".")[2]
    inner = [pair for step in tree.get("transforms") or [] if isinstance(step, dict) for pair in _steps(step)]
    return [(name, tree), *inner]
