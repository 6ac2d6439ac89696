"""CLIP-LoRA, ProGrad, TCP and TDA equal loops written from their papers, outputs and gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.clip_models import tokenizer
from tests.helpers.slow_text import NAMES, slow
from tests.helpers.tensors import close
from tests.prompts.test_clip_learners import IMAGES, LABELS, built, image_features, loss_and_gradients, same, scores
from vpt.config import load_config
from vpt.training.projected_gradient import without_opposing
from vpt.utils.errors import UserError

COUNT = ["backbone=open_clip:ViT-B-16", "backbone.pretrained=false", "head=zeroshot"]


def folded(blocks: Any, updates: Any) -> None:
    """W + s B A in the stacked weight of every layer, as a new tensor with a gradient."""
    for layer, block in enumerate(blocks):
        parts = [
            (updates.down[layer, at] @ updates.up[layer, at]).T * updates.config.alpha / updates.config.rank**0.5
            for at in range(3)
        ]
        weight = block.attn.in_proj_weight + torch.cat(parts)
        del block.attn.in_proj_weight
        block.attn.in_proj_weight = weight


def test_clip_lora():
    words = ["prompt=clip_lora", "prompt.rank=3", "prompt.alpha=2", "prompt.dropout=0.5"]
    model, clip, _ = built(*words, "head.templates=an old photo of a {}.")
    assert {role for _, role, _ in model.trainable()} == {"prompt"}
    assert sum(value.numel() for _, _, value in model.trainable()) == 3 * 6 * 3 * (32 + 24)
    mine, ready = model(IMAGES), model.ready()(IMAGES)
    folded(clip.image_tower.transformer.resblocks, model.prompt.updates)
    folded(clip.transformer.resblocks, model.head.contexts.updates)
    texts = tokenizer()([f"an old photo of a {name.replace('_', ' ')}." for name in NAMES])
    theirs = scores(clip, image_features(clip), clip.encode_text(texts))
    close(ready, theirs)
    same(model, mine, theirs)
    model.train()
    assert not torch.equal(model(IMAGES), model(IMAGES))  # dropout


def test_clip_lora_starts_as_zero_shot():
    from vpt.models.classifier import build_model

    model, _, config = built("prompt=clip_lora", "head.templates=simple")
    backbone = model.backbone
    plain, _, _ = built("prompt=none", "head.templates=simple")
    close(build_model(config, backbone, NAMES).eval()(IMAGES), plain(IMAGES))


def test_tasks_of_a_bank_have_their_own_updates():
    from vpt.prompts.batching import shape_of, stack

    models = [built("prompt=clip_lora", "prompt.rank=2")[0] for _ in range(2)]
    with torch.no_grad():
        models[1].prompt.updates.up.mul_(-2)
        layers = [model.constants() for model in models]
        assert shape_of(models[0].steps, layers[0]) == shape_of(models[1].steps, layers[1])
        mixed = stack(layers).of(torch.tensor([1, 0, 1]))
        found = models[0].features(IMAGES, mixed)
        for row, at in enumerate((1, 0, 1)):
            close(found[row], models[at].features(IMAGES)[row])


def teacher(clip: Any) -> torch.Tensor:
    texts = tokenizer()([f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    return scores(clip, image_features(clip), clip.encode_text(texts)).detach()


@pytest.mark.parametrize(("strength", "cached"), [(1.0, False), (1.0, True), (0.8, False)])
def test_prograd(strength: float, cached: bool):
    model, clip, config = built("prompt=prograd", "prompt.tokens=5", f"prompt.strength={strength}")
    mine, gradients = loss_and_gradients(model, config, cached)
    tokens = model.head.contexts.tokens
    prompted = scores(clip, image_features(clip), slow(clip, model.head.contexts, "end"))
    own = F.cross_entropy(prompted, LABELS)
    general = -(teacher(clip).softmax(1) * prompted.log_softmax(1)).sum() / 3
    close(mine, own)
    [first], [second] = (torch.autograd.grad(loss, [tokens], retain_graph=True) for loss in (own, general))
    unit = second / second.norm()
    product = float((first * unit).sum())
    close(gradients[0], first - min(0.0, product) * strength * unit)
    flipped = without_opposing([first], [-math.copysign(1, product) * second], 1.0)[0]
    assert float((flipped * second).sum()) == pytest.approx(0, abs=1e-4)
    close(without_opposing([first], [torch.zeros_like(second)], 1.0)[0], first)


def test_prograds_context_starts_with_zeros_and_ends_with_words():
    from vpt.models.classifier import build_model

    model, clip, config = built("prompt=prograd", "prompt.tokens=6", "prompt.words=a photo of a")
    tokens = build_model(config, model.backbone, NAMES).head.contexts.tokens[0]
    assert torch.equal(tokens[:2], torch.zeros(2, 24))
    close(tokens[2:], clip.token_embedding(torch.tensor(tokenizer().encode("a photo of a"))))
    with pytest.raises(UserError, match=r"more than prompt\.tokens=3 words"):
        built("prompt=prograd", "prompt.tokens=3")


def tcp_text(model: Any, clip: Any) -> torch.Tensor:
    """One class at a time, through open_clip's own layers at full length."""
    contexts, rows = model.head.contexts, []
    first, second = contexts.network[0], contexts.network[2]
    for name in NAMES:
        name = name.replace("_", " ")
        fixed = F.normalize(clip.encode_text(tokenizer()([f"a photo of a {name}."]))[0], dim=0).detach()
        hidden = first.weight @ fixed + first.bias
        tokens = (second.weight @ (hidden * torch.sigmoid(1.702 * hidden)) + second.bias).view(-1, 24)
        ids = tokenizer()([" ".join(["x"] * len(tokens)) + f" {name}."])
        out = clip.token_embedding(ids)
        out = torch.cat([out[:, :1], contexts.tokens[:1], out[:, 1 + len(tokens) :]], 1) + clip.positional_embedding
        for layer, block in enumerate(clip.transformer.resblocks):
            if layer == contexts.layer:
                out = torch.cat([out[:, :1], tokens[None], out[:, 1 + len(tokens) :]], dim=1)
            out = block(out, attn_mask=clip.attn_mask)
        rows.append(clip.ln_final(out)[0, int(ids.argmax())] @ clip.text_projection)
    return torch.stack(rows)


