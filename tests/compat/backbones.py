"""Small backbones whose weights come from integer arithmetic: the same on every machine and release of torch."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import timm
import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

CLIP = "compat-clip"
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}


def fill(net: nn.Module) -> nn.Module:
    """Set every parameter to multiples of 1/4096 from a hash of its place; weights of norms stay near 1."""
    with torch.no_grad():
        for number, (name, parameter) in enumerate(sorted(net.named_parameters())):
            places = torch.arange(parameter.numel(), dtype=torch.int64)
            mixed = ((places + 1) * 2654435761 + (number + 1) * 40503) % 4294967296
            mixed = (mixed ^ (mixed >> 13)) * 1274126177 % 4294967296
            values = (mixed >> 16) % 1024 - 512  # -512 to 511
            flat = values.to(torch.float32) / 4096
            if parameter.ndim == 1 and name.endswith("weight"):
                flat = 1 + flat
            if parameter.ndim > 0:
                parameter.copy_(flat.reshape(parameter.shape))
    return net


def _vit(classes: int) -> VisionTransformer:
    net = fill(VisionTransformer(**SMALL, num_classes=classes))
    net.pretrained_cfg = net.default_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    return net


def compat_vit_32(pretrained: bool = False, num_classes: int = 0, **_: object) -> VisionTransformer:
    """A ViT of three layers."""
    return _vit(num_classes)


def compat_classifier_32(pretrained: bool = False, num_classes: int = 12, **_: object) -> VisionTransformer:
    """A ViT of three layers with twelve classes of its own."""
    return _vit(num_classes)


def register(folder: Path) -> Path:
    """Make the backbones known to timm and open_clip.

    Returns:
        The weight file of the CLIP, which open_clip cannot build by formula.
    """
    for builder in (compat_vit_32, compat_classifier_32):
        if not timm.is_model(builder.__name__):
            builder.__module__ = "timm.models.vision_transformer"
            register_model(builder)
    sides = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3},
    }
    (folder / f"{CLIP}.json").write_text(json.dumps(sides))
    open_clip.add_model_config(folder / f"{CLIP}.json")
    weights = folder / f"{CLIP}.safetensors"
    if not weights.exists():
        state = fill(open_clip.create_model(CLIP, pretrained=None)).state_dict()
        save_file({name: value.contiguous() for name, value in state.items()}, weights)
    return weights
