"""Settings of the backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from vpt.config.base import Place, Section, Word


class BackboneConfig(Section):
    """Which frozen network, with which weights."""

    name: Place = Field("vpt_nano", description="timm name, 'open_clip:ARCH', or 'vpt_nano' (embedded)")
    pretrained: bool | Word = Field(
        True, description="true: the library's weights; a tag: that open_clip set; false: random weights"
    )
    weights: Path | None = Field(
        None,
        description="local file, loaded strictly: .safetensors, .pth, a trainer's checkpoint, an index of shards, .npz",
    )
    image_size: int | None = Field(None, ge=1, le=4096, description="pixels; default: the backbone's own")
    normalise: Literal["own", "imagenet", "none"] = Field(
        "own", description="pixel mean and std: the backbone's own, ImageNet's, or none (pixels from 0 to 1)"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of random weights (pretrained=false)")
    dtype: Literal["fp32", "bf16", "int8", "nf4"] = Field(
        "fp32",
        description="what its frozen weights are held in: bf16 halves their memory, int8 quarters it, nf4 takes an "
        "eighth (both by torchao); what learns is in float32",
    )
