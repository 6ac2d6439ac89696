"""`vpt export`: export a model to ONNX or torch.export."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpt.utils.errors import UserError

if TYPE_CHECKING:
    from vpt.interop.export.export import Exported


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "export",
        help="export a model as ONNX or a torch.export program",
        description="Export a model with its preprocessing as ONNX or a torch.export program. See docs/export.md.",
    )
    parser.add_argument("artifact", metavar="RUN", help="run folder or artifact")
    parser.add_argument("--format", choices=["onnx", "torch"], default="onnx", help="default: onnx")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write (default: next to the artifact)")
    parser.add_argument(
        "--size",
        metavar="HxW",
        help="fixed size of the input images (default: any size for a classifier, mostly a square for others)",
    )
    parser.add_argument("--check", nargs="+", metavar="PHOTOS", help="photos, folders or globs to test the file on")
    parser.add_argument("--weights", metavar="FILE", help="backbone weights, if they moved or the run is not yours")
    parser.add_argument("--backbone", metavar="NAME", help="name of the backbone, to allow a repository or folder")
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    size = None
    if options.size is not None:
        if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", options.size):
            raise UserError(f"--size {options.size}: give height and width, as in --size 480x640")
        height, width = options.size.split("x")
        size = (int(height), int(width))
    from vpt.interop.export.export import export

    found = export(
        options.artifact, options.output, options.format, size, options.weights, options.check, options.backbone
    )
    print(found.path)
    print(f"{found.bytes / 1e6:.1f} MB, {found.milliseconds:.1f} ms per image on this CPU, {_agreement(found)}")
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
    if found.boxes is None:
        return f"scores differ from vpt's by {found.difference:.0e} at most"
    if not found.boxes:
        return "like vpt, finds no boxes in the synthetic test images; test it on photos with --check"
    return (
        f"scores differ from vpt's by {found.difference:.0e} at most, box corners by {found.pixels:.0e} pixels "
        f"({found.boxes // 2} boxes)"
    )
