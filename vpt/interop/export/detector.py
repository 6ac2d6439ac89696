"""Exported detector for one image of fixed size, including resizing, normalisation and non-maximum suppression."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from vpt.data.detection.transforms import size_for
from vpt.inference.detector import BoxPredictor
from vpt.interop.export.detection_modules import finder_of
from vpt.interop.export.nms import best
from vpt.interop.export.onnx import Format, Program, Run, latency
from vpt.interop.export.parity import Difference, difference
from vpt.interop.export.resize import resized
from vpt.interop.export.sample_images import drawn, noise, photos, windowed
from vpt.interop.export.written import Check, Exported, written
from vpt.utils.errors import UserError

OUTPUTS = ("boxes", "scores", "labels")
ALONE = 0.05  # tolerated fraction of boxes that only one runtime finds; see parity.py


class FoldedDetector(nn.Module):
    """Boxes (N, 4), scores (N,) and labels (N,) of a uint8 image (H, W, 3), highest score first; N may be 0.

    It takes a single image, because N differs between images.

    Args:
        predictor: a loaded detector; the operations of its prompt become constants.
        size: height and width of the image; boxes are x1, y1, x2, y2 in its pixels.

    Raises:
        UserError: a detector that cannot be traced.
    """

    def __init__(self, predictor: BoxPredictor, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        width, height = size_for(size[1], size[0], *predictor.sizes)
        self.inner = (height, width)
        # Constants must not be inference tensors, which cannot be traced.
        with torch.no_grad():
            self.finder = finder_of(predictor.model.eval(), self.inner)
        self.edge = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
        self.scale = self.edge / torch.tensor([*self.finder.rule.shape[::-1]] * 2)
        self.some_are_none = bool((self.finder.classes < 0).any())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of an image."""
        found = best(self.finder(self.resized(image)), self.finder.rule)
        found = found._replace(labels=self.finder.classes[found.labels])
        if self.some_are_none:
            found = found.where(found.labels >= 0)
        return torch.minimum(found.boxes * self.scale, self.edge), found.scores, found.labels

    def resized(self, image: Tensor) -> Tensor:
        """Resize an image (H, W, 3) to the model input (3, h, w) uint8, as at prediction."""
        return resized(image.permute(2, 0, 1)[None], self.inner, "bilinear")[0].to(torch.uint8)


def export_detector(
    predictor: BoxPredictor, path: Path, format: Format, size: tuple[int, int] | None, check: Check
) -> Exported:
    """Export a detector; see `vpt.interop.export.export.export`."""
    fixed, size = size is None, size or (predictor.sizes[0], predictor.sizes[0])  # a square of the short side
    folded = FoldedDetector(predictor, size).requires_grad_(False).eval()
    images = [
        *noise(1, size),
        *drawn(3, size),
        *([] if check is None else photos(check, size, predictor.artifact.config.data.window)),
    ]

    def tried(run: Run) -> tuple[Difference, float]:
        found = compare(folded, predictor, run, images)
        if found.alone > ALONE * found.boxes:
            raise UserError(f"{path} was not written, because {found.alone} of {found.boxes} boxes would differ")
        return found, latency(run, images[-1])

    found, taken = written(program_of(folded, predictor), format, path, tried)
    return Exported(path, path.stat().st_size, found.score, taken, found.boxes, found.pixels, fixed=fixed)


def program_of(folded: FoldedDetector, predictor: BoxPredictor) -> Program:
    """The program to write."""
    rule = folded.finder.rule
    metadata: dict[str, object] = {
        "classes": list(predictor.classes),
        "image": f"uint8 ({folded.size[0]}, {folded.size[1]}, 3), RGB; one image at a time",
        "boxes": "float32 (N, 4): x1, y1, x2, y2 in pixels of the image, highest score first; N differs between images",
        "scores": f"float32 (N,), at least {folded.finder.least}",
        "labels": "int64 (N,): indices into classes",
        "overlap": rule.overlap,
        "most": rule.most,
        "backbone": predictor.model.backbone.name,
        **windowed(predictor.artifact.config.data.window),
    }
    return Program(folded, noise(1, folded.size)[0], "image", OUTPUTS, None, metadata)


@torch.inference_mode()
def compare(folded: FoldedDetector, predictor: BoxPredictor, run: Run, images: Iterable[Tensor]) -> Difference:
    """Difference between the boxes of the written file and of the predictor for the same pixels.

    Args:
        run: the written file.
        images: uint8, (H, W, 3).
    """
    height, width = folded.size
    pairs = []
    for image in images:
        boxes, scores, labels = run(image)
        pixels = folded.resized(image)
        ours = predictor.result("", predictor.model.detect([pixels])[0], pixels, width, height)
        mine = torch.tensor(ours.boxes), torch.tensor(ours.scores, dtype=torch.float32), torch.tensor(ours.class_ids)
        pairs.append(((boxes, scores, labels), mine))
    return difference(pairs)
