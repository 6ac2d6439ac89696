"""TCPA against loops over queries, written from its definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import vpt
from tests.helpers.concatenation_twin import _embed, _pool
from tests.helpers.method_twins import _heads, _parts, fourier
from tests.helpers.runs import QUIET, settings
from tests.helpers.tensors import close, images_for
from tests.helpers.vit_families import build_backbone
from vpt.backbones.backbone import Backbone
from vpt.backbones.liveness import plan
from vpt.config import TcpaPrompt, load_config
from vpt.models.artifact import read_artifact
from vpt.models.attention_maps import attention_of
from vpt.models.classifier import backbone_for, build_model
from vpt.prompts.base import Shape
from vpt.prompts.registry import build_tokens
from vpt.prompts.visual.tcpa import CoordinatedPrompts
from vpt.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("small_net")


def built(backbone: Backbone, **words: object) -> CoordinatedPrompts:
    torch.manual_seed(3)
    config = TcpaPrompt(**{"tokens": 4, "class_tokens": 3, "chosen": 2, **words})
    prompt = build_tokens(config, Shape.of(backbone.require_tower("prompts")))
    assert isinstance(prompt, CoordinatedPrompts)
    return prompt


def features(backbone: Backbone, prompt: CoordinatedPrompts, images: Tensor) -> Tensor:
    tower = backbone.require_tower("prompts")
    steps = plan(len(tower.blocks), prompt.inserted, prompt.after, backbone.reads("native"))
    return backbone.features(images, steps, "native", prompt.layers(tower, steps, len(images)))


def twin(backbone: Backbone, images: Tensor, prompt: CoordinatedPrompts) -> tuple[Tensor, Tensor]:
    """Features, and the sum of the distances: every image, and every one of its tokens, on its own."""
    rows, _, layers, prefix = _embed(backbone.net, images)
    config, total = prompt.config, torch.zeros(())
    for index, layer in enumerate(layers):
        parts = _parts(layer)
        tokens, keys = prompt.tokens[index], prompt.keys[index]
        tokens = fourier(tokens, len(tokens)) if config.fourier else tokens
        out, distances = [], {True: [], False: []}
        for image in rows:
            whole = torch.cat([tokens, image])
            query, key, value = (_heads(each[None], parts["heads"])[0] for each in parts["qkv"](parts["norm1"](whole)))
            query, key = parts["q_norm"](query), parts["k_norm"](key)
            mixed = []
            for at, token in enumerate(image):
                mine = range(config.class_tokens) if at < prefix else range(config.class_tokens, len(tokens))
                cosine = {n: token @ keys[n] / (token.norm() * keys[n].norm()) for n in mine}
                best = sorted(mine, key=lambda n: -cosine[n].item())[: config.chosen]
                distances[at < prefix] += [1 - cosine[n] for n in best]
                kept = torch.tensor([float(n >= len(tokens) or n in best) for n in range(len(whole))])
                scores = key @ query[:, len(tokens) + at, :, None] / query.shape[-1] ** 0.5
                mixed.append(((scores.softmax(1) * kept[:, None]) * value).sum(1).flatten())
            out.append(torch.stack(mixed))
        total = total + sum(torch.stack(each).mean() for each in distances.values())
        rows = rows + parts["scale1"](parts["out"](torch.stack(out)))
        rows = rows + parts["scale2"](parts["mlp"](parts["norm2"](rows)))
    return _pool(backbone.net, backbone.net, rows, None, prefix, "native"), total


@pytest.mark.parametrize(
    ("family", "words"), [("vit", {}), ("vit", {"fourier": True}), ("dinov2-registers", {}), ("clip", {"chosen": 9})]
)
def test_method_equals_its_definition(family: str, words: dict):
    backbone = build_backbone(family)
    prompt = built(backbone, dropout=0.0, random_epochs=0, weight=0.5, **words).train()
    images = images_for(backbone).requires_grad_()
    mine = features(backbone, prompt, images)
    loss = prompt.extra_losses(None, None)["keys"]
    theirs, distance = twin(backbone, images, prompt)
    close(mine, theirs, "the output")
    close(loss, 0.5 * distance, "the loss")
    assert prompt.extra_losses(None, None)["keys"] == 0  # nothing of an earlier step is left
    weight = torch.randn(mine.shape, generator=torch.Generator().manual_seed(2))
    wanted = [images, prompt.tokens, prompt.keys]
    totals = [(mine * weight).sum() + loss, (theirs * weight).sum() + 0.5 * distance]
    for one, other in zip(*(torch.autograd.grad(total, wanted) for total in totals), strict=True):
        close(one, other, "the gradient")


def test_keys_that_are_not_chosen_take_their_part_of_the_attention():
    """Leaving them out before the softmax is another function."""
    backbone = build_backbone("vit")
    prompt, images = built(backbone).eval(), images_for(backbone)
    tower = backbone.require_tower("prompts")
    steps = plan(4, prompt.inserted, prompt.after, backbone.reads("native"))
    layers = prompt.layers(tower, steps, 2)
    block, (rows, _) = tower.blocks[0], tower.embed(images)
    chosen = prompt.chosen(0, rows)
    mine = block.forward(rows, layers[0].extra, factors=chosen)
    keys = torch.cat([chosen, torch.ones(2, rows.shape[1], rows.shape[1])], dim=2).bool()[:, None]
    other = block.forward(rows, layers[0].extra, mask=keys)
    assert (mine - other).abs().max() > 1e-3


def test_the_choice_is_random_in_the_first_epochs_of_training_alone():
    backbone = build_backbone("vit")
    prompt = built(backbone, random_epochs=1).train()
    rows = torch.randn(3, 17, 48)
    prompt.before_epoch(0, 2)
    assert not torch.equal(prompt.chosen(0, rows), prompt.chosen(0, rows))
    assert (prompt.chosen(0, rows).sum(-1) == 2).all()
    assert not prompt.chosen(0, rows)[:, 0, 3:].any()
    assert not prompt.chosen(0, rows)[:, 1:, :3].any()
    first = prompt.eval().chosen(0, rows)
    prompt.train().before_epoch(1, 2)
    assert torch.equal(prompt.chosen(0, rows), first)


def test_parameters_are_counted_as_in_the_released_code():
    shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    prompt = build_tokens(TcpaPrompt(), shape)
    assert sum(parameter.numel() for parameter in prompt.parameters()) == 12 * (18 + 18) * 768 * 2
    assert 0.99 < prompt.tokens.max() < 1


def test_attention_maps_show_what_is_left_of_the_attention():
    words = ["backbone=vpt_nano", "prompt=tcpa", "prompt.tokens=4", "prompt.class_tokens=3"]
    photos = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    shown = []
    for chosen in (1, 4):
        torch.manual_seed(0)
        config = load_config(overrides=[*words, f"prompt.chosen={chosen}"])
        [found] = attention_of(build_model(config, backbone_for(config), ["a", "b"]).eval(), photos)
        shown.append(found.prompts[0])
    assert (shown[0] < shown[1]).all()


def test_a_backbone_without_class_token_is_refused():
    with pytest.raises(UserError, match="needs a class token"):
        built(build_backbone("vit-avg"))


def test_a_run_stores_tokens_and_keys(shapes: Path, tmp_path: Path):
    base = settings(shapes, tmp_path).model_dump(mode="json", exclude={"prompt"})
    words = ["prompt=tcpa", "prompt.tokens=4", "prompt.class_tokens=3", "train.epochs=1", "data.augment=none"]
    run = vpt.train(load_config(base=base, overrides=words), QUIET)
    found = {name for name in read_artifact(run.artifact).tensors if name.startswith("prompt.")}
    assert found == {"prompt.tokens", "prompt.keys"}