@pytest.mark.parametrize("layer", [1, 2])
def test_tcp(layer: int):
    model, clip, config = built("prompt=tcp", "prompt.tokens=3", f"prompt.layer={layer}", "prompt.width=7")
    mine, gradients = loss_and_gradients(model, config)
    text = tcp_text(model, clip)
    close(model.ready()(IMAGES), scores(clip, image_features(clip), text))
    fixed = clip.encode_text(tokenizer()([f"a photo of a {name.replace('_', ' ')}." for name in NAMES])).detach()
    theirs = F.cross_entropy(scores(clip, image_features(clip), text), LABELS)
    theirs = theirs + 8 * (1 - F.cosine_similarity(text, fixed).mean())
    close(mine, theirs)
    expected = torch.autograd.grad(theirs, [parameter for _, _, parameter in model.trainable()])
    assert len(expected) == 5
    for one, other in zip(gradients, expected, strict=True):
        close(one, other)
    with pytest.raises(UserError, match="the text tower has 3 layers"):
        built("prompt=tcp", "prompt.layer=3")


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("prompt=taskres", 2 * 512),
        ("prompt=clip_lora", 184_320),
        ("prompt=prograd", 8_192),
        ("prompt=tcp", 331_904),
        ("prompt=mmrl", 4_992_256),
        ("prompt=mmrl prompt.width=2048", 18_762_496),
        ("prompt=mmrlpp", 813_312),
    ],
)
def test_parameters_are_those_of_the_papers(words: str, count: int):
    from vpt.models.classifier import classifier_skeleton

    config, backbone = load_config(overrides=[*COUNT, *words.split()]), vit_b_16()
    prompt, head = classifier_skeleton(config, backbone, ["cat", "dog"])
    learned = {id(value): value.numel() for part in (prompt, head) if part is not None for value in part.parameters()}
    assert sum(learned.values()) == count


