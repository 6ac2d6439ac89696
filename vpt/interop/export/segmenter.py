"""Exported segmenter, including resizing, normalisation and the sliding window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.data.segmentation.transforms import MaskTransform
from vpt.data.transforms.classification import EvalTransform
from vpt.inference.segmenter import MaskPredictor
from vpt.interop.export.classifier import CLOSE, LARGEST_BATCH, LARGEST_SIDE, RESIZED, Size
from vpt.interop.export.onnx import Format, Program, Run, latency
from vpt.interop.export.preprocess import Resize, Square
from vpt.interop.export.sample_images import decoded, drawn, noise, photos, real_photos, windowed
from vpt.interop.export.written import Check, Exported, written
from vpt.models.segmentation.read_out import read_out
from vpt.models.segmentation.segmenter import Segmenter, starts
from vpt.utils.errors import UserError

OUTPUTS = ("mask", "scores")
OTHER = 1e-3  # tolerated fraction of pixels with another class: where two are equally likely, rounding decides
RESIZED_OTHER = 0.02  # the same for photos, of which the file resizes a few pixels by one level otherwise than Pillow


class FoldedSegmenter(nn.Module):
    """Masks (B, H, W) uint8 of class indices of uint8 images (B, H, W, 3), and the score (B, H, W) from 0 to 1 of each
    pixel's class.

    Args:
        predictor: a loaded segmenter; the operations of its prompt become constants.
        size: height and width of the images; None: any, with `head.resize=square`, else a square of the short side.
    """

    def __init__(self, predictor: MaskPredictor, size: Size = None) -> None:
        super().__init__()
        model: Segmenter = predictor.model
        transform: MaskTransform = predictor.view.transform
        if size is None and transform.resize == "short":
            size = (transform.size, transform.size)
        self.model, self.size = model.eval(), size
        self.inner = transform.fitted(*(size or (1, 1))[::-1])[::-1]
        squash = EvalTransform(transform.size, resize="squash", interpolation="bilinear")
        self.resize = Square(squash) if size is None else Resize(size, self.inner)
        # Constants must not be inference tensors, which cannot be traced.
        with torch.no_grad():
            self.layers = model.layers(model.steps)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Masks and scores of a batch of images."""
        coarse = self._scores(self.resize(images.permute(0, 3, 1, 2)))
        scores = F.interpolate(coarse.float(), images.shape[1:3], mode="bilinear", align_corners=False)
        best, mask = scores.softmax(1).max(1)
        return mask.to(torch.uint8), best

    def _scores(self, pixels: Tensor) -> Tensor:
        """As `Segmenter.segment`, but all windows are computed at once, so that the program contains the model once."""
        model, (high, wide) = self.model, self.inner
        if model.window is None or model.stride is None or max(high, wide) <= model.window:
            return model.coarse(pixels, self.layers)
        places = [
            (..., slice(top, top + model.window), slice(left, left + model.window))
            for top in starts(high, model.window, model.stride)
            for left in starts(wide, model.window, model.stride)
        ]
        windows = torch.stack([pixels[place] for place in places], 1)
        found = model(windows.flatten(0, 1), self.layers).float().unflatten(0, (-1, len(places)))
        total = counts = None
        for number, place in enumerate(places):
            top, left = place[1].start, place[2].start
            edges = (left, wide - left - windows.shape[-1], top, high - top - windows.shape[-2])
            part, one = F.pad(found[:, number], edges), F.pad(torch.ones(windows.shape[-2:]), edges)
            total, counts = (part, one) if total is None or counts is None else (total + part, counts + one)
        assert total is not None
        assert counts is not None
        return total / counts


def export_segmenter(predictor: MaskPredictor, path: Path, format: Format, size: Size, check: Check) -> Exported:
    """Export a segmenter; see `vpt.interop.export.export.export`."""
    folded = FoldedSegmenter(predictor, size).requires_grad_(False).eval()
    window, shape = predictor.artifact.config.data.window, folded.size
    samples = real_photos(shape)
    if check is not None:
        samples += decoded(check, window) if shape is None else list(photos(check, shape, window).numpy())
    batches = [noise(2, shape or (62, 90)), drawn(3, shape or (90, 64))]
    batches += [torch.from_numpy(pixels)[None] for pixels in samples]

    def tried(run: Run) -> tuple[float, float, float]:
        worst, other = compare(folded, run, batches)
        if not (worst < CLOSE and other <= OTHER):
            raise UserError(
                f"{path} was not written, because {other:.2%} of the pixels would get another class, and scores would "
                f"differ by {worst:.2g}"
            )
        photo_scores, photo_other = agreement(predictor, run, samples)
        if not (photo_scores < RESIZED and photo_other <= RESIZED_OTHER):
            raise UserError(
                f"{path} was not written: in photos {photo_other:.2%} of the pixels would get another class than with "
                f"vpt predict, and scores would differ by {photo_scores:.2g}"
            )
        return worst, 1 - photo_other, latency(run, batches[2][:1], rounds=3)

    worst, same, taken = written(program_of(folded, predictor), format, path, tried)
    return Exported(path, path.stat().st_size, worst, taken, equal=same, fixed=size is None and shape is not None)


def program_of(folded: FoldedSegmenter, predictor: MaskPredictor) -> Program:
    """The program to write."""
    height, width = folded.size or ("height", "width")
    metadata: dict[str, object] = {
        "classes": list(predictor.classes),
        "images": f"uint8 (batch, {height}, {width}, 3), RGB",
        "mask": f"uint8 (batch, {height}, {width}): indices into classes",
        "scores": f"float32 (batch, {height}, {width}): from 0 to 1, of the class in mask",
        "preprocessing": "inside",
        "backbone": predictor.model.backbone.name,
        **windowed(predictor.artifact.config.data.window),
    }
    axes: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)}
    if folded.size is None:
        axes |= {axis: torch.export.Dim(name, min=1, max=LARGEST_SIDE) for axis, name in ((1, "height"), (2, "width"))}
    return Program(folded, noise(2, folded.size or (70, 90)), "images", OUTPUTS, axes, metadata)


@torch.inference_mode()
def compare(folded: FoldedSegmenter, run: Run, batches: Sequence[Tensor]) -> tuple[float, float]:
    """The largest difference of scores between the written file and the original model, and the fraction of pixels with
    another class.

    Args:
        run: the written file.
        batches: uint8, (B, H, W, 3).
    """
    worst, other, pixels = 0.0, 0, 0
    for batch in batches:
        (mask, scores), (wanted, its) = run(batch), folded(batch)
        worst = max(worst, float((scores - its).abs().max()))
        other, pixels = other + int((mask != wanted).sum()), pixels + mask.numel()
    return worst, other / pixels


@torch.inference_mode()
def agreement(predictor: MaskPredictor, run: Run, photos: Sequence[np.ndarray]) -> tuple[float, float]:
    """The same for photos (H, W, 3) uint8 and prediction, which resizes with Pillow; of scores the mean difference."""
    total, other, pixels = 0.0, 0, 0
    for image in photos:
        mask, scores = (part[0] for part in run(torch.from_numpy(image)[None]))
        found = read_out(predictor.model.scores([predictor.view(image)])[0], (image.shape[0], image.shape[1]))
        total += float((scores - found.probability).abs().sum())
        other, pixels = other + int((mask != found.labels).sum()), pixels + mask.numel()
    return total / pixels, other / pixels
