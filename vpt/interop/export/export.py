"""Exports an artifact to a file, which is checked by running it before it is put in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from vpt.inference.image_inputs import Picture
from vpt.inference.predictor import BoxPredictor, Classifier, load
from vpt.interop.export import classifier, detector
from vpt.interop.export.onnx import SUFFIX, Format, Program, Run, latency, opened, write
from vpt.interop.export.parity import Difference
from vpt.interop.export.sample_images import decoded, drawn, noise, photos, real_photos
from vpt.utils.atomic_io import write_atomic
from vpt.utils.errors import UserError

CLOSE = 1e-3  # tolerance of scores from 0 to 1 between runtimes
RESIZED = 0.03  # the same for photos, of which the file resizes a few pixels by one level otherwise than Pillow
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
        photos: comparison of a classifier with `vpt predict` on photos of several sizes.
        recipe: what must be done to a photo before it is given to the file; "" if nothing.
    """

    path: Path
    bytes: int
    difference: float
    milliseconds: float
    boxes: int | None = None
    pixels: float | None = None
    photos: classifier.Agreement | None = None
    recipe: str = ""


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
        size: height and width of input images, which are resized (for a classifier also cropped) inside; default: any
            size for a classifier, a square of the short side for a detector. Squares of a classifier's own size, if
            given here, are taken as they are.
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
    return _classifier(predictor, path, format, size, check)


def _classifier(
    predictor: Classifier, path: Path, format: Format, size: tuple[int, int] | None, check: Check
) -> Exported:
    folded = classifier.FoldedClassifier(predictor, size).requires_grad_(False).eval()
    window, samples = predictor.artifact.config.data.window, real_photos(size)
    if check is not None:
        samples += decoded(check, window) if size is None else list(photos(check, size, window).numpy())
    batches = [noise(count, size or (60 + count, 64)) for count in (1, 3, 8)]
    batches += [torch.from_numpy(pixels)[None] for pixels in samples]

    def tried(run: Run) -> tuple[float, classifier.Agreement | None, float]:
        worst = classifier.compare(folded, run, batches)
        if not worst < CLOSE:
            raise UserError(f"{path} was not written, because its scores would differ by {worst:.2g}")
        found = None if folded.prepared else classifier.agreement(predictor, run, samples)
        if found is not None and not found.difference < RESIZED:
            raise UserError(f"{path} was not written: scores of photos would differ by {found.difference:.2g}")
        return worst, found, latency(run, batches[3])

    worst, found, taken = _written(classifier.program_of(folded, predictor), format, path, tried)
    steps = classifier.in_words(classifier.recipe(predictor, inside=False)) if folded.prepared else ""
    return Exported(path, path.stat().st_size, worst, taken, photos=found, recipe=steps)


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
