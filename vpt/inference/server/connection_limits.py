"""Limits on the number and duration of connections without a complete request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

STATE = "vpt.connections"  # key of the application state with the limits for connections
HEADER_BYTES = 16 * 1024  # h11's own limit for request headers that arrive in pieces
WRITE_S = 30.0  # maximum time for a client to read the full buffers of a connection


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits on the connections of a server.

    Args:
        number: maximum number of open connections. At the limit, a new connection replaces the one without a request
            that has been idle longest; it is refused only if all others are being answered.
        header_s: maximum seconds until the headers of a request have arrived.
    """

    number: int = 512
    header_s: float = 10.0


class _Connection(h11.Connection):
    """Refuses bodies in chunks of a few bytes, because a chunk costs the same work whatever its size."""

    _chunks = 0
    _bytes = 0

    def next_event(self) -> Any:
        """See h11.Connection."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += 1
            self._bytes += len(event.data)
            if self._chunks > 256 + self._bytes // 64:
                raise h11.RemoteProtocolError("the body is sent in chunks that are too small")
        return event


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP protocol with time limits; by itself it waits indefinitely for the headers of a request.

    uvicorn's `keep-alive` closes idle connections after a response.
    """

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limits: ConnectionLimits = app_state.get(STATE, ConnectionLimits())
        self.conn = _Connection(h11.SERVER, HEADER_BYTES)
        self.heard = self.loop.time()  # time of the last received data
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @property
    def answering(self) -> bool:
        """Whether a request was received whose response is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def waiting(self) -> bool:
        """Whether a request, or the rest of one, has not arrived yet."""
        return not self.answering or self.cycle.more_body

    def connection_made(self, transport: Any) -> None:
        """Close the connection that has been idle longest, if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.number:
            others: list[Any] = [each for each in self.connections if each is not self]
            silent = min((each for each in others if each.waiting), key=lambda each: each.heard, default=self)
            silent.transport.abort()
            self.connections.discard(silent)
            if silent is self:
                return
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        super().connection_lost(exc)
        self._stop(self._header_timer)
        self._stop(self._write_timer)

    def data_received(self, data: bytes) -> None:
        """Pass on received data; headers in pieces of limited size, because h11 limits only incomplete headers."""
        self.heard = self.loop.time()
        if self.answering:
            super().data_received(data)
        else:
            for start in range(0, len(data), HEADER_BYTES):
                super().data_received(data[start : start + HEADER_BYTES])
                if self.transport.is_closing():
                    return
        if self.answering:
            self._stop(self._header_timer)
            self._header_timer = None
        else:
            self._wait_for_headers()

    def on_response_complete(self) -> None:
        """Start to wait for the next request, or for the end of a body that is not read."""
        super().on_response_complete()
        if self.cycle.more_body and not self.answering:
            self._wait_for_headers()

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP unless a response has started already; the application is notified of the disconnect."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()
        if self.answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def pause_writing(self) -> None:
        """Start to wait for a slow client."""
        super().pause_writing()
        self._stop(self._write_timer)
        self._write_timer = self.loop.call_later(WRITE_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting: the client has read the data."""
        super().resume_writing()
        self._stop(self._write_timer)

    def _wait_for_headers(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.limits.header_s, self._too_late)

    def _too_late(self) -> None:
        self._header_timer = None
        if not self.answering:
            self.transport.abort()

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
