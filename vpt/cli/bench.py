"""`vpt bench`: run published benchmarks and compare the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpt.cli.parser import USAGE, Parser, file_and_overrides, is_path, show
from vpt.utils.atomic_io import at_home
from vpt.utils.errors import UserError
from vpt.utils.std_streams import speaks_utf8
from vpt.utils.version import install


class _Runner(Parser):
    """Parser that accepts `key=value` settings anywhere among the options."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Separate the settings, then parse the rest."""
        words = list(sys.argv[1:] if args is None else args)
        loose = [word for word in words if not word.startswith("-") and not is_path(word)]
        found, extra = super().parse_known_args([word for word in words if word not in loose], namespace)
        found.settings = loose
        return found, extra


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "bench",
        help="run published benchmarks: VTAB-1k, FGVC, few-shot, base-to-new, transfer, pixel prompts",
        description="Run benchmarks on local data, and compare with published results. See docs/benchmarks.md.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", parser_class=_Runner, required=True)
    root = {"type": Path, "default": Path("data"), "metavar": "DIR", "help": "folder of the data sets (default: data)"}

    listing = actions.add_parser("list", help="list the suites, and which of their tasks are available")
    listing.add_argument("--root", **root)
    listing.set_defaults(run=_list)

    checking = actions.add_parser("check", help="check the data: missing tasks, wrong counts, broken lists")
    checking.add_argument("suite", help="name of a suite, see `vpt bench list`")
    checking.add_argument("--root", **root)
    checking.set_defaults(run=_check)

    running = actions.add_parser("run", help="search settings on validation, then run with the best; resumable")
    running.add_argument("suite", help="name of a suite, see `vpt bench list`")
    running.add_argument("file", nargs="?", metavar="CONFIG.yaml", help="a recipe; change its settings with key=value")
    running.add_argument("--root", **root)
    running.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="tasks to run (default: all)")
    running.add_argument("--seeds", type=int, metavar="N", help="number of final runs per task (default: the suite's)")
    running.add_argument("--space", metavar="FILE.yaml", help="search space, such as configs/sweep/vtab.yaml")
    running.add_argument(
        "--shots", type=int, nargs="+", metavar="K", help="few-shot: shots per class (default: 1 2 4 8 16)"
    )
    running.set_defaults(run=_run)

    showing = actions.add_parser("table", help="compare results with the published numbers")
    showing.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="output folders of `vpt bench run`")
    showing.add_argument(
        "--all",
        action="store_true",
        help="show every published number of the suite, not only those of the same method in the same settings",
    )
    showing.add_argument("--format", choices=["markdown", "json"], default="markdown", help="default: markdown")
    showing.set_defaults(run=_table)


def _list(options: argparse.Namespace) -> int:
    from vpt.experiments.benchmarks.suites import SUITES

    root = _root(options)
    for suite in SUITES.values():
        missing = [task.name for task in suite.tasks.values() if task.lies_in(root) is None]
        count = len(suite.tasks)
        print(f"{suite.name}: {suite.title}; {count} tasks, {count - len(missing)} found in {root}")
        if missing:
            print(f"  missing: {', '.join(missing)}\n  available from: {suite.had}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from vpt.experiments.benchmarks.suites import suite_of

    suite, root = suite_of(options.suite), _root(options)
    from vpt.experiments.benchmarks.check_data import check

    reports = check(suite, root)
    for report in reports:
        show("\n".join(report.lines()))
    good = sum(report.good for report in reports)
    print(f"{good} of {len(reports)} tasks are complete as published")
    if any(report.missing for report in reports):
        print(f"available from: {suite.had}")
    return 0 if good == len(reports) else USAGE


def _run(options: argparse.Namespace) -> int:
    from vpt.experiments.benchmarks.suites import suite_of

    suite, root = suite_of(options.suite), _root(options)
    tasks = suite.pick(options.tasks)
    if options.seeds is not None and options.seeds < 1:
        raise UserError(f"--seeds {options.seeds} must be at least 1")
    if suite.protocol != "chosen" and options.space:
        raise UserError(f"{suite.name} has fixed settings; remove --space")
    if suite.protocol != "few-shot" and options.shots:
        raise UserError(f"--shots applies only to few-shot, not to {suite.name}")
    if options.shots and min(options.shots) < 1:
        raise UserError("--shots must be at least 1")
    space = None
    if options.space:
        try:
            import optuna  # noqa: F401

            from vpt.experiments.sweep.search_space import read_space_file
        except ImportError as error:
            raise UserError(f"a search needs {error.name}: {install('sweep')}") from None
        space = read_space_file(options.space)
    file, words = file_and_overrides([*([options.file] if options.file else []), *options.settings])
    from vpt.experiments.benchmarks.run import Bench, run, settings_of
    from vpt.experiments.benchmarks.table import as_markdown, write
    from vpt.experiments.protocols import SHOTS

    first = suite.seeds[0]
    seeds = suite.seeds if options.seeds is None else range(first, first + options.seeds)
    config = settings_of(suite, file, words, space)
    folder = run(Bench(suite, root, config, tasks, tuple(seeds), space, options.shots or SHOTS))
    show(as_markdown(write([folder])).rstrip())
    return 0


def _table(options: argparse.Namespace) -> int:
    import json

    from vpt.experiments.benchmarks.table import as_markdown, write

    table = write(options.folders, options.all)
    if options.format == "json":
        print(json.dumps(table, indent=2, ensure_ascii=not speaks_utf8()))
    else:
        show(as_markdown(table).rstrip())
    return 0


def _root(options: argparse.Namespace) -> Path:
    root: Path = at_home(options.root).absolute()
    if not root.is_dir() and options.run is not _list:
        raise UserError(f"--root {options.root}: no such folder")
    return root
