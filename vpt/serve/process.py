"""Running the service with uvicorn: in this process, or in several that are watched and replaced when they die."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from vpt.errors import UserError
from vpt.serve.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

VARIABLE = "VPT_SERVE"  # how settings reach the processes that uvicorn starts


def app_of_environment() -> FastAPI:
    """The application of the settings in the environment, for uvicorn's own processes."""
    from vpt.serve.app import create_app

    return create_app(ServeSettings.model_validate_json(os.environ[VARIABLE]))


def run(settings: ServeSettings, host: str, port: int, workers: int) -> None:
    """Serve until interrupted.

    Args:
        settings: what to serve.
        host: address to listen at.
        port: 0 for any that is free.
        workers: processes, each with a backbone of its own.

    Raises:
        UserError: an address that cannot be listened at.
    """
    import uvicorn

    check_address(host, port)
    if workers == 1:
        from vpt.serve.app import create_app

        # A slow client must not hold the end of the process up for ever.
        uvicorn.run(create_app(settings), host=host, port=port, log_level="info", timeout_graceful_shutdown=10)
        return
    os.environ[VARIABLE] = settings.model_dump_json()
    uvicorn.run(
        "vpt.serve.process:app_of_environment",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_level="info",
        timeout_graceful_shutdown=10,
    )


def check_address(host: str, port: int) -> None:
    """A UserError, before any model is loaded, if nobody can listen there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserError(f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --port") from None
