"""Images to compute on, and how close tensors must be."""

from __future__ import annotations

import torch

from vpt.backbones.backbone import Backbone


def close(mine: torch.Tensor, theirs: torch.Tensor, what: str = "") -> None:
    """Equal within 1e-5 of the largest value, float32."""
    error = (mine - theirs).abs().max() / theirs.abs().max()
    assert mine.shape == theirs.shape
    assert error < 1e-5, f"{what} differs by {float(error):.1e} of its largest value"


def images_for(backbone: Backbone, count: int = 2) -> torch.Tensor:
    size = backbone.preprocess.size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
