"""What an earlier check found about files that have not changed since, kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL

from vpt.data.dataset import Item
from vpt.data.decode import Decoded
from vpt.data.intensity_window import Depth
from vpt.utils.atomic_io import read_json, write_text
from vpt.utils.cache_dir import cache_dir
from vpt.utils.errors import UserError

# Another Pillow may read a file differently, and so may we. Raise the number when `Decoded` changes meaning.
_FORMAT = f"2 pillow-{PIL.__version__}"


class Checked(NamedTuple):
    """A readable image: file format, Pillow mode, size in pixels, sha256 of its pixels before they are scaled, what was
    converted, and its values where they are deeper than 8 bits."""

    format: str
    mode: str
    width: int
    height: int
    digest: str
    notes: tuple[str, ...]
    depth: Depth | None = None

    @classmethod
    def of(cls, decoded: Decoded) -> Checked:
        """Describe a decoded image."""
        height, width = decoded.pixels.shape[:2]
        digest = hashlib.sha256(f"{width}x{height}".encode())
        if decoded.values is None:
            digest.update(decoded.pixels.data)
        else:  # scaled to 8 bits, dark images that differ would become the same
            for row in decoded.values:
                digest.update(np.ascontiguousarray(row, dtype=np.float64).data)
        return cls(decoded.format, decoded.mode, width, height, digest.hexdigest(), decoded.notes, decoded.depth)


class Memory:
    """Results by path; valid while size, times and limit stay the same. Only good news is kept.

    Of the times, one can be set back by who changes a file (as `cp -p` does), the other one cannot.

    An image may be unreadable for reasons that leave no trace in its file (rights, a full memory), so bad ones are
    looked at again.
    """

    def __init__(self, file: Path, max_pixels: int) -> None:
        self._file = file
        self._max_pixels = max_pixels
        self._old = _load(file)
        self._new: dict[str, list[Any]] = {}
        self.hits = 0

    @classmethod
    def of(cls, sources: Iterable[Path | Item], max_pixels: int) -> Memory:
        """The memory for a data set, found by the folder that holds all its files."""
        parents = sorted({str(source.parent) for source in sources if isinstance(source, Path)})
        root = os.path.commonpath([os.path.abspath(parent) for parent in parents]) if parents else ""
        key = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
        return cls(cache_dir() / "checked" / f"{key}.json", max_pixels)

    def get(self, source: Path | Item) -> Checked | None:
        """What is known about a file, if it has not changed."""
        if not isinstance(source, Path):
            return None
        path = _key(source)
        row, stamp = self._old.get(path), self._stamp(source)
        if stamp is None or not isinstance(row, list) or row[: len(stamp)] != stamp:
            return None
        checked = _parse(row[len(stamp) :])
        if checked is not None:
            self._new[path] = row
            self.hits += 1
        return checked

    def put(self, source: Path | Item, checked: Checked) -> None:
        """Remember a result."""
        if isinstance(source, Path) and (stamp := self._stamp(source)) is not None:
            self._new[_key(source)] = [*stamp, *checked]

    def save(self) -> None:
        """Write the results of this check. A cache that cannot be written is no reason to stop."""
        if not self._new:
            return
        text = json.dumps({"format": _FORMAT, "files": self._new})
        with contextlib.suppress(UserError):
            write_text(self._file, text)

    def _stamp(self, source: Path) -> list[int] | None:
        try:
            status = source.stat()
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, self._max_pixels]


def _key(source: Path) -> str:
    # Names that are no UTF-8 hold lone surrogates, which JSON keeps as escapes.
    return os.path.abspath(source)


def _load(file: Path) -> dict[str, Any]:
    try:
        tree = read_json(file, "it is made anew")
    except UserError:
        return {}
    if not isinstance(tree, dict) or tree.get("format") != _FORMAT or not isinstance(tree.get("files"), dict):
        return {}
    files: dict[str, Any] = tree["files"]
    return files


def _parse(row: list[Any]) -> Checked | None:
    if len(row) != len(Checked._fields):
        return None
    texts = [row[0], row[1], row[4], *(row[5] if isinstance(row[5], list) else [None])]
    if not all(isinstance(text, str) for text in texts) or not all(type(side) is int for side in row[2:4]):
        return None
    depth = row[6]
    if depth is None:
        return Checked(row[0], row[1], row[2], row[3], row[4], tuple(row[5]))
    if not isinstance(depth, list) or [type(part) for part in depth] != [float, float, bool]:
        return None
    return Checked(row[0], row[1], row[2], row[3], row[4], tuple(row[5]), Depth(*depth))
