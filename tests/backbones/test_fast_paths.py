"""What a GPU computes another way equals the plain way: heads cut at once, patches as a product, rounded weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.vit_families import BUILDERS, build_backbone
from vpt.backbones.block import KeyValue, join
from vpt.backbones.kernels import patch_matmul, split_heads
from vpt.backbones.kernels.patch_matmul import is_patchwise
from vpt.backbones.liveness import plan
from vpt.backbones.quantization.linear import LowPrecisionLinear, round_frozen
from vpt.config import DeepPrompt, ShallowPrompt, load_config
from vpt.models.classifier import backbone_for, build_model
from vpt.prompts.base import Shape
from vpt.prompts.registry import build_tokens
from vpt.training.parallelize import prepare_for_training

CPU = torch.device("cpu")


def plainly(packed: Tensor, parts: int, heads: int, prefix: KeyValue | None) -> tuple[Tensor, ...]:
    """Split, turn, concatenate."""
    cut = [one.unflatten(-1, (heads, -1)).transpose(1, 2) for one in packed.chunk(parts, dim=-1)]
    if prefix is not None:
        cut[-2:] = join(prefix, KeyValue(*cut[-2:]))
    return tuple(cut)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("batch", [None, 1, 4])
@pytest.mark.parametrize(("parts", "width"), [(3, 24), (2, 24), (3, 18)])  # 18: heads of an odd width
def test_heads_are_cut_as_by_split_and_cat(dtype: torch.dtype, batch: int | None, parts: int, width: int):
    torch.manual_seed(0)
    packed = torch.randn(4, 5, parts * width, dtype=dtype, requires_grad=True)
    prefix = None
    if batch is not None:
        prefix = KeyValue(*(torch.randn(batch, 2, 3, width // 2, dtype=dtype, requires_grad=True) for _ in "kv"))
    theirs = plainly(packed, parts, 2, prefix)
    mine = split_heads.cut_heads(packed, parts, 2, *(prefix or (None, None)))
    with torch.no_grad():
        still = split_heads.cut_heads(packed, parts, 2, *(prefix or (None, None)))
    inputs = [packed, *(prefix or ())]
    pulls = [torch.randn_like(one) for one in theirs]
    wanted = torch.autograd.grad(theirs, inputs, pulls)
    found = torch.autograd.grad(mine, inputs, pulls)
    for pair in (*zip(mine, theirs, strict=True), *zip(still, theirs, strict=True), *zip(found, wanted, strict=True)):
        torch.testing.assert_close(*pair, rtol=0, atol=1e-12 if dtype is torch.float64 else 1e-2)
        assert dtype is torch.bfloat16 or torch.allclose(*pair, rtol=0, atol=1e-6)


def test_what_nobody_reads_has_no_gradient():
    packed = torch.randn(2, 3, 24, requires_grad=True)
    key, value = (torch.randn(1, 2, 3, 4) for _ in "kv")
    query, _, values = split_heads.cut_heads(packed, 3, 2, key, value)
    (found,) = torch.autograd.grad(query.sum() + 2 * values.sum(), packed)
    assert torch.equal(found, torch.tensor([1.0, 0.0, 2.0]).repeat_interleave(8).expand(2, 3, 24))


@pytest.mark.parametrize("bias", [True, False])
def test_patches_are_those_of_the_convolution(bias: bool):
    layer = nn.Conv2d(3, 8, kernel_size=(4, 2), stride=(4, 2), bias=bias)
    assert is_patchwise(layer)
    images = torch.randn(2, 3, 12, 8)
    inputs = list(layer.parameters())
    wanted, found = layer(images).permute(0, 2, 3, 1), patch_matmul.patchify(layer, images)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    pull = torch.randn_like(wanted)
    pairs = zip(torch.autograd.grad(found, inputs, pull), torch.autograd.grad(wanted, inputs, pull), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert patch_matmul.patchify(layer, images).dtype is torch.bfloat16


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, kernel_size=4, stride=2),
        nn.Conv2d(3, 8, kernel_size=4, stride=4, padding=1),
        nn.Conv2d(4, 8, kernel_size=4, stride=4, groups=2),
        nn.Linear(3, 8),
    ],
)
def test_other_layers_are_not_taken_for_patches(layer: nn.Module):
    assert not is_patchwise(layer)


@pytest.mark.parametrize("config", [DeepPrompt(tokens=3), ShallowPrompt(tokens=3)], ids=["deep", "shallow"])
@pytest.mark.parametrize("family", list(BUILDERS))
def test_every_family_computes_the_same_that_way(
    family: str, config: DeepPrompt | ShallowPrompt, monkeypatch: pytest.MonkeyPatch
):
    backbone = build_backbone(family)
    tower = backbone.require_tower("token prompts")
    prompt = build_tokens(config, Shape.of(tower))
    size = backbone.preprocess.size
    images = torch.randn(2, 3, size, size, requires_grad=True)
    steps = plan(len(tower.blocks), prompt.inserted, prompt.after, backbone.reads("native"))
    learning = [images, *prompt.parameters()]

    def passed() -> tuple[Tensor, ...]:
        out = backbone.features(images, steps, "native", prompt.layers(tower, steps, 2))
        return (out, *torch.autograd.grad(out.square().sum(), learning), tower.patches(images))

    wanted = passed()
    seen = []
    monkeypatch.setattr(split_heads, "worthwhile", lambda rows: True)
    monkeypatch.setattr(patch_matmul, "worthwhile", lambda layer, images: seen.append(layer) or is_patchwise(layer))
    for found, other in zip(passed(), wanted, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-5 * float(other.detach().abs().max()))
    assert seen or family == "vit-hybrid"


@pytest.mark.parametrize("family", ["vit", "vit-qk-norm", "eva02", "dinov3", "clip", "clip-over-timm", "siglip"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_weights_change_no_bit_under_autocast(family: str, dtype: torch.dtype):
    backbone = build_backbone(family)
    rounded = copy.deepcopy(backbone)
    for block in rounded.all_blocks():
        round_frozen(block.layer, dtype)
    held = [module for module in rounded.modules() if isinstance(module, LowPrecisionLinear)]
    assert held
    assert all(module.weight.dtype is dtype for module in held)
    rows = [torch.randn(2, 7, 48), torch.randn(2, 7, 48)]
    for one in rows:
        one.requires_grad_(True)
    for number, (mine, theirs) in enumerate(zip(rounded.all_blocks(), backbone.all_blocks(), strict=True)):
        rows[1].data.copy_(rows[0])
        with torch.autocast("cpu", dtype):
            found, wanted = mine.forward(rows[0]), theirs.forward(rows[1])
        pull = torch.randn_like(wanted)
        assert torch.equal(found, wanted), number
        gradients = (torch.autograd.grad(out, row, pull)[0] for out, row in zip((found, wanted), rows, strict=True))
        assert torch.equal(*gradients), number


@pytest.mark.parametrize("words", [["prompt=deep"], ["prompt=deep", "tuning=bias"], ["tuning=full"], ["tuning=lora"]])
def test_only_what_is_frozen_is_rounded(words: list[str]):
    def model_of(precision: str):
        config = load_config(overrides=["backbone=vpt_nano", "prompt.tokens=3", *words])
        model = build_model(config, backbone_for(config), ["cat", "dog"])
        prepare_for_training(model, config.train, CPU, precision)
        return model.eval()

    plain, rounded = model_of("fp32"), model_of("bf16")
    assert all(parameter.dtype is torch.float32 for _, _, parameter in rounded.trainable())
    assert [name for name, _, _ in plain.trainable()] == [name for name, _, _ in rounded.trainable()]
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    found = []
    for model in (plain, rounded):
        with torch.autocast("cpu", torch.bfloat16):
            out = model(images)
        parameters = [parameter for _, _, parameter in model.trainable()]
        found.append((out, *torch.autograd.grad(out.square().sum(), parameters, allow_unused=True)))
    for mine, theirs in zip(*found, strict=True):
        assert (mine is None and theirs is None) or torch.equal(mine, theirs)
    out = rounded(images)  # without autocast it answers in full precision, computed from rounded weights
    assert out.dtype is torch.float32
    torch.testing.assert_close(out, plain(images), rtol=0.05, atol=0.05)
