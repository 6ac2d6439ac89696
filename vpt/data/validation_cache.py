"""Cache of check results for unchanged files, in the user's cache folder."""

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
from vpt.data.medical.files import without_slice
from vpt.utils.atomic_io import read_json, write_text
from vpt.utils.cache_dir import cache_dir
from vpt.utils.errors import UserError

# Results depend on the version of Pillow and on ours. Increase the number when `Decoded` changes meaning.
_FORMAT = f"3 pillow-{PIL.__version__}"


class Checked(NamedTuple):
    """A readable image: file format, Pillow mode, size in pixels, sha256 of its pixels before scaling, conversions, and
    the range of its values if they are deeper than 8 bits."""

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
        else:  # scaled to 8 bits, different dark images could become equal
            for row in decoded.values:
                digest.update(np.ascontiguousarray(row, dtype=np.float64).data)
        return cls(decoded.format, decoded.mode, width, height, digest.hexdigest(), decoded.notes, decoded.depth)


class Memory:
    """Results by path; valid while size, timestamps and settings are unchanged. Only good results are cached.

    Whoever changes a file can restore one of the timestamps (as `cp -p` does), but not the other one.

    An image may be unreadable for reasons that leave no trace in its file (permissions, lack of memory), so bad ones
    are checked again.
    """

    def __init__(self, file: Path, max_pixels: int, channels: int | None = None) -> None:
        self._file = file
        self._settings = [max_pixels, *([] if channels is None else [channels])]
        self._old = _load(file)
        self._new: dict[str, list[Any]] = {}
        self.hits = 0

    @classmethod
    def of(cls, sources: Iterable[Path | Item], max_pixels: int, channels: int | None = None) -> Memory:
        """The cache for a data set, identified by the folder that contains all its files."""
        parents = sorted({str(source.parent) for source in sources if isinstance(source, Path)})
        root = os.path.commonpath([os.path.abspath(parent) for parent in parents]) if parents else ""
        key = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
        return cls(cache_dir() / "checked" / f"{key}.json", max_pixels, channels)

    def get(self, source: Path | Item) -> Checked | None:
        """The result for a file, if it has not changed."""
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
        """Store a result."""
        if isinstance(source, Path) and (stamp := self._stamp(source)) is not None:
            self._new[_key(source)] = [*stamp, *checked]

    def save(self) -> None:
        """Write the results of this check. Errors are ignored, because it is only a cache."""
        if not self._new:
            return
        text = json.dumps({"format": _FORMAT, "files": self._new})
        with contextlib.suppress(UserError):
            write_text(self._file, text)

    def _stamp(self, source: Path) -> list[int] | None:
        try:
            status = without_slice(source)[0].stat()
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, *self._settings]


def _key(source: Path) -> str:
    # Names that are not UTF-8 contain lone surrogates, which JSON stores as escapes.
    return os.path.abspath(source)


def _load(file: Path) -> dict[str, Any]:
    try:
        tree = read_json(file, "it is created again")
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
    if not isinstance(depth, list) or [type(part) for part in depth] != [float, float, bool, bool]:
        return None
    return Checked(row[0], row[1], row[2], row[3], row[4], tuple(row[5]), Depth(*depth))
