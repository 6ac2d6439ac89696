"""Process-wide settings of Pillow and pydicom, set only while images are being decoded."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

_lock = threading.Lock()
_active = 0
_before: tuple[int | None, warnings.catch_warnings[None], bool] | None = None
_log = logging.getLogger("pydicom")  # its messages quote values of headers


@contextmanager
def pillow_settings(max_pixels: int) -> Iterator[None]:
    """Context in which Pillow accepts images of up to `max_pixels` pixels and prints no warnings, and pydicom
    logs nothing.

    Both the limit and the warning filters are global to the process, and `warnings.catch_warnings` is not
    thread-safe. So the first of several threads to enter sets them and the last one to leave restores them.

    >>> before = Image.MAX_IMAGE_PIXELS
    >>> with pillow_settings(300_000_000):
    ...     Image.MAX_IMAGE_PIXELS
    300000000
    >>> before == Image.MAX_IMAGE_PIXELS
    True
    """
    global _active, _before
    with _lock:
        if _active == 0:
            filters = warnings.catch_warnings()
            filters.__enter__()
            _before = (Image.MAX_IMAGE_PIXELS, filters, _log.disabled)
            Image.MAX_IMAGE_PIXELS, _log.disabled = max_pixels, True
            for module in (r"PIL\b", r"vpt\.data\b", r"pydicom\b", r"nibabel\b"):
                warnings.filterwarnings("ignore", module=module)
        # With several limits at once the largest applies here; `decode` also checks its own limit.
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)
        _active += 1
    try:
        yield
    finally:
        with _lock:
            _active -= 1
            if _active == 0 and _before is not None:
                Image.MAX_IMAGE_PIXELS, _log.disabled = _before[0], _before[2]
                _before[1].__exit__(None, None, None)
                _before = None
