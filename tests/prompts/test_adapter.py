"""Adapters against their definition, token by token; and a start that can learn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.helpers.concatenation_twin import _embed, _pool
from tests.helpers.method_twins import _attended, _heads, _parts
from tests.helpers.tensors import close, images_for
from tests.helpers.vit_families import build_backbone
from vpt.backbones.backbone import Backbone
from vpt.backbones.liveness import plan
from vpt.config import AdapterPrompt
from vpt.prompts.base import Shape
from vpt.prompts.registry import build_tokens
from vpt.prompts.visual.adapter import AdapterPrompts


def twin(backbone: Backbone, images: Tensor, prompt: AdapterPrompts, place: str, scale: float) -> Tensor:
    rows, _, layers, prefix = _embed(backbone.net, images)
    for index, layer in enumerate(layers):
        parts = _parts(layer)
        query, key, value = (_heads(part, parts["heads"]) for part in parts["qkv"](parts["norm1"](rows)))
        rows = rows + parts["scale1"](parts["out"](_attended(parts["q_norm"](query), parts["k_norm"](key), value, 1.0)))
        outputs = []
        for row in rows.flatten(0, 1):
            inner = parts["scale2"](parts["mlp"](parts["norm2"](row[None])))[0]
            read = row if place == "beside" else inner
            hidden = sum(read[c] * prompt.down[index, c] for c in range(len(row))) + prompt.down_bias[index]
            hidden = torch.relu(hidden) if place == "beside" else F.gelu(hidden)
            added = sum(hidden[r] * prompt.up[index, r] for r in range(len(hidden))) + prompt.up_bias[index]
            outputs.append(row + inner + scale * added)
        rows = torch.stack(outputs).view_as(rows)
    return _pool(backbone.net, backbone.net, rows, None, prefix, "native")


@pytest.mark.parametrize("family", ["vit", "dinov2-registers", "clip"])
@pytest.mark.parametrize(("place", "scale"), [("beside", 0.1), ("after", 1.0)])
def test_method_equals_its_definition(family: str, place: str, scale: float):
    backbone = build_backbone(family)
    tower = backbone.require_tower("prompts")
    torch.manual_seed(3)
    prompt = build_tokens(AdapterPrompt(rank=3, place=place), Shape.of(tower)).eval()
    steps = plan(len(tower.blocks), prompt.inserted, prompt.after, backbone.reads("native"))
    images = images_for(backbone)

    def mine() -> Tensor:
        return backbone.features(images, steps, "native", prompt.layers(tower, steps, len(images)))

    assert torch.equal(mine(), backbone.features(images, steps))  # it starts from the frozen backbone
    gradients = dict(zip(("down", "up"), torch.autograd.grad(mine().sum(), [prompt.down, prompt.up]), strict=True))
    assert gradients["up"].abs().sum() > 0
    assert gradients["down"].abs().sum() == 0  # from the second step on
    with torch.no_grad():
        for parameter in prompt.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    out, theirs = mine(), twin(backbone, images, prompt, place, scale)
    close(out, theirs)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    wanted = list(prompt.parameters())
    for one, other in zip(*(torch.autograd.grad((each * weight).sum(), wanted) for each in (out, theirs)), strict=True):
        close(one, other, "the gradient")


@pytest.mark.parametrize(("rank", "count"), [(64, 1_189_632), (8, 156_768)])
def test_parameters_are_counted_as_in_the_paper(rank: int, count: int):
    shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    prompt = build_tokens(AdapterPrompt(rank=rank), shape)
    assert sum(parameter.numel() for parameter in prompt.parameters()) == count


def test_dropout_is_for_training():
    backbone = build_backbone("vit")
    tower = backbone.require_tower("prompts")
    prompt = build_tokens(AdapterPrompt(rank=4, dropout=0.5), Shape.of(tower))
    steps = plan(len(tower.blocks), {}, "drop", backbone.reads("native"))
    with torch.no_grad():
        prompt.up.normal_()
        outs = [
            backbone.features(images_for(backbone), steps, "native", prompt.train(mode).layers(tower, steps, 2))
            for mode in (True, True, False, False)
        ]
    assert not torch.equal(outs[0], outs[1])
    assert torch.equal(outs[2], outs[3])
