"""Cache of backbones that the user has named, by fingerprint.

A file or an address named only by an artifact is not opened. So that users can load their own artifacts without naming
the backbone again, backbones are recorded here when the user names them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from vpt.backbones.builtin_names import is_address
from vpt.config import BackboneConfig
from vpt.utils import strict_json
from vpt.utils.atomic_io import write_json
from vpt.utils.cache_dir import cache_dir
from vpt.utils.errors import UserError


def remember(fingerprint: str, backbone: BackboneConfig) -> None:
    """Record a backbone that the user has named. Built-in ones with weights of their library need no record."""
    if backbone.weights is None and not is_address(backbone.name):
        return
    weights = None if backbone.weights is None else str(backbone.weights.resolve())
    # Continue without it if the cache cannot be written.
    with contextlib.suppress(UserError, RuntimeError, ValueError):
        write_json(_note(fingerprint), {"name": backbone.name, "weights": weights})


def recall(fingerprint: str) -> BackboneConfig | None:
    """The recorded backbone with this fingerprint, or None."""
    try:
        tree = strict_json.loads(_note(fingerprint).read_text(encoding="utf-8"), 100_000)
        return BackboneConfig.model_validate(tree)
    except (OSError, RuntimeError, ValueError):
        return None


def _note(fingerprint: str) -> Path:
    return cache_dir() / "backbones" / f"{fingerprint}.json"
