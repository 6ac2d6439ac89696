"""Exported segmenter, including resizing, normalisation and the sliding window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from vpt.data.dataset import Record
from vpt.data.segmentation.dataset import MaskRecord
from vpt.data.segmentation.transforms import MaskTransform
from vpt.data.transforms.classification import EvalTransform
from vpt.inference.segmenter import MaskPredictor
from vpt.interop.export.classifier import CLOSE, LARGEST_BATCH, LARGEST_SIDE, RESIZED
from vpt.interop.export.preprocess import Resize, Square
from vpt.interop.export.program import Program, Run, latencies
from vpt.interop.export.sample_images import drawn, noise, real_photos, windowed
from vpt.interop.export.task_export import Outputs, Size, TaskExport
from vpt.interop.export.written import Exported
from vpt.metrics.segmentation import SegmentationMeter
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


class SegmenterExport(TaskExport):
    """A segmenter for export.

    Args:
        predictor: a loaded segmenter.
        size: as in FoldedSegmenter.
    """

    unit = "pixels"
    metric = "miou"

    def __init__(self, predictor: MaskPredictor, size: Size = None) -> None:
        self.predictor: MaskPredictor = predictor
        self.folded = FoldedSegmenter(predictor, size).requires_grad_(False).eval()
        self.size = self.folded.size
        self.fixed = size is None and self.size is not None
        self.samples = real_photos(self.size)
        self.program = program_of(self.folded, predictor)

    def verify(self, run: Run, path: Path, samples: Sequence[np.ndarray]) -> Exported:
        """See TaskExport.verify."""
        batches = [noise(2, self.size or (62, 90)), drawn(3, self.size or (90, 64))]
        batches += [torch.from_numpy(pixels)[None] for pixels in samples]
        worst, other = compare(self.folded, run, batches)
        if not (worst < CLOSE and other <= OTHER):
            raise UserError(
                f"{path} was not written, because {other:.2%} of the pixels would get another class, and scores would "
                f"differ by {worst:.2g}"
            )
        mine, theirs = [run(self.input(image)) for image in samples], [self.reference(image) for image in samples]
        counts = [self.agreement(one, other) for one, other in zip(mine, theirs, strict=True)]
        pixels = sum(of for _, of in counts)
        photo_other = 1 - sum(same for same, _ in counts) / pixels
        photo_scores = sum(float((one[1] - two[1]).abs().sum()) for one, two in zip(mine, theirs, strict=True)) / pixels
        if not (photo_scores < RESIZED and photo_other <= RESIZED_OTHER):
            raise UserError(
                f"{path} was not written: in photos {photo_other:.2%} of the pixels would get another class than with "
                f"vpt predict, and scores would differ by {photo_scores:.2g}"
            )
        taken = float(np.median(latencies(run, batches[2][:1], rounds=3)))
        return Exported(path, 0, worst, taken, equal=1 - photo_other, fixed=self.fixed)

    @torch.inference_mode()
    def reference(self, image: np.ndarray) -> Outputs:
        """See TaskExport.reference."""
        scores = self.predictor.model.scores([self.predictor.view(image)])[0]
        found = read_out(scores, (image.shape[0], image.shape[1]))
        return found.labels[None], found.probability[None]

    def measured(self, found: Outputs, record: Record) -> SegmentationMeter:
        """See TaskExport.measured: the counts of an image, at the size of its mask."""
        assert isinstance(record, MaskRecord)
        mask = Image.fromarray(found[0][0].to(torch.uint8).numpy()).resize(record.size, Image.Resampling.NEAREST)
        meter = SegmentationMeter(self.predictor.classes, boundaries=False)
        meter.update(np.asarray(mask), record.read_mask(record.size))
        return meter

    def score(self, measured: Sequence[Any]) -> float:
        """See TaskExport.score."""
        whole = SegmentationMeter(self.predictor.classes, boundaries=False)
        for meter in measured:
            whole.merge(meter)
        return whole.result().miou

    def agreement(self, mine: Outputs, theirs: Outputs) -> tuple[int, int]:
        """See TaskExport.agreement: the pixels with the same class."""
        return int((mine[0] == theirs[0]).sum()), mine[0].numel()


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
