"""Where things that can be made again are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The folder `vpt` within XDG_CACHE_HOME, or within ~/.cache. It may not exist yet.

    >>> cache_dir().name
    'vpt'
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says that a relative path there is to be ignored.
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "vpt"
