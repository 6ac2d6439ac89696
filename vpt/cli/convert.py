"""`vpt convert`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vpt.cli.parser import is_path, show
from vpt.utils.errors import UserError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "convert", help="make an artifact of prompts that VPT, CoOp, CoCoOp, MaPLe, PromptSRC or others trained"
    )
    parser.add_argument("words", nargs="+", metavar="FILE | key=value", help="files that belong together, and settings")
    parser.add_argument("--output", required=True, type=Path, metavar="ARTIFACT", help="file to write")
    parser.add_argument(
        "--classes",
        metavar="A,B,...",
        help="class names in the order of training, or a file with one a line; default: those in the file",
    )
    parser.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> int:
    files = [word for word in options.words if is_path(word)]
    if not files:
        raise UserError("name the file to convert, as in: vpt convert model.pth.tar-50 backbone=... --output FILE")
    settings = [word for word in options.words if word not in files]
    from vpt.interop.convert.convert import convert

    found = convert(files, settings, options.output, _names(options.classes))
    print(found.path)
    show(f"{found.title}, as prompt={found.prompt}: {len(found.classes)} classes, {', '.join(found.classes[:5])}")
    return 0


def _names(given: str | None) -> list[str] | None:
    """Names between commas, or the lines of a file.

    >>> _names("cat, dog")
    ['cat', 'dog']
    """
    if given is None:
        return None
    file = Path(given)
    if not file.is_file():
        names = [name.strip() for name in given.split(",") if name.strip()]
        if len(names) > 1:
            return names
        raise UserError(
            f"--classes {given}: there is no such file, and one name makes no classes; write --classes A,B,C"
        )
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError(f"--classes {file} is not a text file; write one name a line") from None
