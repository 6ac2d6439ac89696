"""Exports an artifact to a file, which is checked by running it before it is put in place."""

from __future__ import annotations

from pathlib import Path

from vpt.config.tasks import task_entry
from vpt.inference.predictor import load
from vpt.interop.export.onnx import SUFFIX, Format
from vpt.interop.export.written import Check, Exported
from vpt.utils.errors import UserError
from vpt.utils.plugins import imported


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
            size for a classifier and for a segmenter with head.resize=square, else a square of the short side. Squares
            of a classifier's own size, if given here, are taken as they are.
        weights: file of the backbone's weights, as in `vpt.load`.
        check: photos to check the file with, in addition to synthetic images and noise.
        backbone: name of the backbone, as in `vpt.load`.

    Raises:
        UserError: an artifact with test-time tuning or a detector that cannot be traced, missing packages, or a file
            whose results differ from the original model's.
    """
    predictor = load(artifact, device="cpu", weights=weights, dtype="fp32", precision="fp32", backbone=backbone)
    task = predictor.artifact.config.task
    if not (exporter := task_entry(task).exporter):
        raise UserError(f"task={task} cannot be exported; predict with vpt.load instead")
    path = Path(output) if output is not None else predictor.artifact.path.with_suffix(SUFFIX[format])
    exported: Exported = imported(exporter)(predictor, path, format, size, check)
    return exported
