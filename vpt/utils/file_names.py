"""Conversion of file names and class names to text that can always be printed, logged and written, and back.

A file name is a byte string: it may not be UTF-8, and may contain line breaks or terminal control codes. `shown`
escapes these, `original` reverses it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

# Control characters, line separators, characters that reverse the direction of text, and halves of surrogate pairs.
_CONTROL = "\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_UNSAFE = re.compile(f"[{_CONTROL}]")
_UNSAFE_OR_BACKSLASH = re.compile(rf"[\\{_CONTROL}]")
_UNSAFE_IN_TEXT = re.compile("(?![\n\t])" + _UNSAFE.pattern)
_ESCAPE = re.compile(r"\\(?:\\|x([89a-f][0-9a-f])|u([0-9a-f]{4}))")


def shown(path: str | os.PathLike[str]) -> str:
    r"""A path as text that can always be printed; inverse of `original`.

    Separators become "/". A byte that is not UTF-8 becomes `\xNN`, a control character `\uNNNN`, a backslash in a name
    `\\`.

    >>> shown(Path("a") / "b.png"), shown("caf\udce9\n.png")
    ('a/b.png', 'caf\\xe9\\u000a.png')
    """
    return _UNSAFE_OR_BACKSLASH.sub(_escaped, as_utf8(Path(path).as_posix()))


def original(text: str) -> Path:
    r"""The path of a text created by `shown`.

    >>> original("caf\\xe9\\u000a.png") == Path("caf\udce9\n.png")
    True
    """

    def plain(found: re.Match[str]) -> str:
        byte, character = found.groups()
        if byte:
            return chr(0xDC00 + int(byte, 16))
        return chr(int(character, 16)) if character else "\\"

    name = _ESCAPE.sub(plain, text)
    try:
        return Path(os.fsdecode(name.encode("utf-8", "surrogateescape")))
    except UnicodeEncodeError:
        return Path(name)


def cut(name: str, most: int = 100) -> str:
    """The start of a name, of at most so many bytes: with what is added, file systems take 255.

    >>> cut("x" * 300) == "x" * 100, cut("déjà", 4)
    (True, 'déj')
    """
    return name.encode("utf-8", "ignore")[:most].decode("utf-8", "ignore")


def as_utf8(name: str) -> str:
    """A file name decoded as UTF-8, even if the locale has another encoding; invalid bytes become surrogates.

    >>> as_utf8("a.png")
    'a.png'
    """
    try:
        return os.fsencode(name).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name  # half of a surrogate pair, which JSON may contain but no file name does


def one_line(text: str) -> str:
    r"""A name on one line, without control codes and characters that cannot be encoded.

    >>> one_line("red\x1b[31m\nfox")
    'red\\u001b[31m\\u000afox'
    """
    return _UNSAFE.sub(_escaped, text)


def printable(text: str) -> str:
    r"""Text for a terminal or a log: line breaks and tabs are kept, other control characters are escaped.

    >>> printable("a\tb\n\x1b]0;title\x07")
    'a\tb\n\\u001b]0;title\\u0007'
    """
    return _UNSAFE_IN_TEXT.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return "\\\\" if found.group() == "\\" else escape(found.group())


def escape(character: str) -> str:
    r"""A character as an escape sequence.

    >>> escape("\n"), escape("\udce9")
    ('\\u000a', '\\xe9')
    """
    number = ord(character)
    # Bytes that are not UTF-8 are represented by these characters, see PEP 383.
    return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number <= 0xDCFF else f"\\u{number:04x}"
