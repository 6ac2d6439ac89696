"""CLIP's prompt learners equal their plain definitions, outputs and gradients."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.clip_models import build_clip, clip_backbone, tokenizer
from tests.helpers.slow_text import NAMES, slow
from tests.helpers.tensors import close
from vpt.config import RunConfig, load_config
from vpt.heads.zero_shot import class_features
from vpt.models.classifier import PromptedModel, build_model
from vpt.training.losses import build_loss, build_objective
from vpt.utils.errors import UserError

IMAGES = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 3, 1])


def built(*words: str, names: list[str] = NAMES) -> tuple[PromptedModel, nn.Module, RunConfig]:
    """A prompted CLIP with scrambled prompts, and the open_clip model it stands on."""
    config = load_config(overrides=["backbone=open_clip:ViT-B-32", "head=zeroshot", *words])
    clip = build_clip()
    visual = clip.visual
    model = build_model(config, clip_backbone(clip), names).eval()
    clip.__dict__["image_tower"] = visual
    torch.manual_seed(4)
    with torch.no_grad():
        for _, _, parameter in model.trainable():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, clip, config


def pixels() -> torch.Tensor:
    return (IMAGES / 255 - 0.5) / 0.5


def image_features(clip: Any, prompts: list[torch.Tensor] = ()) -> torch.Tensor:
    """IVLP's image tower: prompts behind the patches before the first norm, replaced in deeper layers, then kept."""
    visual = clip.image_tower
    rows = visual.conv1(pixels()).flatten(2).transpose(1, 2)
    first = visual.class_embedding.expand(len(rows), 1, -1)
    rows = torch.cat([first, rows], dim=1) + visual.positional_embedding
    if prompts:
        rows = torch.cat([rows, prompts[0].expand(len(rows), -1, -1)], dim=1)
    rows = visual.ln_pre(rows)
    for layer, block in enumerate(visual.transformer.resblocks):
        if 0 < layer < len(prompts):
            count = len(prompts[layer])
            rows = torch.cat([rows[:, :-count], prompts[layer].expand(len(rows), -1, -1)], dim=1)
        rows = block(rows)
    return visual.ln_post(rows[:, 0]) @ visual.proj


