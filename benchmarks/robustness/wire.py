"""Bytes to a server and its answer, over plain sockets: a client that checks nothing of what it sends."""

from __future__ import annotations

import contextlib
import re
import socket

SILENT = -1  # instead of a status: no answer in time


def talk(port: int, content: bytes, seconds: float = 20) -> bytes:
    """What a server sends back to some bytes until it, or the first answer, ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as link:
        with contextlib.suppress(ConnectionError):
            link.sendall(content)
        return received(link)


def received(link: socket.socket) -> bytes:
    """One answer, or what comes before the connection ends."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := link.recv(65536):
            found += piece
            head, ended, body = found.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            if ended and length and len(body) >= int(length[1]):
                break
    return found


def status(answer: bytes) -> int:
    """The status of an answer; 0 of none."""
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


def tried(port: int, content: bytes, seconds: float) -> tuple[int, bytes]:
    """Status and bytes of an answer: 0 where the connection ended without one, SILENT where nothing came in time."""
    try:
        answer = talk(port, content, seconds)
    except TimeoutError:
        return SILENT, b""
    except ConnectionError:
        return 0, b""
    return status(answer), answer
