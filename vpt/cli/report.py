"""`vpt report`: write an HTML report."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from vpt.utils.errors import UserError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "report",
        help="write an HTML report of a run, or compare several",
        description="Write an HTML report of a run, or of several compared. See docs/report.md.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, finished or not")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="default: report.html in the run's folder, or in the current one for several runs",
    )
    parser.add_argument(
        "--images", type=int, default=24, metavar="N", help="maximum number of thumbnails (default: 24)"
    )
    parser.add_argument("--split", choices=["test", "val"], help="default: test, if it was evaluated")
    parser.add_argument("--data", metavar="PATH", help="current location of the data, if it moved")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="backbone weights, if they moved or the run is not yours"
    )
    parser.add_argument("--backbone", metavar="NAME", help="name of the backbone, to allow a repository or folder")
    parser.add_argument(
        "--device", default="auto", help="where attention and features are computed (default: the GPU if there is one)"
    )
    parser.add_argument("--no-model", action="store_true", help="leave out everything that needs the backbone; quick")
    parser.add_argument(
        "--map",
        choices=["tsne", "umap"],
        default="tsne",
        help="projection of features (default: tsne); umap needs umap-learn",
    )
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    if options.images < 0:
        raise UserError(f"--images {options.images} must not be negative")
    started = time.monotonic()
    from vpt.report.build import write_report
    from vpt.utils.console import Console

    console = Console()
    page = write_report(
        options.runs,
        options.output,
        images=options.images,
        split=options.split,
        data=options.data,
        weights=options.weights,
        backbone=options.backbone,
        device=options.device,
        model=not options.no_model,
        map=options.map,
        console=console,
    )
    console.say(f"{page.stat().st_size / 1e6:.2f} MB, {time.monotonic() - started:.0f} s")
    print(page)
    return 0
