"""Prediction of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from vpt.data.detection.transforms import size_for
from vpt.data.transforms.classification import to_tensor
from vpt.inference.predictor import Predictor
from vpt.inference.results import Detections
from vpt.models.artifact import Artifact
from vpt.models.detection.detector import Detector
from vpt.models.detection.frozen_detector import FrozenDetector
from vpt.training.tasks.detection import sizes
from vpt.utils.precision import Precision


@dataclass(frozen=True)
class BoxView:
    """Resize for a detector: the short side to `size` pixels, unless the long side would exceed `longest`."""

    size: int
    longest: int

    def __call__(self, pixels: np.ndarray) -> torch.Tensor:
        """Resize an image (H, W, 3) uint8 to (3, h, w) uint8."""
        height, width = pixels.shape[:2]
        size = size_for(width, height, self.size, self.longest)
        picture = Image.fromarray(pixels)
        return to_tensor(
            np.asarray(picture if size == (width, height) else picture.resize(size, Image.Resampling.BILINEAR))
        )


class BoxPredictor(Predictor):
    """Object detector."""

    result_type = Detections
    outputs = "boxes"
    options = frozenset({"draw", "coco", "score", "iou"})

    def __init__(self, model: Detector | FrozenDetector, artifact: Artifact, precision: Precision = "fp32") -> None:
        super().__init__(model, artifact, precision)
        self.sizes = sizes(artifact.config, model)  # short side and maximum long side of resized images

    @property
    def view(self) -> Any:
        """See Predictor.view."""
        return BoxView(*self.sizes)

    def answer(
        self, names: Sequence[str], inputs: Sequence[torch.Tensor], sizes: Sequence[tuple[int, ...]], top: int
    ) -> list[Detections]:
        """See Predictor.answer."""
        results = []
        # Memory depends on the largest image of a batch, so batches are small.
        for start in range(0, len(inputs), 8):
            with self._autocast():
                found = self.model.detect([image.to(self._device) for image in inputs[start : start + 8]])
            for at, one in enumerate(found, start):
                results.append(self.result(names[at], one, inputs[at], *sizes[at]))
        return results

    def result(
        self, name: str, found: dict[str, torch.Tensor], image: torch.Tensor, width: int, height: int
    ) -> Detections:
        """Convert boxes in pixels of the resized image to a result."""
        if not torch.isfinite(found["boxes"]).all() or not torch.isfinite(found["scores"]).all():
            raise self._not_finite()
        scale = torch.tensor([width / image.shape[2], height / image.shape[1]] * 2)
        edge = torch.tensor([width, height] * 2, dtype=torch.float32)
        boxes = torch.minimum((found["boxes"].float().cpu() * scale).clamp_min(0), edge)
        # A box outside the image has no area after clipping.
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return Detections(
            name,
            width,
            height,
            boxes[inside].numpy(),
            found["labels"].cpu()[inside].numpy(),
            found["scores"].float().cpu()[inside].numpy(),
            self.classes,
        )
