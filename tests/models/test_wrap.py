"""Prompts in a network of one's own: what it computes, what learns, what is saved, what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import vpt
from tests.helpers.concatenation_twin import twin_features
from tests.helpers.tensors import close
from tests.helpers.vit_families import BUILDERS, SIZE, SMALL
from vpt.models.wrap import Wrapped, load_prompt, wrap
from vpt.prompts.base import Shape
from vpt.prompts.visual.vpt import VisualPrompts
from vpt.utils.tensor_io import write_tensors

FAMILIES = ["vit", "vit-avg", "deit-distilled", "dinov3", "eva02", "siglip", "clip", "clip-over-timm"]


def small(classes: int = 3, name: str = "vit_tiny_patch16_224", seed: int = 0, **more: Any) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(name, **{**SMALL, "num_classes": classes, **more})


def photos(count: int = 2, height: int = SIZE, width: int = SIZE) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def loud(model: Wrapped) -> Wrapped:
    """Prompts large enough that a mistake shows."""
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.prompt.named_parameters():  # type: ignore[union-attr]
            usual = torch.randn_like(parameter)
            parameter.copy_(0.5 + usual.abs() if "temperatures" in name else usual)  # these have a range
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_it_says_what_the_network_says_with_prompts_in_its_sequence(family: str):
    net = BUILDERS[family]()
    model = loud(wrap(net, "deep", tokens=3, image_size=SIZE)).eval()
    tokens = model.tokens.sets(1)
    inserted = model.tokens.inserted
    outs = model(photos()), twin_features(model.backbone, photos(), tokens, inserted, "carry")
    close(*outs)
    weights = torch.randn(outs[0].shape)  # a plain sum would be flat behind a norm
    mine, theirs = (torch.autograd.grad((out * weights).sum(), list(model.learning())) for out in outs)
    for one, other in zip(mine, theirs, strict=True):
        close(one, other)


def test_its_own_classifier_follows_and_learns():
    model = loud(wrap(small(), "shallow", tokens=3)).eval()
    features = twin_features(model.backbone, photos(), model.tokens.sets(1), {0: 0}, "carry")
    close(model(photos()), model.net.head(features))
    assert {(name, role) for name, role, _ in model.trainable()} == {
        ("prompt.tokens", "prompt"),
        ("backbone.net.head.weight", "head"),
        ("backbone.net.head.bias", "head"),
    }
    assert [role for _, role, _ in wrap(small(), "shallow", head=False).trainable()] == ["prompt"]


def test_a_loop_of_ones_own_trains_what_learns_and_nothing_else():
    net = small()
    before = copy.deepcopy(net.state_dict())
    model = wrap(net, "deep", tokens=4, dropout=0.1).train()
    assert not net.training
    optimizer = torch.optim.AdamW(model.learning(), lr=1e-2)
    images, labels = photos(12), torch.arange(12) % 3
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("head"), name


@pytest.mark.parametrize("kind", ["deep", "shallow", "vfpt", "e2vpt", "cvpt", "vapt", "gated", "bpt", "pixel"])
def test_saved_and_loaded_it_gives_the_same_bits(kind: str, tmp_path: Path):
    settings = {"size": 4} if kind == "pixel" else {"tokens": 3, **({"init": "uniform"} if kind == "bpt" else {})}
    model = loud(wrap(small(), kind, **settings)).eval()
    model.net.norm.requires_grad_(True)  # belongs to the task from now on
    with torch.no_grad():
        model.net.norm.weight.mul_(1.5)
        model.net.head.weight.mul_(0.5)
    path = model.save(tmp_path / "prompt.safetensors")
    again = load_prompt(small(), path).eval()
    assert torch.equal(again(photos()), model(photos()))
    assert {name for name, _, _ in again.trainable()} == {name for name, _, _ in model.trainable()}
    assert again.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["deep", "shallow", "vfpt", "e2vpt", "cvpt", "vapt", "gated", "bpt", "pixel"])
@pytest.mark.parametrize("family", ["vit", "vit-post-norm", "clip"])
def test_a_network_of_half_the_bits(kind: str, dtype: torch.dtype, family: str):
    """Prompts learn in float32; the answers are those of the same network in float32, but for rounding."""
    settings = {"size": 4} if kind == "pixel" else {"tokens": 3, **({"init": "uniform"} if kind == "bpt" else {})}
    net = BUILDERS[family]().to(dtype)
    nets = net, copy.deepcopy(net).float()
    half, full = (loud(wrap(each, kind, image_size=SIZE, **settings)).eval() for each in nets)
    assert {p.dtype for p in half.prompt.parameters()} == {torch.float32}  # type: ignore[union-attr]
    mine, theirs = half(photos().to(dtype)), full(photos().to(dtype).float())
    assert mine.dtype is dtype
    torch.testing.assert_close(mine.float(), theirs, atol=0.05 * float(theirs.detach().abs().max()), rtol=0)
    weights = torch.randn(mine.shape)
    grads = [
        torch.autograd.grad((out.float() * weights).sum(), list(model.learning()))
        for out, model in ((mine, half), (theirs, full))
    ]
    assert all(one.isfinite().all() for one in grads[0])
    one, other = (torch.cat([each.float().flatten() for each in some]) for some in grads)
    assert nn.functional.cosine_similarity(one, other, dim=0) > 0.9


@pytest.mark.parametrize(
    "settings", [{"init": "sample"}, {"init": "vipamin"}, {"init": "kmeans"}, {"kind": "bpt", "init": "whitening"}]
)
def test_a_network_of_half_the_bits_starts_from_images(settings: dict[str, Any]):
    kind = settings.pop("kind", "deep")
    model = wrap(small().bfloat16(), kind, tokens=2, images=photos(8).bfloat16(), **settings)
    assert all(each.isfinite().all() for each in model.prompt.parameters())  # type: ignore[union-attr]
    assert model(photos().bfloat16()).isfinite().all()


@pytest.mark.parametrize("kind", ["deep", "pixel"])
def test_prompts_stand_where_the_network_is(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "vpt.models.wrap.fingerprint", lambda *words, **named: ""
    )  # there are no numbers on this device
    model = wrap(small().to("meta"), kind, **({"size": 4} if kind == "pixel" else {}))
    assert {each.device.type for each in [*model.parameters(), *model.buffers()]} == {"meta"}
    assert model(photos().to("meta")).shape == (2, 3)


def test_a_prompt_of_ones_own(tmp_path: Path):
    def last(shape: Shape) -> VisualPrompts:
        return VisualPrompts(shape, {shape.depth - 1: 0}, tokens=2)

    model = loud(wrap(small(), last)).eval()
    path = model.save(tmp_path / "prompt.safetensors")
    assert torch.equal(load_prompt(small(), path, prompt=last).eval()(photos()), model(photos()))
    with pytest.raises(vpt.UserError, match=r"a custom prompt: use load_prompt\(\.\.\., prompt=FUNCTION\)"):
        load_prompt(small(), path)
    with pytest.raises(vpt.UserError, match="tokens: a custom prompt gets its settings where it is created"):
        wrap(small(), last, tokens=3)


def test_it_starts_from_images():
    model = wrap(small(), "deep", tokens=2, init="sample", images=photos(8))
    patches = model.backbone.require_tower("patches").patches(photos(8)).flatten(0, 1)
    first = model.tokens.sets(1)[0]
    assert all((patches - token).abs().amax(1).min() < 1e-6 for token in first)


def test_patch_grids_for_dense_tasks():
    model = loud(wrap(small(0, dynamic_img_size=True), "deep", tokens=3))
    model.eval()
    last, second = model.grids(photos(2, 40, 24), layers=(-1, 1))
    assert last.shape == second.shape == (2, 48, 5, 3)
    last.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.learning())
    with pytest.raises(vpt.UserError, match="there is no layer 4: count from 0 to 3, or from the end, -1 to -4"):
        model.grids(photos(), layers=(4,))


def test_patches_behind_a_convolutional_stem():
    """Their size in pixels is the stem's reduction times what the patch takes of the stem's map."""
    model = loud(wrap(BUILDERS["vit-hybrid"](), "vapt", tokens=2, kernel=1)).eval()
    assert model.backbone.require_tower("patches").patch == (32, 32)
    assert model(photos(2, 64, 64)).shape == (2, 48)
    assert model.grids(photos(2, 64, 64))[0].shape == (2, 48, 2, 2)


def test_pixels_through_networks_of_two_libraries():
    from torchvision.models import resnet18

    for net, mean, std in (
        (resnet18(num_classes=4), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (timm.create_model("resnet10t", num_classes=4), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ):
        model = loud(wrap(net, "pixel", size=5, image_size=64))
        images = photos(2, 64, 64)
        frame = model.prompt.canvas(1)[0]  # type: ignore[union-attr]
        raw = images * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1) + frame
        close(model(images), net((raw - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)))
        assert sum(p.numel() for _, role, p in model.trainable() if role == "pixels") == 3 * (64**2 - 54**2)
        assert sum(p.numel() for _, role, p in model.trainable() if role == "head") == 4 * 512 + 4
        with pytest.raises(vpt.UserError, match="pixel prompts have no tokens"):
            model.grids(images)


def test_other_weights_and_other_files_are_refused(tmp_path: Path):
    path = wrap(small(), "deep").save(tmp_path / "prompt.safetensors")
    other = small()
    nn.init.ones_(other.blocks[0].mlp.fc1.weight)  # type: ignore[union-attr,index]
    with pytest.raises(vpt.UserError, match=r"other weights, or .* create the network it was trained in"):
        load_prompt(other, path)
    strange = write_tensors(tmp_path / "strange.safetensors", {}, {"kind": "vpt artifact"})
    with pytest.raises(vpt.UserError, match="is a vpt artifact, not a saved prompt"):
        load_prompt(small(), strange)
    with pytest.raises(vpt.UserError, match="is a vpt prompt, not an artifact"):
        vpt.load(path)


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("depe", {}, "prompt.kind=depe does not exist; did you mean 'deep'"),
        ("deep", {"tokns": 3}, "unknown key 'prompt.tokns'; did you mean 'tokens'"),
        ("deep", {"layers": [7]}, "list distinct layers from 0 to 3"),
        ("none", {}, "there is nothing to wrap"),
        ("coop", {}, "needs CLIP's text encoder"),
        ("deep", {"init": "sample"}, r"use wrap\(\.\.\., images=BATCH\), or init='uniform'"),
        ("e2vpt", {"prune_tokens": 0.5}, "pruning trains twice"),
        ("pixel", {"size": 4, "shrink": True}, "shrink changes the size"),
    ],
)
def test_mistakes_are_named(kind: str, settings: dict[str, Any], said: str):
    with pytest.raises(vpt.UserError, match=said):
        wrap(small(), kind, **settings)


def test_networks_that_take_no_tokens_are_refused():
    with pytest.raises(
        vpt.UserError, match="resnet10t does not support token prompts: ResNet is not a vision transformer"
    ):
        wrap(timm.create_model("resnet10t"), "deep")
    open_clip = pytest.importorskip("open_clip")
    tiny = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    clip = open_clip.CLIP(embed_dim=16, vision_cfg=tiny, text_cfg=text)
    with pytest.raises(vpt.UserError, match=r"wrap its image tower: vpt\.wrap\(clip\.visual\)"):
        wrap(clip, "deep")
    assert wrap(clip.visual, "deep", tokens=2)(photos()).shape == (2, 16)
