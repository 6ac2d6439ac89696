"""`vpt report`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from vpt.utils.errors import UserError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("report", help="one HTML page about a run, or several compared")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, finished or not")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: report.html in the run's folder, or here for several"
    )
    parser.add_argument("--images", type=int, default=24, metavar="N", help="thumbnails at most (default 24)")
    parser.add_argument("--split", choices=["test", "val"], help="default: test where it was measured")
    parser.add_argument("--data", metavar="PATH", help="where the data lies now, if it moved")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="file of the backbone's weights, if it moved or is not yours"
    )
    parser.add_argument("--backbone", metavar="NAME", help="its name, if it is a repository or a folder you trust")
    parser.add_argument("--device", default="auto", help="computes attention and features")
    parser.add_argument("--no-model", action="store_true", help="leave out what needs the backbone: quick")
    parser.add_argument("--map", choices=["tsne", "umap"], default="tsne", help="umap needs umap-learn")
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
