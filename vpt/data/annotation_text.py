"""Strict parsing of numbers, identifiers and names in annotation files; and escaping of text for display."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vpt.utils.errors import UserError

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf|infinity)", re.ASCII | re.IGNORECASE)


def printable(text: object, limit: int = 60) -> str:
    r"""Text in quotes, with invisible characters escaped, cut to `limit` characters.

    >>> print(printable("\ufeff0 0.5"), printable("a" * 100, 3))
    '\ufeff0 0.5' 'aaa...'
    """
    text = str(text)
    return repr(text if len(text) <= limit else f"{text[:limit]}...")


def escaped(text: str) -> str:
    r"""Text with invisible characters escaped, except line feeds.

    >>> print(escaped("a\u200bb"))
    a\u200bb
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text)


@contextmanager
def legible() -> Iterator[None]:
    """Context manager and decorator that escapes invisible characters in the messages of UserErrors."""
    try:
        yield
    except UserError as error:
        if str(error) == escaped(str(error)):
            raise
        raise UserError(escaped(str(error))) from None


def one_form(text: str) -> str:
    """Text in Unicode's composed form (NFC), in which equal names are equal.

    >>> one_form("e\u0301") == "\u00e9"
    True
    """
    return unicodedata.normalize("NFC", text)


def number(text: str) -> float | None:
    """Parse a decimal number, `nan` or `inf`; None for anything else, even if Python's float accepts it.

    >>> number("1e-3"), number(" 2 "), number("1_0"), number("0,5")
    (0.001, 2.0, None, None)
    """
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def whole_number(text: str) -> int | None:
    """Parse a whole number, which may be written as a decimal number.

    >>> whole_number("3"), whole_number("3.000e+00"), whole_number("0.5"), whole_number("nan")
    (3, 3, None, None)
    """
    value = number(text)
    return int(value) if value is not None and math.isfinite(value) and value.is_integer() else None


def measure(value: Any) -> float | None:
    """A number of a JSON file; None for anything else, such as `True`. Numbers too large for a float are infinite.

    >>> measure(3), measure(True), measure("3"), measure(10**400)
    (3.0, None, None, inf)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def identifier(value: Any) -> str | None:
    """An id of a JSON file as text, so that 7, 7.0 and "7" are equal; None if it is not an id.

    >>> identifier(7), identifier(7.0), identifier("a1"), identifier(None), identifier(float("nan"))
    ('7', '7', 'a1', None, None)
    """
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else None


def by_number(identity: str) -> tuple[int, str]:
    """Sort key that orders numeric ids by value, before other ids, which are ordered as text.

    >>> sorted(["10", "b", "9", "a"], key=by_number)
    ['9', '10', 'b', 'a']
    """
    return (int(identity), "") if re.fullmatch(r"-?\d{1,18}", identity, re.ASCII) else (2**62, "")
