"""SHIP against its definition: two softmaxes, tokens carried in lists, one image at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import vpt
from tests.helpers.concatenation_twin import _embed, _pool
from tests.helpers.method_twins import _heads, _parts
from tests.helpers.runs import QUIET, settings
from tests.helpers.tensors import close, images_for
from tests.helpers.vit_families import build_backbone
from vpt.backbones.backbone import Backbone
from vpt.backbones.liveness import plan
from vpt.config import ShipPrompt, load_config
from vpt.models.artifact import read_artifact
from vpt.prompts.base import Shape
from vpt.prompts.init.initialize import start
from vpt.prompts.registry import build_tokens
from vpt.prompts.visual.ship import HierarchicalPrompts, level_starts
from vpt.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("small_net")


def built(backbone: Backbone, starts: list[int], **words: object) -> HierarchicalPrompts:
    torch.manual_seed(3)
    words = {"tokens": 3, "shared_tokens": 2, "attribute_tokens": 4, "centres": 5, "weight": 2.0, **words}
    prompt = build_tokens(ShipPrompt(**words), Shape.of(backbone.require_tower("prompts")))
    assert isinstance(prompt, HierarchicalPrompts)
    prompt.starts.zero_()[starts] = 1
    prompt.centres.normal_()
    return prompt


def features(backbone: Backbone, prompt: HierarchicalPrompts, images: Tensor) -> Tensor:
    tower = backbone.require_tower("prompts")
    steps = plan(len(tower.blocks), prompt.inserted, prompt.after, backbone.reads("native"))
    return backbone.features(images, steps, "native", prompt.layers(tower, steps, len(images)))


def cosine(one: Tensor, other: Tensor) -> Tensor:
    return one @ other / (one.norm() * other.norm())


def twin(backbone: Backbone, images: Tensor, prompt: HierarchicalPrompts) -> tuple[Tensor, Tensor]:
    """Features and the matching loss."""
    rows, _, layers, prefix = _embed(backbone.net, images)
    config, starts = prompt.config, [n for n, each in enumerate(prompt.starts) if each]
    outputs, distances = [], []
    for image in rows:
        tokens: list[Tensor] = []
        scores = torch.zeros(0)
        for index, layer in enumerate(layers):
            parts = _parts(layer)
            if index in starts:
                tokens = list(prompt.tokens[index])
            if index in [each for each in starts[-2:] if each]:
                number = [each for each in starts[-2:] if each].index(index)
                for at, best in enumerate(scores.topk(config.attribute_tokens).indices):
                    share = torch.stack([cosine(image[best], centre) for centre in prompt.centres]).softmax(0)
                    mean = sum(one * centre for one, centre in zip(share, prompt.centres, strict=True))
                    tokens.append(0.9 * prompt.attributes[number, at] + 0.1 * mean)
            now = torch.stack([*tokens, *prompt.shared])
            normed, normed_now = parts["norm1"](image), parts["norm1"](now)
            query, key, value = (_heads(each[None], parts["heads"])[0] for each in parts["qkv"](normed))
            asking, more, values = (_heads(each[None], parts["heads"])[0] for each in parts["qkv"](normed_now))
            query, asking = parts["q_norm"](query), parts["q_norm"](asking)
            key, more = parts["k_norm"](key), parts["k_norm"](more)
            size = query.shape[-1] ** 0.5
            own = (query @ key.transpose(-2, -1) / size).softmax(-1) @ value
            other = (query @ more.transpose(-2, -1) / size).softmax(-1) @ values
            scores = torch.stack([keys @ asked[0] for keys, asked in zip(key, query, strict=True)]).mean(0).detach()
            mixed = (0.9 * own + 0.1 * other).transpose(0, 1).flatten(1)
            if index == len(layers) - 1:
                both, every = torch.cat([more, key], dim=1), torch.cat([values, value], dim=1)
                mine = ((asking @ both.transpose(-2, -1) / size).softmax(-1) @ every).transpose(0, 1).flatten(1)
            else:
                mine = normed_now
            image, now = image + parts["scale1"](parts["out"](mixed)), now + parts["scale1"](parts["out"](mine))
            image, now = (each + parts["scale2"](parts["mlp"](parts["norm2"](each))) for each in (image, now))
            tokens = list(now[: len(tokens)])
        outputs.append(image)
        best = image[scores.topk(10).indices]
        distances += [torch.stack([1 - cosine(token, other) for other in best]).min() for token in now]
    return _pool(backbone.net, backbone.net, torch.stack(outputs), None, prefix, "native"), torch.stack(
        distances
    ).mean()


CASES = {"vit": [[0, 1, 3], [0, 2], [0]], "dinov2-registers": [[0, 2, 3]], "clip": [[0, 1, 2, 3]]}


@pytest.mark.parametrize(("family", "starts"), [(family, each) for family, cases in CASES.items() for each in cases])
def test_method_equals_its_definition(family: str, starts: list[int]):
    backbone = build_backbone(family)
    prompt, images = built(backbone, starts).train(), images_for(backbone).requires_grad_()
    mine = features(backbone, prompt, images)
    loss = prompt.extra_losses(None, None)["match"]
    assert prompt.extra_losses(None, None)["match"] == 0  # nothing of an earlier step is left
    theirs, distance = twin(backbone, images, prompt)
    close(mine, theirs, "the output")
    close(loss, 2 * distance, "the loss")
    weight = torch.randn(mine.shape, generator=torch.Generator().manual_seed(2))
    wanted = [images, *prompt.parameters()]
    totals = [(mine * weight).sum() + loss, (theirs * weight).sum() + 2 * distance]
    found = (torch.autograd.grad(total, wanted, allow_unused=True) for total in totals)
    for name, one, other in zip(["images", *prompt.learned], *found, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            close(one, other, f"the gradient of {name}")
    close(features(backbone, prompt.eval(), images), theirs)


def test_levels_start_where_class_tokens_differ_and_centres_are_those_of_images():
    torch.manual_seed(0)
    classes = torch.randn(6, 4, 8).cumsum(0)
    starts = [0]
    for layer in range(1, 6):
        cosines = [cosine(one, other) for one, other in zip(classes[starts[-1]], classes[layer], strict=True)]
        if sum(cosines) / 4 < 0.7:
            starts.append(layer)
    assert 1 < len(starts) < 6
    assert level_starts(classes, 0.7) == starts
    backbone = build_backbone("vit")
    prompt = built(backbone, [0], centres=3)
    start(prompt, ShipPrompt(threshold=1.0, centres=3), backbone, [images_for(backbone, 2), images_for(backbone, 1)], 0)
    assert prompt.starts.tolist() == [1, 1, 1, 1]
    leaving: list[Tensor] = []
    hook = backbone.net.blocks[-1].register_forward_hook(lambda *found: leaving.append(found[-1][:, 0]))
    backbone.net.forward_features(images_for(backbone, 2))
    hook.remove()
    assert all((prompt.centres - each).abs().max(1).values.min() < 1e-4 for each in leaving[0])


def test_parameters_are_counted_as_in_the_released_code():
    """Its files state 93,733 for Pets with its head: 10 levels of 5 tokens, and 37 classes."""
    shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    prompt = build_tokens(ShipPrompt(tokens=5), shape)
    prompt.starts.zero_()[[0, 2, 3, 4, 5, 6, 7, 9, 10, 11]] = 1
    state = prompt.packed(prompt.state_dict())
    count = sum(state[name].numel() for name in prompt.learned)
    assert count == 768 * (10 * 5 + 10 + 20)
    assert count + 37 * 769 + 5 * 768 == 93_733  # there position embeddings of the first tokens too


def test_an_artifact_has_the_tokens_of_levels_that_exist(shapes: Path, tmp_path: Path):
    base = settings(shapes, tmp_path).model_dump(mode="json", exclude={"prompt"})
    words = ["prompt=ship", "prompt.tokens=3", "prompt.threshold=-1", "prompt.centres=6", "train.epochs=1"]
    run = vpt.train(load_config(base=base, overrides=words), QUIET)
    found = read_artifact(run.artifact).tensors
    assert found["prompt.tokens"].shape[:2] == (1, 3)
    assert found["prompt.starts"].tolist()[0] == 1
    assert vpt.evaluate(run.artifact, "test", console=QUIET)["accuracy"] == run.metrics["test"]["accuracy"]


def test_a_backbone_without_class_token_is_refused():
    with pytest.raises(UserError, match="needs a class token"):
        built(build_backbone("vit-avg"), [0])
