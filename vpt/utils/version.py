"""The version of this package."""

from __future__ import annotations

from importlib import metadata


def own_version() -> str:
    """The installed version; "source" where vpt runs from its source and is not installed.

    >>> own_version()[0].isdigit() or own_version() == "source"
    True
    """
    try:
        return metadata.version("vpt")
    except metadata.PackageNotFoundError:
        return "source"
