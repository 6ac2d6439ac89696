"""List of the backbones that support token prompts."""

from __future__ import annotations

import timm

from vpt.backbones.builtin_names import EMBEDDED, OPEN_CLIP


def known_names() -> list[str]:
    """Names of the embedded backbone, timm's ViTs and Swins with weight tags, and open_clip's image towers.

    >>> known_names()[0]
    'vpt_nano'
    """
    names = list(EMBEDDED)
    swins = ("swin_transformer", "swin_transformer_v2")
    for module in ("vision_transformer", "eva", "deit", "vision_transformer_hybrid", *swins):
        names += timm.list_models(module=module, pretrained=True)
    try:
        import open_clip
    except ImportError:
        return names
    return names + [f"{OPEN_CLIP}{name}" for name in open_clip.list_models()]
