"""JSON parser for untrusted text: bounded, without repeated keys, and without control characters."""

from __future__ import annotations

import json
import re
from typing import Any

# Control characters except tab, lone surrogates, and characters that reverse or break a line: text with these cannot be
# written as UTF-8, or changes how a terminal or a page shows what is around it.
UNCLEAN = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")


class RefusedError(ValueError):
    """JSON that is refused for its form; the message gives the reason without quoting any content."""


def is_clean(text: str) -> bool:
    r"""Whether a text has no control characters, lone surrogates or changes of writing direction.

    >>> is_clean("naïve 猫 👩‍🔬"), is_clean("a\x1b[2J"), is_clean("\ud800")
    (True, False, False)
    """
    return UNCLEAN.search(text) is None


def loads(text: str, most: int) -> Any:
    """Parse a JSON text.

    Args:
        text: the JSON.
        most: maximum number of characters.

    Raises:
        RefusedError: it is too long, nested too deeply, repeats a key, or contains text that is not clean.
        ValueError: it is not JSON.

    >>> loads('{"a": [1, "b"]}', most=100)
    {'a': [1, 'b']}
    >>> loads('{"a": 1, "a": 2}', most=100)
    Traceback (most recent call last):
    ...
    vpt.utils.strict_json.RefusedError: it contains a key twice
    """
    if len(text) > most:
        raise RefusedError(f"it has more than {most} characters")
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats)
        _refuse_unclean(value)
    except RecursionError:
        raise RefusedError("it is nested too deeply") from None
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RefusedError("it contains a key twice")
    return found


def _refuse_unclean(value: Any) -> None:
    if isinstance(value, str):
        if not is_clean(value):
            raise RefusedError("it contains text with control characters")
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_unclean(key)
            _refuse_unclean(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_unclean(item)
