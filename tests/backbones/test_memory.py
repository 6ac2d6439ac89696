"""Less memory for the same result: recomputed layers, weights held in fewer bits, a backbone dealt out."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

import vpt
from tests.helpers.torchrun import WORDS
from vpt.backbones.factory import load_backbone
from vpt.backbones.parallel.activation_checkpoint import Recomputed
from vpt.backbones.quantization.linear import LowPrecisionLinear, plain_parts, reduce_precision
from vpt.backbones.quantization.nf4 import BLOCK, is_packed, packed_linear, packer
from vpt.config import BackboneConfig, load_config
from vpt.models.classifier import PromptedModel, backbone_for, build_model
from vpt.training.memory_estimate import estimate
from vpt.training.parallelize import prepare_for_training
from vpt.utils.console import Console

PROMPTS = ["deep", "shallow", "vapt", "cvpt", "e2vpt", "gated", "sa2vp"]


def model_of(*words: str) -> PromptedModel:
    config = load_config(overrides=["backbone=vpt_nano", "prompt.tokens=3", *words])
    model = build_model(config, backbone_for(config), ["cat", "dog", "owl"])
    prepare_for_training(model, config.train, torch.device("cpu"))
    return model.eval()


def images(count: int = 3) -> Tensor:
    drawn = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=drawn)


def passed(model: PromptedModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradients of their squares."""
    out = model(images())
    out.square().sum().backward()
    return out.detach(), {name: value.grad for name, _, value in model.trainable() if value.grad is not None}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_recomputed_layers_give_the_same(prompt: str):
    plain, spared = (passed(model_of(f"prompt={prompt}", *more)) for more in ([], ["train.recompute=true"]))
    torch.testing.assert_close(spared[0], plain[0], rtol=0, atol=0)
    assert spared[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        torch.testing.assert_close(spared[1][name], gradient, rtol=0, atol=0, msg=name)


def test_recomputed_layers_keep_a_tenth_and_the_budget_knows():
    def activations(*more: str) -> int:
        model = model_of(*more)
        found = estimate(model, 2, 8, lambda count: model(images(count)).sum(), torch.enable_grad)
        return found.activations

    assert 0 < activations("train.recompute=true") < 0.15 * activations()


def unpacked(weight: Tensor) -> Tensor:
    """The numbers that a weight stands for."""
    if not is_packed(weight):
        return (weight.dequantize() if hasattr(weight, "dequantize") else weight).detach().float()
    packed: Any = weight
    scales = packed.quantized_scalers.float().view(len(packed.quantization_factor), -1)
    scales = (scales / packed.quantization_factor.float()[:, None]).flatten() + packed.scaler_mean.float()
    places = torch.stack([packed.quantized_data >> 4, packed.quantized_data & 15], 1).flatten()
    numbers = packed.nf4[places.long()].float().view(-1, BLOCK) * scales[:, None]
    return numbers.view(weight.shape)


def rounded(model: PromptedModel) -> None:
    """The slow twin of held weights: ordinary layers with the values that are held."""
    for module in model.backbone.modules():
        for name, layer in list(module.named_children()):
            if isinstance(layer, LowPrecisionLinear):
                plain = nn.Linear(layer.in_features, layer.out_features)
                plain.weight.data, plain.bias.data = unpacked(layer.weight), layer.bias.detach()
                setattr(module, name, plain.requires_grad_(False))
    model.backbone.tower = model.backbone._read()


@pytest.mark.parametrize("dtype", ["bf16", "int8", "nf4"])
@pytest.mark.parametrize("more", [[], ["tuning=bias"]], ids=["deep", "bias"])
def test_held_weights_compute_as_what_they_are_rounded_to(dtype: str, more: list[str]):
    if dtype != "bf16":
        pytest.importorskip("torchao")
    held, twin = (model_of(f"backbone.dtype={dtype}", *more) for _ in range(2))
    rounded(twin)
    if more:
        for name, value in twin.backbone.named_parameters():
            value.requires_grad_(name.endswith("bias"))
    assert {value.dtype for _, _, value in held.trainable()} == {torch.float32}
    out, gradients = passed(held)
    wanted, others = passed(twin)
    # bfloat16 has three digits.
    assert (out - wanted).norm() < 0.02 * wanted.norm()
    with torch.inference_mode():
        assert (held(images()) - out).norm() < 1e-5 * out.norm()
    for name, gradient in others.items():
        assert (gradients[name] - gradient).norm() < 0.03 * gradient.norm(), name


def test_held_weights_take_a_half_a_quarter_and_an_eighth():
    pytest.importorskip("torchao")

    def size(dtype: str) -> int:
        net = load_backbone(BackboneConfig(dtype=dtype)).net  # type: ignore[arg-type]
        return sum(part.numel() * part.element_size() for value in net.parameters() for part in plain_parts(value))

    whole = size("fp32")
    assert 0.5 < size("bf16") / whole < 0.55
    assert 0.25 < size("int8") / whole < 0.31
    assert 0.12 < size("nf4") / whole < 0.18


def test_four_bits_keep_the_order_of_weights_and_leave_what_is_odd():
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 5), nn.Linear(64, 64))
    nn.init.zeros_(net[2].weight)  # a block of zeros has no scale
    before = net[0].weight.detach().clone()
    reduce_precision(net, "nf4", "toy")
    assert [is_packed(layer.weight) for layer in net] == [True, False, False]
    after = unpacked(net[0].weight)
    # The widest step of NF4 is 0.3 of a block's largest weight.
    largest = before.reshape(-1, BLOCK).abs().amax(1, keepdim=True)
    assert ((after - before).reshape(-1, BLOCK).abs() <= 0.16 * largest).all()
    torch.testing.assert_close(after, net[0].weight.get_original_weight().float(), rtol=0.02, atol=1e-3)


