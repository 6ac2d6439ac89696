"""Backbones at other image sizes than their own: the same features however the size came about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from test_parity import close
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vpt.backbones.backbone import Backbone
from vpt.backbones.factory import load_backbone
from vpt.backbones.pos_embed import fit_size
from vpt.config import BackboneConfig, load_config
from vpt.models.classifier import plan_for
from vpt.models.detection.detector import dynamic_backbone
from vpt.utils.errors import UserError

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
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
    with pytest.raises(UserError, match=r"image_size=30 is no multiple of .* patch of 8 pixels; use 24 or 32"):
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