def vit_b_16() -> Any:
    """The sides of ViT-B/16, on the meta device, with its tokenizer."""
    import open_clip

    from vpt.backbones.backbone import Backbone
    from vpt.backbones.text_encoder import TextEncoder
    from vpt.data.normalization import Preprocess

    with torch.device("meta"):
        clip: Any = open_clip.CLIP(**open_clip.get_model_config("ViT-B-16"))
    visual = clip.visual
    encoder = TextEncoder(clip, open_clip.get_tokenizer("ViT-B-16"), "ViT-B/16")
    return Backbone(visual, "open_clip", "ViT-B/16", Preprocess(224, (0.5,) * 3, (0.5,) * 3), "x", encoder)


class TestTda:
    words = ("head=tda", "head.minus=0.9", "head.alpha=3", "head.shots=2", "head.minus_shots=1", "head.rare=0.2")

    def slow(self, head: Any, features: torch.Tensor) -> torch.Tensor:
        """Lists for each class, image by image, in double precision."""
        config, text = head.config, head.fixed.double()
        scale = float(head.__dict__["encoder"].scale)
        sure: dict[int, list] = {}
        unsure: dict[int, list] = {}
        rows = []
        for feature in F.normalize(features.double(), dim=1):
            plain = scale * text @ feature
            chance = plain.softmax(0)
            doubt = float(-(chance * chance.log()).sum())
            label = int(plain.argmax())
            level = doubt / math.log2(len(text))
            for cache, most, wanted in (
                (sure, config.shots, True),
                (unsure, config.minus_shots, config.lowest < level < config.highest),
            ):
                if wanted:
                    entries = sorted([*cache.get(label, []), (doubt, len(rows), feature, chance)], key=lambda e: e[:2])
                    cache[label] = entries[:most]
            found = plain.clone()
            for label, entries in sure.items():
                for _, _, key, _ in entries:
                    found[label] += config.alpha * math.exp(-config.beta * (1 - float(key @ feature)))
            for entries in unsure.values():
                for _, _, key, theirs in entries:
                    near = math.exp(-config.minus_beta * (1 - float(key @ feature)))
                    found -= config.minus * near * ((theirs > config.rare) & (theirs < 1))
            rows.append(found)
        return torch.stack(rows).float()

    def test_it_equals_lists(self):
        model, _, _ = built(*self.words)
        features = torch.randn(40, 20, generator=torch.Generator().manual_seed(3))
        expected = self.slow(model.head, features)
        assert not torch.allclose(expected, self.slow(model.head, features.flip(0)).flip(0), atol=1e-3)
        close(model.head(features), expected)
        ready = model.ready_head()  # batches follow each other
        close(torch.cat([ready(part) for part in features.split(7)]), expected)
        assert not list(model.trainable())

    def test_without_weights_it_is_zero_shot(self):
        model, _, _ = built("head=tda", "head.alpha=0", "head.minus=0")
        plain, _, _ = built("prompt=none")
        close(model(IMAGES), plain(IMAGES))

    @pytest.mark.parametrize("words", [["prompt=deep"], ["data.multilabel=true"], ["metrics.unknown=0.05"]])
    def test_what_does_not_go_with_it(self, words: list[str]):
        with pytest.raises(UserError, match="head=tda"):
            load_config(overrides=["head=tda", *words])


def test_modules_have_no_parts_of_the_backbone():
    for words in (["prompt=clip_lora"], ["prompt=tcp", "prompt.layer=2"], ["prompt=taskres"]):
        model, _, _ = built(*words)
        parts: list[nn.Module] = [part for part in (model.prompt, model.head) if part is not None]
        assert sum(value.numel() for part in parts for value in {*part.parameters()}) == sum(
            value.numel() for _, _, value in model.trainable()
        )
