"""ViaPT against its definition, with prompts that are really in the sequence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.helpers.concatenation_twin import _embed, _layer, _pool, _rope_of, twin_features
from tests.helpers.tensors import close, images_for
from tests.helpers.vit_families import build_backbone
from vpt.backbones.backbone import Backbone
from vpt.backbones.liveness import plan
from vpt.config import ViaptPrompt
from vpt.prompts.base import Shape
from vpt.prompts.init.initialize import start
from vpt.prompts.registry import build_tokens
from vpt.prompts.visual.viapt import InstancePrompts, principal


def built(backbone: Backbone, **words: object) -> InstancePrompts:
    torch.manual_seed(3)
    config = ViaptPrompt(**{"tokens": 3, "instance_tokens": 2, "width": 6, **words})
    prompt = build_tokens(config, Shape.of(backbone.require_tower("prompts")))
    assert isinstance(prompt, InstancePrompts)
    start(prompt, config, backbone, [images_for(backbone, 5)], 0)
    return prompt.eval()


def features(backbone: Backbone, prompt: InstancePrompts, images: Tensor) -> Tensor:
    tower = backbone.require_tower("prompts")
    steps = plan(len(tower.blocks), prompt.inserted, prompt.after, backbone.reads("native"))
    return backbone.features(images, steps, "native", prompt.layers(tower, steps, len(images)))


def gaussian(prompt: InstancePrompts, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of one image's tokens: the convolutions patch by patch."""
    first, second = prompt.encoder[0], prompt.encoder[2]
    height, width = prompt.shape.grid
    gelu = torch.nn.functional.gelu
    hidden = [gelu(first.weight[:, :, 0, 0] @ patch + first.bias) for patch in patches]
    total = torch.zeros(len(second.bias))
    for y in range(height):
        for x in range(width):
            out = second.bias
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if 0 <= y + dy < height and 0 <= x + dx < width:
                        out = out + second.weight[:, :, dy + 1, dx + 1] @ hidden[(y + dy) * width + x + dx]
            total = total + gelu(out) / (height * width)
    found = prompt.gaussian.weight @ total + prompt.gaussian.bias
    channels = len(found) // 2
    return found[:channels], torch.exp(found[channels:].clamp(-5, 2))


def twin(backbone: Backbone, images: Tensor, prompt: InstancePrompts) -> Tensor:
    rows, rotary, layers, prefix = _embed(backbone.net, images)
    prompts = []
    for image in rows:
        mean, deviation = gaussian(prompt, image[prefix:])
        prompts.append(torch.stack([*(mean + deviation * draw for draw in prompt.noise), *prompt.tokens]))
    entering = torch.stack(prompts)
    for index, layer in enumerate(layers):
        if index:
            scores = torch.stack([(entering - prompt.centre) @ axis for axis in prompt.basis.T], dim=2)
            entering = torch.cat([scores, prompt.tail.expand(len(rows), -1, -1)], dim=2)
        whole = torch.cat([rows[:, :prefix], entering, rows[:, prefix:]], dim=1)
        count = prefix + entering.shape[1]
        out = _layer(layer, whole, _rope_of(backbone.net, rotary, index), count)
        entering, rows = out[:, prefix:count], torch.cat([out[:, :prefix], out[:, count:]], dim=1)
    return _pool(backbone.net, backbone.net, rows, None, prefix, "native")


@pytest.mark.parametrize("family", ["vit", "vit-avg", "dinov2-registers", "dinov3", "clip"])
def test_method_equals_its_definition(family: str):
    backbone = build_backbone(family)
    prompt = built(backbone, kept=0.25)
    images = images_for(backbone).requires_grad_()
    mine, theirs = features(backbone, prompt, images), twin(backbone, images, prompt)
    close(mine, theirs, "the output")
    weight = torch.randn(mine.shape, generator=torch.Generator().manual_seed(2))
    wanted = [images, *prompt.parameters()]
    names = ["images", *(name for name, _ in prompt.named_parameters())]
    found = (torch.autograd.grad((each * weight).sum(), wanted) for each in (mine, theirs))
    for name, one, other in zip(names, *found, strict=True):
        close(one, other, f"the gradient of {name}")


def test_its_ends_are_shallow_prompts_and_the_same_prompts_in_all_layers():
    backbone = build_backbone("vit")
    images = images_for(backbone)
    rows, _ = backbone.require_tower("prompts").embed(images)
    for kept, inserted in ((1.0, {0: 0}), (0.0, {0: 0, 1: 1, 2: 1, 3: 1})):
        prompt = built(backbone, kept=kept)
        sets = [prompt.entering(rows).detach(), prompt.tail.detach()[None]]
        close(features(backbone, prompt, images), twin_features(backbone, images, sets, inserted, "carry"))
        assert not hasattr(prompt, "basis")


def test_a_prediction_does_not_depend_on_its_batch_and_training_draws_anew():
    backbone = build_backbone("vit")
    prompt, images = built(backbone), images_for(backbone, 4)
    close(features(backbone, prompt, images)[1:2], features(backbone, prompt, images[1:2]))
    rows, _ = backbone.require_tower("prompts").embed(images[[0, 0]])
    tokens = prompt.train().entering(rows)
    assert not torch.equal(tokens[0, :2], tokens[1, :2])
    assert torch.equal(tokens[0, 2:], tokens[1, 2:])


def test_components_are_those_of_a_decomposition_of_the_tokens():
    torch.manual_seed(0)
    rows = torch.randn(200, 6) * torch.arange(1.0, 7.0) + 3
    mine, (_, _, theirs) = principal(rows, 3), torch.linalg.svd(rows - rows.mean(0))
    close((mine * theirs[:3].T).sum(0).abs(), torch.ones(3))
    assert (mine.gather(0, mine.abs().argmax(0, keepdim=True)) > 0).all()
    backbone = build_backbone("vit")
    prompt = built(backbone)
    entering = backbone.entering(images_for(backbone, 5), [1, 2, 3])
    tokens = torch.cat([each.flatten(0, 1) for each in entering.values()])
    close(prompt.centre, tokens.mean(0))
    close(prompt.basis, principal(tokens, 24))


def test_parameters_are_counted_as_in_the_released_code():
    shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    prompt = build_tokens(ViaptPrompt(), shape)
    encoder = 196_864 + 590_080 + 394_752
    assert sum(parameter.numel() for parameter in prompt.parameters()) == encoder + 4 * 768 + 8 * 384
