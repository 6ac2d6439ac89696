"""`vpt export`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from vpt.errors import UserError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("export", help="write a classifier as ONNX or torch.export program, prompts folded in")
    parser.add_argument("artifact", metavar="RUN", help="run folder or artifact")
    parser.add_argument("--format", choices=["onnx", "torch"], default="onnx")
    parser.add_argument("--output", type=Path, help="file to write; default: beside the artifact")
    parser.add_argument(
        "--size", metavar="HxW", help="images it will get, resized and cropped inside; default: the model's own square"
    )
    parser.add_argument("--weights", help="where the backbone's weight file lies now")
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    size = None
    if options.size is not None:
        if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", options.size):
            raise UserError(f"--size {options.size}: give height and width, as in --size 480x640")
        height, width = options.size.split("x")
        size = (int(height), int(width))
    from vpt.export import export

    found = export(options.artifact, options.output, options.format, size, options.weights)
    print(found.path)
    print(
        f"{found.bytes / 1e6:.1f} MB, {found.milliseconds:.1f} ms for one image on this CPU, "
        f"scores differ from vpt's by {found.difference:.0e} at most"
    )
    return 0
