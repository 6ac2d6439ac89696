"""Prompts in a Swin transformer against the paper's definition, one image, window and query at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor

from tests.helpers.tensors import close
from vpt.backbones.backbone import Backbone
from vpt.backbones.liveness import plan
from vpt.backbones.parallel.activation_checkpoint import Recomputed
from vpt.config import DeepPrompt, E2vptPrompt, Sa2vpPrompt, ShallowPrompt, load_config
from vpt.data.normalization import Preprocess
from vpt.models.attention_maps import require_attention
from vpt.models.classifier import PromptedModel
from vpt.models.detection.detector import dynamic_backbone
from vpt.prompts.base import Shape
from vpt.prompts.registry import build_tokens
from vpt.utils.errors import UserError

Patches = dict[tuple[int, int], Tensor]  # place in the grid -> (C,)


def swin(kind: type = SwinTransformer, size: int = 32, windows: tuple = ((4, 4), (2, 2))) -> Backbone:
    """Grids of 8 and 4 patches, in 4 windows each; every second layer is shifted. Large weights make mistakes show."""
    torch.manual_seed(0)
    net = kind(img_size=size, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=windows, num_classes=0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Backbone(net.eval().requires_grad_(False), "timm", "swin", Preprocess(size=size), fingerprint="test")


def twin(net: torch.nn.Module, image: Tensor, sets: Mapping[int, Tensor], after: str, pool: str) -> Tensor:
    """Features of one image (3, S, S); `sets`: layer -> tokens (P, C) that replace what the layers below left."""
    grid = net.patch_embed(image[None])[0]
    patches = {(y, x): grid[y, x] for y in range(grid.shape[0]) for x in range(grid.shape[1])}
    prompts: list[Tensor] = []
    layer = 0
    for stage in net.layers:
        if stage is not net.layers[0]:
            patches, prompts = merged(stage.downsample, patches, prompts)
        for block in stage.blocks:
            prompts = list(sets[layer]) if layer in sets else prompts if after == "carry" else []
            patches, prompts = run(block, patches, prompts)
            layer += 1
    read = [*(prompts if pool == "all" else []), *patches.values()]
    return torch.stack([net.norm(token) for token in read]).mean(0)


def merged(merge: torch.nn.Module, patches: Patches, prompts: list[Tensor]) -> tuple[Patches, list[Tensor]]:
    """Four neighbours become one patch, four copies of a prompt one prompt."""
    joined = {
        (y // 2, x // 2): torch.cat([patches[y + dy, x + dx] for dx in (0, 1) for dy in (0, 1)])
        for y, x in patches
        if y % 2 == x % 2 == 0
    }
    post = merge.norm.normalized_shape == (merge.reduction.out_features,)  # the second version

    def reduce(four: Tensor) -> Tensor:
        return merge.norm(merge.reduction(four)) if post else merge.reduction(merge.norm(four))

    return {place: reduce(four) for place, four in joined.items()}, [reduce(torch.cat([one] * 4)) for one in prompts]


def run(block: torch.nn.Module, patches: Patches, prompts: list[Tensor]) -> tuple[Patches, list[Tensor]]:
    second = hasattr(block.attn, "cpb_mlp")
    attention, side = block.attn, max(y for y, _ in patches) + 1
    size, shift, heads = block.window_size[0], block.shift_size[0], attention.num_heads

    def parts(token: Tensor) -> list[Tensor]:  # query, key, value, each (heads, head_dim)
        if not second:
            query, key, value = (part.view(heads, -1) for part in attention.qkv(block.norm1(token)).chunk(3))
            return [query * query.shape[-1] ** -0.5, key, value]
        biases = torch.cat([attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias])
        query, key, value = (part.view(heads, -1) for part in (attention.qkv.weight @ token + biases).chunk(3))
        scale = attention.logit_scale[:, :, 0].exp().clamp(max=100)
        return [query / query.norm(dim=1, keepdim=True) * scale, key / key.norm(dim=1, keepdim=True), value]

    def bias(down: int, right: int) -> Tensor:  # of a key so far above and left of the query
        if not second:
            return attention.relative_position_bias_table[(down + size - 1) * (2 * size - 1) + right + size - 1]
        steps = 8 * torch.tensor([down, right]) / (size - 1)
        return 16 * attention.cpb_mlp(steps.sign() * (steps.abs() + 1).log2() / 3).sigmoid()

    def attended(query: Tensor, seen: Sequence[tuple[Tensor, Tensor, Tensor | float]]) -> Tensor:
        scores = torch.stack([(query * key).sum(-1) + added for key, _, added in seen])
        values = torch.stack([value for _, value, _ in seen])
        return attention.proj((scores.softmax(0)[:, :, None] * values).sum(0).flatten())

    cut = {place: parts(token) for place, token in patches.items()}
    own = [parts(token) for token in prompts]
    always = [(key, value, 0.0) for _, key, value in own]
    mixed: Patches = {}
    mixed_prompts: list[list[Tensor]] = [[] for _ in own]
    for top in range(0, side, size):
        for left in range(0, side, size):
            window = [(y, x) for y in range(top, top + size) for x in range(left, left + size)]  # after the shift
            places = {place: ((place[0] + shift) % side, (place[1] + shift) % side) for place in window}

            def wrapped(place: tuple[int, int]) -> tuple[bool, bool]:
                return place[0] + shift >= side, place[1] + shift >= side

            for one in window:
                seen = list(always)
                for other in window:
                    if wrapped(one) == wrapped(other):  # neighbours in the image
                        _, key, value = cut[places[other]]
                        seen.append((key, value, bias(one[0] - other[0], one[1] - other[1])))
                mixed[places[one]] = attended(cut[places[one]][0], seen)
            for (query, _, _), found in zip(own, mixed_prompts, strict=True):
                found.append(attended(query, [*always, *((*cut[place][1:], 0.0) for place in places.values())]))

    def finished(token: Tensor, added: Tensor) -> Tensor:
        if second:
            token = token + block.norm1(added)
            return token + block.norm2(block.mlp(token))
        token = token + added
        return token + block.mlp(block.norm2(token))

    done = {place: finished(token, mixed[place]) for place, token in patches.items()}
    return done, [finished(one, sum(found) / len(found)) for one, found in zip(prompts, mixed_prompts, strict=True)]


CASES = {
    "shallow": (ShallowPrompt(tokens=3), "native"),
    "shallow, all read": (ShallowPrompt(tokens=3), "all"),
    "shallow, dropped": (ShallowPrompt(tokens=3, after="drop"), "native"),
    "deep": (DeepPrompt(tokens=3), "native"),
    "deep, all read": (DeepPrompt(tokens=3), "all"),
    "first layers, carried": (DeepPrompt(tokens=3, layers="first:2"), "all"),
    "last layer": (DeepPrompt(tokens=3, layers="last:1"), "avg"),
}


KINDS = [SwinTransformer, SwinTransformerV2]


@pytest.mark.parametrize(
    ("kind", "case"),
    [*((SwinTransformer, case) for case in CASES), *((SwinTransformerV2, case) for case in list(CASES)[1::3])],
)
def test_prompts_equal_the_definition(kind: type, case: str):
    """Image by image, so a batch whose images see each other's prompts fails."""
    config, pool = CASES[case]
    backbone = swin(kind)
    tower = backbone.require_tower("prompts")
    prompt = build_tokens(config, Shape.of(tower))
    torch.manual_seed(1)
    with torch.no_grad():
        for stage in prompt.stages:
            stage.copy_(torch.randn_like(stage))
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    steps = plan(4, prompt.inserted, config.after, backbone.reads(pool))
    mine = backbone.features(images, steps, pool, prompt.layers(tower, steps, 2))
    sets = {layer: prompt.sets(2)[index] for layer, index in prompt.inserted.items()}
    theirs = torch.stack([twin(backbone.net, image, sets, config.after, pool) for image in images])
    close(mine, theirs)
    weight, wanted = torch.randn(mine.shape), [images, *prompt.stages]
    found = zip(*(torch.autograd.grad((each * weight).sum(), wanted) for each in (mine, theirs)), strict=True)
    for one, other in found:
        close(one, other, "a gradient")


