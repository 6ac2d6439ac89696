"""Every token method equals its definition, outputs and gradients, and has as many numbers as the paper says."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.method_twins import twin_method
from tests.helpers.tensors import close, images_for
from tests.helpers.vit_families import build_backbone
from vpt.backbones.liveness import plan
from vpt.config import BptPrompt, CvptPrompt, DeepPrompt, E2vptPrompt, GatedPrompt, VaptPrompt, VfptPrompt
from vpt.prompts.base import Shape, TokenPrompts
from vpt.prompts.registry import build_tokens
from vpt.prompts.visual.e2vpt import EffectivePrompts
from vpt.training.e2vpt_pruning import keep_most, prune
from vpt.utils.errors import UserError

METHODS = {
    "vfpt": VfptPrompt(tokens=5, fourier=0.5),
    "vfpt-all": VfptPrompt(tokens=3, fourier=1.0),
    "vfpt-none": VfptPrompt(tokens=3, fourier=0.0),
    "bpt": BptPrompt(tokens=4, rank=3, layers="all"),
    "vapt": VaptPrompt(tokens=3, kernel=2, bottleneck=4),
    "e2vpt": E2vptPrompt(tokens=4, kv_tokens=3),
    "e2vpt-two": E2vptPrompt(tokens=4, kv_tokens=3, share_kv=False),
    "cvpt": CvptPrompt(tokens=3),
    "gated": GatedPrompt(tokens=3, gate=0.5),
}
# Methods inside attention are written out for layers without rotary embedding; the others run any library's layers.
INSIDE = {"e2vpt", "e2vpt-two", "cvpt", "gated"}
PLAIN = ["vit", "vit-avg", "vit-qk-norm", "dinov2-registers", "clip"]
ALL = [*PLAIN, "dinov3", "eva02", "siglip", "clip-timm", "clip-attention-pool"]
CASES = [(method, family) for method in METHODS for family in (PLAIN if method in INSIDE else ALL)]


def shape_of(width: int = 768, depth: int = 12, heads: int = 12) -> Shape:
    return Shape(depth=depth, width=width, heads=heads, patch=(16, 16), grid=(14, 14))


def scrambled(prompt: TokenPrompts) -> TokenPrompts:
    """Evaluation mode (no dropout) and values large enough that a mistake shows."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in prompt.named_parameters():
            if "temperatures" in name:
                parameter.copy_(0.5 + torch.rand_like(parameter))
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
        if isinstance(prompt, EffectivePrompts):
            prompt.token_mask[1] = 0
            prompt.segment_mask[2, ::3] = 0
    return prompt.eval()


@pytest.mark.parametrize(("method", "family"), CASES)
def test_method_equals_its_definition(method: str, family: str):
    backbone = build_backbone(family)
    tower = backbone.require_tower("prompts")
    torch.manual_seed(3)
    prompt = scrambled(build_tokens(METHODS[method], Shape.of(tower)))
    images = images_for(backbone).requires_grad_()
    steps = plan(len(tower.blocks), prompt.inserted, prompt.after, backbone.reads("native"))
    mine = backbone.features(images, steps, "native", prompt.layers(tower, steps, len(images)))
    theirs = twin_method(backbone, images, prompt)
    close(mine, theirs, "the output")
    weight = torch.randn(mine.shape, generator=torch.Generator().manual_seed(2))
    names = ["images", *(name for name, _ in prompt.named_parameters())]
    wanted = [images, *prompt.parameters()]
    for name, one, other in zip(
        names,
        torch.autograd.grad((mine * weight).sum(), wanted, allow_unused=True),
        torch.autograd.grad((theirs * weight).sum(), wanted, allow_unused=True),
        strict=True,
    ):
        assert (one is None) == (other is None), name
        if one is not None:
            close(one, other, f"the gradient of {name}")


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (VfptPrompt(tokens=10), 12 * 10 * 768),
        (E2vptPrompt(tokens=10, kv_tokens=5), 12 * 10 * 768 + 12 * 5 * 768),
        (E2vptPrompt(tokens=10, kv_tokens=5, share_kv=False), 12 * 10 * 768 + 2 * 12 * 5 * 768),
        (CvptPrompt(tokens=10), 12 * 10 * 768),
        (VaptPrompt(tokens=10), 10 * 768 + 11 * (10 * 13 * 13 + 10 + 4 + 2 * 768) + 2 * 8 * 768),
        (GatedPrompt(tokens=100), 100 * 768 + 11 + 12),
        (BptPrompt(tokens=100, rank=75), 75 * (100 + 768)),
        (BptPrompt(tokens=50, rank=50, layers="all"), 12 * 50 * (50 + 768)),
    ],
)
def test_parameter_counts_are_the_papers(config, count):
    prompt = build_tokens(config, shape_of())
    assert sum(parameter.numel() for parameter in prompt.parameters()) == count


