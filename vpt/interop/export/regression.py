"""Exported regression, including resizing, cropping and normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vpt.heads.regression import Number
from vpt.inference.regression import NumberPredictor
from vpt.interop.export.classifier import CLOSE, RESIZED, FoldedModel, Size, batches_to_try, folded_program
from vpt.interop.export.onnx import Format, Run, latency
from vpt.interop.export.written import Check, Exported, written
from vpt.utils.errors import UserError


class FoldedNumber(FoldedModel):
    """Numbers (B,) of uint8 images (B, H, W, 3), in the unit of the targets."""

    def read(self, outputs: Tensor) -> Tensor:
        """See FoldedModel.read."""
        return outputs[:, 0]


def export_regression(predictor: NumberPredictor, path: Path, format: Format, size: Size, check: Check) -> Exported:
    """Export a model that predicts a number; see `vpt.interop.export.export.export`."""
    head = predictor.model.head
    assert isinstance(head, Number)
    unit = float(head.std)  # differences are judged in standard deviations of the training targets
    folded = FoldedNumber(predictor, size).requires_grad_(False).eval()
    batches, samples = batches_to_try(size, check, predictor.artifact.config.data.window)

    def tried(run: Run) -> tuple[float, float]:
        with torch.inference_mode():
            worst = max(float((run(batch)[0] - folded(batch)).abs().max()) for batch in batches)
        if not worst < CLOSE * unit:
            raise UserError(f"{path} was not written, because its numbers would differ by {worst:.2g}")
        far = 0.0 if folded.prepared else _difference(predictor, run, samples)
        if not far < RESIZED * unit:
            raise UserError(f"{path} was not written: numbers of photos would differ by {far:.2g}")
        return worst, latency(run, batches[3])

    name = predictor.classes[0]
    program, steps = folded_program(folded, predictor, "number", {"name": name})
    worst, taken = written(program, format, path, tried)
    return Exported(path, path.stat().st_size, worst, taken, recipe=steps)


def _difference(predictor: NumberPredictor, run: Run, photos: Sequence[np.ndarray]) -> float:
    """The largest difference from prediction, which resizes photos (H, W, 3) with Pillow."""
    found = predictor.batch([f"photo {at}" for at in range(len(photos))], photos, 1)
    theirs = [float(run(torch.from_numpy(pixels)[None])[0][0]) for pixels in photos]
    return max(abs(mine.to_dict()["number"] - other) for mine, other in zip(found, theirs, strict=True))