@pytest.mark.parametrize(("size", "windows"), [(32, ((4, 4), (2, 2))), (60, ((4, 4), (3, 3))), (32, ((7, 7), (7, 7)))])
@pytest.mark.parametrize("kind", KINDS)
def test_without_prompts_equals_timm(kind: type, size: int, windows: tuple):
    """Also where the grid is no multiple of the window, or odd, or smaller than the window."""
    backbone, images = swin(kind, size, windows), torch.randn(2, 3, size, size)
    for pool in ("native", "avg"):
        close(backbone.features(images, plan(4, {}, "drop", backbone.reads(pool)), pool), backbone.net(images))


def test_the_classifier_equals_timm():
    """For label mapping."""
    net = SwinTransformer(32, embed_dim=16, depths=(1, 1), num_heads=(2, 4), window_size=4, num_classes=5).eval()
    backbone, images = Backbone(net, "timm", "swin", Preprocess(size=32)), torch.randn(2, 3, 32, 32)
    close(backbone.features(images, plan(2, {}, "drop", backbone.reads("classifier")), "classifier"), net(images))


def test_every_image_with_its_own_prompts_and_mask():
    """The way a bank serves tasks with different numbers of tokens in one batch."""
    backbone = swin()
    tower = backbone.require_tower("prompts")
    torch.manual_seed(1)
    images, steps = torch.randn(2, 3, 32, 32), plan(4, {n: n for n in range(4)}, "carry", backbone.reads("native"))
    sets = [torch.randn(2, 3, width) for width in tower.widths]
    seen = torch.tensor([[True, True, True], [True, False, True]])
    layers = [_layer(block, tokens, seen) for block, tokens in zip(tower.blocks, sets, strict=True)]
    mine = backbone.features(images, steps, "native", layers)
    for at, image in enumerate(images):
        mine_only = {layer: tokens[at][seen[at]] for layer, tokens in enumerate(sets)}
        close(mine[at], twin(backbone.net, image, mine_only, "carry", "native"))


