"""`vpt train`."""

from __future__ import annotations

import argparse
from typing import Any

from vpt.cli.base import file_and_overrides
from vpt.errors import UserError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("train", help="train prompt and head on a data set, or resume=RUN")
    parser.add_argument("words", nargs="*", metavar="CONFIG.yaml | key=value", help="a config file and settings")
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    file, overrides = file_and_overrides(options.words)
    run = [word.partition("=")[2] for word in overrides if word.startswith("resume=")]
    overrides = [word for word in overrides if not word.startswith("resume=")]
    if run and file:
        raise UserError("a resumed run has its own config; leave out the file")
    from vpt.config import load_config

    config = None if run else load_config(file, overrides)
    from vpt.run import resume, train

    result = train(config) if config is not None else resume(run[0], overrides)
    print(result.folder)
    return 0
