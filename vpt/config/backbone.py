"""Settings of the backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from vpt.config.base import Place, Section, Word


class BackboneConfig(Section):
    """Frozen backbone network and its weights."""

    name: Place = Field("vpt_nano", description="timm name, 'open_clip:ARCH', or 'vpt_nano' (embedded)")
    pretrained: bool | Word = Field(
        True, description="true: the library's weights; a tag of open_clip; false: random weights"
    )
    weights: Path | None = Field(
        None,
        description="local file, loaded strictly: .safetensors, .pth, a trainer's checkpoint, a sharded index, .npz; "
        "or a folder written by transformers",
    )
    image_size: int | None = Field(None, ge=1, le=4096, description="input size in pixels; default: the backbone's own")
    normalise: Literal["own", "imagenet", "none"] = Field(
        "own", description="pixel mean and std: the backbone's own, ImageNet's, or none (pixels from 0 to 1)"
    )
    channels: Literal["summed", "learned"] = Field(
        "summed",
        description="how images of data.channels=N channels enter the patch embedding: summed: its filters are "
        "repeated over the channels and scaled by 3/N, as by timm's in_chans; learned: by a 1x1 convolution to three "
        "channels that starts so, is trained, and is stored with the prompt",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of random weights (pretrained=false)")
    dtype: Literal["fp32", "bf16", "int8", "nf4"] = Field(
        "fp32",
        description="storage type of the frozen weights: bf16 takes half the memory, int8 a quarter, nf4 an eighth "
        "(both by torchao); trainable parameters are float32",
    )
