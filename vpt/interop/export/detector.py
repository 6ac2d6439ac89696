"""Exported detector for one image of fixed size, including resizing, normalisation and non-maximum suppression."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vpt.data.dataset import Record
from vpt.data.detection.dataset import BoxRecord
from vpt.data.detection.transforms import size_for
from vpt.inference.detector import BoxPredictor
from vpt.inference.results import Detections
from vpt.interop.export.detection_modules import finder_of
from vpt.interop.export.nms import best
from vpt.interop.export.parity import Difference, difference
from vpt.interop.export.program import Program, Run, latencies
from vpt.interop.export.resize import resized
from vpt.interop.export.sample_images import drawn, noise, windowed
from vpt.interop.export.task_export import Outputs, Size, TaskExport
from vpt.interop.export.written import Exported
from vpt.metrics.detection import detection_metrics
from vpt.training.tasks.detection import true_boxes
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


class DetectorExport(TaskExport):
    """A detector for export.

    Args:
        predictor: a loaded detector.
        size: height and width of the image; None: a square of the short side.
    """

    unit = "boxes"
    metric = "map"
    size: tuple[int, int]

    def __init__(self, predictor: BoxPredictor, size: Size = None) -> None:
        self.predictor: BoxPredictor = predictor
        self.fixed = size is None
        self.size = size or (predictor.sizes[0], predictor.sizes[0])
        self.folded = FoldedDetector(predictor, self.size).requires_grad_(False).eval()
        self.samples = [image.numpy() for image in (*noise(1, self.size), *drawn(3, self.size))]
        self.program = program_of(self.folded, predictor)

    def verify(self, run: Run, path: Path, samples: Sequence[np.ndarray]) -> Exported:
        """See TaskExport.verify."""
        images = [self.input(image) for image in samples]
        found = compare(self.folded, self.predictor, run, images)
        if found.alone > ALONE * found.boxes:
            raise UserError(f"{path} was not written, because {found.alone} of {found.boxes} boxes would differ")
        taken = float(np.median(latencies(run, images[-1])))
        return Exported(path, 0, found.score, taken, found.boxes, found.pixels, fixed=self.fixed)

    def input(self, image: np.ndarray) -> Tensor:
        """See TaskExport.input; one image, not a batch."""
        return super().input(image)[0]

    def reference(self, image: np.ndarray) -> Outputs:
        """See TaskExport.reference."""
        (found,) = self.predictor.batch(["image"], [image], 1)
        assert isinstance(found, Detections)
        return torch.tensor(found.boxes), torch.tensor(found.scores, dtype=torch.float32), torch.tensor(found.class_ids)

    def measured(self, found: Outputs, record: Record) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See TaskExport.measured: predicted and true boxes in pixels of the record's image."""
        assert isinstance(record, BoxRecord)
        boxes, scores, labels = found
        scale = torch.tensor([record.size[0] / self.size[1], record.size[1] / self.size[0]] * 2)
        return {"boxes": boxes * scale, "scores": scores, "labels": labels.long()}, true_boxes(record)

    def score(self, measured: Sequence[Any]) -> float:
        """See TaskExport.score."""
        predicted, wanted = zip(*measured, strict=True)
        return detection_metrics(predicted, wanted, self.predictor.classes)["map"] or 0.0

    def agreement(self, mine: Outputs, theirs: Outputs) -> tuple[int, int]:
        """See TaskExport.agreement: the boxes of both that have a counterpart at about the same place."""
        pair: Any = (mine, theirs)
        found = difference([pair], score=0.1, pixels=max(1.0, 0.02 * max(self.size)))
        return found.boxes - found.alone, found.boxes


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
