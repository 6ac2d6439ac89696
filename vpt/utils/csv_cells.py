"""CSV cells that spreadsheets do not interpret as formulas, and that can be read back unchanged.

A cell that starts with =, +, -, @, a tab, a line break or an apostrophe is prefixed with an apostrophe, which
spreadsheets do not show (https://owasp.org/www-community/attacks/CSV_Injection). Numbers are unchanged.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

_FORMULA = tuple("=+-@\t\r\n'\uff1d\uff0b\uff0d\uff20")  # the last four are full-width forms of the first four
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def to_csv(rows: Iterable[Sequence[object]]) -> str:
    """Format rows as CSV text that is safe to open in a spreadsheet.

    >>> to_csv([["image", "score"], ["=1+1.png", "-0.5"]])
    "image,score\\n'=1+1.png,-0.5\\n"
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([safe_cell(str(cell)) for cell in row] for row in rows)
    return text.getvalue()


def safe_cell(text: str) -> str:
    """Escape a cell so that spreadsheets do not interpret it as a formula; inverse of `plain_cell`.

    >>> [safe_cell(text) for text in ("=1+1", "-0.5", "-a", "cat")]
    ["'=1+1", '-0.5', "'-a", 'cat']
    """
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def plain_cell(text: str) -> str:
    """Unescape a cell escaped by `safe_cell`.

    >>> [plain_cell(cell) for cell in ("'=1+1", "-0.5", "cat", "'cat")]
    ['=1+1', '-0.5', 'cat', "'cat"]
    """
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text
