"""`vpt benchmark`: compare the formats that a model can be exported to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vpt.cli.export import FORMATS, image_size
from vpt.cli.parser import show
from vpt.utils.errors import UserError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "benchmark",
        help="size, latency and accuracy of a model in every export format",
        description="Write a model in every export format, and compare size, latency and accuracy with PyTorch. "
        "No file is kept. See docs/export.md.",
    )
    parser.add_argument("artifact", metavar="RUN", help="run folder or artifact")
    parser.add_argument("--data", metavar="DATA", help="labelled images (default: the run's test or validation images)")
    parser.add_argument("--size", metavar="HxW", help="fixed size of the images, as for vpt export")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of every runtime (default: as PyTorch)")
    parser.add_argument("--only", nargs="+", choices=FORMATS, default=[], metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--rounds", type=int, default=50, metavar="N", help="calls that are timed (default: 50)")
    parser.add_argument("--format", choices=["table", "json"], default="table", help="of the output (default: table)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="backbone weights, if they moved")
    parser.add_argument("--backbone", metavar="NAME", help="name of the backbone, to allow a repository or folder")
    parser.set_defaults(run=_benchmark)


def _benchmark(options: argparse.Namespace) -> int:
    size = image_size(options.size)
    for name in ("threads", "rounds"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value} must be at least 1")
    from vpt.interop.export.benchmark import benchmark, table

    found = benchmark(
        options.artifact,
        options.data,
        size,
        options.threads,
        options.only,
        options.rounds,
        options.weights,
        options.backbone,
    )
    if options.format == "json":
        import json

        print(json.dumps(found.to_dict(), indent=2))
    else:
        show(table(found))
    return 0
