"""A deadline that stops a pass under way: every layer looks at the clock before it computes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from torch import nn


class TooSlowError(Exception):
    """A pass was stopped at its deadline."""


class Deadline(threading.local):
    """The time, of this thread, at which a pass is stopped. Python cannot end a thread from outside.

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
        """Stop what runs in the block, in watched modules, after some seconds; None for never."""
        before = self.end
        self.end = None if seconds is None else monotonic() + seconds
        try:
            yield
        finally:
            self.end = before

    def watch(self, module: nn.Module) -> None:
        """Let every layer in a module look at the clock; those that do so already are left alone."""
        for part in module.modules():
            if self not in part._forward_pre_hooks.values() and not any(True for _ in part.children()):
                part.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, arguments: Any) -> None:
        """What a module calls before it computes."""
        if self.end is not None and monotonic() > self.end:
            raise TooSlowError
