"""`vpt export`: export a model for other runtimes."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpt.utils.errors import UserError

if TYPE_CHECKING:
    from vpt.interop.export.export import Exported

FORMATS = ["onnx", "torch", "openvino", "tensorrt", "coreml"]


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "export",
        help="export a model as ONNX, OpenVINO, a torch.export program, ...",
        description="Export a model with its preprocessing for other runtimes. See docs/export.md.",
    )
    parser.add_argument("artifact", metavar="RUN", help="run folder or artifact")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="default: onnx")
    parser.add_argument("--precision", choices=["fp32", "fp16", "int8"], default="fp32", help="default: fp32")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write (default: next to the artifact)")
    parser.add_argument(
        "--size",
        metavar="HxW",
        help="fixed size of the input images (default: any size for a classifier, mostly a square for others)",
    )
    parser.add_argument("--check", nargs="+", metavar="PHOTOS", help="photos, folders or globs to test the file on")
    parser.add_argument("--data", metavar="DATA", help="labelled images for fp16 and int8 (default: those of the run)")
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.01,
        metavar="X",
        help="fp16 and int8: how far below vpt predict the accuracy, mAP or mIoU may be (default: 0.01)",
    )
    parser.add_argument("--weights", metavar="FILE", help="backbone weights, if they moved or the run is not yours")
    parser.add_argument("--backbone", metavar="NAME", help="name of the backbone, to allow a repository or folder")
    parser.set_defaults(run=_export)


def image_size(text: str | None) -> tuple[int, int] | None:
    """Height and width given as HxW.

    Raises:
        UserError: another form.

    >>> image_size("480x640")
    (480, 640)
    """
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", text):
        raise UserError(f"--size {text}: give height and width, as in --size 480x640")
    height, width = text.split("x")
    return int(height), int(width)


def _export(options: argparse.Namespace) -> int:
    size = image_size(options.size)
    if options.precision == "fp32" and options.data is not None:
        raise UserError("--data has no effect with --precision fp32; use --check for photos to compare")
    from vpt.interop.export.export import export

    found = export(
        options.artifact,
        options.output,
        options.format,
        size,
        options.weights,
        options.check,
        options.backbone,
        options.precision,
        options.data,
        options.max_drop,
    )
    print(found.path)
    if not found.compared:
        print(f"{found.bytes / 1e6:.1f} MB, not compared with vpt predict: this machine does not run {options.format}")
        return 0
    print(f"{found.bytes / 1e6:.1f} MB, {found.milliseconds:.1f} ms per image on this machine, {_agreement(found)}")
    if found.recipe:
        print(f"this file neither resizes nor crops; before, as in its metadata: {found.recipe}")
    if found.photos is not None:
        same = f"the same class for {found.photos.same} of {found.photos.photos} photos"
        close = f"scores within {found.photos.difference:.0e}"
        print(f"resizes and crops photos itself; compared with vpt predict: {same}, {close}")
    if found.equal is not None:
        print(f"resizes photos itself; compared with vpt predict: the same class for {found.equal:.2%} of their pixels")
    if found.fixed:
        print("takes images of one size and resizes them inside; for photos of another aspect ratio: --size HxW")
    return 0


def _agreement(found: Exported) -> str:
    if (measured := found.accuracy) is not None:
        return (
            f"{measured.metric} {measured.value:.3f} on {measured.images} {measured.split} images, "
            f"{measured.reference:.3f} with vpt predict; {measured.agreement:.1%} of the {measured.unit} agree"
        )
    if found.boxes is None:
        return f"scores differ from vpt's by {found.difference:.0e} at most"
    if not found.boxes:
        return "like vpt, finds no boxes in the synthetic test images; test it on photos with --check"
    return (
        f"scores differ from vpt's by {found.difference:.0e} at most, box corners by {found.pixels:.0e} pixels "
        f"({found.boxes // 2} boxes)"
    )
