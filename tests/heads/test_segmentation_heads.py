"""Segmentation heads against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vpt.config.heads_segmentation import FpnMaskHead, LinearMaskHead, MaskHead, QueryMaskHead
from vpt.utils.errors import UserError

GRIDS = [torch.randn(2, 48, 4, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
SECTIONS = [LinearMaskHead, FpnMaskHead, QueryMaskHead]


@pytest.mark.parametrize(("section", "scale"), list(zip(SECTIONS, [1, 4, 2], strict=True)))
def test_shapes_gradients_and_independence_of_the_batch(section: type[MaskHead], scale: int):
    torch.manual_seed(0)
    head = section(taps=[-2, -1]).build(48, 3)
    scores = head(GRIDS)
    assert scores.shape == (2, 3, 4 * scale, 5 * scale)
    scores.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in head.parameters())
    head.eval()
    alone = head([grid[:1] for grid in GRIDS])
    torch.testing.assert_close(head(GRIDS)[:1], alone)


def test_linear_is_batch_norm_and_a_matmul():
    head = LinearMaskHead(taps=[-2, -1]).build(48, 3)
    joined = torch.cat(GRIDS, 1)
    mean, variance = joined.mean((0, 2, 3)), joined.var((0, 2, 3), unbiased=False)
    normal = (joined.movedim(1, -1) - mean) / (variance + 1e-5).sqrt()
    weight, bias = head.classify.weight[:, :, 0, 0], head.classify.bias
    torch.testing.assert_close(head(GRIDS), (normal @ weight.T + bias).movedim(-1, 1), rtol=1e-4, atol=1e-5)


def test_query_scores_are_the_sum_of_class_times_mask_probabilities():
    head = QueryMaskHead(queries=7).build(48, 3).eval()
    classes, masks = head.predict(GRIDS[:1])
    wanted = torch.zeros(2, 3, 8, 10)
    for query in range(7):
        likely = classes[:, query].softmax(-1)
        for label in range(3):
            wanted[:, label] += likely[:, label, None, None] * masks[:, query].sigmoid()
    torch.testing.assert_close(head(GRIDS[:1]).exp(), wanted)
    torch.testing.assert_close(head(GRIDS[:1]).softmax(1), wanted / wanted.sum(1, keepdim=True))


def test_fpn_adds_its_levels_at_the_finest():
    head = FpnMaskHead(scales=[1.0, 2.0]).build(48, 3).eval()
    fine, coarse = head.pyramid(GRIDS[:1]).values()
    total = F.gelu(fine) + nn.Upsample(scale_factor=2, mode="bilinear")(F.gelu(coarse))
    torch.testing.assert_close(head(GRIDS[:1]), head.classify(total))


@pytest.mark.parametrize(
    ("section", "width", "most"),
    [(LinearMaskHead, 384, 60_000), (QueryMaskHead, 384, 1_000_000), (FpnMaskHead, 192, 500_000)],
)
def test_heads_are_small(section: type[MaskHead], width: int, most: int):
    assert sum(weight.numel() for weight in section().build(width, 150).parameters()) < most


def test_settings():
    assert LinearMaskHead(taps="-4,-1").taps == [-4, -1]  # type: ignore[arg-type]
    assert LinearMaskHead(loss="dice").loss == ["dice"]  # type: ignore[arg-type]
    for wrong in ({"loss": ["dice", "dice"]}, {"taps": [-1, -1]}, {"window": 3}, {"loss": ["lovasz"]}, {"taps": []}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LinearMaskHead(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"head.scales has 3; known: 4.0, 2.0"):
        FpnMaskHead(scales=[3.0]).build(48, 3)