def test_vfpt_without_a_share_is_vpt():
    torch.manual_seed(0)
    fourier = build_tokens(VfptPrompt(tokens=4, fourier=0.0), shape_of(48))
    torch.manual_seed(0)
    plain = build_tokens(DeepPrompt(tokens=4), shape_of(48))
    assert all(torch.equal(one, other) for one, other in zip(fourier.sets(1), plain.sets(1), strict=True))


def test_closed_gates_put_the_same_tokens_before_every_layer():
    """A gate that lets nothing through gives VPT-Deep with shared tokens; an open one gives VPT-Shallow."""
    from tests.helpers.concatenation_twin import twin_features

    backbone = build_backbone("vit")
    tower = backbone.require_tower("prompts")
    images = images_for(backbone)
    for gate, inserted in ((50.0, dict.fromkeys(range(4), 0)), (-50.0, {0: 0})):
        prompt = build_tokens(GatedPrompt(tokens=3, gate=gate), Shape.of(tower)).eval()
        steps = plan(4, prompt.inserted, prompt.after, backbone.reads("native"))
        mine = backbone.features(images, steps, "native", prompt.layers(tower, steps, 2))
        close(mine, twin_features(backbone, images, prompt.tokens.detach().unbind(0), inserted, "carry"))


def test_vapt_starts_from_zero_prompts_above_the_first_layer():
    backbone = build_backbone("vit")
    prompt = build_tokens(VaptPrompt(tokens=3), Shape.of(backbone.require_tower("prompts"))).eval()
    assert (prompt.adapted(2, torch.randn(2, 17, 48)) == 0).all()


def test_a_kernel_larger_than_the_grid_is_refused():
    with pytest.raises(UserError, match=r"prompt\.kernel=20 is larger than the backbone's grid of 14 x 14"):
        build_tokens(VaptPrompt(kernel=20), shape_of())


def test_pruning_masks_the_least_important():
    assert keep_most(torch.tensor([0.3, 0.1, 0.2, 0.4]), 0.5, least=1).tolist() == [1, 0, 0, 1]
    assert keep_most(torch.tensor([0.3, 0.1]), 0.99, least=1).tolist() == [1, 0]
    assert keep_most(torch.arange(16.0).repeat(2, 1), 0.9, least=4).sum(1).tolist() == [4, 4]
    prompt = build_tokens(E2vptPrompt(tokens=4), shape_of())
    prune(prompt, torch.tensor([4.0, 1.0, 2.0, 3.0]), torch.rand(4, 16), tokens=0.5, segments=0.25)
    assert prompt.token_mask.tolist() == [1, 0, 0, 1]
    assert prompt.segment_mask.sum(1).tolist() == [12] * 4
    left = torch.stack(list(prompt.sets(1))) != 0
    assert left.sum() == 12 * 2 * 12 * 48  # layers, tokens, segments, channels of a segment


def test_a_method_of_ones_own_needs_no_change_of_the_executor():
    """Prompts that are the mean of the image's own rows, in ten lines."""
    from vpt.backbones.layer_prompt import LayerPrompt
    from vpt.config import LinearHead
    from vpt.heads.linear import build_linear
    from vpt.models.classifier import PromptedModel

    class MeanPrompts(TokenPrompts):
        def __init__(self, depth: int, width: int) -> None:
            super().__init__({layer: layer for layer in range(depth)})
            self.shift = torch.nn.Parameter(torch.zeros(depth, width))

        def sets(self, batch: int):
            return ()

        def in_layer(self, layer, block, plain, sets):
            return LayerPrompt(adapt=lambda rows: rows.mean(1, keepdim=True) + self.shift[layer])

    backbone = build_backbone("vit")
    model = PromptedModel(backbone, MeanPrompts(4, 48), build_linear(LinearHead(), 48, 3))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    model(images).sum().backward()
    assert {role for _, role, _ in model.trainable()} == {"prompt", "head"}
    assert (model.prompt.shift.grad.abs().sum(1) > 0).all()