def _layer(block, tokens: Tensor, seen: Tensor):
    from vpt.backbones.layer_prompt import LayerPrompt

    return LayerPrompt(extra=block.keys_values(tokens), seen=seen)


def test_recomputed_and_dropped_layers_are_the_same_layers():
    backbone, images = swin(), torch.randn(2, 3, 32, 32)
    steps = plan(4, {}, "drop", backbone.reads("native"))
    expected = backbone.features(images, steps)
    backbone.with_drop_path(0.5).eval()
    backbone.with_blocks(Recomputed.of)
    assert torch.equal(backbone.features(images, steps), expected)


def test_counts_and_initialisation_of_the_paper():
    widths = (128,) * 2 + (256,) * 2 + (512,) * 18 + (1024,) * 2  # Swin-B
    shape = Shape(24, 1024, 4, (4, 4), (56, 56), 0, widths)
    for config, count in ((DeepPrompt(tokens=50), 12_032 * 50), (ShallowPrompt(tokens=50), 128 * 50)):
        values = torch.cat([each.flatten() for each in build_tokens(config, shape).parameters()])
        assert values.numel() == count
        assert values.abs().max().item() == pytest.approx((6 / (48 + 128)) ** 0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (E2vptPrompt(), "prompt=e2vpt needs layers of one width.*prompt=deep or prompt=pixel"),
        (Sa2vpPrompt(), "prompt=sa2vp needs layers of one width"),
        (DeepPrompt(shared=True), "prompt.shared needs"),
        (DeepPrompt(init="sample"), "prompt.init needs"),
        (DeepPrompt(pae="paper"), "prompt.pae needs"),
        (ShallowPrompt(project=4), "prompt.project needs"),
        (ShallowPrompt(after="insert"), "prompt.after=insert needs"),
    ],
)
def test_what_needs_layers_of_one_width_is_refused(config, sentence: str):
    with pytest.raises(UserError, match=sentence):
        build_tokens(config, Shape.of(swin().require_tower("prompts")))


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.usefixtures("small_net")
def test_dense_tasks_are_refused(task: str):
    config = load_config(overrides=[f"task={task}", "backbone=test_swin_32", "backbone.pretrained=false", "data=some"])
    with pytest.raises(UserError, match=r"detection and segmentation: its patch grid changes between layers; choose a"):
        dynamic_backbone(config)


def test_what_needs_one_grid_is_refused():
    backbone = swin()
    with pytest.raises(UserError, match="attention maps: its patch grid changes"):
        require_attention(PromptedModel(backbone, None, torch.nn.Linear(32, 3)))
    with pytest.raises(UserError, match="patch grids: its patch grid changes"):
        backbone.grids(torch.zeros(1, 3, 32, 32), plan(4, {}, "drop", backbone.reads("avg")), [3])
