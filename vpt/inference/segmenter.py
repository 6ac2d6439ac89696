"""Prediction of masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vpt.data.segmentation.transforms import MaskTransform
from vpt.inference.predictor import Predictor
from vpt.inference.segmentation import Segmentation
from vpt.models.segmentation.read_out import tiles
from vpt.training.tasks.segmentation import transforms


@dataclass(frozen=True)
class MaskView:
    """Resize for a segmenter, as in evaluation."""

    transform: MaskTransform

    def __call__(self, pixels: np.ndarray) -> torch.Tensor:
        """Resize an image (H, W, 3) uint8 to (3, h, w) uint8."""
        return self.transform.image(pixels)


class MaskPredictor(Predictor):
    """Predicts the class of each pixel."""

    result_type = Segmentation
    outputs = "scores of pixels"
    options = frozenset({"draw", "coco", "masks"})

    @property
    def view(self) -> Any:
        """See Predictor.view."""
        return MaskView(transforms(self.artifact.config, self.model)[1])

    def answer(
        self, names: Sequence[str], inputs: Sequence[torch.Tensor], sizes: Sequence[tuple[int, ...]], top: int
    ) -> list[Segmentation]:
        """See Predictor.answer."""
        return list(self.answers(names, inputs, sizes, top))

    def answers(
        self, names: Sequence[str], inputs: Sequence[torch.Tensor], sizes: Sequence[tuple[int, ...]], top: int
    ) -> Iterator[Segmentation]:
        """See Predictor.answers: a mask has the size of its image."""
        # Memory depends on the largest image of a batch, so batches are small.
        for start in range(0, len(inputs), 8):
            with self._autocast():
                scores = self.model.scores([image.to(self._device) for image in inputs[start : start + 8]])
            for at, one in enumerate(scores, start):
                yield self._result(names[at], one, *sizes[at])

    def _result(self, name: str, scores: torch.Tensor, width: int, height: int) -> Segmentation:
        """The mask, one byte a pixel, and sums over parts of it, so that large images need little more memory."""
        labels = torch.empty(height, width, dtype=torch.uint8, device=scores.device)
        sums = torch.zeros(len(self.classes), dtype=torch.float64, device=scores.device)
        counts = torch.zeros(len(self.classes), dtype=torch.int64, device=scores.device)
        for tile in tiles(scores, (height, width)):
            best, probability = tile.best()
            if not torch.isfinite(probability).all():
                raise self._not_finite()
            labels[tile.place] = best
            sums.index_add_(0, best.flatten(), probability.double().flatten())
            counts += best.flatten().bincount(minlength=len(self.classes))
        means = (sums / counts.clamp(min=1)).clamp(max=1)
        return Segmentation(name, labels.cpu().numpy(), self.classes, means.cpu().numpy())
