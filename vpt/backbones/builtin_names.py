"""Names of backbones: networks built into a library, and addresses of repositories and folders.

An artifact may come from a stranger, so an address is opened only if the user gives it:
vpt/models/trusted_settings.py.
"""

from __future__ import annotations

import re

import timm

EMBEDDED = ("vpt_nano",)
OPEN_CLIP = "open_clip:"
TORCHVISION = "torchvision:"
ADDRESSES = ("hf-hub:", "local-dir:")  # after OPEN_CLIP


def is_address(name: str) -> bool:
    """Whether a name refers to a repository, a folder or a plug-in. All other names that `load_backbone` accepts are
    built in.

    >>> [is_address(name) for name in ("open_clip:hf-hub:a/b", "open_clip:local-dir:/a", "open_clip:ViT-B-32")]
    [True, True, False]
    >>> is_address("my_zoo:ViT-S")
    True
    """
    if name.startswith(OPEN_CLIP):
        return name.removeprefix(OPEN_CLIP).startswith(ADDRESSES)
    return ":" in name and not name.startswith(TORCHVISION)


def in_timm(name: str) -> bool:
    """Whether timm has an architecture of this name, with or without a weight tag after a dot.

    >>> names = ["vit_tiny_patch16_224.augreg_in21k", "hf-hub:a/b", "local-dir:/a", "vit_tiny_patch16_224./a"]
    >>> [in_timm(name) for name in names]
    [True, False, False, False]
    """
    return re.fullmatch(r"\w+(\.[\w-]+)?", name, re.ASCII) is not None and timm.is_model(name.split(".")[0])


def in_open_clip(name: str) -> bool:
    """Whether open_clip, which must be installed, has a model of this name (without prefix).

    >>> [in_open_clip(name) for name in ("ViT-B/32", "hf-hub:a/b")]
    [True, False]
    """
    import open_clip

    return name.replace("/", "-") in open_clip.list_models()
