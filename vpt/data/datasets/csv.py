"""CSV files with the columns path and label, and optionally split."""

from __future__ import annotations

import codecs
import csv
import io
import os
from pathlib import Path

from vpt.data.class_names import clean, visible
from vpt.data.datasets.entries import SPLIT_NAMES, Entry, Found, listed, number_of
from vpt.data.datasets.listed_files import FileFinder
from vpt.data.decode import EXTENSIONS
from vpt.utils.errors import UserError, nearest
from vpt.utils.file_names import shown

DELIMITERS = ",;\t"
# Column names used by other tools; suggested when ours are missing.
ALSO_CALLED = {
    "path": (
        "image",
        "file",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "image_path",
        "imagepath",
        "img",
        "name",
    ),
    "label": ("labels", "class", "class_name", "category", "target", "y", "species"),
}


def read_csv(file: Path, separator: str = "|") -> Found:
    r"""Read the images listed in a CSV file with a header line. Columns: path, label, and optionally split.

    Relative paths start at the folder of the file; "\" in them may be used for "/", and accents may be in either of
    Unicode's normalisation forms. A label cell that contains `separator` makes the data multi-label. Without a split
    column all entries are under "train". Images that do not exist are entries too, and reported by the data check.

    Raises:
        UserError: the file cannot be read or lacks a column; unknown splits; rows without a label; no image exists.
    """
    rows = _rows(file)
    found = Found()
    missing: list[str] = []
    unlabelled: list[str] = []
    unnamed: list[str] = []
    folder = file.parent
    located = FileFinder(folder)
    for line, row in rows:
        text = row["path"]
        split = _split(file, line, row["split"]) if "split" in row else "train"
        labels = tuple(dict.fromkeys(part.strip() for part in row["label"].split(separator) if clean(part)))
        if not labels:
            unlabelled.append(f"line {line}")
            continue
        if not text:
            unnamed.append(f"line {line}")
            continue
        path = located.find(text)
        if path is None:
            missing.append(f"{visible(text)} (line {line})")
        found.multilabel |= len(labels) > 1
        entry = Entry(shown(text), path or folder / text, labels, f"{file.name}, line {line}")
        found.splits.setdefault(split, []).append(entry)
    for what, lines in (("path", unnamed), ("label", unlabelled)):
        if lines:
            raise UserError(
                f"{file} has {number_of(len(lines), 'row')} without a {what}: {listed(lines)}; fill them in"
            )
    if not found.splits:
        raise UserError(f"{file} lists no images: there is nothing below its header line")
    if len(missing) == len(rows):
        raise UserError(
            f"{file} lists {number_of(len(missing), 'image')} and none can be found: {listed(missing)}; relative paths "
            f"start at {folder.absolute()}"
        )
    found.divided = "split" in rows[0][1]
    found.notes += located.notes(file)
    if missing:
        found.notes.append(
            f"{file} lists {number_of(len(missing), 'image')} that cannot be found: {listed(missing)}; relative paths "
            f"start at {folder.absolute()}"
        )
    return found


def _rows(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Line numbers, and cells by lower-case column name."""
    text = _text(file)
    first = text.partition("\n")[0].strip().lower()
    skipped = 0
    if first in [f"sep={sign}" for sign in DELIMITERS]:  # written by Excel
        delimiter, skipped = first[-1], 1
        text = text.partition("\n")[2]
    else:
        # Where the comma is the decimal separator, spreadsheets write semicolons.
        delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        columns = [clean(cell).lower() for cell in next(reader, [])]
        _check_columns(file, columns, first)
        rows = []
        for cells in reader:
            if not any(clean(cell) for cell in cells):
                continue
            while len(cells) > len(columns) and not cells[-1].strip():
                cells.pop()
            if len(cells) != len(columns):
                raise UserError(
                    f"{file}, line {reader.line_num + skipped}: {number_of(len(cells), 'cell')} but "
                    f"{number_of(len(columns), 'column')}; put cells that contain {_called(delimiter)} in double quotes"
                )
            named = {column: cell.strip() for column, cell in zip(columns, cells) if column}
            rows.append((reader.line_num + skipped, named))
        return rows
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num + skipped}, is not CSV: {error}; is a quote missing?") from None


def _text(file: Path) -> str:
    """Read the text: UTF-8, or UTF-16 as in Excel's "Unicode Text"; with or without a byte order mark."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no file {file}; check data.path") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; make it readable") from None
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"cannot read {file}: line {line} is not UTF-8; save it as 'CSV UTF-8', or convert it with: "
            "iconv -f WINDOWS-1252 -t UTF-8"
        ) from None


def _check_columns(file: Path, columns: list[str], first: str) -> None:
    if not any(columns):
        raise UserError(f"{file} is empty; its first line must name the columns path,label")
    for wanted in ("path", "label"):
        if wanted in columns:
            continue
        if any(os.path.splitext(column)[1] in EXTENSIONS for column in columns):
            raise UserError(
                f"{file} begins with a row, {visible(first[:80])}; above it the first line must name the columns: "
                "path,label"
            )
        other = next((column for column in columns if column in ALSO_CALLED[wanted]), None)
        advice = f"; rename the column '{other}' to '{wanted}'" if other else nearest(wanted, columns)
        raise UserError(
            f"{file} has no column '{wanted}'{advice} (its first line is {','.join(map(visible, columns))[:200]}); the "
            "first line must name the columns path,label"
        )
    named = [column for column in columns if column]
    if len(set(named)) < len(named):
        raise UserError(f"{file} names a column twice: {','.join(columns)[:200]}; rename one of them")


def _split(file: Path, line: int, text: str) -> str:
    split = SPLIT_NAMES.get(clean(text).lower())
    if split is None:
        cell = visible(text).strip("'")[:40]
        raise UserError(
            f"{file}, line {line}: the split is '{cell}'{nearest(cell, SPLIT_NAMES)}; it must be train, val or test"
        )
    return split


def _called(delimiter: str) -> str:
    return {",": "a comma", ";": "a semicolon", "\t": "a tab"}[delimiter]


def is_csv(path: str | os.PathLike[str]) -> bool:
    """Whether the path is meant as a CSV file.

    >>> is_csv("a.CSV"), is_csv("a")
    (True, False)
    """
    return os.fspath(path).lower().endswith((".csv", ".tsv"))
