"""Several views of one image: the evaluation view first, then random crops (TPT, Shu et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from vpt.data.transforms.classification import EvalTransform


@dataclass(frozen=True)
class Views:
    """Transforms an image to `count` views (count, 3, size, size): the evaluation view, then random crops of 8 to 100 %
    of the area, randomly flipped; with `augmix` each is mixed with mild changes of colour and shape (torchvision's
    AugMix)."""

    plain: EvalTransform
    count: int = 64
    augmix: bool = False
    pipeline: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        steps: list[Any] = [v2.RandomResizedCrop(self.plain.size, scale=(0.08, 1.0)), v2.RandomHorizontalFlip()]
        if self.augmix:
            steps.append(v2.AugMix(severity=1, all_ops=False))
        object.__setattr__(self, "pipeline", v2.Compose([*steps, v2.PILToTensor()]))

    @property
    def size(self) -> int:
        """Side of a view, in pixels."""
        return self.plain.size

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return (self.count, 3, self.size, self.size)

    def __call__(self, image: np.ndarray, seed: int = 0) -> torch.Tensor:
        """Create the views of an image (H, W, 3) uint8, a function of image and seed."""
        picture = Image.fromarray(image)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed & (2**63 - 1))
            others = [self.pipeline(picture) for _ in range(self.count - 1)]
        return torch.stack([self.plain(image), *others])
