"""A log that no stranger can fill."""

from __future__ import annotations

import copy
import logging
import threading
import time
from typing import Any

LINE = 300  # characters that a stranger's text takes in a line
BURST = 200  # lines of one kind in a row
RATE = 50.0  # lines of one kind in a second, after that


class Bounded(logging.Filter):
    """Leaves out lines of a kind that come too fast, says how many, and shortens what requests put into lines.

    Lines are of one kind if they are of one logger and have the same text but for what is filled in.

    >>> log, bounded = logging.getLogger("example"), Bounded()
    >>> lines = [log.makeRecord("example", 30, "", 0, "odd request %s", (n,), None) for n in range(1000)]
    >>> sum(bounded.filter(line) for line in lines) < 300
    True
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str], list[float]] = {}  # lines that may come, when that was, lines left out

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        if isinstance(record.args, tuple):
            record.args = tuple(_short(each) for each in record.args)
        now = time.monotonic()
        with self._lock:
            if len(self._kinds) > 1000:
                self._kinds.clear()
            kind = self._kinds.setdefault((record.name, str(record.msg)[:LINE]), [BURST, now, 0])
            kind[0] = min(BURST, kind[0] + (now - kind[1]) * RATE)
            kind[1] = now
            if kind[0] < 1:
                kind[2] += 1
                return False
            kind[0] -= 1
            left_out, kind[2] = int(kind[2]), 0
        if left_out:
            logging.getLogger("vpt.serve.left_out").warning("%d lines like the next one were left out", left_out)
        return True


def _short(value: Any) -> Any:
    return value if not isinstance(value, str) or len(value) <= LINE else value[:LINE] + "…"


def log_config() -> dict[str, Any]:
    """What uvicorn configures logging with: its own, bounded, and the messages of vpt and asyncio with them."""
    from uvicorn.config import LOGGING_CONFIG

    config: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"bounded": {"()": "vpt.serve.logs.Bounded"}}
    for handler in config["handlers"].values():
        handler["filters"] = ["bounded"]
    for name in ("vpt", "asyncio"):
        config["loggers"][name] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    # It warns of every form that it cannot read, with the form's own text; the answer says so.
    config["loggers"]["python_multipart"] = {"level": "CRITICAL"}
    return config
