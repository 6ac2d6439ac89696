"""`vpt serve`: serve artifacts over HTTP."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from vpt.utils.errors import UserError
from vpt.utils.precision import PRECISIONS
from vpt.utils.version import install

# Options that are fields of vpt.inference.server.settings.ServeSettings, which describes them.
NUMBERS = {
    "max-batch": int,
    "wait-ms": float,
    "queue": int,
    "timeout-s": float,
    "upload-s": float,
    "task-s": float,
    "load-s": float,
    "upload-mb": float,
    "uploads-mb": float,
    "max-images": int,
    "max-tasks": int,
    "max-pixels": int,
    "request-pixels": int,
    "decode-mb": int,
    "decode-threads": int,
    "header-s": float,
    "connections": int,
    "memory-mb": int,
    "reload-s": float,
}


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "serve",
        help="serve the artifacts in a folder over HTTP, on one backbone",
        description="Serve the artifacts in a folder over HTTP, on one backbone. See docs/serving.md.",
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", help="folder of artifacts and run folders; watched for changes"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes, each with its own backbone (default: 1)"
    )
    parser.add_argument("--backbone", metavar="NAME", help="backbone to serve (default: that of the first artifact)")
    parser.add_argument("--pretrained", metavar="TAG", help="weights of --backbone, as backbone.pretrained in training")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights of --backbone, from a file")
    parser.add_argument("--device", default="auto", help="default: the GPU if there is one")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="auto: bf16 if native to this machine (default: fp32)",
    )
    parser.add_argument("--keys", type=Path, metavar="FILE", help="JSON file of API keys (digests) and their tasks")
    parser.add_argument(
        "--allowed-hosts",
        nargs="+",
        default=[],
        metavar="HOST",
        help="accepted Host headers, such as *.example.com (default: any; on 127.0.0.1, names of this machine)",
    )
    parser.add_argument(
        "--formats", nargs="+", metavar="NAME", help="accepted image formats (default: JPEG PNG WEBP BMP GIF NPY)"
    )
    for name, kind in NUMBERS.items():
        parser.add_argument(f"--{name}", type=kind, metavar="N", help=argparse.SUPPRESS)
    parser.add_argument(
        "--new-key",
        nargs="*",
        metavar="TASK",
        help="create an API key for tasks (patterns like 'flowers-*'; default: all), add it to --keys, print it once",
    )
    parser.epilog = "limits, set with --NAME N: " + ", ".join(NUMBERS) + "; see docs/security.md"
    parser.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    if options.new_key is not None:
        return _new_key(options)
    if options.folder is None:
        raise UserError("name the folder of artifacts to serve: vpt serve DIR")
    try:
        from vpt.inference.server import uvicorn_main
        from vpt.inference.server.app import create_app  # noqa: F401  (reports a missing package before anything starts)
    except ImportError as error:
        raise UserError(f"serving needs {error.name}: {install('serve')}") from None
    uvicorn_main.run(_settings(options), options.host, options.port, options.workers)
    return 0


def _settings(options: argparse.Namespace) -> Any:
    from pydantic import ValidationError

    from vpt.inference.server.settings import ServeSettings

    if options.workers < 1:
        raise UserError(f"--workers {options.workers} must be at least 1")
    if not options.folder.is_dir():
        raise UserError(f"no such folder: {options.folder}; name one with artifacts or run folders")
    given = {name.replace("-", "_"): getattr(options, name.replace("-", "_")) for name in NUMBERS}
    given["formats"] = options.formats
    given = {name: value for name, value in given.items() if value is not None}
    try:
        settings = ServeSettings(
            folder=options.folder,
            backbone=_backbone(options),
            device=options.device,
            precision=options.precision,
            keys=options.keys,
            allowed_hosts=options.allowed_hosts,
            **given,
        )
    except ValidationError as error:
        first = error.errors()[0]
        name, value = str(first["loc"][0]).replace("_", "-"), first["input"]
        shown = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
        raise UserError(f"--{name} {shown}: {first['msg'].removeprefix('Value error, ')}") from None
    if settings.keys is not None:
        from vpt.inference.server.api_keys import read_keys

        read_keys(settings.keys)
    return settings


def _backbone(options: argparse.Namespace) -> Any:
    """Settings of the backbone named on the command line, checked before anything starts; None without one."""
    from vpt.backbones.factory import check_backbone
    from vpt.config import BackboneConfig

    parts = {"pretrained": options.pretrained, "weights": options.weights}
    given = {key: value for key, value in parts.items() if value is not None}
    if options.backbone is None:
        if given:
            raise UserError(f"--{next(iter(given))} belongs to a backbone; name it with --backbone")
        return None
    if (text := str(given.get("pretrained", "")).lower()) in ("true", "false"):
        given["pretrained"] = text == "true"
    config = BackboneConfig(name=options.backbone, **given)
    check_backbone(config)
    return config


def _new_key(options: argparse.Namespace) -> int:
    from vpt.inference.server.api_keys import add_key

    if options.keys is None:
        raise UserError("name the file of keys: vpt serve --keys keys.json --new-key 'flowers-*'")
    key = add_key(options.keys, options.new_key or ["*"])
    print(key)
    print(f"This key is not shown again; {options.keys} stores only its digest.", file=sys.stderr)
    return 0
