"""Name and version of this package."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "visual-prompt-tuning"  # the name `vpt` on PyPI is another project's


def own_version() -> str:
    """The installed version; "source" if vpt is not installed but run from its source.

    >>> own_version()[0].isdigit() or own_version() == "source"
    True
    """
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "source"


def install(extra: str) -> str:
    """The command that installs an optional part of this package.

    >>> install("lora")
    "pip install 'visual-prompt-tuning[lora]'"
    """
    return f"pip install '{DISTRIBUTION}[{extra}]'"
