"""Every family: without prompts equal to the library, with prompts equal to the concatenating definition."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.concatenation_twin import twin_features
from tests.helpers.tensors import close, images_for
from tests.helpers.vit_families import BUILDERS, build_backbone, library_features
from vpt.backbones.attention import attend
from vpt.backbones.backbone import Backbone, Pool
from vpt.backbones.liveness import plan
from vpt.config import DeepPrompt, ShallowPrompt
from vpt.models.classifier import plan_for
from vpt.prompts.base import Shape, TokenPrompts
from vpt.prompts.registry import build_tokens

PLACEMENTS = {
    "shallow": ShallowPrompt(tokens=3),
    "shallow-drop": ShallowPrompt(tokens=3, after="drop"),
    "deep": DeepPrompt(tokens=3),
    "deep-shared": DeepPrompt(tokens=3, shared=True),
    "first-two-carry": DeepPrompt(tokens=3, layers="first:2"),
    "first-two-drop": DeepPrompt(tokens=3, layers="first:2", after="drop"),
    "first-two-insert": DeepPrompt(tokens=3, layers="first:2", after="insert"),
    "last-two": DeepPrompt(tokens=3, layers="last:2"),
    "gap-carry": DeepPrompt(tokens=3, layers=[0, 2]),
    "gap-drop": DeepPrompt(tokens=3, layers=[0, 2], after="drop"),
    "bottleneck": DeepPrompt(tokens=3, project=5),
}


def fast(backbone: Backbone, prompt: TokenPrompts, images: torch.Tensor, after: str, pool: str) -> torch.Tensor:
    assert backbone.tower is not None
    steps = plan(len(backbone.tower.blocks), prompt.inserted, after, backbone.reads(pool))
    return backbone.features(images, steps, pool, prompt.layers(backbone.tower, steps, len(images)))


def both(family: str, config: ShallowPrompt | DeepPrompt, pool: str, batched: bool = False) -> None:
    backbone = build_backbone(family)
    assert backbone.tower is not None, backbone.refusal
    tower = backbone.tower
    torch.manual_seed(3)
    prompt = build_tokens(config, Shape.of(tower))
    with torch.no_grad():
        prompt.tokens.copy_(torch.randn_like(prompt.tokens))
    images = images_for(backbone).requires_grad_()

    def gradients(out: torch.Tensor) -> list[torch.Tensor]:
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
        return list(torch.autograd.grad((out * weight).sum(), [images, *prompt.parameters()]))

    mine = fast(backbone, prompt, images, config.after, pool)
    theirs = twin_features(backbone, images, prompt.sets(len(images)), prompt.inserted, config.after, pool)
    close(mine, theirs, "the output")
    names = ["images", *dict(prompt.named_parameters())]
    for name, one, other in zip(names, gradients(mine), gradients(theirs), strict=True):
        close(one, other, f"the gradient of {name}")


@pytest.mark.parametrize("family", BUILDERS)
def test_without_prompts_equals_the_library(family: str) -> None:
    backbone = build_backbone(family)
    assert backbone.tower is not None, backbone.refusal
    images = images_for(backbone)
    theirs = library_features(backbone, images)
    steps = plan(len(backbone.tower.blocks), {}, "drop", backbone.reads("native"))
    close(backbone.features(images, steps), theirs)
    assert backbone.feature_width("native") == theirs.shape[1]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", BUILDERS)
def test_prompts_equal_concatenation(family: str, placement: str) -> None:
    both(family, PLACEMENTS[placement], "native")


@pytest.mark.parametrize("pool", ["cls", "avg", "prompts", "all", "mean_then_norm", "mean_then_own_norm"])
@pytest.mark.parametrize("placement", ["shallow", "deep", "last-two"])
@pytest.mark.parametrize("family", ["vit", "dinov2-registers", "dinov3", "eva02-inner-norm", "clip"])
def test_other_pools_equal_concatenation(family: str, placement: str, pool: str) -> None:
    both(family, PLACEMENTS[placement], pool)


@pytest.mark.parametrize("pool", ["mean_then_norm", "mean_then_own_norm"])
@pytest.mark.parametrize("prompt", [None, ShallowPrompt(tokens=3, after="drop")], ids=["none", "dropped"])
def test_a_mean_over_what_is_there_needs_no_prompts(pool: Pool, prompt: ShallowPrompt | None) -> None:
    backbone = build_backbone("vit")
    images = images_for(backbone)
    made = None if prompt is None else build_tokens(prompt, Shape.of(backbone.require_tower("prompts")))
    steps = plan_for(backbone, made, pool)
    layers = None if made is None else made.layers(backbone.require_tower("prompts"), steps, len(images))
    sets = [] if made is None else made.sets(len(images))
    close(
        backbone.features(images, steps, pool, layers),
        twin_features(backbone, images, sets, {0: 0} if sets else {}, "drop", pool),
    )


@pytest.mark.parametrize("family", ["vit", "dinov3", "clip"])
@pytest.mark.parametrize("after", ["carry", "drop"])
def test_every_image_with_its_own_prompts(family: str, after: str) -> None:
    """The way a bank serves many tasks in one batch, and the way prompt dropout works."""
    backbone = build_backbone(family)
    assert backbone.tower is not None
    depth, width = len(backbone.tower.blocks), backbone.tower.width
    inserted = {0: 0, 2: 1}
    sets = [torch.randn(2, 3, width), torch.randn(2, 3, width)]
    images = images_for(backbone)
    steps = plan(depth, inserted, after, backbone.reads("native"))
    prompt = TokenPrompts(inserted, after)
    prompt.sets = lambda batch: sets
    layers = prompt.layers(backbone.tower, steps, len(images))
    close(backbone.features(images, steps, "native", layers), twin_features(backbone, images, sets, inserted, after))


def test_a_copied_backbone_runs_on_its_own_weights() -> None:
    import copy

    backbone = build_backbone("vit")
    images = images_for(backbone)
    twin = copy.deepcopy(backbone)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert backbone.tower is not None
    steps = plan(len(backbone.tower.blocks), {}, "drop", backbone.reads("native"))
    assert backbone.features(images, steps).abs().max() > 0
    assert twin.features(images, steps).abs().max() == 0


@pytest.mark.parametrize("rows", [(1, 60), (50, 60), (600, 620)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_equals_the_library_kernel(rows: tuple[int, int], dtype: torch.dtype) -> None:
    """The plain products that stand in for the kernel on a CPU, and the kernel where they would be too large."""
    torch.manual_seed(0)
    shapes = [(2, 3, count, 16) for count in (rows[0], rows[1], rows[1])]
    inputs = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    outs = []
    for function in (attend, torch.nn.functional.scaled_dot_product_attention):
        out = function(*inputs)
        outs.append([out, *torch.autograd.grad(out.float().pow(2).sum(), inputs)])
    for mine, theirs in zip(*outs, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, theirs, atol=2e-2 if dtype == torch.bfloat16 else 1e-6, rtol=1e-2)
