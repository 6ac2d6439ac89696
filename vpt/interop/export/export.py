"""Exports an artifact to a file, which is checked by running it before it is put in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vpt.inference.image_inputs import Picture
from vpt.inference.predictor import BoxPredictor, Classifier, load
from vpt.interop.export import classifier, detector
from vpt.interop.export.onnx import SUFFIX, Format, Program, Run, latency, opened, write
from vpt.interop.export.parity import Difference
from vpt.interop.export.sample_images import drawn, noise, photos
from vpt.utils.atomic_io import write_atomic
from vpt.utils.errors import UserError

CLOSE = 1e-3  # tolerance of scores from 0 to 1 between runtimes
ALONE = 0.05  # tolerated fraction of boxes that only one runtime finds; see parity.py

T = TypeVar("T")
Check = Picture | Sequence[Picture] | None


@dataclass(frozen=True)
class Exported:
    """A written file.

    Args:
        path: path of the file.
        bytes: size of the file.
        difference: largest difference of its scores from the original model's.
        milliseconds: median time of one image.
        boxes: number of compared boxes; None for a classifier.
        pixels: largest difference of box edges; None for a classifier.
    """

    path: Path
    bytes: int
    difference: float
    milliseconds: float
    boxes: int | None = None
    pixels: float | None = None


def export(
    artifact: str | Path,
    output: str | Path | None = None,
    format: Format = "onnx",
    size: tuple[int, int] | None = None,
    weights: str | Path | None = None,
    check: Check = None,
    backbone: str | None = None,
) -> Exported:
    """Export a model as ONNX or as a torch.export program, and check it by running it.

    Args:
        artifact: artifact file or run folder.
        output: the file to write; default: next to the artifact.
        format: onnx, or torch (.pt2).
        size: height and width of input images, which are resized (for a classifier also cropped) inside; default: a
            classifier's own input size, a square of a detector's short side.
        weights: file of the backbone's weights, as in `vpt.load`.
        check: photos to check the file with, in addition to synthetic images and noise.
        backbone: name of the backbone, as in `vpt.load`.

    Raises:
        UserError: an artifact with test-time tuning or a detector that cannot be traced, missing packages, or a file
            whose results differ from the original model's.
    """
    predictor = load(artifact, device="cpu", weights=weights, dtype="fp32", backbone=backbone)
    path = Path(output) if output is not None else predictor.artifact.path.with_suffix(SUFFIX[format])
    if isinstance(predictor, BoxPredictor):
        return _detector(predictor, path, format, size or detector.default_size(predictor), check)
    assert isinstance(predictor, Classifier)
    side = predictor.model.image_size
    return _classifier(predictor, path, format, size or (side, side), check)


def _classifier(predictor: Classifier, path: Path, format: Format, size: tuple[int, int], check: Check) -> Exported:
    folded = classifier.FoldedClassifier(predictor, size).requires_grad_(False).eval()
    batches = [noise(count, size) for count in (1, 3, 8)] + (
        [] if check is None else [photos(check, size, predictor.artifact.config.data.window)]
    )

    def tried(run: Run) -> tuple[float, float]:
        worst = classifier.compare(folded, run, batches)
        if not worst < CLOSE:
            raise UserError(f"{path} was not written, because its scores would differ by {worst:.2g}")
        return worst, latency(run, batches[0])

    worst, taken = _written(classifier.program_of(folded, predictor), format, path, tried)
    return Exported(path, path.stat().st_size, worst, taken)


def _detector(predictor: BoxPredictor, path: Path, format: Format, size: tuple[int, int], check: Check) -> Exported:
    folded = detector.FoldedDetector(predictor, size).requires_grad_(False).eval()
    images = [
        *noise(1, size),
        *drawn(3, size),
        *([] if check is None else photos(check, size, predictor.artifact.config.data.window)),
    ]

    def tried(run: Run) -> tuple[Difference, float]:
        found = detector.compare(folded, predictor, run, images)
        if found.alone > ALONE * found.boxes:
            raise UserError(f"{path} was not written, because {found.alone} of {found.boxes} boxes would differ")
        return found, latency(run, images[-1])

    found, taken = _written(detector.program_of(folded, predictor), format, path, tried)
    return Exported(path, path.stat().st_size, found.score, taken, found.boxes, found.pixels)


def _written(program: Program, format: Format, path: Path, tried: Callable[[Run], T]) -> T:
    """Write a file and return the result of `tried`; a failing file is not put in place, and an existing file stays."""
    given = []

    def fill(temporary: Path) -> None:
        write(program, format, temporary)
        given.append(tried(opened(temporary, format)))

    write_atomic(path, fill)
    return given[0]
