"""`vpt sweep`: hyperparameter search."""

from __future__ import annotations

import argparse
from typing import Any

from vpt.cli.parser import file_and_overrides
from vpt.utils.errors import UserError
from vpt.utils.version import install


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "sweep",
        help="search settings on validation, then train with the best",
        description="Search settings on validation, then train with the best; resumable. See docs/sweeps.md.",
    )
    parser.add_argument("words", nargs="*", metavar="CONFIG.yaml | key=value", help="config file and settings")
    parser.add_argument(
        "--over",
        action="append",
        default=[],
        metavar="key=VALUES",
        help="setting to search, over A,B,C or LOW..HIGH or LOW..HIGH:log; repeatable",
    )
    parser.add_argument("--space", metavar="FILE.yaml", help="YAML file with the mapping `over`, instead of --over")
    parser.add_argument(
        "--trials", type=int, metavar="N", help="total number of trials (default: that of the space file, or 20)"
    )
    parser.add_argument("--grid", action="store_true", help="try every combination once")
    parser.add_argument("--no-prune", action="store_true", help="do not stop bad trials early")
    parser.add_argument(
        "--final",
        nargs="+",
        action="extend",
        default=[],
        metavar="key=value",
        help="settings for the final training; everything up to the next option",
    )
    parser.add_argument(
        "--storage", metavar="URL", help="database shared by several machines: postgresql://..., sqlite:///f"
    )
    parser.set_defaults(run=_sweep)


def _sweep(options: argparse.Namespace) -> int:
    file, words = file_and_overrides(options.words)
    if bool(options.over) == bool(options.space):
        raise UserError("name the settings to search, with --over key=VALUES or --space FILE.yaml")
    if options.trials is not None and options.trials < 1:
        raise UserError(f"--trials {options.trials} must be at least 1")
    try:
        from vpt.experiments.sweep.search_space import TRIALS, SpaceFile, read_space, read_space_file
        from vpt.experiments.sweep.study import Sweep, sweep
    except ImportError as error:
        raise UserError(f"a sweep needs {error.name}: {install('sweep')}") from None
    space = read_space_file(options.space) if options.space else SpaceFile(read_space(options.over))
    grid = options.grid or space.grid
    plan = Sweep(
        [*space.words, *words],
        space.axes,
        file,
        options.trials or space.trials or TRIALS,
        grid,
        [*space.final, *options.final],
        options.storage,
        prune=not (options.no_prune or grid),
    )
    found = sweep(plan)
    print(found.best.folder)
    return 0
