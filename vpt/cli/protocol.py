"""`vpt protocol`: few-shot, base-to-new and transfer evaluation."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vpt.cli.parser import file_and_overrides


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "protocol",
        help="run a few-shot, base-to-new or transfer protocol",
        description="Train and evaluate over several shots and seeds. See docs/clip.md.",
    )
    parser.add_argument("protocol", choices=["few-shot", "base-to-new", "transfer"])
    parser.add_argument("words", nargs="*", metavar="CONFIG.yaml | key=value", help="config file and settings")
    parser.add_argument(
        "--shots", type=int, nargs="+", metavar="K", help="shots per class; default: 1 2 4 8 16 for few-shot, else 16"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="SEED", help="default: 1 2 3")
    parser.add_argument("--format", choices=["table", "json"], default="table", help="default: table")
    parser.add_argument("--to", nargs="+", default=[], metavar="DATA", help="transfer: other data sets to test on")
    parser.set_defaults(run=_protocol)


def _protocol(options: argparse.Namespace) -> int:
    import json

    from vpt.config import load_config

    config = load_config(*file_and_overrides(options.words))
    from vpt.experiments.protocols import SHOTS, as_table, base_to_new, few_shot, transfer
    from vpt.utils.errors import UserError, WriteError

    if options.to and options.protocol != "transfer":
        raise UserError(f"--to names data sets for vpt protocol transfer; leave it out for {options.protocol}")
    if options.protocol != "few-shot" and len(options.shots or ()) > 1:
        raise UserError(f"--shots: {options.protocol} takes one number")
    shots = options.shots or SHOTS
    try:
        if options.protocol == "few-shot":
            found = few_shot(config, shots, options.seeds)
        elif options.protocol == "base-to-new":
            found = base_to_new(config, shots[-1], options.seeds)
        else:
            found = transfer(config, options.to, shots[-1], options.seeds)
    except WriteError as error:
        raise WriteError(f"{error}; then the same command continues the protocol") from error
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if options.format == "json" else as_table(found))
    return 0
