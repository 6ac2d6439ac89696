"""CSV files with the columns path and label, and perhaps split."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from vpt.data.entries import SPLIT_NAMES, Entry, Found, listed, number_of
from vpt.errors import UserError, nearest
from vpt.files import at_home
from vpt.names import shown


def read_csv(file: Path, separator: str = "|") -> Found:
    """Read the images that a CSV file lists, with a header line. Columns: path, label, and optionally split.

    Relative paths start at the folder of the file. A label cell that holds `separator` makes the data multi-label.
    Without a split column all entries are under "train".

    Raises:
        UserError: the file cannot be read or lacks a column; unknown splits; images that do not exist or have no
            label (the first ten and the count).
    """
    rows = _rows(file)
    found = Found()
    missing: list[str] = []
    unlabelled: list[str] = []
    folder = file.parent
    for line, row in rows:
        text = row["path"]
        split = _split(file, line, row["split"]) if "split" in row else "train"
        labels = tuple(dict.fromkeys(part.strip() for part in row["label"].split(separator) if part.strip()))
        path = folder / at_home(text) if text else folder
        if not text or not os.path.isfile(path):
            missing.append(f"{text or '(empty)'} (line {line})")
            continue
        if not labels:
            unlabelled.append(f"line {line}")
            continue
        found.multilabel |= len(labels) > 1
        found.splits.setdefault(split, []).append(Entry(shown(text), path, labels))
    if missing:
        raise UserError(
            f"{file} lists {number_of(len(missing), 'image')} that cannot be found: {listed(missing)}; "
            f"relative paths start at {folder.absolute()}"
        )
    if unlabelled:
        raise UserError(
            f"{file} has {number_of(len(unlabelled), 'row')} without a label: {listed(unlabelled)}; fill or remove"
        )
    if not found.splits:
        raise UserError(f"{file} lists no images: there is nothing below its header line")
    return found


def _rows(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and cells by lower-case column name."""
    try:
        # utf-8-sig: Excel begins its files with a byte order mark.
        with file.open(newline="", encoding="utf-8-sig") as opened:
            first = opened.readline()
            opened.seek(0)
            # Where the comma is the decimal sign, spreadsheets write semicolons.
            delimiter = max(",;\t", key=first.count)
            reader = csv.reader(opened, delimiter=delimiter, strict=True)
            columns = [cell.strip().lower() for cell in next(reader, [])]
            _check_columns(file, columns)
            rows = []
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(columns):
                    raise UserError(
                        f"{file} has {len(cells)} cells in line {reader.line_num} but {len(columns)} columns; "
                        "put cells that hold a comma into double quotes"
                    )
                rows.append((reader.line_num, dict(zip(columns, (cell.strip() for cell in cells)))))
            return rows
    except FileNotFoundError:
        raise UserError(f"there is no file {file}; check data.path") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"cannot read {file} as a UTF-8 CSV file: {reason}") from None


def _check_columns(file: Path, columns: list[str]) -> None:
    if not columns:
        raise UserError(f"{file} is empty; its first line must name the columns path,label")
    for wanted in ("path", "label"):
        if wanted not in columns:
            raise UserError(
                f"{file} has no column '{wanted}'{nearest(wanted, columns)} "
                f"(its first line is {','.join(columns)[:200]}); the first line must name the columns path,label"
            )
    if len(set(columns)) < len(columns):
        raise UserError(f"{file} names a column twice: {','.join(columns)[:200]}; rename one of them")


def _split(file: Path, line: int, text: str) -> str:
    split = SPLIT_NAMES.get(text.lower())
    if split is None:
        raise UserError(
            f"{file}, line {line}: the split is '{text[:40]}'{nearest(text[:40], SPLIT_NAMES)}; it must be "
            "train, val or test"
        )
    return split


def is_csv(path: str | os.PathLike[str]) -> bool:
    """Whether the path is meant as a CSV file.

    >>> is_csv("a.CSV"), is_csv("a")
    (True, False)
    """
    return os.fspath(path).lower().endswith((".csv", ".tsv"))
