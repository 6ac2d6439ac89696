"""The command line. `main` runs it; there is a file for each command."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, see vpt/cli/main.py."""
    from vpt.cli.main import main as run

    return run(argv)
