"""Token prompts: where they go, how they start, how many numbers they are."""

from __future__ import annotations

import math

import pytest
import torch

from vpt.config import DeepPrompt, ShallowPrompt
from vpt.prompts.base import Shape
from vpt.prompts.init.spt import initial_tokens, prototypes
from vpt.prompts.registry import build_tokens, prompted_layers
from vpt.prompts.visual.vpt import VisualPrompts
from vpt.utils.errors import UserError


def shape_of(depth: int, width: int, patch: int) -> Shape:
    return Shape(depth=depth, width=width, heads=2, patch=(patch, patch), grid=(2, 2))


def test_layers_are_found_by_every_spelling():
    assert prompted_layers("all", 3) == (0, 1, 2)
    assert prompted_layers("first:2", 6) == (0, 1)
    assert prompted_layers("last:2", 6) == (4, 5)
    assert prompted_layers([4, 1], 6) == (1, 4)


@pytest.mark.parametrize("layers", ["frist:2", "first:0", "first:7", "last:", [6], [-1], [], [1, 1]])
def test_layers_that_do_not_exist_are_refused_with_the_range(layers):
    with pytest.raises(UserError, match=r"prompt\.layers"):
        prompted_layers(layers, 6)


@pytest.mark.parametrize(
    ("config", "numbers"),
    [
        (ShallowPrompt(tokens=5), 5 * 48),
        (DeepPrompt(tokens=5), 12 * 5 * 48),
        (DeepPrompt(tokens=5, shared=True), 5 * 48),
        (DeepPrompt(tokens=5, layers="last:3"), 3 * 5 * 48),
        (DeepPrompt(tokens=5, project=7), 12 * 5 * 7 + 7 * 48 + 48),
    ],
)
def test_parameter_counts_are_the_papers(config, numbers):
    prompt = build_tokens(config, shape_of(12, 48, 16))
    assert sum(parameter.numel() for parameter in prompt.parameters()) == numbers


def test_uniform_start_has_the_papers_bound():
    torch.manual_seed(0)
    prompt = build_tokens(DeepPrompt(tokens=50), shape_of(12, 384, 16))
    bound = math.sqrt(6 / (3 * 16 * 16 + 384))
    assert prompt.tokens.abs().max() <= bound
    assert prompt.tokens.abs().max() > 0.99 * bound
    assert abs(float(prompt.tokens.detach().std()) - bound / math.sqrt(3)) < 0.01 * bound


def test_a_bottleneck_as_wide_as_the_backbone_is_refused():
    with pytest.raises(UserError, match=r"prompt\.project=48"):
        build_tokens(DeepPrompt(project=48), shape_of(2, 48, 8))


def test_dropout_draws_a_mask_for_each_image_only_while_training():
    prompt = VisualPrompts(shape_of(1, 30, 8), {0: 0}, tokens=20, dropout=0.5)
    first, second = prompt.sets(batch=2)[0]
    assert not torch.equal(first, second)
    kept = first != 0
    torch.testing.assert_close(first[kept], 2 * prompt.tokens[0][kept])
    prompt.eval()
    assert prompt.sets(batch=2)[0] is not None
    assert prompt.sets(batch=2)[0].shape == (20, 30)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_prototypes_are_made_of_the_tokens():
    torch.manual_seed(0)
    centres = torch.tensor([[10.0, 0.0], [0.0, 10.0], [-10.0, -10.0]])
    patches = (centres.repeat_interleave(40, dim=0) + 0.1 * torch.randn(120, 2)).view(6, 20, 2)
    flat = patches.flatten(0, 1)
    sampled = prototypes(patches, 5, "sample", seed=1)
    assert all((flat == row).all(1).any() for row in sampled)
    assert torch.equal(prototypes(patches, 5, "sample", seed=1), sampled)
    clustered = prototypes(patches, 3, "kmeans", seed=1)
    assert torch.cdist(centres, clustered).min(1).values.max() < 0.5
    assert prototypes(patches[:1, :2], 5, "sample", seed=0).shape == (5, 2)


@pytest.mark.parametrize("strategy", ["mean", "max"])
def test_pooled_prototypes_are_of_consecutive_tokens_of_an_image(strategy):
    """With five prompts and twenty tokens an image: groups of five tokens, as the paper pools."""
    patches = torch.randn(3, 20, 2)
    found = prototypes(patches, 5, strategy, seed=1)
    groups = patches.view(3, 4, 5, 2)
    pooled = (groups.mean(2) if strategy == "mean" else groups.amax(2)).flatten(0, 1)
    assert all(torch.isclose(pooled, row, atol=1e-6).all(1).any() for row in found)


def test_every_layer_draws_on_its_own_tokens():
    patches = {0: torch.zeros(1, 9, 2), 3: torch.ones(1, 9, 2)}
    started = initial_tokens(patches, {0: 0, 3: 1}, 4, "sample", seed=0)
    assert (started[0] == 0).all()
    assert (started[1] == 1).all()
