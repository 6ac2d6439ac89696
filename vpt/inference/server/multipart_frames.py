"""Errors without their tracebacks, for storing or raising again."""

from __future__ import annotations

from typing import TypeVar

E = TypeVar("E", bound=BaseException)


def bare(error: E) -> E:
    """Drop the traceback and the cause of an error, whose frames hold files, images and tensors of a request.

    A stored error keeps all of these alive, and an error that is raised repeatedly accumulates more each time.

    >>> try:
    ...     1 / 0
    ... except ZeroDivisionError as error:
    ...     print(bare(error).__traceback__)
    None
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
