"""Exports an artifact to a file, which is checked by running it before it is put in place."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from vpt.config.tasks import task_entry
from vpt.inference.predictor import Predictor, load
from vpt.interop.export.formats import FORMATS, missing
from vpt.interop.export.labelled_images import Inputs, LabelledImages, accuracies, find_images
from vpt.interop.export.program import Run, latencies
from vpt.interop.export.sample_images import decoded
from vpt.interop.export.target import Format, Precision, Target
from vpt.interop.export.task_export import TaskExport
from vpt.interop.export.written import Check, Exported, size_of, written
from vpt.models.trusted_settings import Named
from vpt.utils.console import Console
from vpt.utils.errors import UserError
from vpt.utils.plugins import imported

MAX_DROP = 0.01


def export(
    artifact: str | Path,
    output: str | Path | None = None,
    format: Format = "onnx",
    size: tuple[int, int] | None = None,
    weights: str | Path | None = None,
    check: Check = None,
    backbone: str | None = None,
    precision: Precision = "fp32",
    data: str | Path | None = None,
    max_drop: float = MAX_DROP,
) -> Exported:
    """Export a model for another runtime, and check the file by running it.

    Args:
        artifact: artifact file or run folder.
        output: the file or folder to write; default: next to the artifact.
        format: onnx, torch (.pt2), openvino, tensorrt or coreml.
        size: height and width of input images, which are resized (for a classifier also cropped) inside; default: any
            size for a classifier and for a segmenter with head.resize=square, else a square of the short side. Squares
            of a classifier's own size, if given here, are taken as they are.
        weights: file of the backbone's weights, as in `vpt.load`.
        check: photos to check the file with, in addition to synthetic images and noise.
        backbone: name of the backbone, as in `vpt.load`.
        precision: fp32, fp16, or int8, which is calibrated on training images of the run.
        data: labelled images to calibrate with and to measure on, instead of those of the run.
        max_drop: how much lower than with `vpt predict` the metric of a file in reduced precision may be. Answers of a
            file in fp16 must also agree in all but 5 % of the images, or two, unless it is 1.

    Raises:
        UserError: an artifact with test-time tuning or a detector that cannot be traced, missing packages, or a file
            whose results differ from the original model's.
    """
    if install := missing(format):
        raise UserError(f"--format {format} needs packages that are not installed: {install}")
    if precision not in FORMATS[format].precisions:
        raise UserError(f"{format} is written in {' or '.join(FORMATS[format].precisions)}, not in {precision}")
    predictor = load(artifact, device="cpu", weights=weights, dtype="fp32", precision="fp32", backbone=backbone)
    made = task_export(predictor, size)
    path = Path(output) if output is not None else _place(predictor.artifact.path, format, precision)
    if not FORMATS[format].runs_here():
        path = path.with_name(f"{path.name}-not-compared")
    target = Target(format)
    images: LabelledImages | None = None
    if precision != "fp32":
        images = find_images(predictor.artifact, data, Named(backbone, weights), Console(quiet=True))
        target = Target(format, precision, Inputs(made, images.calibration, images.max_pixels))
    samples = [*made.samples]
    if check is not None:
        settings = predictor.artifact.config.data
        samples += [made.fit(image) for image in decoded(check, settings.window, settings.channels)]

    def tried(run: Run | None) -> Exported:
        if run is None:
            return Exported(path, 0, math.nan, math.nan, compared=False)
        if images is None:
            return made.verify(run, path, samples)
        return _measured(made, run, path, images, max_drop, almost_equal=precision == "fp16" and max_drop < 1)

    return replace(written(made.program, target, path, tried), bytes=size_of(path))


def task_export(predictor: Predictor, size: tuple[int, int] | None) -> TaskExport:
    """A predictor as a program for other runtimes.

    Raises:
        UserError: a task that is not exported, or a model that cannot be traced.
    """
    task = predictor.artifact.config.task
    if not (exporter := task_entry(task).exporter):
        raise UserError(f"task={task} cannot be exported; predict with vpt.load instead")
    made: TaskExport = imported(exporter)(predictor, size)
    return made


def _place(artifact: Path, format: Format, precision: Precision) -> Path:
    name = artifact.stem if precision == "fp32" else f"{artifact.stem}-{precision}"
    return artifact.with_name(name + FORMATS[format].suffix)


def _measured(
    made: TaskExport, run: Run, path: Path, images: LabelledImages, max_drop: float, almost_equal: bool
) -> Exported:
    """A file in reduced precision on labelled images. Where it should be `almost_equal`, equal metrics are not enough:
    other answers may happen to be right as often.

    Raises:
        UserError: it is less accurate, or disagrees with prediction.
    """
    found = accuracies(made, {"file": run}, images)["file"]
    if found.reference - found.value > max_drop:
        raise UserError(
            f"{path} was not written: {found.metric} on {found.images} {found.split} images would fall from "
            f"{found.reference:.3f} to {found.value:.3f}; allow it with --max-drop {found.reference - found.value:.3f}"
        )
    if almost_equal and found.images * (1 - found.agreement) > max(2, found.images / 20):
        raise UserError(
            f"{path} was not written: on {found.images} {found.split} images only {found.agreement:.1%} of the answers "
            f"({found.unit}) are those of full precision; please report this, or accept it with --max-drop 1"
        )
    taken = float(np.median(latencies(run, made.input(made.samples[0]))))
    return Exported(path, 0, math.nan, taken, accuracy=found)
