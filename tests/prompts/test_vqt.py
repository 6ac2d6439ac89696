"""VQT against its definition: each query token alone in a frozen layer, and a backbone that is not changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import vpt
from tests.helpers.concatenation_twin import _embed, _layer, _rope_of
from tests.helpers.method_twins import _attended, _heads, _parts
from tests.helpers.runs import QUIET, settings
from tests.helpers.tensors import close, images_for
from tests.helpers.vit_families import build_backbone, build_net
from vpt.backbones.backbone import Backbone
from vpt.backbones.forward import execute
from vpt.backbones.liveness import plan
from vpt.config import VqtPrompt, load_config
from vpt.heads.registry import build_head
from vpt.models.artifact import read_artifact
from vpt.models.classifier import backbone_for, build_model
from vpt.prompts.base import Shape
from vpt.prompts.registry import build_tokens
from vpt.training.tasks.select_features import fit
from vpt.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("small_net")
# Attention is written out for layers without rotary embedding.
FAMILIES = ["vit", "vit-avg", "vit-qk-norm", "dinov2-registers", "clip"]


def twin(backbone: Backbone, images: Tensor, tokens: Tensor, plain: Tensor) -> Tensor:
    """[normed features, and the normed outputs of each layer's query tokens], one token after the other."""
    net = backbone.net
    rows, rotary, layers, prefix = _embed(net, images)
    pieces = [plain]
    for index, (layer, queries) in enumerate(zip(layers, tokens, strict=True)):
        parts, outputs = _parts(layer), []
        _, keys, values = (_heads(part, parts["heads"]) for part in parts["qkv"](parts["norm1"](rows)))
        for token in queries:
            row = token.expand(len(images), 1, -1)
            query = _heads(parts["qkv"](parts["norm1"](row))[0], parts["heads"])
            mixed = _attended(parts["q_norm"](query), parts["k_norm"](keys), values, 1.0)
            row = row + parts["scale1"](parts["out"](mixed))
            outputs.append(row + parts["scale2"](parts["mlp"](parts["norm2"](row))))
        pieces.append(torch.cat(outputs, dim=1).flatten(1))
        rows = _layer(layer, rows, _rope_of(net, rotary, index), prefix)
    return torch.cat([piece / piece.square().sum(1, keepdim=True).sqrt() for piece in pieces], dim=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_method_equals_its_definition(family: str):
    backbone = build_backbone(family)
    tower = backbone.require_tower("prompts")
    torch.manual_seed(3)
    prompt = build_tokens(VqtPrompt(tokens=2), Shape.of(tower)).eval()
    images = images_for(backbone)
    steps = plan(len(tower.blocks), prompt.inserted, prompt.after, backbone.reads("native"))
    layers = prompt.layers(tower, steps, len(images))
    mine, plain = backbone.features(images, steps, "native", layers), backbone.features(images, steps)
    theirs = twin(backbone, images, prompt.tokens, plain)
    close(mine, theirs)
    assert torch.equal(mine[:, : plain.shape[1]], torch.nn.functional.normalize(plain, dim=1))
    weight = torch.randn(mine.shape, generator=torch.Generator().manual_seed(2))
    close(*(torch.autograd.grad((each * weight).sum(), prompt.tokens)[0] for each in (mine, theirs)), "the gradient")
    outputs: list[Tensor] = []
    rows, _ = execute(tower, steps, *tower.embed(images), layers, 1, outputs=outputs)
    assert not rows.requires_grad
    assert all(each.requires_grad for each in outputs)
    assert prompt.added_features == mine.shape[1] - plain.shape[1] == 4 * 2 * 48


@pytest.mark.parametrize("family", ["dinov3", "eva02", "vit-post-norm", "vit-gated"])
def test_a_query_equal_to_a_token_gives_its_output_in_other_layers_too(family: str):
    """In a layer with rotary embedding only for tokens that have no position: class and register tokens."""
    backbone = build_backbone(family)
    tower = backbone.require_tower("prompts")
    rows, rotary = tower.embed(images_for(backbone))
    block, rope = tower.blocks[0], tower.rope(rotary, 0)
    mine = block.queried(rows[:, : tower.prefix], rows, rope, tower.prefix)
    close(mine, block.forward(rows, None, slice(0, tower.prefix), rope, tower.prefix))


def test_parameters_are_counted_as_in_the_paper():
    words = ["backbone=vit_base_patch16_224", "backbone.pretrained=false", "prompt=vqt"]
    with torch.device("meta"):
        prompt = build_tokens(
            load_config(overrides=words).prompt,
            Shape(depth=12, width=768, heads=12, patch=(16, 16), grid=(14, 14)),
        )
    assert prompt.tokens.numel() == 9216
    assert prompt.added_features + 768 == 9984


@pytest.mark.parametrize("init", ["probe", "small"])
def test_a_head_reads_all_layers(init: str):
    config = load_config(overrides=["backbone=vpt_nano", "prompt=vqt", "prompt.tokens=2", f"head.init={init}"])
    model = build_model(config, backbone_for(config), ["a", "b"])
    depth, width = model.prompt.tokens.shape[0], model.prompt.tokens.shape[2]
    assert model.head[-1].in_features == width * (1 + 2 * depth)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    model.train()(images).logsumexp(1).sum().backward()
    assert (model.prompt.tokens.grad.abs().sum((1, 2)) > 0).all()


@pytest.mark.parametrize("words", [["task=detection"], ["head=zeroshot"], ["head=labelmap"], ["head=tip"]])
def test_heads_that_do_not_read_its_features_are_refused(words: list[str]):
    with pytest.raises(UserError, match="choose head=linear or head=mlp"):
        load_config(overrides=["prompt=vqt", *words])
    with pytest.raises(UserError, match="vpt train prompt=vqt"):
        vpt.wrap(build_net("vit"), "vqt")


def test_a_head_is_fitted_with_a_group_penalty_by_the_optimizer_of_the_run():
    """Two steps of gradient descent on all images, the gradient of the penalty written column by column."""
    words = ["train.optimizer=sgd", "train.optimizer.lr=0.5", "train.optimizer.momentum=0", "train.warmup=0"]
    words += ["train.optimizer.weight_decay=0.1", "train.schedule=constant", "train.epochs=2", "train.clip_norm=null"]
    config = load_config(overrides=["prompt=vqt", "prompt.keep_features=0.5", *words])
    torch.manual_seed(1)
    features, labels = torch.randn(9, 6), torch.arange(9) % 3
    loss_of = torch.nn.functional.cross_entropy
    found = fit(features, labels, 3, config, 9, loss_of, penalty=0.3)
    torch.manual_seed(config.train.seed)
    twin = build_head(config.head, 6, 3)[-1].requires_grad_(False)
    for _ in range(2):
        apart = (features @ twin.weight.T + twin.bias).softmax(1) - torch.eye(3)[labels]
        columns = [0.3 * column / column.norm() for column in twin.weight.T]
        change = apart.T @ features / 9 + torch.stack(columns, dim=1) + 0.1 * twin.weight
        twin.weight -= 0.5 * change
        twin.bias -= 0.5 * (apart.mean(0) + 0.1 * twin.bias)
    close(found.weight.detach(), twin.weight, "the weights")
    close(found.bias.detach(), twin.bias, "the biases")


def test_a_run_keeps_a_share_of_the_features(shapes: Path, tmp_path: Path):
    base = settings(shapes, tmp_path).model_dump(mode="json", exclude={"prompt", "head", "train"})
    words = ["prompt=vqt", "prompt.keep_features=0.3", "train.epochs=2", "train.batch_size=8"]
    run = vpt.train(load_config(base=base, overrides=words), QUIET)
    tensors = read_artifact(run.artifact).tensors
    [weight] = [value for name, value in tensors.items() if name.startswith("head.") and value.ndim == 2]
    assert int((weight != 0).any(0).sum()) == int(0.3 * weight.shape[1])
    measured = vpt.evaluate(run.artifact, "test", console=QUIET)
    assert measured["accuracy"] == run.metrics["test"]["accuracy"]
    with pytest.raises(UserError, match="inputs of head=linear"):
        load_config(base=base, overrides=[*words, "head=mlp"])


def test_the_probe_of_epoch_0_reads_the_queries_too(shapes: Path, tmp_path: Path):
    base = settings(shapes, tmp_path).model_dump(mode="json", exclude={"prompt", "head", "train"})
    words = ["prompt=vqt", "train.epochs=1", "train.batch_size=8", "train.optimizer.lr=0"]
    run = vpt.train(load_config(base=base, overrides=words), QUIET)
    assert run.metrics["best_epoch"] == 0
    measured = vpt.evaluate(run.artifact, "test", console=QUIET)
    assert measured["accuracy"] == run.metrics["test"]["accuracy"]
