"""Running the service with uvicorn, in this process or in several supervised processes."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

from vpt.inference.server.settings import ServeSettings
from vpt.utils.errors import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

VARIABLE = "VPT_SERVE"  # environment variable that passes settings to the processes of uvicorn
SWITCH_S = 0.0005  # Python's default is ten times as long
LOCAL = ("localhost", "127.0.0.1", "[::1]")


def app_of_environment() -> FastAPI:
    """Create the application from settings in the environment, for the processes of uvicorn."""
    from vpt.inference.server.app import create_app

    let_threads_take_turns()
    return create_app(ServeSettings.model_validate_json(os.environ[VARIABLE]))


def run(settings: ServeSettings, host: str, port: int, workers: int) -> None:
    """Serve until interrupted.

    Args:
        settings: what to serve.
        host: address to listen on.
        port: port to listen on; 0 for any free port.
        workers: number of processes, each with its own backbone.

    Raises:
        UserError: the address cannot be used.
    """
    import uvicorn

    check_address(host, port)
    settings = with_hosts(settings, host)
    options = {"host": host, "port": port, **uvicorn_options()}
    if workers == 1:
        from vpt.inference.server.app import create_app

        let_threads_take_turns()
        uvicorn.run(create_app(settings), **options)
        return
    os.environ[VARIABLE] = settings.model_dump_json()
    uvicorn.run("vpt.inference.server.uvicorn_main:app_of_environment", factory=True, workers=workers, **options)


def let_threads_take_turns() -> None:
    """Lower the thread switch interval of Python in this process.

    A forward pass releases the interpreter at each of some hundred operations, and gets it back from a busy event loop
    or decoder only after this time: with the default of 5 ms a pass of 20 ms takes half a second under load.
    """
    sys.setswitchinterval(min(SWITCH_S, sys.getswitchinterval()))


def uvicorn_options() -> dict[str, Any]:
    """Options of uvicorn, with the limits on connections and log."""
    from vpt.inference.server.connection_limits import GuardedProtocol
    from vpt.inference.server.rate_limited_log import log_config

    return {
        "http": GuardedProtocol,
        "ws": "none",
        "log_level": "info",
        "log_config": log_config(),
        "server_header": False,
        # A slow client must not delay the shutdown forever.
        "timeout_graceful_shutdown": 10,
    }


def with_hosts(settings: ServeSettings, host: str) -> ServeSettings:
    """Settings with the host names of this machine, if it listens only locally and no names are given.

    >>> with_hosts(ServeSettings(folder="."), "127.0.0.1").allowed_hosts
    ('localhost', '127.0.0.1', '[::1]')
    >>> with_hosts(ServeSettings(folder="."), "0.0.0.0").allowed_hosts
    ()
    """
    if settings.allowed_hosts or not _is_local(host):
        return settings
    return settings.model_copy(update={"allowed_hosts": tuple(dict.fromkeys((*LOCAL, host)))})


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(host: str, port: int) -> None:
    """Raise a UserError before any model is loaded if the address cannot be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from None
