"""Attention maps against hooks on the library's own attention, with the prompts really in the sequence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.helpers.vit_families import build_backbone
from vpt.backbones.backbone import Backbone
from vpt.backbones.block import KeyValue
from vpt.backbones.forward import execute
from vpt.config import DeepPrompt, LinearHead, ShallowPrompt
from vpt.heads.linear import build_linear
from vpt.models.attention_maps import as_heat, attention_of, require_attention
from vpt.models.classifier import PromptedModel
from vpt.prompts.base import Shape
from vpt.prompts.registry import build_tokens
from vpt.utils.errors import UserError

IMAGES = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def built(family: str, config: object) -> PromptedModel:
    backbone: Backbone = build_backbone(family)
    torch.manual_seed(0)
    prompt = build_tokens(config, Shape.of(backbone.require_tower("prompts")))
    with torch.no_grad():
        for parameter in prompt.parameters():
            parameter.add_(torch.randn_like(parameter))
    return PromptedModel(backbone, prompt, build_linear(LinearHead(), 48, 3)).eval()


@pytest.mark.parametrize(
    "config", [DeepPrompt(tokens=3), ShallowPrompt(tokens=3), DeepPrompt(tokens=3, layers="last:2")]
)
@pytest.mark.parametrize("family", ["vit", "dinov2-registers"])
def test_maps_equal_the_softmax_of_the_concatenated_sequence(family: str, config: object):
    model = built(family, config)
    found = attention_of(model, IMAGES)
    net, prefix = model.backbone.net, model.backbone.tower.prefix
    rows = net.norm_pre(net._pos_embed(net.patch_embed(model.normalise(IMAGES))))
    held, seen = 0, []
    for index, layer in enumerate(net.blocks):
        if index in model.prompt.inserted:
            tokens = model.prompt.tokens[model.prompt.inserted[index]].expand(2, -1, -1)
            rows = torch.cat([rows[:, :prefix], tokens, rows[:, prefix + held :]], dim=1)
            held = 3
        attention = layer.attn
        query, key, _ = attention.qkv(layer.norm1(rows)).chunk(3, dim=-1)
        query, key = (part.unflatten(-1, (3, 16)).transpose(1, 2) for part in (query, key))
        weights = (query @ key.transpose(-2, -1) / 4).softmax(-1).mean(1)
        patches = slice(prefix + held, None)
        seen.append((weights[:, 0, patches], weights[:, patches, prefix : prefix + held].sum(-1)))
        rows = layer(rows)
    for image, maps in enumerate(found):
        for index, (cls, prompts) in enumerate(seen):
            torch.testing.assert_close(maps.cls[index].flatten(), cls[image], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(maps.prompts[index].flatten(), prompts[image], atol=1e-5, rtol=1e-4)


def test_rollout_is_a_share_of_the_image():
    """Half attention, half skip, layer by layer; what reaches the patches and the prefix sums to one."""
    model = built("vit", DeepPrompt(tokens=2))
    for maps in attention_of(model, IMAGES):
        assert (maps.rollout >= 0).all()
        assert 0.5 < float(maps.rollout.sum()) <= 1.0 + 1e-5


def test_without_prompts_nothing_goes_to_them():
    backbone = build_backbone("vit")
    model = PromptedModel(backbone, None, build_linear(LinearHead(), 48, 3)).eval()
    assert all((maps.prompts == 0).all() for maps in attention_of(model, IMAGES))


def test_networks_without_a_sequence_are_refused():
    from vpt.config import load_config
    from vpt.models.classifier import backbone_for, build_model

    words = ["backbone=resnet10t", "backbone.pretrained=false", "backbone.image_size=32", "prompt=none"]
    config = load_config(overrides=words)
    with pytest.raises(UserError, match="only for classifiers on a vision transformer"):
        require_attention(build_model(config, backbone_for(config), "ab"))


def test_heat_is_brought_to_its_own_range():
    heat = as_heat(Tensor([[2.0, 4.0], [3.0, 2.0]]))
    assert heat.min() == 0
    assert heat.max() == 1
    assert as_heat(torch.ones(2, 2)).max() == 0


@pytest.mark.parametrize("family", ["vit", "dinov2-registers"])
def test_looking_changes_nothing(family: str):
    """The executor with an observer gives the rows it gives without one, and shows it every layer once."""
    model = built(family, DeepPrompt(tokens=3))
    tower = model.backbone.require_tower("rows")
    rows, rotary = tower.embed(model.normalise(IMAGES))
    seen: list[tuple[int, int]] = []

    def look(layer: int, entering: Tensor, extra: KeyValue | None, held: int) -> None:
        seen.append((layer, held + (0 if extra is None else extra.key.shape[2])))

    run = (tower, model.steps, rows, rotary, model.constants(), 1)
    torch.testing.assert_close(execute(*run, look=look)[0], execute(*run)[0], atol=0, rtol=0)
    assert seen == [(layer, 3) for layer in range(len(tower.blocks))]
