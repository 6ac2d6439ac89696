"""`vpt add-class`: add a class to an artifact without training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vpt.cli.parser import show


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "add-class",
        help="add a class to a run with head=knn or head=prototype, without training",
        description="Add a class to an artifact with head=knn or head=prototype, without training. A new artifact is "
        "written. See docs/other-answers.md.",
    )
    parser.add_argument("artifact", metavar="RUN|ARTIFACT", help="run folder or artifact")
    parser.add_argument("name", metavar="NAME", help="name of the class")
    parser.add_argument("images", nargs="+", metavar="FOLDER|IMAGE", help="images of the class: folders, files, globs")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="artifact to write (default: next to the old one, named by the class)"
    )
    parser.add_argument("--in-place", action="store_true", help="replace the old artifact")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="default: 32")
    parser.add_argument("--device", default="auto", help="default: the GPU if there is one")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="backbone weights, if they moved")
    parser.add_argument("--backbone", metavar="NAME", help="name of the backbone, to allow a repository or folder")
    parser.set_defaults(run=_add_class)


def _add_class(options: argparse.Namespace) -> int:
    from vpt.inference.add_class import add_class

    path = add_class(
        options.artifact,
        options.name,
        options.images,
        options.out,
        in_place=options.in_place,
        device=options.device,
        weights=options.weights,
        backbone=options.backbone,
        batch_size=options.batch_size,
    )
    show(path)
    return 0
