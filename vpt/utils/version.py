"""Version of this package."""

from __future__ import annotations

from importlib import metadata


def own_version() -> str:
    """The installed version; "source" if vpt is not installed but run from its source.

    >>> own_version()[0].isdigit() or own_version() == "source"
    True
    """
    try:
        return metadata.version("vpt")
    except metadata.PackageNotFoundError:
        return "source"
