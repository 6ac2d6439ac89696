"""`vpt config`: show and explain settings."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vpt.cli.parser import Parser, file_and_overrides


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "config",
        help="show or explain settings, or print their JSON Schema",
        description="Show or explain settings, or print their JSON Schema.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", parser_class=Parser, required=True)
    show = actions.add_parser("show", help="print the resolved settings of a run as YAML")
    show.add_argument("words", nargs="*", metavar="CONFIG.yaml | key=value")
    show.set_defaults(run=_config_show)
    explain = actions.add_parser("explain", help="explain settings, with their defaults")
    explain.add_argument(
        "section", nargs="?", default="", metavar="SECTION | KEY", help="such as train or prompt.tokens; default: all"
    )
    explain.set_defaults(run=_config_explain)
    schema = actions.add_parser("schema", help="print the JSON Schema of config files, for editors")
    schema.set_defaults(run=_config_schema)


def _config_show(options: argparse.Namespace) -> int:
    import yaml

    from vpt.config import load_config

    config = load_config(*file_and_overrides(options.words))
    sys.stdout.write(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    return 0


def _config_explain(options: argparse.Namespace) -> int:
    import textwrap

    from vpt.config.describe import described
    from vpt.utils.errors import UserError, nearest

    found = described(options.section)
    if not found:
        known = [one.key for one in described()]
        raise UserError(f"unknown setting '{options.section}'{nearest(options.section, known)}")
    for one in found:
        kinds = f"   [{', '.join(one.kinds)}]" if one.kinds else ""
        print(f"{one.key}={one.default}{kinds}")
        print(textwrap.indent(textwrap.fill(one.meaning, 100), "    "))
    return 0


def _config_schema(_options: argparse.Namespace) -> int:
    import json

    from vpt.config.describe import config_schema

    print(json.dumps(config_schema(), indent=2))
    return 0
