"""Small open_clip models of every kind of text tower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from torch import nn

from vpt.backbones.backbone import Backbone
from vpt.backbones.fingerprint import fingerprint
from vpt.backbones.text_encoder import TextEncoder
from vpt.data.normalization import Preprocess

VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16}
TEXT: dict[str, Any] = {"context_length": 24, "vocab_size": 49408, "width": 24, "heads": 3, "layers": 3}
KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "clip": (CLIP, {}),
    "custom": (CustomTextCLIP, {}),
    "bidirectional": (CLIP, {"no_causal_mask": True}),
    "siglip-like": (CustomTextCLIP, {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}),
}


def build_clip(kind: str = "clip", seed: int = 0) -> nn.Module:
    """A small model with weights large enough that a mistake shows."""
    torch.manual_seed(seed)
    build, extra = KINDS[kind]
    model = build(embed_dim=20, vision_cfg=CLIPVisionCfg(**VISION), text_cfg=CLIPTextCfg(**{**TEXT, **extra}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 0:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def register_tiny(folder: Path, name: str, layers: int) -> str:
    """Make a model of the smallest sides known to open_clip, with its own tokenizer; the name for `backbone=`."""
    sides = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": layers, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": layers},
    }
    (folder / f"{name}.json").write_text(json.dumps(sides))
    open_clip.add_model_config(folder / f"{name}.json")
    return f"open_clip:{name}"


def tokenizer() -> Any:
    return open_clip.tokenizer.SimpleTokenizer(context_length=TEXT["context_length"])


def clip_backbone(model: nn.Module) -> Backbone:
    """An open_clip model as a vpt backbone with its text side; the model keeps working."""
    state = fingerprint(model)
    visual = model.visual
    encoder = TextEncoder(model, tokenizer(), "small clip")
    pre = Preprocess(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    return Backbone(visual, "open_clip", "small clip", pre, state, encoder)
