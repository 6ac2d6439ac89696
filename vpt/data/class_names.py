"""Class names: removing invisible characters, and comparing them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable

from vpt.utils.errors import nearest

# Zero-width joiners are meaningful inside a word (in Persian, in Hindi, in emoji), and mistakes at its ends.
_JOINERS = "\u200c\u200d"
_DECIMAL = re.compile(r"[+-]?\d+(\.\d*)?", re.ASCII)


def clean(label: str) -> str:
    r"""Normalise a class name: Unicode NFC, without surrounding spaces and invisible characters.

    Bytes of a folder's name that are not UTF-8 become escapes.

    >>> clean(" cat\u200b ") == clean("\ufeffcat") == "cat", clean("e\u0301") == "\u00e9", clean("black\u00a0cat")
    (True, True, 'black cat')
    """
    try:
        code = label.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair that no file name contains, as JSON may
        code = label.encode("utf-8", "backslashreplace")
    label = code.decode("utf-8", "backslashreplace")
    kept = "".join(" " if _is_space(sign) else sign for sign in label if not _is_invisible(sign))
    return unicodedata.normalize("NFC", kept).strip(" " + _JOINERS)


def visible(text: str) -> str:
    r"""Text for a message: quoted and escaped if parts of it are invisible.

    >>> print(visible("cat"), visible("cat\u200b"), visible("cat "), visible("cafe\u0301"))
    cat 'cat\u200b' 'cat ' 'cafe\u0301'
    """
    if unicodedata.normalize("NFC", text) != text:
        return ascii(text)
    return text if text.isprintable() and text == text.strip() and text else repr(text)


def alike(name: str, known: Collection[str]) -> str:
    """``"; did you mean 'x'?"`` for a known name that differs only in letter case or as a number, or the closest match.

    >>> alike("Cat", ["cat", "car"]), alike("1.0", ["1", "10"]), alike("fish", ["dog"])
    ("; did you mean 'cat'?", "; did you mean '1'?", '')
    """
    for same in (_folded, number_in):
        for other in known:
            if same(name) is not None and same(other) == same(name):
                return f"; did you mean '{other}'?"
    return nearest(name, known)


def doubtful(names: Iterable[str]) -> list[str]:
    """Warnings about class names that may be meant as one.

    >>> doubtful(["cat", "Cat", "1", "1.0", "dog"])
    ['warning: class names that differ only in letter case are different classes: Cat, cat', 'warning: class ...']
    """
    names = sorted(names)
    reasons = {_folded: "differ only in letter case", number_in: "are equal as numbers"}
    return [
        f"warning: class names that {what} are different classes: "
        + "; ".join(", ".join(visible(name) for name in group) for group in groups)
        for same, what in reasons.items()
        if (groups := _groups(names, same))
    ]


def _groups(names: Iterable[str], same: Callable[[str], str | float | None]) -> list[list[str]]:
    groups: dict[str | float, list[str]] = {}
    for name in names:
        if (key := same(name)) is not None:
            groups.setdefault(key, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _folded(name: str) -> str:
    return name.casefold()


def number_in(name: str) -> float | None:
    """The number that a name is; None if it is none.

    >>> number_in("10"), number_in("-2.5"), number_in("ten")
    (10.0, -2.5, None)
    """
    return float(name) if _DECIMAL.fullmatch(name) else None


def _is_space(sign: str) -> bool:
    return unicodedata.category(sign) == "Zs" or sign in "\t\n\r"


def _is_invisible(sign: str) -> bool:
    """Whether a character is a control, format or separator character that no word needs."""
    return unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp") and sign not in _JOINERS
