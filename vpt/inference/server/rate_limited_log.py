"""Rate limits on the log, so that requests cannot fill it."""

from __future__ import annotations

import copy
import logging
import threading
from dataclasses import dataclass
from time import monotonic
from typing import Any

LINE = 300  # maximum characters of untrusted text in a line
BURST = 200.0  # consecutive lines of one kind
RATE = 20.0  # lines of one kind per second after that
NOTICE_S = 10.0  # interval between two notices of omitted lines


@dataclass
class _Kind:
    allowed: float
    seen: float
    left_out: int = 0
    noticed: float = 0.0


class Bounded(logging.Filter):
    """Logging filter that drops lines of one kind above a rate, reports their number, and truncates untrusted text.

    Lines are of one kind if they have the same logger and format string.

    >>> log, bounded = logging.getLogger("example"), Bounded()
    >>> lines = [log.makeRecord("example", 30, "", 0, "odd request %s", (n,), None) for n in range(1000)]
    >>> sum(bounded.filter(line) for line in lines) < 300
    True
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a line."""
        if isinstance(record.args, tuple):
            record.args = tuple(_short(each) for each in record.args)
        now = monotonic()
        with self._lock:
            if len(self._kinds) > 1000:
                self._kinds.clear()
            kind = self._kinds.setdefault((record.name, str(record.msg)[:LINE]), _Kind(BURST, now))
            kind.allowed = min(BURST, kind.allowed + (now - kind.seen) * RATE)
            kind.seen = now
            if kind.allowed < 1:
                kind.left_out += 1
                return False
            kind.allowed -= 1
            left_out = kind.left_out
            if not left_out or now - kind.noticed < NOTICE_S:
                return True
            kind.left_out, kind.noticed = 0, now
        logging.getLogger("vpt.inference.server").warning("%d lines like the next one were omitted", left_out)
        return True


def _short(value: Any) -> Any:
    return value if not isinstance(value, str) or len(value) <= LINE else value[:LINE] + "…"


def log_config() -> dict[str, Any]:
    """Logging configuration for uvicorn: its own, with rate limits, and messages of vpt and asyncio."""
    from uvicorn.config import LOGGING_CONFIG

    config: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"bounded": {"()": "vpt.inference.server.rate_limited_log.Bounded"}}
    for handler in config["handlers"].values():
        handler["filters"] = ["bounded"]
    for name in ("vpt", "asyncio"):
        config["loggers"][name] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    # It logs every malformed form with its text; the response already reports it.
    config["loggers"]["python_multipart"] = {"level": "CRITICAL"}
    return config
