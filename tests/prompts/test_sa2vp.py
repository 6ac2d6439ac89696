"""SA2VP against its definition: a list of neighbours for every image and place, and two sequences in a loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn

import vpt
from tests.helpers.concatenation_twin import _embed, _layer, _pool, _rope_of
from tests.helpers.method_twins import _heads, _parts
from tests.helpers.runs import QUIET, settings
from tests.helpers.tensors import close, images_for
from tests.helpers.vit_families import build_backbone, build_net
from vpt.backbones.backbone import Backbone
from vpt.backbones.liveness import plan
from vpt.config import Sa2vpPrompt, load_config
from vpt.models.artifact import read_artifact
from vpt.models.classifier import backbone_for, build_model
from vpt.prompts.base import Shape
from vpt.prompts.registry import build_tokens
from vpt.prompts.visual.sa2vp import AlignedPrompts
from vpt.training.losses import build_objective
from vpt.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("small_net")


def built(backbone: Backbone, **words: object) -> AlignedPrompts:
    torch.manual_seed(3)
    config = Sa2vpPrompt(**{"rank": 5, "dropout": 0.0, "scale": 0.7, "every": 2, **words})
    prompt = build_tokens(config, Shape.of(backbone.require_tower("prompts")))
    assert isinstance(prompt, AlignedPrompts)
    with torch.no_grad():
        for parameter in prompt.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return prompt


def features(backbone: Backbone, prompt: AlignedPrompts, images: Tensor) -> Tensor:
    tower = backbone.require_tower("prompts")
    steps = plan(len(tower.blocks), prompt.inserted, prompt.after, backbone.reads("native"))
    return backbone.features(images, steps, "native", prompt.layers(tower, steps, len(images)))


def positions(net: nn.Module, count: int) -> Tensor:
    """Position embeddings of all tokens, zero for those that have none."""
    found = net.positional_embedding if hasattr(net, "transformer") else net.pos_embed
    if found is None:
        return torch.zeros(count, 1)
    found = found.reshape(-1, found.shape[-1])
    return torch.cat([torch.zeros(count - len(found), found.shape[1]), found])


def fused(
    prompt: AlignedPrompts, index: int, layer: nn.Module, tokens: Tensor, others: Tensor, rope: Tensor | None
) -> Tensor:
    """Each place of one image on its own: its neighbours as a list, a softmax over that list in every head."""
    parts, prefix, side = _parts(layer), prompt.prefix, 4
    query, _, _ = parts["qkv"](parts["norm1"](tokens))
    _, key, value = parts["qkv"](parts["norm1"](others))
    query, key, value = (_heads(each[None], parts["heads"])[0] for each in (query, key, value))
    query, key = parts["q_norm"](query), parts["k_norm"](key)
    if rope is not None:
        half = getattr(layer.attn, "rotate_half", False)
        turn = lambda x: torch.cat([x[:, :prefix], apply_rot_embed_cat(x[:, prefix:], rope, half=half)], 1)  # noqa: E731
        query, key = turn(query), turn(key)
    out = []
    for place, token in enumerate(tokens):
        if place < prefix:
            seen = list(range(len(others)))
        else:
            y, x = divmod(place - prefix, side)
            around = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            seen = [prefix + r * side + c for r, c in around if 0 <= r < side and 0 <= c < side]
            assert len(seen) in (4, 6, 9)
        heads = []
        for one, keys, values in zip(query[:, place], key, value, strict=True):
            weights = torch.stack([one @ keys[n] / len(one) ** 0.5 for n in seen]).softmax(0)
            heads.append(sum(weight * values[n] for weight, n in zip(weights, seen, strict=True)))
        mixed = token + parts["scale1"](parts["out"](torch.cat(heads)))
        unit = prompt.fusions[index]
        normed = (mixed - mixed.mean()) / (mixed.var(unbiased=False) + 1e-6).sqrt()
        normed = normed * unit.norm.weight + unit.norm.bias
        hidden = nn.functional.gelu(unit.down.weight @ normed + unit.down.bias)
        out.append(unit.up.weight @ hidden + unit.up.bias)
    return prompt.config.scale * torch.stack(out)


def twin(backbone: Backbone, images: Tensor, prompt: AlignedPrompts) -> tuple[Tensor, Tensor]:
    """Features of both sequences."""
    net = backbone.net
    rows, rotary, layers, prefix = _embed(net, images)
    pre = net.ln_pre if hasattr(net, "transformer") else net.norm_pre

    def new(index: int) -> Tensor:
        projection = prompt.projections[index]
        return torch.stack([projection.weight @ place + projection.bias for place in prompt.maps[index]])

    both = []
    for image in rows:
        h, p = image[None], pre(new(0) + positions(net, rows.shape[1]))[None]
        for index, layer in enumerate(layers):
            rope = _rope_of(net, rotary, index)
            run = lambda x, layer=layer, rope=rope: _layer(layer, x, rope, prefix)  # noqa: E731
            if index in (0, 2):
                added = fused(prompt, index, layer, p[0], h[0], rope)
                p = run(p) + added
                if index:
                    p = p + prompt.gains[0] * run(new(1)[None])
                h = run(h)
            else:
                h, p = run(h) + fused(prompt, index, layer, h[0], p[0], rope), run(p)
        both.append([_pool(net, net, each, None, prefix, "native")[0] for each in (h, p)])
    return torch.stack([h for h, _ in both]), torch.stack([p for _, p in both])


@pytest.mark.parametrize("family", ["vit", "vit-avg", "deit3", "dinov2-registers", "dinov3", "clip"])
def test_method_equals_its_definition(family: str):
    backbone = build_backbone(family)
    prompt = built(backbone).train()
    images = images_for(backbone).requires_grad_()
    mine = features(backbone, prompt, images)
    other = backbone.pooled(prompt.outputs(), 0, "native")
    theirs, their_other = twin(backbone, images, prompt)
    close(mine, theirs, "the image branch")
    close(other, their_other, "the prompt branch")
    weight = torch.randn(2, *mine.shape, generator=torch.Generator().manual_seed(2))
    wanted = [images, *prompt.parameters()]
    names = ["images", *(name for name, _ in prompt.named_parameters())]
    totals = [(mine * weight[0]).sum() + (other * weight[1]).sum()]
    totals.append((theirs * weight[0]).sum() + (their_other * weight[1]).sum())
    found = (torch.autograd.grad(total, wanted) for total in totals)
    for name, one, two in zip(names, *found, strict=True):
        close(one, two, f"the gradient of {name}")
    with torch.no_grad():
        close(features(backbone, prompt.eval(), images), theirs, "the prediction")
    assert prompt._outputs is None  # the last layer of the prompt branch is not computed for it


@pytest.mark.parametrize("words", [{"every": 3}, {"every": 4}, {"every": 100}])
def test_a_prediction_is_that_of_training_wherever_the_prompt_reads_the_image(words: dict):
    """Also where it reads it in the last of four layers, which then does nothing for a prediction."""
    backbone = build_backbone("vit")
    prompt, images = built(backbone, **words).train(), images_for(backbone)
    close(features(backbone, prompt, images), features(backbone, prompt.eval(), images))
    assert prompt.maps.shape[0] == {3: 2, 4: 1, 100: 1}[words["every"]]


@pytest.mark.parametrize(("rank", "count"), [(8, 202_200), (16, 372_912), (32, 714_336), (64, 1_397_184)])
def test_parameters_are_counted_as_in_the_released_code(rank: int, count: int):
    shape = Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14))
    prompt = build_tokens(Sa2vpPrompt(rank=rank), shape)
    assert sum(parameter.numel() for parameter in prompt.parameters()) == count


def test_both_branches_are_in_the_loss_and_one_predicts():
    config = load_config(overrides=["backbone=vpt_nano", "prompt=sa2vp", "prompt.weight=0.3", "prompt.dropout=0"])
    model = build_model(config, backbone_for(config), ["a", "b", "c"]).train()
    images, labels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.tensor([0, 2])
    seen: list[Tensor] = []

    def loss_of(scores: Tensor, wanted: Tensor) -> Tensor:
        seen.append(scores.detach())
        return nn.functional.cross_entropy(scores, wanted)

    objective = build_objective(config.prompt, model, model, loss_of, False)
    loss, correct = objective(images, labels)
    entropies = [nn.functional.cross_entropy(scores, labels) for scores in seen]
    close(loss.detach(), 0.7 * entropies[0] + 0.3 * entropies[1])
    assert (seen[0] - seen[1]).abs().max() > 1e-4
    assert correct == (seen[0].argmax(1) == labels).sum()
    close(model.eval()(images).detach(), seen[0])
    assert (
        build_objective(config.prompt, model.train(), model, loss_of, False, lambda *_: None)(images, labels)[1] is None
    )


def test_dropout_draws_for_every_image():
    backbone = build_backbone("vit")
    prompt, images = built(backbone, dropout=0.4).train(), images_for(backbone, 1).expand(2, -1, -1, -1)
    found = features(backbone, prompt, images)
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_where_it_cannot_be_used_it_says_so():
    with pytest.raises(UserError, match="vpt train prompt=sa2vp"):
        vpt.wrap(build_net("vit"), "sa2vp")
    with pytest.raises(UserError, match="prompt=sa2vp needs images of one size"):
        config = load_config(overrides=["backbone=vpt_nano", "task=detection", "prompt=sa2vp", "head.size=64"])
        vpt.training.tasks.task_of(config).build(config, ["a"])


def test_a_run_stores_its_parameters_alone(shapes: Path, tmp_path: Path):
    base = settings(shapes, tmp_path).model_dump(mode="json", exclude={"prompt"})
    run = vpt.train(load_config(base=base, overrides=["prompt=sa2vp", "prompt.rank=2", "train.epochs=1"]), QUIET)
    found = {name.split(".")[1] for name in read_artifact(run.artifact).tensors if name.startswith("prompt.")}
    assert found == {"maps", "projections", "gains", "fusions"}
