"""CSV files for people: what a spreadsheet would take for a formula is text, and reads back as it was.

A cell that begins with =, +, -, @, a tab, a line break or an apostrophe gets an apostrophe in front, which spreadsheets
do not show (https://owasp.org/www-community/attacks/CSV_Injection). Numbers stay numbers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

_FORMULA = tuple("=+-@\t\r\n'\uff1d\uff0b\uff0d\uff20")  # the last four are the wide forms of the first
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def to_csv(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV text, every cell safe to open in a spreadsheet.

    >>> to_csv([["image", "score"], ["=1+1.png", "-0.5"]])
    "image,score\\n'=1+1.png,-0.5\\n"
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([safe_cell(str(cell)) for cell in row] for row in rows)
    return text.getvalue()


def safe_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula; `plain_cell` gives the text back.

    >>> [safe_cell(text) for text in ("=1+1", "-0.5", "-a", "cat")]
    ["'=1+1", '-0.5', "'-a", 'cat']
    """
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def plain_cell(text: str) -> str:
    """The text that `safe_cell` made a cell of.

    >>> [plain_cell(cell) for cell in ("'=1+1", "-0.5", "cat", "'cat")]
    ['=1+1', '-0.5', 'cat', "'cat"]
    """
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text