def scores(clip: Any, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    return clip.logit_scale.exp() * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T


def same(model: PromptedModel, mine: torch.Tensor, theirs: torch.Tensor) -> None:
    """Outputs and the gradients of everything that learns."""
    close(mine, theirs, "the scores")
    weight = torch.randn(mine.shape, generator=torch.Generator().manual_seed(2))
    names, parameters = zip(*((name, parameter) for name, _, parameter in model.trainable()), strict=True)
    ones = torch.autograd.grad((mine * weight).sum(), parameters)
    others = torch.autograd.grad((theirs * weight).sum(), parameters)
    for name, one, other in zip(names, ones, others, strict=True):
        close(one, other, f"the gradient of {name}")


def test_zero_shot_equals_open_clips_own_classifier():
    import open_clip

    model, clip, _ = built("prompt=none", "head.templates=simple")
    expected = open_clip.build_zero_shot_classifier(
        clip, tokenizer(), [name.replace("_", " ") for name in NAMES], open_clip.SIMPLE_IMAGENET_TEMPLATES
    )
    close(model.head.fixed, expected.T)
    close(model(IMAGES), clip.logit_scale.exp() * F.normalize(image_features(clip), dim=1) @ expected)
    assert not list(model.trainable())


@pytest.mark.parametrize(
    "words", [["prompt.tokens=3"], ["prompt.words=a photo of a", "prompt.tokens=4"], ["prompt.class_specific=true"]]
)
def test_coop(words: list[str]):
    model, clip, _ = built("prompt=coop", "prompt.tokens=3", *words)
    theirs = scores(clip, image_features(clip), slow(clip, model.head.contexts, "end"))
    same(model, model(IMAGES), theirs)
    close(model.ready()(IMAGES), theirs)
    assert {role for _, role, _ in model.trainable()} == {"prompt"}


@pytest.mark.parametrize("chunk", [1, 2, 8])
def test_cocoop(chunk: int):
    model, clip, _ = built("prompt=cocoop", f"prompt.chunk={chunk}")
    image = image_features(clip)
    rows = []
    for feature in F.normalize(image, dim=1):
        shift = model.head.contexts.meta(feature)
        text = slow(clip, model.head.contexts, "end", shift)
        rows.append(clip.logit_scale.exp() * F.normalize(text, dim=1) @ feature)
    same(model, model(IMAGES), torch.stack(rows))
    close(model.ready()(IMAGES), torch.stack(rows))


def test_cocoops_memory_is_bounded_by_its_chunk():
    """What a forward pass keeps does not grow with images times classes."""

    def kept(images: int) -> int:
        model, _, _ = built("prompt=cocoop", "prompt.chunk=1")
        features = torch.randn(images, 20)
        found: dict[int, torch.Tensor] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.head(features)
        return sum(tensor.untyped_storage().nbytes() for tensor in found.values())

    one_image_of_text = len(NAMES) * 12 * 24 * 4  # classes, places, channels, bytes: one activation of one layer
    assert kept(8) - kept(4) < one_image_of_text


@pytest.mark.parametrize("words", [[], ["prompt.text_tokens=0"], ["prompt.tokens=0"], ["prompt.depth=1"]])
def test_ivlp(words: list[str]):
    base = ["prompt=ivlp", "prompt.depth=2", "prompt.text_depth=3", "prompt.tokens=3", "prompt.text_tokens=4", *words]
    model, clip, _ = built(*base)
    prompts = list(model.prompt.tokens) if model.prompt is not None else []
    fixed = class_features(model.backbone.text, "x", NAMES, ["a photo of a {}."])
    text = fixed if model.head.contexts is None else slow(clip, model.head.contexts, "end")
    same(model, model(IMAGES), scores(clip, image_features(clip, prompts), text))


def test_maple():
    model, clip, _ = built("prompt=maple", "prompt.depth=3")
    assert model.head.contexts.tokens is model.prompt.tokens
    mapped = [tokens @ layer.weight.T + layer.bias for tokens, layer in zip(model.prompt.tokens, model.prompt.maps)]

    def text() -> torch.Tensor:
        # 'of a' of 'a photo of a' stays words.
        contexts = model.head.contexts
        rows = []
        for name in NAMES:
            ids = tokenizer()([f"a photo of a {name.replace('_', ' ')}."])
            out = clip.token_embedding(ids)
            out = torch.cat([out[:, :1], contexts.tokens[0][None], out[:, 3:]], dim=1) + clip.positional_embedding
            for layer, block in enumerate(clip.transformer.resblocks):
                if layer:
                    out = torch.cat([out[:, :1], contexts.tokens[layer][None], out[:, 3:]], dim=1)
                out = block(out, attn_mask=clip.attn_mask)
            rows.append(clip.ln_final(out)[0, int(ids.argmax())] @ clip.text_projection)
        return torch.stack(rows)

    same(model, model(IMAGES), scores(clip, image_features(clip, mapped), text()))
    names = [name for name, _, _ in model.trainable()]
    assert len(names) == len(set(names)) == 1 + 2 * 3
    assert sum(parameter.numel() for _, _, parameter in model.trainable()) == 3 * (2 * 24 + 24 * 32 + 32)


def test_visual_prompts_of_any_method_with_names():
    model, _, _ = built("prompt=deep", "prompt.tokens=2")
    assert model(IMAGES).shape == (3, 4)
    model(IMAGES).sum().backward()
    assert model.prompt.tokens.grad.abs().sum() > 0
    pixel, _, _ = built("prompt=pixel", "prompt.size=4")
    pixel(IMAGES).sum().backward()
    assert pixel.prompt.pixels.grad.abs().sum() > 0


def test_taskres():
    """Row by row: features of the templates, neither normalised before nor after their mean, and a residual."""
    templates = ["a photo of a {}.", "an old drawing of a {}"]
    model, clip, _ = built("prompt=taskres", "prompt.scale=0.7", f"head.templates={json.dumps(templates)}")
    assert model.head.contexts.residual.shape == (4, 20)
    rows = []
    for name, residual in zip(NAMES, model.head.contexts.residual, strict=True):
        texts = tokenizer()([each.replace("{}", name.replace("_", " ")) for each in templates])
        rows.append(clip.encode_text(texts).mean(0).detach() + 0.7 * residual)
    theirs = scores(clip, image_features(clip), torch.stack(rows))
    same(model, model(IMAGES), theirs)
    close(model.ready()(IMAGES), theirs)
    with torch.no_grad():  # without a residual it is zero-shot, with templates that weigh by their length
        model.head.contexts.residual.zero_()
    plain, _, _ = built("prompt=none", "head.templates=an old drawing of a {}")
    single, _, _ = built("prompt=taskres", "head.templates=an old drawing of a {}")
    torch.nn.init.zeros_(single.head.contexts.residual)
    close(single(IMAGES), plain(IMAGES))


def loss_and_gradients(model: PromptedModel, config: RunConfig, cached: bool = False) -> tuple[torch.Tensor, list]:
    forward = model.head if cached else model
    objective = build_objective(config.prompt, model, forward, build_loss(False, 0.0, None), cached)
    inputs = model.features(IMAGES).detach() if cached else IMAGES
    loss, _ = objective(inputs, LABELS)
    return loss, list(torch.autograd.grad(loss, [parameter for _, _, parameter in model.trainable()]))


@pytest.mark.parametrize("cached", [False, True])
def test_kgcoop(cached: bool):
    model, clip, config = built("prompt=kgcoop", "prompt.weight=3")
    mine, gradients = loss_and_gradients(model, config, cached)
    text = slow(clip, model.head.contexts, "end")
    fixed = class_features(model.backbone.text, "x", NAMES, ["a photo of a {}."])
    theirs = F.cross_entropy(scores(clip, image_features(clip), text), LABELS)
    theirs = theirs + 3 * (1 - F.cosine_similarity(text, fixed).mean())
    close(mine, theirs)
    expected = torch.autograd.grad(theirs, [parameter for _, _, parameter in model.trainable()])
    for one, other in zip(gradients, expected, strict=True):
        close(one, other)


def test_promptsrc():
    import open_clip

    words = ["prompt=promptsrc", "prompt.depth=2", "prompt.text_depth=2", "prompt.tokens=3"]
    model, clip, config = built(*words)
    mine, gradients = loss_and_gradients(model, config)
    image = image_features(clip, list(model.prompt.tokens))
    text = slow(clip, model.head.contexts, "end")
    with torch.no_grad():
        templates = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES][:60]
        frozen_text = torch.stack(
            [
                clip.encode_text(tokenizer()([t.replace("{}", name.replace("_", " ")) for t in templates])).mean(0)
                for name in NAMES
            ]
        )
        frozen_image = image_features(clip)
        frozen = scores(clip, frozen_image, frozen_text).softmax(1)
    prompted = scores(clip, image, text)
    theirs = F.cross_entropy(prompted, LABELS)
    theirs = theirs + 25 * (F.normalize(text, dim=1) - F.normalize(frozen_text, dim=1)).abs().sum() / text.numel()
    theirs = theirs + 10 * (F.normalize(image, dim=1) - F.normalize(frozen_image, dim=1)).abs().sum() / image.numel()
    theirs = theirs + (frozen * (frozen.log() - prompted.log_softmax(1))).sum() / prompted.numel()
    close(mine, theirs)
    expected = torch.autograd.grad(theirs, [parameter for _, _, parameter in model.trainable()])
    for one, other in zip(gradients, expected, strict=True):
        close(one, other)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["prompt=coop", "head=linear"], "set head=zeroshot"),
        (["prompt=maple", "prompt.depth=9"], r"the (image|text) tower has 3 layers"),
        (["prompt=ivlp", "prompt.text_depth=4", "prompt.depth=1"], "the text tower has 3 layers"),
        (["prompt=none", "head.templates=no_such"], "head.templates=no_such does not exist"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], sentence: str):
    with pytest.raises(UserError, match=sentence):
        built(*words)


def test_a_backbone_without_words_is_refused():
    from vpt.models.classifier import backbone_for

    with pytest.raises(UserError, match="has no text tower; choose a CLIP"):
        backbone_for(load_config(overrides=["backbone=vpt_nano", "head=zeroshot", "prompt=none"]))
