"""`vpt convert`: convert checkpoints of other projects."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vpt.cli.parser import is_path, show
from vpt.utils.errors import UserError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "convert",
        help="convert prompts trained with VPT, CoOp, CoCoOp, MaPLe, PromptSRC or other projects",
        description="Convert prompts trained with other projects into an artifact. See docs/migrating.md.",
    )
    parser.add_argument(
        "words", nargs="+", metavar="FILE | key=value", help="one or more checkpoint files of one model, and settings"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="ARTIFACT", help="artifact to write")
    parser.add_argument(
        "--classes",
        metavar="A,B,...",
        help="class names in the order of training, or a file with one per line (default: those in the checkpoint)",
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
    """Parse comma-separated names, or read one name per line from a file.

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
            f"--classes {given}: no such file, and a single name is not a list of classes; write --classes A,B,C"
        )
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError(f"--classes {file} is not a text file; write one name per line") from None
