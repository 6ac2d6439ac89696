"""`vpt backbones`: list the available backbones."""

from __future__ import annotations

import argparse
from typing import Any

from vpt.utils.errors import UserError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "backbones",
        help="list the backbones that support prompts",
        description="List the backbones that support prompts.",
    )
    parser.add_argument("pattern", nargs="?", default="*", help="glob pattern, such as '*dinov2*'; default: all")
    parser.set_defaults(run=_backbones)


def _backbones(options: argparse.Namespace) -> int:
    from fnmatch import fnmatch

    from vpt.backbones.list_models import known_names

    found = [name for name in known_names() if fnmatch(name, options.pattern)]
    if not found:
        raise UserError(f"no backbone matches '{options.pattern}'; try '*{options.pattern.strip('*')}*'")
    print("\n".join(found))
    return 0
