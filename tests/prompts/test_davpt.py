"""DA-VPT: its metric loss, its groups of classes and its biases against loops written from the paper and its code."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vpt
from tests.helpers.concatenation_twin import twin_features
from tests.helpers.runs import QUIET, settings
from tests.helpers.tensors import close, images_for
from tests.helpers.vit_families import build_backbone, build_net
from vpt.backbones.backbone import Backbone
from vpt.backbones.liveness import plan
from vpt.config import DavptPrompt, load_config
from vpt.models.artifact import read_artifact
from vpt.prompts.base import Shape
from vpt.prompts.init.initialize import start
from vpt.prompts.registry import build_tokens
from vpt.prompts.visual.davpt import DistributionPrompts, grouped, proxy_anchor
from vpt.utils.errors import UserError
from vpt.utils.tensor_io import read_tensors

pytestmark = pytest.mark.usefixtures("small_net")
FAMILIES = ["vit", "vit-qk-norm", "dinov2-registers", "clip"]


def metric_twin(proxies: Tensor, points: Tensor, groups: list[int], paper: bool) -> Tensor:
    """Prompt by prompt, image by image."""
    total, used = proxies.new_zeros(()), len(set(groups)) if paper else len(proxies)
    for number, proxy in enumerate(proxies):
        near, far = proxies.new_zeros(()), proxies.new_zeros(())
        for point, group in zip(points, groups, strict=True):
            cosine = (proxy @ point) / (proxy.square().sum().sqrt() * point.square().sum().sqrt())
            cosine = cosine * (1 if paper else 5)
            if group == number:
                near = near + torch.exp(-32 * (cosine - 0.1))
            else:
                far = far + torch.exp(32 * (cosine + 0.1))
        total = total + torch.log1p(near) / used + torch.log1p(far) / len(proxies)
    return total


@pytest.mark.parametrize("paper", [True, False])
def test_the_metric_loss_is_that_of_the_definition(paper: bool):
    torch.manual_seed(0)
    # The exponentials of the loop overflow in single precision.
    proxies, points = (torch.randn(count, 6, dtype=torch.float64, requires_grad=True) for count in (4, 5))
    groups = [0, 2, 2, 0, 1]  # none of the last
    own = torch.tensor(groups)[:, None] == torch.arange(4)
    mine, theirs = proxy_anchor(proxies, points, own, 32, 0.1, paper), metric_twin(proxies, points, groups, paper)
    assert theirs.isfinite()
    close(mine, theirs)
    for one, other in zip(*(torch.autograd.grad(each, [proxies, points]) for each in (mine, theirs)), strict=True):
        close(one, other, "the gradient")


def built(backbone: Backbone, **words: object) -> DistributionPrompts:
    torch.manual_seed(3)
    config = DavptPrompt(**{"tokens": 4, "guided_tokens": 3, **words})
    prompt = build_tokens(config, Shape.of(backbone.require_tower("prompts")))
    assert isinstance(prompt, DistributionPrompts)
    prompt.set_classes(5)
    return prompt


def features(backbone: Backbone, prompt: DistributionPrompts, images: Tensor) -> Tensor:
    tower = backbone.require_tower("prompts")
    steps = plan(len(tower.blocks), prompt.inserted, prompt.after, backbone.reads("native"))
    return backbone.features(images, steps, "native", prompt.layers(tower, steps, len(images)))


@pytest.mark.parametrize("family", ["vit", "dinov2-registers"])
def test_what_the_loss_compares_is_what_enters_the_layer(family: str):
    """The mean patch token and the class token's query of guided layers, prompts really in the sequence."""
    backbone = build_backbone(family)
    prompt = built(backbone, guided="last:2").train()
    prefix, images, labels = prompt.prefix, images_for(backbone, 3), torch.tensor([4, 0, 1])
    features(backbone, prompt, images)
    mine = prompt.extra_losses(images, labels)
    assert prompt.extra_losses(images, labels)["patches"] == 0  # nothing of an earlier step is left
    theirs = dict.fromkeys(mine, torch.zeros(()))
    entering: list[Tensor] = []
    layers = [backbone.net.blocks[number] for number in (2, 3)]
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0])) for layer in layers]
    twin_features(backbone, images, prompt.tokens.unbind(0), prompt.inserted, "carry")
    for layer, number, rows in zip(layers, (2, 3), entering, strict=True):
        query = layer.attn.qkv(layer.norm1(rows[:, :1]))[:, 0].chunk(3, dim=-1)[0]
        points = {"patches": rows[:, prefix + 4 :].mean(1), "class token": query}
        for name, each in points.items():
            own = torch.tensor([4 % 3, 0, 1])[:, None] == torch.arange(3)
            theirs[name] = theirs[name] + 0.01 * proxy_anchor(prompt.tokens[number, :3], each, own)
    for hook in hooks:
        hook.remove()
    for name, value in mine.items():
        close(value, theirs[name], name)
        close(
            *(torch.autograd.grad(each, prompt.tokens, retain_graph=True)[0] for each in (value, theirs[name])),
            f"the gradient of {name}",
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_value_biases_are_those_of_the_layers_own_and_key_biases_do_nothing(family: str):
    backbone = build_backbone(family)
    prompt = built(backbone, value_bias=True).eval()
    with torch.no_grad():
        prompt.values.copy_(0.3 * torch.randn_like(prompt.values))
    images = images_for(backbone)
    mine = features(backbone, prompt, images)
    net = copy.deepcopy(backbone.net)
    biases = []
    for value, layer in zip(prompt.values, net.transformer.resblocks if family == "clip" else net.blocks, strict=True):
        owner, name = (layer.attn, "in_proj_bias") if family == "clip" else (layer.attn.qkv, "bias")
        before = getattr(owner, name)
        whole = torch.zeros(3 * 48) if before is None else before.detach().clone()
        whole[96:] += value.detach()
        setattr(owner, name, nn.Parameter(whole))
        biases.append(getattr(owner, name))
    other = Backbone(net, backbone.library, family, backbone.preprocess)
    theirs = twin_features(other, images, prompt.tokens.detach().unbind(0), prompt.inserted, "carry")
    close(mine, theirs)
    weight = torch.randn(mine.shape, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((mine * weight).sum(), prompt.values)
    own = torch.stack(torch.autograd.grad((theirs * weight).sum(), biases))
    close(gradient, own[:, 96:], "the gradient")
    if family != "vit-qk-norm":  # a norm of the keys comes after their bias
        assert own[:, 48:96].abs().max() < 1e-5 * own.abs().max()


def kmeans_twin(means: Tensor, centroids: Tensor) -> list[int]:
    found: list[int] = []
    for _ in range(20):
        found = [max(range(len(centroids)), key=lambda at: float(mean @ centroids[at])) for mean in means]
        for at in range(len(centroids)):
            mine = [mean for mean, group in zip(means, found, strict=True) if group == at]
            centroids[at] = nn.functional.normalize(sum(mine), dim=0) if mine else centroids[at]
    return found


def test_groups_are_those_of_k_means_by_cosines():
    torch.manual_seed(0)
    means = nn.functional.normalize(torch.eye(8)[torch.arange(20) % 4] + 0.2 * torch.randn(20, 8), dim=1)
    first = means[[0, 1, 2, 3]].clone()
    assert grouped(means, 4, first, 0)[0].tolist() == kmeans_twin(means, first.clone())


def test_classes_are_grouped_before_training_and_once_an_epoch():
    backbone = build_backbone("vit")
    config = DavptPrompt(tokens=4, guided_tokens=2)
    prompt = built(backbone, guided_tokens=2)
    images = images_for(backbone, 6)
    images[3:] = images[:3] + 0.01  # classes 3 to 5 look like 0 to 2
    images[2] = images[1]
    images[5] = images[1]
    prompt.set_classes(7)
    start(prompt, config, backbone, [images[:4], images[4:]], 0, [torch.tensor([0, 1, 2, 3]), torch.tensor([4, 5])])
    group = prompt.group.tolist()
    assert group[0] == group[3] != group[1] == group[2] == group[4] == group[5]
    assert prompt.counts.sum() == 0
    prompt.train()
    prompt.before_epoch(0, 3)
    features(backbone, prompt, images[[0, 1, 0]])
    prompt.extra_losses(None, torch.tensor([1, 0, 6]))  # classes 0 and 1 have changed places
    assert prompt.group.tolist() == group
    assert prompt.counts.tolist() == [1, 1, 0, 0, 0, 0, 1]
    prompt.before_epoch(1, 3)
    after = prompt.group.tolist()
    assert after[0] != after[1] == after[6]
    assert after[2:6] == group[2:6]  # without an image in this epoch
    prompt.counts[0] = 5
    prompt.before_epoch(1, 3)  # the same epoch, resumed
    assert prompt.counts[0] == 5


def test_parameters_are_counted_as_in_the_paper():
    """b_K and b_V are 18,432 numbers; those of the keys are left out."""
    shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    plain, more = (build_tokens(DavptPrompt(tokens=20, value_bias=each), shape) for each in (False, True))
    counts = [sum(parameter.numel() for parameter in each.parameters()) for each in (plain, more)]
    assert counts == [12 * 20 * 768, 12 * 20 * 768 + 18_432 // 2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"layers": "first:2", "guided": "last:1"}, r"prompt\.guided: layer 3 has no prompt"),
        ({"guided": "last:9"}, "last:N"),
    ],
)
def test_layers_that_cannot_be_guided_are_refused(words: dict, said: str):
    with pytest.raises(UserError, match=said):
        build_tokens(DavptPrompt(**words), Shape(depth=4, width=8, heads=2, patch=(4, 4), grid=(2, 2)))


@pytest.mark.parametrize("labels", [[], [torch.zeros(3, 2)], [[object()]]])
def test_images_without_one_label_each_are_refused(labels: list):
    backbone = build_backbone("vit")
    with pytest.raises(UserError, match="one label for every image"):
        start(built(backbone), DavptPrompt(), backbone, [images_for(backbone, 3)], 0, labels)


def test_a_run_stores_tokens_and_biases_alone(shapes: Path, tmp_path: Path):
    base = settings(shapes, tmp_path).model_dump(mode="json", exclude={"prompt"})
    words = ["prompt=davpt", "prompt.tokens=4", "prompt.value_bias=true", "prompt.patch_weight=1"]
    run = vpt.train(load_config(base=base, overrides=words), QUIET)
    assert {name for name in read_artifact(run.artifact).tensors if name.startswith("prompt.")} == {
        "prompt.tokens",
        "prompt.values",
    }
    held = read_tensors(run.folder / "checkpoint.safetensors")[0]
    assert held["model:prompt.grouped"] == 2
    assert sorted(held["model:prompt.group"].tolist()) == [0, 1, 2]
    assert held["model:prompt.counts"].sum() > 30


def test_a_network_of_ones_own(tmp_path: Path):
    net = build_net("vit")
    torch.manual_seed(0)
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    model = vpt.wrap(net, "davpt", tokens=3, images=images, labels=labels).train()
    loss = model.with_extra_losses(model(images).square().mean(), images, labels)
    assert math.isfinite(float(loss.detach()))
    loss.backward()
    saved = model.save(tmp_path / "own.safetensors")
    again = vpt.load_prompt(build_net("vit"), saved).eval()
    assert torch.equal(again(images), model.eval()(images))
