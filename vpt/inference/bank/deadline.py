"""Deadline that stops a running forward pass: every layer checks the clock before it computes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from torch import nn


class TooSlowError(Exception):
    """Raised if a pass was stopped at its deadline."""


class Deadline(threading.local):
    """Time at which passes of the current thread are stopped. Python cannot end a thread from outside.

    >>> deadline, layer = Deadline(), nn.Identity()
    >>> deadline.watch(layer)
    >>> with deadline.within(-1):
    ...     layer(0)
    Traceback (most recent call last):
    ...
    vpt.inference.bank.deadline.TooSlowError
    >>> layer(0)
    0
    """

    def __init__(self) -> None:
        self.end: float | None = None

    @contextmanager
    def within(self, seconds: float | None) -> Iterator[None]:
        """Stop watched modules that run in the block after a number of seconds; None for no limit."""
        before = self.end
        self.end = None if seconds is None else monotonic() + seconds
        try:
            yield
        finally:
            self.end = before

    def watch(self, module: nn.Module) -> None:
        """Let every layer of a module check the clock; layers that already do so are skipped."""
        for part in module.modules():
            if self not in part._forward_pre_hooks.values() and not any(True for _ in part.children()):
                part.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, arguments: Any) -> None:
        """Hook that a module calls before it computes."""
        if self.end is not None and monotonic() > self.end:
            raise TooSlowError