def test_a_span_of_packed_outputs_and_its_gradient():
    pytest.importorskip("torchao")
    weight = packer()(torch.randn(96, 64, generator=torch.Generator().manual_seed(0)))
    plain = unpacked(weight)[32:].to(torch.bfloat16)
    rows = torch.randn(2, 5, 64, dtype=torch.bfloat16, requires_grad=True)
    bias = torch.randn(64, dtype=torch.bfloat16, requires_grad=True)
    packed_linear(rows, weight, bias, slice(32, 96)).square().sum().backward()
    mine = rows.grad, bias.grad
    rows.grad = bias.grad = None
    nn.functional.linear(rows, plain, bias).square().sum().backward()
    for one, other in zip(mine, (rows.grad, bias.grad), strict=True):
        assert one is not None
        assert other is not None
        assert (one - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize("name", ["open_clip:ViT-B-32", "eva02_tiny_patch14_224", "vit_tiny_patch16_224"])
def test_every_family_is_held_and_prompted(name: str):
    if name.startswith("open_clip"):
        pytest.importorskip("open_clip")
    words = [f"backbone={name}", "backbone.pretrained=false", "prompt.tokens=2"]
    outs = []
    for dtype in ("fp32", "bf16"):
        config = load_config(overrides=[*words, f"backbone.dtype={dtype}"])
        model = build_model(config, backbone_for(config), ["cat", "dog"]).eval()
        size = model.image_size
        with torch.inference_mode():
            outs.append(model.features(torch.full((1, 3, size, size), 90, dtype=torch.uint8)))
    assert (outs[0] - outs[1]).norm() < 0.03 * outs[0].norm()


def test_a_network_without_linear_layers_is_refused():
    with pytest.raises(vpt.UserError, match=r"no linear layers to convert to bf16; remove backbone\.dtype"):
        reduce_precision(nn.Sequential(nn.Conv2d(3, 3, 1)), "bf16", "toy")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tuning=full", "backbone.dtype=bf16"], "set backbone.dtype=fp32"),
        (["tuning=lora", "backbone.dtype=int8"], "set backbone.dtype=bf16"),
        (["tuning=lora", "backbone.dtype=nf4"], "set backbone.dtype=bf16"),
        (["tuning=full", "train.shard=true"], "shards frozen weights"),
        (["prompt=cocoop", "head=zeroshot", "train.shard=true"], "depend on the number of images"),
    ],
)
def test_what_does_not_go_together_is_said_at_once(words: list[str], said: str):
    with pytest.raises(vpt.UserError, match=said):
        load_config(overrides=words)


@pytest.mark.parametrize("dtype", ["bf16", "nf4"])
def test_a_run_with_held_weights_loads_and_fits_the_backbone_in_float32(tmp_path: Path, dtype: str):
    if dtype == "nf4":
        pytest.importorskip("torchao")
    words = [*WORDS, f"backbone.dtype={dtype}", "train.epochs=1", "train.recompute=true", f"out={tmp_path}"]
    run = vpt.train(load_config(overrides=words), Console(quiet=True))
    picture = np.full((64, 64, 3), 120, dtype=np.uint8)
    held, whole = (vpt.load(run.artifact, dtype=other).predict(picture)[0] for other in (None, "fp32"))  # type: ignore[arg-type]
    assert abs(held.score - whole.score) < 0.03
    assert isinstance(vpt.load(run.artifact).model.backbone.tower.blocks[0].mlp.fc1, LowPrecisionLinear)


def test_the_budget_leaves_no_pass_behind():
    """A pass that is kept holds its activations, and keeps a GPU from recording the next one."""
    model = model_of("prompt=deep", "prompt.dropout=0.1")
    parameters = [parameter for _, _, parameter in model.trainable()]

    def trial(count: int) -> Tensor:
        out = model(images(count)).logsumexp(1).sum()
        for parameter in parameters:
            get_gradient_edge(parameter).node.metadata["of the trial"] = True
        return out

    estimate(model, 2, 8, trial, torch.enable_grad)
    gc.collect()
    assert not any("of the trial" in get_gradient_edge(parameter).node.metadata for parameter in parameters)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("more", [[], ["train.recompute=true"]])
def test_a_compiled_backbone_gives_the_same(more: list[str]):
    config = load_config(
        overrides=["backbone=vit_tiny_patch16_224", "backbone.pretrained=false", "prompt.tokens=2", *more]
    )
    outs = []
    for mode in ("none", "default"):
        small = config.model_copy(update={"backbone": config.backbone.model_copy(update={"image_size": 32})})
        backbone = backbone_for(small)
        backbone.net.blocks = backbone.net.blocks[:2]
        backbone.tower = backbone._read()
        model = build_model(small, backbone, ["cat", "dog"]).eval()
        prepare_for_training(model, config.train.model_copy(update={"compile": mode}), torch.device("cpu"))
        out = model(images()[:, :, :32, :32])
        out.square().sum().backward()
        outs.append((out.detach(), [value.grad for _, _, value in model.trainable()]))
    torch.testing.assert_close(outs[0][0], outs[1][0], rtol=1e-4, atol=1e-5)
    for first, second in zip(outs[0][1], outs[1][1], strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)


def test_views_are_not_stacked():
    model = model_of("train.recompute=true")
    before = model.backbone.tower.blocks[0]
    model.backbone.with_blocks(Recomputed.of)
    assert model.backbone.tower.blocks[0] == before
