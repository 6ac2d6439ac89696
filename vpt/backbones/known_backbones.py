"""Backbones that the user has named himself, by their fingerprints, in his cache folder.

An artifact says on which backbone it was trained, and a file or an address is not opened on its word. So that an
artifact of one's own is loaded without naming them again, they are noted where they were named.
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
    """Note a backbone that the user has named. One that is built in, with weights of its library, needs no note."""
    if backbone.weights is None and not is_address(backbone.name):
        return
    weights = None if backbone.weights is None else str(backbone.weights.resolve())
    # A cache that cannot be written, or has no place, is no reason to stop.
    with contextlib.suppress(UserError, RuntimeError, ValueError):
        write_json(_note(fingerprint), {"name": backbone.name, "weights": weights})


def recall(fingerprint: str) -> BackboneConfig | None:
    """The backbone of this fingerprint that the user has named before; None where there is none."""
    try:
        tree = strict_json.loads(_note(fingerprint).read_text(encoding="utf-8"), 100_000)
        return BackboneConfig.model_validate(tree)
    except (OSError, RuntimeError, ValueError):
        return None


def _note(fingerprint: str) -> Path:
    return cache_dir() / "backbones" / f"{fingerprint}.json"
