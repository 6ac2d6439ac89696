"""`vpt average`: the mean of artifacts of one task."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vpt.cli.parser import show


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "average",
        help="average artifacts of one task, such as those of several seeds, or interpolate between two",
        description="Write the weighted mean of artifacts with the same classes, backbone, prompt and head as a new "
        "artifact. See docs/methods.md.",
    )
    parser.add_argument("artifacts", nargs="+", metavar="RUN|ARTIFACT", help="run folders or artifacts")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="artifact to write")
    parser.add_argument(
        "--weights", type=float, nargs="+", metavar="W", help="their weights, as in 0.3 0.7 (default: equal)"
    )
    parser.set_defaults(run=_average)


def _average(options: argparse.Namespace) -> int:
    from vpt.models.combine import average

    show(average(options.artifacts, options.out, options.weights))
    return 0
