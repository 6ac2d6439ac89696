"""Transforms of images with boxes to tensors: resized with their aspect ratio, augmented together with their boxes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from vpt.data.detection.dataset import BoxRecord
from vpt.data.transforms.classification import PRESETS, pipeline_file, to_tensor
from vpt.utils.errors import UserError


@dataclass(frozen=True)
class Target:
    """Boxes (n, 4) x1, y1, x2, y2 in pixels of the tensor, labels (n,), crowds (n,), and the original size of the
    photo."""

    boxes: torch.Tensor
    labels: torch.Tensor
    crowds: torch.Tensor
    width: int
    height: int

    def to(self, device: torch.device) -> Target:
        """Move the tensors to a device."""
        boxes, labels, crowds = (part.to(device) for part in (self.boxes, self.labels, self.crowds))
        return Target(boxes, labels, crowds, self.width, self.height)


@dataclass(frozen=True)
class BoxTransform:
    """Resizes the short side to `size`, unless the long one would exceed `longest`, after augmentation in training.

    Args:
        size: pixels.
        longest: pixels.
        augment: none, light (flip), standard (flip, crops around boxes, mild colour jitter), strong, or a YAML file of
            albumentations.
    """

    size: int
    longest: int
    augment: str = "none"
    pipeline: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pipeline", _pipeline(self.augment))

    def __call__(self, image: np.ndarray, record: BoxRecord, seed: int) -> tuple[torch.Tensor, Target]:
        """Turn an image (H, W, 3) uint8 into a tensor (3, h, w) uint8 and its target, a function of image and seed."""
        height, width = image.shape[:2]
        boxes = np.asarray(record.boxes, dtype=np.float64).reshape(-1, 4)
        places = np.arange(len(boxes))
        if self.pipeline is not None:
            image, boxes, places = self._changed(image, boxes, seed)
        new = size_for(image.shape[1], image.shape[0], self.size, self.longest)
        if new != (image.shape[1], image.shape[0]):
            image = np.asarray(Image.fromarray(image).resize(new, Image.Resampling.BILINEAR))
        stretch = np.array([new[0] / width, new[1] / height] * 2)
        if self.pipeline is not None:
            stretch = np.array([new[0], new[1]] * 2)  # boxes are relative to the augmented image
        labels = [record.labels[place] for place in places]
        crowds = [record.crowds[place] for place in places]
        target = Target(
            torch.from_numpy((boxes * stretch).astype(np.float32)).reshape(-1, 4),
            torch.tensor(labels, dtype=torch.int64),
            torch.tensor(crowds, dtype=torch.bool),
            width,
            height,
        )
        return to_tensor(image), target

    def _changed(self, image: np.ndarray, boxes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The augmented image, its boxes in relative coordinates, and the indices of the remaining boxes."""
        height, width = image.shape[:2]
        relative = boxes / np.array([width, height] * 2) if len(boxes) else boxes
        relative = relative.clip(0, 1)
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        if not image.flags.writeable:
            image = image.copy()
        try:
            found = self.pipeline(image=image, bboxes=relative, places=np.arange(len(relative)))
        except Exception as error:
            raise UserError(f"the augmentation {self.augment} fails on an image with boxes: {error}") from error
        kept = np.asarray(found["bboxes"], dtype=np.float64).reshape(-1, 4)
        # albumentations returns labels as floats.
        return found["image"], kept, np.asarray(found["places"]).astype(np.int64)


def scale_for(width: int, height: int, size: int, longest: int) -> float:
    """Scale factor of an image.

    >>> scale_for(400, 200, size=100, longest=1000), scale_for(4000, 200, size=100, longest=1000)
    (0.5, 0.25)
    """
    return min(size / min(width, height), longest / max(width, height))


def size_for(width: int, height: int, size: int, longest: int) -> tuple[int, int]:
    """Width and height after resizing, with the aspect ratio kept up to rounding.

    >>> size_for(400, 201, size=100, longest=1000)
    (199, 100)
    """
    scale = scale_for(width, height, size, longest)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _pipeline(augment: str) -> Any:
    if augment == "none":
        return None
    path = None if augment in PRESETS else pipeline_file(augment)
    from vpt.data.transforms.augment import box_preset, from_yaml, with_boxes

    return with_boxes(box_preset(augment) if path is None else from_yaml(path))
