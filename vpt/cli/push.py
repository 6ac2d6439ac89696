"""`vpt push`: upload an artifact to the Hugging Face Hub."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "push",
        help="upload an artifact to the Hugging Face Hub; load it as hf:owner/name",
        description="Upload an artifact to the Hugging Face Hub; load it as hf:owner/name.",
    )
    parser.add_argument("artifact", metavar="RUN|ARTIFACT", help="run folder or artifact")
    parser.add_argument("name", metavar="OWNER/NAME", help="repository on the hub; created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create the repository as private")
    parser.set_defaults(run=_push)


def _push(options: argparse.Namespace) -> int:
    from vpt.models.artifact import read_artifact
    from vpt.utils.hub import push

    found = read_artifact(options.artifact)
    header = {"backbone": found.backbone, "classes": found.classes, "metrics": found.metrics}
    print(push(found.path, header, options.name, options.private))
    return 0
