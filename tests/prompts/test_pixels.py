"""Pixel prompts against their definitions, in front of convolutional nets, windows and CLIP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.runs import NET, QUIET
from tests.helpers.tensors import close
from tests.helpers.vit_families import CLASSES
from vpt.backbones.backbone import Backbone
from vpt.config import LinearHead, PixelPrompt, load_config
from vpt.data.normalization import Preprocess
from vpt.heads.linear import build_linear
from vpt.inference.predictor import load
from vpt.models.artifact import read_artifact
from vpt.models.classifier import PromptedModel, backbone_for, build_model
from vpt.prompts.pixel.prompt import PixelPrompts, overlay
from vpt.training.run import resume, train
from vpt.training.trainer import Trainer
from vpt.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("small_net")
SIDE = 32
MEAN = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
STD = torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)


def built(**words: object) -> PixelPrompts:
    torch.manual_seed(0)
    prompt = PixelPrompts(PixelPrompt(**words), SIDE)
    with torch.no_grad():
        prompt.pixels.add_(torch.randn_like(prompt.pixels))
    return prompt


def images(side: int = SIDE, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_a_frame_is_four_strips_added_after_normalising():
    """Bahng et al.: top, bottom, left and right strips make up the frame; the image is whole and not clamped."""
    prompt = built(size=5, space="normalised")
    assert prompt.pixels.numel() == 4 * 3 * 5 * (SIDE - 5)
    canvas, mask = prompt.canvas(2)
    assert int(mask.sum()) == 4 * 5 * (SIDE - 5)
    top, bottom = canvas[:, :5], canvas[:, -5:]
    left, right = canvas[:, 5:-5, :5], canvas[:, 5:-5, -5:]
    middle = torch.zeros(3, SIDE - 10, SIDE - 10)
    rebuilt = torch.cat([top, torch.cat([left, middle, right], dim=2), bottom], dim=1)
    assert torch.equal(rebuilt, canvas)
    expected = (images() - MEAN) / STD + rebuilt
    torch.testing.assert_close(prompt(images(), MEAN, STD), expected)
    gradient = torch.autograd.grad(prompt(images(), MEAN, STD).sum(), prompt.pixels)[0]
    assert (gradient == 2).all()


@pytest.mark.parametrize(("shape", "count"), [("patch", 3 * 7 * 7), ("random_patch", 3 * 7 * 7), ("full", 3 * 32 * 32)])
def test_other_shapes(shape: str, count: int):
    prompt = built(shape=shape, size=7).eval()
    assert prompt.pixels.numel() == count
    canvas, mask = prompt.canvas(2)
    assert 3 * int(mask.sum()) == count
    expected = torch.zeros(3, SIDE, SIDE)
    if shape == "full":
        expected = prompt.pixels.view(3, SIDE, SIDE)
    else:
        start = 0 if shape == "patch" else (SIDE - 7) // 2
        expected[:, start : start + 7, start : start + 7] = prompt.pixels.view(3, 7, 7)
    assert torch.equal(canvas * mask, expected)
    torch.testing.assert_close(prompt(images(), MEAN, STD), (images() + expected - MEAN) / STD)


def test_an_image_of_low_rank_is_the_sum_written_out():
    """LoR-VP: sum_k B[c, i, k] A[c, k, j] is added to pixel (i, j) of colour c, then all is normalised."""
    torch.manual_seed(0)
    prompt = PixelPrompts(PixelPrompt(shape="lowrank", rank=3), SIDE)
    assert torch.equal(prompt(images(), MEAN, STD), (images() - MEAN) / STD)  # it starts at zero
    assert 0.005 < prompt.right.detach().std() < 0.015
    with torch.no_grad():
        prompt.left.normal_()
    added = [
        [
            [sum(prompt.left[c, i, k] * prompt.right[c, k, j] for k in range(3)) for j in range(SIDE)]
            for i in range(SIDE)
        ]
        for c in range(3)
    ]
    theirs = (images() + torch.stack([torch.stack([torch.stack(row) for row in rows]) for rows in added]) - MEAN) / STD
    mine = prompt(images(), MEAN, STD)
    close(mine, theirs)
    weight = torch.randn(mine.shape, generator=torch.Generator().manual_seed(2))
    wanted = [prompt.left, prompt.right]
    for one, other in zip(*(torch.autograd.grad((out * weight).sum(), wanted) for out in (mine, theirs)), strict=True):
        close(one, other, "the gradient")
    count = sum(parameter.numel() for parameter in PixelPrompts(PixelPrompt(shape="lowrank"), 224).parameters())
    assert count == 6 * 224 * 4 == 5376


def test_a_wandering_patch_wanders_in_training_only():
    prompt = built(shape="random_patch", size=7).train()
    torch.manual_seed(1)
    first, second = prompt.canvas(2)[0]
    assert not torch.equal(first, second)
    for canvas in (first, second):
        places = canvas[0].nonzero()
        top, left = places.min(0).values
        assert torch.equal(canvas[:, top : top + 7, left : left + 7], prompt.pixels.view(3, 7, 7))
    torch.manual_seed(1)
    assert torch.equal(prompt.canvas(2)[0][0], first)
    prompt.eval()
    assert torch.equal(prompt.canvas(2)[0], prompt.canvas(2)[0])


@pytest.mark.parametrize("training", [False, True])
def test_a_wandering_patch_leaves_the_rest_of_the_image_as_it_is(training: bool):
    """The sigmoid of nothing is one half, which must not reach pixels that are beside the patch."""
    prompt = built(shape="random_patch", size=7, squash="sigmoid").train(training)
    change = prompt(images(), MEAN, STD) * STD + MEAN - images()
    for each in change:
        inside = each[:, each.abs().amax(0) > 1e-4].view(3, 7, 7)
        torch.testing.assert_close(inside, prompt.pixels.sigmoid().view(3, 7, 7), atol=1e-5, rtol=0)


def test_a_shrunk_image_stands_inside_a_frame_that_starts_grey():
    """ILM-VP: the image in the middle of zeros, the sigmoid of the prompt around it, then normalised."""
    prompt = PixelPrompts(PixelPrompt(size=6, shrink=True, squash="sigmoid"), SIDE)
    assert prompt.image_size == 20
    out = prompt(images(20), MEAN, STD)
    torch.testing.assert_close(out[:, :, 6:-6, 6:-6], (images(20) - MEAN) / STD)
    frame = out[:, :, :6] * STD + MEAN
    torch.testing.assert_close(frame, torch.full_like(frame, 0.5))


def test_a_learned_size_samples_around_the_centre():
    """AutoVP: at scale one nothing changes; otherwise pixel u comes from u / scale, bilinear, black outside."""
    prompt = built(size=6, shrink=True, learn_scale=True)
    assert sum(parameter.numel() for parameter in prompt.parameters()) == 3 * SIDE * SIDE + 1
    plain = PixelPrompts(PixelPrompt(size=6, shrink=True), SIDE)
    torch.testing.assert_close(prompt.placed(images(20)), plain.placed(images(20)), atol=1e-5, rtol=0)
    with torch.no_grad():
        prompt.scale.fill_(1.25)
    padded = plain.placed(images(20))[0, 0]
    found = prompt.placed(images(20))[0, 0]
    middle = (SIDE - 1) / 2
    for y, x in ((8, 9), (15, 20), (3, 3)):
        v, u = middle + (y - middle) / 1.25, middle + (x - middle) / 1.25
        top, left = int(np.floor(v)), int(np.floor(u))
        dy, dx = v - top, u - left
        expected = (1 - dy) * ((1 - dx) * padded[top, left] + dx * padded[top, left + 1]) + dy * (
            (1 - dx) * padded[top + 1, left] + dx * padded[top + 1, left + 1]
        )
        torch.testing.assert_close(found[y, x], expected, atol=1e-4, rtol=0)
    assert int(prompt.canvas(1)[1].sum()) == SIDE**2 - 25**2
    gradient = torch.autograd.grad(prompt(images(20), MEAN, STD).pow(2).sum(), prompt.scale)[0]
    assert torch.isfinite(gradient)
    assert gradient != 0


@pytest.mark.parametrize("space", ["raw", "normalised"])
def test_clamped_images_are_valid_pixels(space: str):
    prompt = built(shape="full", squash="clamp", space=space)
    with torch.no_grad():
        prompt.pixels.mul_(10)
    pixels = prompt(images(), MEAN, STD) * STD + MEAN
    assert pixels.min() > -1e-5
    assert pixels.max() < 1 + 1e-5


def test_every_image_with_its_own_prompt_equals_one_at_a_time():
    prompts = [built(size=5), built(size=9)]
    canvases, masks = (torch.stack(each) for each in zip(*(prompt.canvas(1) for prompt in prompts), strict=True))
    together = overlay(images(), canvases, masks[:, None], MEAN, STD, "raw", "none")
    for index, prompt in enumerate(prompts):
        assert torch.equal(together[index], prompt(images()[index : index + 1], MEAN, STD)[0])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"size": 16}, "leaves nothing of an image of 32 pixels; stay below 16"),
        ({"shape": "patch", "size": 33}, "larger than the image"),
        ({"shape": "lowrank", "rank": 33}, "prompt.rank=33 is larger than the image"),
    ],
)
def test_what_does_not_fit_is_refused(words: dict, sentence: str):
    with pytest.raises(UserError, match=sentence):
        PixelPrompts(PixelPrompt(**words), SIDE)


def test_contradictions_are_refused_by_the_configuration():
    with pytest.raises(UserError, match="use shape=pad"):
        load_config(overrides=["prompt=pixel", "prompt.shape=full", "prompt.shrink=true"])
    with pytest.raises(UserError, match="set shrink=true"):
        load_config(overrides=["prompt=pixel", "prompt.learn_scale=true"])
    with pytest.raises(UserError, match="leave out init"):
        load_config(overrides=["prompt=pixel", "prompt.shape=lowrank", "prompt.init=normal"])


@pytest.mark.parametrize("name", ["resnet10t", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("words", [[], ["prompt.shrink=true", "prompt.squash=sigmoid"]])
def test_gradients_reach_the_prompt_through_any_backbone(name: str, words: list[str]):
    size = 224 if name.startswith("swin") else 64
    common = [f"backbone={name}", "backbone.pretrained=false", f"backbone.image_size={size}", "prompt=pixel"]
    config = load_config(overrides=[*common, "prompt.size=8", *words])
    model = build_model(config, backbone_for(config), CLASSES[:3]).train()
    batch = torch.randint(0, 256, (2, 3, model.image_size, model.image_size), dtype=torch.uint8)
    model(batch).logsumexp(1).sum().backward()
    assert {role for _, role, _ in model.trainable()} == {"pixels", "head"}
    assert model.prompt.pixels.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    # The slow way: the library's own forward of the prompted image.
    model.eval()
    net, prompted = model.backbone.net, model.normalise(batch)
    expected = model.head(net.forward_head(net.forward_features(prompted), pre_logits=True))
    torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=1e-5)


def test_in_front_of_clip():
    from tests.helpers.vit_families import build_net

    backbone = Backbone(build_net("clip"), "open_clip", "clip", Preprocess(size=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3))
    model = PromptedModel(backbone, built(size=4), build_linear(LinearHead(), 24, 3)).eval()
    batch = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    prompted = (batch / 255 + model.prompt.canvas(2)[0] - 0.5) / 0.5
    torch.testing.assert_close(model(batch), model.head(backbone.net(prompted)), atol=1e-5, rtol=1e-4)
    model(batch).sum().backward()
    assert model.prompt.pixels.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "words",
    [["prompt.shape=random_patch"], ["prompt.shape=lowrank"], ["prompt.shrink=true", "prompt.learn_scale=true"]],
)
def test_a_run_with_a_pixel_prompt(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]):
    """Trains, resumes bit-identically, saves the learned picture, and lays it over any image."""
    usual = ["prompt=pixel", "prompt.size=4", *words]

    def config(out: Path):
        words = [f"data={shapes}", f"out={out}", "name=run", *NET, "train.epochs=2", "train.batch_size=8", *usual]
        return load_config(overrides=words)

    whole = train(config(tmp_path / "whole"), QUIET)
    step = Trainer.train_step

    def fatal(trainer, *args):
        if trainer.progress.step == 6:
            raise KeyboardInterrupt
        return step(trainer, *args)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "train_step", fatal)
        train(config(tmp_path / "cut").model_copy(update={}), QUIET)
    again = resume(tmp_path / "cut" / "run", console=QUIET)
    assert again.artifact.read_bytes() == whole.artifact.read_bytes()
    assert any(
        value.abs().sum() > 0 for name, value in read_artifact(whole.artifact).tensors.items() if "prompt." in name
    )
    with Image.open(whole.folder / "prompt.png") as picture:
        assert picture.size == (32, 32)
        assert picture.mode == "RGBA"
    predictor = load(whole.artifact)
    photo = shapes / "test" / "square" / "0.png"
    ((name, laid),) = predictor.prompted(photo)
    assert name == str(photo)
    assert laid.shape == (32, 32, 3)
    assert laid.dtype == np.uint8
