"""Middleware for all requests and responses: allowed hosts and origins, and security headers."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from vpt.inference.server.json_results import to_json

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PIECE = 64 * 1024  # bytes of a response sent at a time, which bounds the memory used by a slow client
MAX_HEADERS = 100
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
_NOTHING = b"default-src 'none'; frame-ancestors 'none'"
_PORT = re.compile(r":[0-9]*$")


def page_policy(page: str) -> bytes:
    """Content-Security-Policy of a page: allows its own scripts and styles, by digest, and requests to this server.

    >>> page_policy("<style>b{}</style><script>1</script>").count(b"sha256-")
    2
    """

    def digests(tag: str) -> str:
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        made = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        return " ".join(f"'sha256-{digest}'" for digest in made)

    return (
        f"default-src 'none'; script-src {digests('script')}; style-src {digests('style')}; connect-src 'self'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ).encode()


class Guard:
    """ASGI middleware that refuses requests for other hosts and from pages of other sites, and adds headers.

    Args:
        app: the wrapped application.
        hosts: allowed host names, as in *.example.com; empty for any. A page that maps its own name to this machine
            (DNS rebinding) still sends that name.
        policy: Content-Security-Policy of the page.
    """

    def __init__(self, app: Any, hosts: Sequence[str], policy: bytes) -> None:
        self.app = app
        self.hosts = tuple(host.lower() for host in hosts)
        self.policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or refuse it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                kind = dict(headers).get(b"content-type", b"")
                policy = self.policy if kind.startswith(b"text/html") else _NOTHING
                await send({**message, "headers": [*headers, *_HEADERS, (b"content-security-policy", policy)]})
                return
            body = message.get("body", b"")
            for start in range(0, len(body) - PIECE, PIECE):
                await send({**message, "body": body[start : start + PIECE], "more_body": True})
            await send({**message, "body": body[max(0, (len(body) - 1) // PIECE * PIECE) :]})

        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, guarded)
            return
        status, text = refusal
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await guarded({"type": "http.response.start", "status": status, "headers": headers})
        await guarded({"type": "http.response.body", "body": to_json({"detail": text})})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        if len(scope["headers"]) > MAX_HEADERS:
            return 431, f"the request has more than {MAX_HEADERS} headers"
        headers = dict(scope["headers"])
        host = _PORT.sub("", headers.get(b"host", b"").decode("latin-1").lower())
        if self.hosts and not any(_fits(host, pattern) for pattern in self.hosts):
            return 400, "this Host is not allowed; start the server with --allowed-hosts to allow it"
        if headers.get(b"content-encoding", b"identity") != b"identity":
            return 415, "send the request without Content-Encoding"
        # Browsers send the origin of a request. Pages of other sites cannot read the response, but could cause work.
        if scope["method"] not in ("GET", "HEAD") and headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
            return 403, "requests from pages of other sites are not allowed"
        return None


def _fits(host: str, pattern: str) -> bool:
    return pattern == "*" or host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]))
