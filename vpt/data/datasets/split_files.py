"""Locations of data sets given by name, and the files that list their images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from vpt.utils.atomic_io import read_json
from vpt.utils.errors import UserError, nearest


def found_at(root: Path, places: Sequence[str]) -> Path | None:
    """The first of `places` below `root` that exists; a file stands for the folder that contains it.

    >>> found_at(Path("no/root"), ["vtab-1k/dtd", "dtd/test.txt"]) is None
    True
    """
    place = next((root / place for place in places if (root / place).exists()), None)
    return place.parent if place is not None and place.is_file() else place


def found_folder(root: Path, places: Sequence[str], what: str) -> Path:
    """The folder found by `found_at`.

    Raises:
        UserError: none of the places exists.

    >>> found_folder(Path("no/root"), ["vtab-1k/dtd", "dtd"], "vtab:dtd")
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: vtab:dtd should be in .../no/root/vtab-1k/dtd, which does not exist; set data.root
    """
    if (place := found_at(root, places)) is not None:
        return place
    raise UserError(f"{what} should be in {(root / places[0]).absolute()}, which does not exist; set data.root")


def folder_of(kind: str, name: str, known: Collection[str], root: Path, places: Callable[[str], Sequence[str]]) -> Path:
    """The folder of the data set `kind:name` below `root`.

    Args:
        known: all names.
        places: function that returns the possible locations of a data set, below the root.

    Raises:
        UserError: no such name, or no such folder.

    >>> folder_of("fgvc", "birds", ["nabirds"], Path("data"), lambda name: [name])
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: data.path=fgvc:birds does not exist; did you mean 'nabirds'?; known: nabirds
    """
    if name not in known:
        raise UserError(f"data.path={kind}:{name} does not exist{nearest(name, known)}; known: {', '.join(known)}")
    return found_folder(root, places(name), f"{kind}:{name}")


def read_lines(file: Path, remedy: str = "check data.root") -> list[str]:
    """The non-empty lines of a text file, stripped.

    Raises:
        UserError: it cannot be read.
    """
    return [line.strip() for line in read_text(file, remedy).splitlines() if line.strip()]


def read_text(file: Path, remedy: str) -> str:
    """Read a text file of a data set.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise UserError(f"cannot read {file}: {reason}; {remedy}") from None


def read_mapping(file: Path, source: str, form: str) -> dict[str, Any]:
    """Read a JSON file that contains a mapping.

    Args:
        source: where the file is available, as the end of "it is among ...".
        form: what it must contain.

    Raises:
        UserError: it is missing, not JSON, or contains something else.
    """
    tree = read_json(file, f"it is among {source}")
    if not isinstance(tree, dict):
        raise UserError(f"{file} is not a split file: it must contain {form}")
    return tree
