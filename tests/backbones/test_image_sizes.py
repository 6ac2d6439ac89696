"""Backbones at other image sizes than their own: the same features however the size came about."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tests.helpers.registered_nets import TOWERS, register
from tests.helpers.tensors import close
from vpt.backbones.backbone import Backbone
from vpt.backbones.factory import load_backbone
from vpt.backbones.pos_embed import fit_size
from vpt.config import BackboneConfig, load_config
from vpt.models.classifier import plan_for
from vpt.models.detection.detector import dynamic_backbone
from vpt.utils.errors import UserError


def images(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def features(backbone: Backbone, size: int) -> Tensor:
    return backbone.features(images(size), plan_for(backbone, None, "native"))


@pytest.mark.parametrize(
    ("kind", "size", "any_size"),
    [
        ("transformer", 48, True),
        ("timm", 64, True),
        ("timm-rotary", 56, True),
        ("timm-convolutional", 96, True),
        ("resnet", 96, False),
    ],
)
def test_open_clip_towers_at_another_size(tmp_path: Path, kind: str, size: int, any_size: bool):
    """From a file of weights, which fit at the native size; fixed at a size or open to any, and in whatever order."""
    name, weights = register(tmp_path, kind)
    native, fixed = (
        load_backbone(BackboneConfig(name=name, weights=weights, image_size=side)) for side in (None, size)
    )
    assert native.preprocess.size == TOWERS[kind]["image_size"]
    assert fixed.preprocess.size == size
    for side in (None, size):
        dynamic = load_backbone(BackboneConfig(name=name, weights=weights, image_size=side), dynamic=True)
        assert dynamic.any_size == any_size
        if any_size or side is None:
            close(features(dynamic, native.preprocess.size), features(native, native.preprocess.size))
        if any_size or side == size:
            close(features(dynamic, size), features(fixed, size))


def test_clips_positions_are_resampled_as_open_clip_does(tmp_path: Path):
    name, weights = register(tmp_path, "transformer")
    clip = open_clip.create_model(name.removeprefix("open_clip:"), force_image_size=48).eval()
    state = load_file(weights)
    open_clip.model.resize_pos_embed(state, clip)
    clip.load_state_dict(state)
    found = load_backbone(BackboneConfig(name=name, weights=weights, image_size=48))
    close(found.net(images(48)), clip.visual(images(48)))


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_size_that_the_patch_does_not_divide_is_refused(tmp_path: Path, dynamic: bool):
    name, weights = register(tmp_path, "transformer")
    with pytest.raises(UserError, match=r"image_size=30 is not a multiple of .* patch size of 8 pixels; use 24 or 32"):
        load_backbone(BackboneConfig(name=name, weights=weights, image_size=30), dynamic=dynamic)


def test_a_transformer_whose_own_size_is_no_multiple_of_its_patch_keeps_to_it():
    net = timm.create_model("vit_tiny_patch16_224", img_size=40, depth=1, num_classes=0)
    assert not fit_size(net, 40, 40, dynamic=True, name="vit")
    assert net(torch.zeros(1, 3, 40, 40)).shape == (1, 192)
    config = load_config(overrides=["task=detection", "backbone=vit_tiny_patch16_224", "backbone.pretrained=false"])
    with pytest.MonkeyPatch.context() as patched, pytest.raises(UserError, match="does not divide its own size"):
        patched.setattr("vpt.backbones.factory.fit_size", lambda *words, **named: False)
        dynamic_backbone(config)


def test_no_version_of_timm_makes_the_positions_learn(monkeypatch: pytest.MonkeyPatch):
    usual = VisionTransformer.set_input_size

    def learning(self: VisionTransformer, *args: object, **kwargs: object) -> None:
        usual(self, *args, **kwargs)
        self.pos_embed = torch.nn.Parameter(self.pos_embed.detach().clone())  # as timm 1.0.29 does

    monkeypatch.setattr(VisionTransformer, "set_input_size", learning)
    config = BackboneConfig(name="vit_tiny_patch16_224", pretrained=False, image_size=64)
    assert not any(parameter.requires_grad for parameter in load_backbone(config).parameters())
