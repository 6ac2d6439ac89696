"""`vpt data`: check and convert."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpt.cli.base import USAGE, Parser, file_and_overrides, is_path, show

if TYPE_CHECKING:
    from vpt.config import RunConfig


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("data", help="check a data set, or convert one with boxes")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", parser_class=Parser, required=True)
    check = actions.add_parser("check", help="decode every image; list what is wrong, by name")
    check.add_argument("words", nargs="+", metavar="PATH | CONFIG.yaml | key=value")
    check.set_defaults(run=_check)
    convert = actions.add_parser("convert", help="write boxes in another format: COCO, Pascal VOC, YOLO")
    convert.add_argument("words", nargs="+", metavar="PATH | CONFIG.yaml | key=value")
    convert.add_argument("--to", required=True, choices=["coco", "voc", "yolo"])
    convert.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="a new folder")
    convert.set_defaults(run=_convert)


def _config(words: Sequence[str], task: str | None = None) -> RunConfig:
    from vpt.config import load_config, word

    first, *rest = words
    is_data = (is_path(first) or Path(first).is_dir()) and not _is_config(first)
    words = [word("data.path", first), *rest] if is_data else words
    if task is not None:
        words = [*words, f"task={task}"]
    return load_config(*file_and_overrides(words))


def _is_config(path: str) -> bool:
    """Whether a first word is a file of settings; YOLO's data.yaml is data."""
    from vpt.config import read_yaml

    return path.endswith((".yaml", ".yml")) and "names" not in read_yaml(path)


def _check(options: argparse.Namespace) -> int:
    config = _config(options.words)
    from vpt.data.check import check
    from vpt.tasks import task_of

    data = task_of(config).load(config)
    report = check(data, config.data.max_pixels)
    show(f"{config.data.path}: {data.summary()}")
    for note in data.notes:
        show(note)
    show(report.text())
    return USAGE if report.bad else 0


def _convert(options: argparse.Namespace) -> int:
    config = _config(options.words, task="detection")
    from vpt.data.boxes.convert import convert
    from vpt.data.boxes.sources import load_boxes

    data = load_boxes(config.data)
    folder = convert(data, options.output, options.to)
    for note in data.notes:
        show(note)
    show(f"{data.summary()} written to {folder} as {options.to}")
    return 0
