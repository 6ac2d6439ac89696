"""Small networks under names of their own in timm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

TOWERS: dict[str, dict[str, Any]] = {
    "transformer": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "timm": {"image_size": 160, "timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"},
    "timm-rotary": {
        "image_size": 224,
        "timm_model_name": "eva02_tiny_patch14_224",
        "timm_pool": "token",
        "timm_proj": "linear",
    },
    "timm-convolutional": {"image_size": 160, "timm_model_name": "test_resnet", "timm_pool": "avg"},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
}


TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


def register(folder: Path, kind: str) -> tuple[str, Path]:
    """Make a CLIP with this image tower known to open_clip; its name, and a file of its weights."""
    name = f"sizes-{kind}"
    (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": TOWERS[kind], "text_cfg": TEXT}))
    open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(0)
    clip = open_clip.create_model(name)
    for parameter in clip.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    save_file({key: value.contiguous() for key, value in clip.state_dict().items()}, folder / f"{name}.safetensors")
    return f"open_clip:{name}", folder / f"{name}.safetensors"
