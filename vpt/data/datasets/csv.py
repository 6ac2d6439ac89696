"""CSV files of images and labels."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

from vpt.config import DataConfig
from vpt.data.class_names import clean, visible
from vpt.data.datasets.csv_columns import Columns, columns_of
from vpt.data.datasets.entries import SPLIT_NAMES, Entry, Found, listed, number_of
from vpt.data.datasets.listed_files import FileFinder, elsewhere
from vpt.data.groups import group_column
from vpt.utils.errors import UserError, nearest
from vpt.utils.file_names import shown

DELIMITERS = ",;\t"
# A list as pandas writes it into a cell: ['cat', 'dog'].
_LIST = re.compile(r"""\[\s*(?:(?:'[^']*'|"[^"]*")\s*(?:,\s*|(?=\])))*\]""")
_ITEM = re.compile(r"""'([^']*)'|"([^"]*)\"""")


def read_csv(file: Path, separator: str = "|", group: str | None = None, label: str | None = None) -> Found:
    r"""Read the images listed in a CSV file with a header line.

    Columns: path, label, and optionally split, or names that other tools give them; or, instead of labels, a column of
    0 and 1 for every class. Relative paths start at the folder of the file; "\" in them may be used for "/", and
    accents may be in either of Unicode's normalisation forms. A label cell that contains `separator`, or a row of 0 and
    1 with several or no 1, makes the data multi-label: then rows without a label are images with none of the classes.
    Without a split column all entries are under "train". Images that do not exist are entries too, and reported by the
    data check. `group` names a column that is read as the group of an image, `label` that of the labels.

    Raises:
        UserError: the file cannot be read or lacks a column; unknown splits; no image exists.
    """
    names, rows = _rows(file)
    columns = columns_of(file, names, rows, group, label)
    found = Found(notes=list(columns.notes))
    missing: list[str] = []
    unnamed: list[str] = []
    folder = file.parent
    located = FileFinder(folder)
    texts = [cells[columns.path] for _, cells in rows]
    other = elsewhere(folder, texts)
    if other is not None:
        found.notes.append(f"{file}: the images are found as {visible(other.format(texts[0]))}")
    labelled = _labels(columns, [cells for _, cells in rows], separator)
    for (line, cells), text, labels in zip(rows, texts, labelled):
        split = _split(file, line, cells[columns.split]) if columns.split is not None else "train"
        if not text:
            unnamed.append(f"line {line}")
            continue
        path = located.find(text if other is None else other.format(text))
        if path is None:
            missing.append(f"{visible(text)} (line {line})")
        found.multilabel |= len(labels) > 1 or (not labels and columns.label is None)
        own = "" if columns.group is None else clean(cells[columns.group])
        entry = Entry(shown(text), path or folder / text, labels, f"{file.name}, line {line}", own)
        found.splits.setdefault(split, []).append(entry)
    if unnamed:
        raise UserError(f"{file} has {number_of(len(unnamed), 'row')} without a path: {listed(unnamed)}; fill them in")
    if not found.splits:
        raise UserError(f"{file} lists no images: there is nothing below its header line")
    if len(missing) == len(rows):
        raise UserError(
            f"{file} lists {number_of(len(missing), 'image')} and none can be found: {listed(missing)}; relative paths "
            f"start at {folder.absolute()}"
        )
    found.divided = columns.split is not None
    found.notes += [*located.notes(file), *_understood(file, columns, found, separator)]
    if missing:
        found.notes.append(
            f"{file} lists {number_of(len(missing), 'image')} that cannot be found: {listed(missing)}; relative paths "
            f"start at {folder.absolute()}"
        )
    return found


def read_table(file: Path, config: DataConfig) -> Found:
    """Read a CSV file with the columns that the settings name; see `read_csv`."""
    return read_csv(file, config.separator, group_column(config), config.label_column)


def _labels(columns: Columns, rows: Sequence[Sequence[str]], separator: str) -> list[tuple[str, ...]]:
    """The labels of every row."""
    if columns.label is None:
        return [tuple(columns.marked(cells)) for cells in rows]
    texts = [cells[columns.label] for cells in rows]
    as_lists = any(texts) and all(_LIST.fullmatch(text) for text in texts if text)
    found = []
    for text in texts:
        parts = ["".join(item) for item in _ITEM.findall(text)] if as_lists else text.split(separator)
        found.append(tuple(dict.fromkeys(part.strip() for part in parts if clean(part))))
    return found


def _understood(file: Path, columns: Columns, found: Found, separator: str) -> list[str]:
    """Notes on how labels were understood, where that is not obvious."""
    labels = [entry.labels for entries in found.splits.values() for entry in entries]
    if columns.label is None and not found.multilabel:
        return [f"{file}: every row marks exactly one class, so an image has one label"]
    if found.multilabel:
        none = labels.count(())
        negatives = f"; {number_of(none, 'image')} without a label: none of the classes" if none else ""
        return [f"{file}: an image may have several labels{negatives}"]
    whole = {label for each in labels for label in each}
    for sign in ",;/ ":
        joined = [label for label in whole if sign in label and {part.strip() for part in label.split(sign)} <= whole]
        if joined and separator != sign:
            return [
                f"warning: {file}: {visible(joined[0])} is read as one class; if these are several labels, set "
                f"data.separator='{sign}'"
            ]
    return []


def _rows(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The cells of the header, and line numbers and cells of the other lines."""
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
        columns = [clean(cell) for cell in next(reader, [])]
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
            rows.append((reader.line_num + skipped, [cell.strip() for cell in cells]))
        return columns, rows
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
