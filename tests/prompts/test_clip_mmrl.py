"""MMRL and MMRL++ equal loops written from their definitions: scores, losses and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.helpers.clip_models import build_clip, clip_backbone, tokenizer
from tests.helpers.slow_text import NAMES
from tests.helpers.tensors import close
from tests.prompts.test_clip_learners import IMAGES, LABELS, built, image_features, loss_and_gradients, pixels, same
from vpt.config import load_config
from vpt.models.classifier import build_model
from vpt.utils.errors import UserError

PLAIN = ["prompt=mmrl", "prompt.tokens=4", "prompt.width=6", "prompt.weight=3"]
PLUS = ["prompt=mmrlpp", *PLAIN[1:], "prompt.rank=2", "prompt.projection_rank=5"]
CASES = {
    "mmrl": [*PLAIN, "prompt.layer=1"],
    "last layer": [*PLAIN, "prompt.layer=2", "prompt.alpha=0.4"],
    "mmrl++": [*PLUS, "prompt.layer=1", "prompt.beta=0.8"],
    "mmrl++, fresh": [*PLUS, "prompt.layer=0", "prompt.beta=1"],
}


def mapped(maps: Any, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Tokens of every layer."""
    found = []
    for layer, bias in enumerate(maps.bias):
        weight = maps.weight[0] + maps.low.down[layer] @ maps.low.up[layer] if maps.low else maps.weight[layer]
        found.append(tokens @ weight.T + bias)
    return found


def through(blocks: Any, rows: torch.Tensor, sets: list[torch.Tensor], config: Any, causal: bool) -> torch.Tensor:
    """Layer by layer, the tokens behind the first one, masked anew where a text has grown."""
    for layer, block in enumerate(blocks):
        if layer >= config.layer:
            fresh = sets[layer - config.layer].expand(len(rows), -1, -1)
            if layer > config.layer:
                carried, rows = rows[:, 1:5], torch.cat([rows[:, :1], rows[:, 5:]], dim=1)
                beta = getattr(config, "beta", 1)
                fresh = beta * fresh + (1 - beta) * carried
            rows = torch.cat([rows[:, :1], fresh, rows[:, 1:]], dim=1)
        mask = torch.full((rows.shape[1],) * 2, -torch.inf).triu(1) if causal else None
        rows = block(rows, attn_mask=mask)
    return rows


def features(model: Any, clip: Any, config: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Class features, features of the tokens, and text features, all normalised."""
    prompt, visual = model.prompt, clip.image_tower
    rows = visual.conv1(pixels()).flatten(2).transpose(1, 2)
    rows = torch.cat([visual.class_embedding.expand(len(rows), 1, -1), rows], dim=1) + visual.positional_embedding
    rows = through(
        visual.transformer.resblocks, visual.ln_pre(rows), mapped(prompt.image, prompt.tokens), config, False
    )
    projection = prompt.projection if prompt.low is None else visual.proj + prompt.low.down @ prompt.low.up
    own, other = visual.ln_post(rows[:, 0]) @ visual.proj, visual.ln_post(rows[:, 1:5]).mean(1) @ projection
    ids = tokenizer()([f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    texts = clip.token_embedding(ids) + clip.positional_embedding
    texts = through(clip.transformer.resblocks, texts, mapped(prompt.text, prompt.tokens), config, True)
    texts = clip.ln_final(texts)[torch.arange(len(ids)), ids.argmax(1) + 4] @ clip.text_projection
    return F.normalize(own, dim=1), F.normalize(other, dim=1), F.normalize(texts, dim=1)


@pytest.mark.parametrize("case", CASES)
def test_it_equals_its_definition(case: str):
    model, clip, config = built(*CASES[case])
    assert model.head.contexts.fused
    assert {role for _, role, _ in model.trainable()} == {"prompt"}
    alpha, scale = config.prompt.alpha, clip.logit_scale.exp()
    own, other, text = features(model, clip, config.prompt)
    first, second = scale * own @ text.T, scale * other @ text.T
    same(model, model(IMAGES), alpha * first + (1 - alpha) * second)
    close(model.ready()(IMAGES), alpha * first + (1 - alpha) * second)

    mine, gradients = loss_and_gradients(model, config)
    own, other, text = features(model, clip, config.prompt)
    first, second = scale * own @ text.T, scale * other @ text.T
    ids = tokenizer()([f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    theirs = alpha * F.cross_entropy(first, LABELS) + (1 - alpha) * F.cross_entropy(second, LABELS)
    theirs = theirs + 3 * (1 - F.cosine_similarity(own, image_features(clip)).mean())
    theirs = theirs + 3 * (1 - F.cosine_similarity(text, clip.encode_text(ids)).mean())
    close(mine, theirs)
    expected = torch.autograd.grad(theirs, [parameter for _, _, parameter in model.trainable()])
    for one, reference in zip(gradients, expected, strict=True):
        close(one, reference)

    # Some of the trained classes are seen; with another one, only the class feature counts.
    with torch.no_grad():
        some = model.with_names([NAMES[2], NAMES[0]])
        close(some(IMAGES), (alpha * first + (1 - alpha) * second)[:, [2, 0]])
        more = model.with_names([*NAMES, "ship"])
        close(more(IMAGES)[:, : len(NAMES)], first)


def test_plus_with_fresh_tokens_is_the_method_itself():
    """With maps that are written out, and a projection that is."""
    plus, clip, _ = built(*CASES["mmrl++, fresh"])
    plain = build_model(
        load_config(overrides=["backbone=open_clip:ViT-B-32", "head=zeroshot", *PLAIN, "prompt.layer=0"]),
        plus.backbone,
        NAMES,
    )
    with torch.no_grad():
        plain.prompt.tokens.copy_(plus.prompt.tokens)
        for one, other in ((plain.prompt.image, plus.prompt.image), (plain.prompt.text, plus.prompt.text)):
            one.weight.copy_(other.weight + other.low())
            one.bias.copy_(other.bias)
        plain.prompt.projection.copy_(clip.image_tower.proj + plus.prompt.low())
        close(plain.eval()(IMAGES), plus(IMAGES))


def test_initial_values():
    """Tokens with standard deviation 0.02; equal maps; the projections of MMRL++ start as those of the class token."""
    clip = build_clip()
    backbone = clip_backbone(clip)
    for words in (CASES["mmrl"], CASES["mmrl++"]):
        words = [*words, "prompt.width=2000"]
        config = load_config(overrides=["backbone=open_clip:ViT-B-32", "head=zeroshot", *words])
        prompt = build_model(config, backbone, NAMES).prompt.requires_grad_(False)
        assert float(prompt.tokens.std()) == pytest.approx(0.02, rel=0.05)
        for maps in (prompt.image, prompt.text):
            first, second = mapped(maps, prompt.tokens)
            assert torch.equal(first, second)
            assert float(maps.weight.abs().max()) == pytest.approx(2000**-0.5, rel=0.01)
    outputs = torch.randn(3, 32)
    close(prompt.projected(outputs), outputs @ backbone.library_net.proj)
    assert float(prompt.low.down.abs().max()) == pytest.approx(5**-0.5, rel=0.1)


def test_a_tower_with_too_few_layers_is_refused():
    with pytest.raises(UserError, match=r"prompt\.layer=3: the image tower has 3 layers"):
        built("prompt=mmrl", "prompt.layer=3")
