"""`vpt serve`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from vpt.utils.errors import UserError
from vpt.utils.precision import PRECISIONS

# Options of the command that are fields of vpt.inference.server.settings.ServeSettings; their texts stand there.
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
    parser = commands.add_parser("serve", help="serve the artifacts of a folder over HTTP, from one backbone")
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="artifacts and run folders; watched")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=1, help="processes, each with a backbone of its own (default 1)")
    parser.add_argument("--backbone", metavar="NAME", help="the one to serve (default: that of the first artifact)")
    parser.add_argument("--pretrained", metavar="TAG", help="of --backbone, as backbone.pretrained in training")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of --backbone, where it is no library's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="bf16 is faster on a GPU")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="JSON with the API keys' digests and their tasks")
    parser.add_argument(
        "--allowed-hosts",
        nargs="+",
        default=[],
        metavar="HOST",
        help="names that requests may ask for, as in *.example.com (default: any; of this machine at 127.0.0.1)",
    )
    parser.add_argument(
        "--formats", nargs="+", metavar="NAME", help="image formats that are taken (default JPEG PNG WEBP BMP GIF)"
    )
    for name, kind in NUMBERS.items():
        parser.add_argument(f"--{name}", type=kind, metavar="N", help=argparse.SUPPRESS)
    parser.add_argument(
        "--new-key",
        nargs="*",
        metavar="TASK",
        help="make an API key for tasks (patterns like 'flowers-*'; default all), add it to --keys, print it once",
    )
    parser.epilog = "limits, each with --NAME N: " + ", ".join(NUMBERS) + "; see docs/serving.md"
    parser.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    if options.new_key is not None:
        return _new_key(options)
    if options.folder is None:
        raise UserError("name the folder whose artifacts are served: vpt serve DIR")
    try:
        from vpt.inference.server import uvicorn_main
        from vpt.inference.server.app import create_app  # noqa: F401  (what is missing is told before anything starts)
    except ImportError as error:
        raise UserError(f"serving needs {error.name}: pip install 'vpt[serve]'") from None
    uvicorn_main.run(_settings(options), options.host, options.port, options.workers)
    return 0


def _settings(options: argparse.Namespace) -> Any:
    from pydantic import ValidationError

    from vpt.inference.server.settings import ServeSettings

    if options.workers < 1:
        raise UserError(f"--workers {options.workers} must be at least 1")
    if not options.folder.is_dir():
        raise UserError(f"there is no folder {options.folder}; give one with artifacts or run folders")
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
    """Settings of the backbone that is named, checked before anything starts; None if none is."""
    from vpt.backbones.factory import check_backbone
    from vpt.config import BackboneConfig

    parts = {"pretrained": options.pretrained, "weights": options.weights}
    given = {key: value for key, value in parts.items() if value is not None}
    if options.backbone is None:
        if given:
            raise UserError(f"--{next(iter(given))} is of a backbone; name it with --backbone")
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
    print(f"The key is printed this once; {options.keys} holds only its digest.", file=sys.stderr)
    return 0
