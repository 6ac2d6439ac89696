"""Connections and the log: who sends half a request, or none, holds nothing up and fills nothing."""

from __future__ import annotations

import contextlib
import io
import logging
import logging.config
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.serving import ask, live, png, ready, received, status, talk, until

# isort: split
from benchmarks.robustness import requests as hostile
from vpt.inference.server.app import create_app
from vpt.inference.server.rate_limited_log import BURST, LINE, Bounded, log_config
from vpt.inference.server.settings import ServeSettings


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    """Of a server with very few connections, which wait not long."""
    settings = ServeSettings(folder=folder, device="cpu", connections=8, header_s=1, upload_s=20)
    with live(create_app(settings), timeout_keep_alive=1) as found:
        with httpx.Client(base_url=f"http://127.0.0.1:{found}") as web:
            ready(web)
        yield found


def ended(link: socket.socket) -> bool:
    """Whether the server has closed a connection."""
    with contextlib.suppress(ConnectionError):
        return link.recv(1) == b""
    return True


@pytest.mark.parametrize(
    "start",
    [b"", b"G", b"GET /health HTTP/1.1\r\nHost: loc", hostile.get(b"/health") + b"GET /hea"],
    ids=["nothing", "a letter", "half of the headers", "half of a second request"],
)
def test_who_sends_no_whole_request_is_cut_off(port: int, start: bytes):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as link:
        link.sendall(start)
        if start.endswith(b"GET /hea"):
            assert status(received(link)) == 200
        assert ended(link)


def test_a_body_that_nobody_reads_is_not_waited_for_without_end(port: int):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as link:
        link.sendall(hostile.get(b"/v1/tasks", b"Content-Length: 1000000", method=b"PUT"))
        assert status(received(link)) == 405
        assert ended(link)


@pytest.mark.parametrize(
    "start",
    [b"GET /health HTTP/1.1\r\nHost: loc", hostile.post(hostile.OPEN + bytes(9999))[:-5000]],
    ids=["half of the headers", "half of the body"],
)
def test_half_sent_requests_on_every_connection_hold_nobody_up(port: int, start: bytes):
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(30)]
        for link in links:
            with contextlib.suppress(ConnectionError):
                link.sendall(start)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as web:
            for _ in range(3):
                assert ask(web, [png()], ["deep"]).status_code == 200
                assert web.get("/health").status_code == 200


def test_connections_that_are_answered_are_not_closed_for_new_ones(folder: Path):
    import threading

    app = create_app(ServeSettings(folder=folder, device="cpu", connections=2, wait_ms=0))
    batcher = app.state.service.batcher
    usual, running, gate = batcher._run, threading.Event(), threading.Event()
    batcher._run = lambda *words: (running.set(), gate.wait(60), usual(*words))[2]
    with live(app) as port:
        until(lambda: app.state.service.ready)
        with contextlib.ExitStack() as stack:
            links = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(2)]
            for link in links:
                link.sendall(hostile.predict(b"deep"))
            assert running.wait(60)
            until(lambda: batcher.waiting == 1)
            with socket.create_connection(("127.0.0.1", port), timeout=60) as refused:
                assert ended(refused)
            gate.set()
            assert [status(received(link)) for link in links] == [200, 200]


def test_chunks_of_one_byte(port: int):
    body = hostile.form(hostile.image(), hostile.field(b"tasks", b"deep"))
    assert status(talk(port, hostile.chunked(body, 1000))) == 200
    assert status(talk(port, hostile.chunked(body, 1))) == 400


def test_headers_have_a_size_in_one_piece_too(port: int):
    """h11 limits only headers that are not complete yet."""
    assert status(talk(port, hostile.get(b"/health", b"X: " + b"y" * 10_000))) == 200
    assert status(talk(port, hostile.get(b"/health", *[b"X: " + b"y" * 1000] * 60))) in (0, 400)


def test_requests_in_a_row_on_one_connection(port: int):
    answers = talk(port, hostile.get(b"/health") * 20 + hostile.get(b"/health", b"Connection: close"))
    assert status(answers) == 200
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as web:
        for number in range(20):
            assert web.get("/health").status_code == 200
            assert ask(web, [png(number)], ["deep"]).status_code == 200


class Told:
    """Logging as the server configures it, into memory."""

    def __enter__(self) -> io.StringIO:
        config = log_config()
        text = io.StringIO()
        for handler in config["handlers"].values():
            handler["stream"] = text
        self.kept = {name: logging.getLogger(name).handlers[:] for name in config["loggers"]}
        self.told = {name: logging.getLogger(name).propagate for name in config["loggers"]}
        logging.config.dictConfig(config)
        return text

    def __exit__(self, *_: Any) -> None:
        for name, handlers in self.kept.items():
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = handlers, self.told[name]
            logger.setLevel(logging.NOTSET)


class TestLog:
    def test_garbage_fills_no_log(self, folder: Path):
        app = create_app(ServeSettings(folder=folder, device="cpu"))
        with Told() as text, live(app) as port:
            until(lambda: app.state.service.ready)
            for _ in range(600):
                talk(port, b"\x16\x03\x01 garbage\r\n\r\n")
            for _ in range(5):
                talk(port, hostile.get(b"/" + b"a" * 15_000))
        told = text.getvalue()
        assert 0 < told.count("Invalid HTTP request") < 600
        assert len(told) < 100_000
        assert max(map(len, told.splitlines())) < LINE + 200

    def test_what_was_left_out_is_said(self, monkeypatch: pytest.MonkeyPatch):
        now = [0.0]
        monkeypatch.setattr("vpt.inference.server.rate_limited_log.monotonic", lambda: now[0])
        bounded, log = Bounded(), logging.getLogger("vpt.inference.server")
        told: list[str] = []
        monkeypatch.setattr(log, "warning", lambda text, *words: told.append(text % words))

        def write(text: str = "odd") -> bool:
            return bounded.filter(log.makeRecord("log", 30, "", 0, text, (), None))

        assert sum(write() for _ in range(1000)) == BURST
        assert write("another kind")
        now[0] = 100.0
        assert write()
        assert told == ["800 lines like the next one were omitted"]
