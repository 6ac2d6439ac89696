"""Exported classifier, including resizing, cropping and normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vpt.backbones.layer_prompt import LayerPrompt
from vpt.data.transforms.classification import EvalTransform
from vpt.inference.classifier import Classifier
from vpt.interop.export.onnx import Format, Program, Run, latency
from vpt.interop.export.preprocess import Square
from vpt.interop.export.sample_images import noise, photos, windowed
from vpt.interop.export.written import Check, Exported, written
from vpt.metrics.probabilities import probabilities
from vpt.utils.errors import UserError

LARGEST_BATCH = 1024
CLOSE = 1e-3  # tolerance of scores from 0 to 1 between runtimes


class FoldedClassifier(nn.Module):
    """Scores (B, classes) from 0 to 1 for uint8 images (B, H, W, 3).

    Args:
        predictor: a loaded classifier; the operations of its prompt become constants.
        size: height and width of the images; unless it is the model's own input size, images are resized and cropped as
            at prediction.

    Raises:
        UserError: test-time tuning, whose forward pass depends on more than one image.
    """

    def __init__(self, predictor: Classifier, size: tuple[int, int]) -> None:
        super().__init__()
        model = predictor.model
        if model.test_time is not None:
            raise UserError("prompt=tpt tunes its context for every image, so it cannot be exported")
        self.model = model.eval()
        self.multilabel = predictor.artifact.multilabel
        self.size = size
        assert isinstance(predictor.transform, EvalTransform)
        self.square = Square(predictor.transform, size)
        # Constants must not be inference tensors, which cannot be traced.
        with torch.no_grad():
            self.layers: list[LayerPrompt] | None = model.constants()
            self.head = model.ready_head()

    def forward(self, images: Tensor) -> Tensor:
        """Scores of a batch of images."""
        pixels = self.square(images.permute(0, 3, 1, 2))
        features = self.model.backbone.features(
            self.model.normalise(pixels), self.model.steps, self.model.pool, self.layers
        )
        return probabilities(self.head(features).float(), self.multilabel)


def export_classifier(
    predictor: Classifier, path: Path, format: Format, size: tuple[int, int] | None, check: Check
) -> Exported:
    """Export a classifier; see `vpt.interop.export.export.export`."""
    side = predictor.model.image_size
    size = size or (side, side)
    folded = FoldedClassifier(predictor, size).requires_grad_(False).eval()
    batches = [noise(count, size) for count in (1, 3, 8)] + (
        [] if check is None else [photos(check, size, predictor.artifact.config.data.window)]
    )

    def tried(run: Run) -> tuple[float, float]:
        worst = compare(folded, run, batches)
        if not worst < CLOSE:
            raise UserError(f"{path} was not written, because its scores would differ by {worst:.2g}")
        return worst, latency(run, batches[0])

    worst, taken = written(program_of(folded, predictor), format, path, tried)
    return Exported(path, path.stat().st_size, worst, taken)


def program_of(folded: FoldedClassifier, predictor: Classifier) -> Program:
    """The program to write."""
    metadata = {
        "classes": list(predictor.classes),
        "scores": "sigmoid" if folded.multilabel else "softmax",
        "images": f"uint8 (batch, {folded.size[0]}, {folded.size[1]}, 3), RGB",
        "backbone": predictor.model.backbone.name,
        **windowed(predictor.artifact.config.data.window),
    }
    batch = {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)}
    return Program(folded, noise(2, folded.size), "images", ("scores",), batch, metadata)


@torch.inference_mode()
def compare(folded: FoldedClassifier, run: Run, batches: Sequence[Tensor]) -> float:
    """The largest difference of scores between the written file and the original model.

    Args:
        run: the written file.
        batches: uint8, (B, H, W, 3).
    """
    return max(float((run(batch)[0] - folded(batch)).abs().max()) for batch in batches)
