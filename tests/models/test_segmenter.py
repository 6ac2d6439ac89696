"""The segmenter: a frozen prompted backbone, any size of images, windows; and that it learns."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vpt.config import RunConfig
from vpt.config.heads_segmentation import FpnMaskHead, LinearMaskHead, MaskHead, QueryMaskHead
from vpt.data.normalization import normalise
from vpt.models.segmentation.segmenter import Segmenter, build_segmenter, segmentation_skeleton
from vpt.training.segmentation_losses import segmentation_loss
from vpt.utils.errors import UserError

CLASSES = ("a", "b", "c")


def config_of(head: MaskHead, **settings: Any) -> RunConfig:
    """Settings of a run; the head is not yet one that `RunConfig` itself accepts."""
    return RunConfig.model_validate(settings).model_copy(update={"head": head})


def segmenter(head: MaskHead | None = None, **settings: Any) -> Segmenter:
    return build_segmenter(config_of(head or LinearMaskHead(), **settings), CLASSES)


def pictures(*sizes: tuple[int, int], seed: int = 0) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, *size), generator=chance, dtype=torch.uint8) for size in sizes]


@pytest.fixture(scope="module")
def plain() -> Segmenter:
    return segmenter(prompt="deep")


def test_only_prompt_and_head_are_trained(plain: Segmenter):
    assert {role for _, role, _ in plain.trainable()} == {"prompt", "head"}
    before = {name: value.clone() for name, value in plain.backbone.state_dict().items()}
    model = copy.deepcopy(plain).train()
    loss = model.loss(pictures((64, 64)), [torch.zeros(64, 64, dtype=torch.uint8)], segmentation_loss(["dice"]))
    loss.backward()
    assert model.prompt is not None
    assert all(weight.grad is not None for _, _, weight in model.trainable())
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())


@pytest.mark.parametrize("kind", ["none", "shallow", "deep", "vfpt", "cvpt"])
def test_equal_to_the_library_with_prompts_of_every_kind(kind: str):
    """Scores are the head's on the final patch tokens of the library's own forward, where there is no prompt; with one
    they differ, and a batch is equal to its images."""
    model = segmenter(prompt=kind).eval()
    images = torch.stack(pictures((64, 80), (64, 80)))
    scores = model(images)
    assert scores.shape == (2, 3, 64, 80)
    torch.testing.assert_close(scores[1:], model(images[1:]), rtol=1e-4, atol=1e-4)
    tokens = model.backbone.library_net.forward_features(normalise(images, model.mean, model.std))
    grid = tokens[:, model.backbone.require_tower("x").prefix :].transpose(1, 2).unflatten(2, (8, 10))
    wanted = F.interpolate(model.head([grid]), (64, 80), mode="bilinear")
    assert torch.allclose(scores, wanted, rtol=1e-3, atol=1e-4) == (kind == "none")


@pytest.mark.parametrize("head", [LinearMaskHead(taps=[0, 3, -1]), FpnMaskHead(taps=[2, -1]), QueryMaskHead(queries=4)])
def test_images_of_any_size_at_their_original_size(head: MaskHead):
    model = segmenter(head)
    images = pictures((64, 64), (32, 96), (64, 64))
    sizes = [(50, 70), (31, 90), (10, 10)]
    found = model.segment(images, sizes)
    assert [tuple(scores.shape) for scores in found] == [(3, *size) for size in sizes]
    for image, size, scores in zip(images, sizes, found, strict=True):
        torch.testing.assert_close(model.segment([image], [size])[0], scores, rtol=1e-4, atol=1e-4)


def test_loss_of_several_sizes_is_that_of_all_pixels():
    model = segmenter().eval()
    images = pictures((64, 64), (32, 96), (64, 64))
    masks = [torch.randint(0, 3, size, dtype=torch.uint8) for size in ((20, 20), (32, 96), (40, 40))]
    masks[0][:5] = 255
    rows = [F.interpolate(model.coarse(image[None]), mask.shape, mode="bilinear") for image, mask in zip(images, masks)]
    for term in ("cross_entropy", "dice"):
        criterion = segmentation_loss([term])
        pixels = torch.cat([row.flatten(2) for row in rows], 2)
        wanted = criterion(pixels, torch.cat([mask.flatten() for mask in masks])[None])
        torch.testing.assert_close(model.loss(images, masks, criterion), wanted)


def test_windows_average_what_they_see():
    model = segmenter(LinearMaskHead(window=64, stride=0.5)).eval()
    image = pictures((64, 128))[0]
    total, counts = torch.zeros(3, 64, 128), torch.zeros(64, 128)
    for left in (0, 32, 64):
        total[..., left : left + 64] += model(image[None, ..., left : left + 64])[0].detach()
        counts[:, left : left + 64] += 1
    torch.testing.assert_close(model.segment([image], [(64, 128)])[0], total / counts)
    small = pictures((64, 32))[0]
    whole = segmenter(LinearMaskHead())
    torch.testing.assert_close(model.segment([small], [(9, 9)])[0], whole.segment([small], [(9, 9)])[0])


def test_window_smaller_than_one_side():
    model = segmenter(LinearMaskHead(window=64))
    assert model.segment(pictures((32, 200 // 8 * 8)), [(33, 201)])[0].shape == (3, 33, 201)


def test_what_an_artifact_stores_loads_again():
    model = segmenter(FpnMaskHead(), prompt="deep")
    other = build_segmenter(config_of(FpnMaskHead(), prompt="deep", train={"seed": 5}), CLASSES)
    images = pictures((64, 64))
    assert not torch.equal(model.segment(images, [(64, 64)])[0], other.segment(images, [(64, 64)])[0])
    other.load_owned(model.stored_state())
    assert torch.equal(model.segment(images, [(64, 64)])[0], other.segment(images, [(64, 64)])[0])
    prompt, head = segmentation_skeleton(config_of(FpnMaskHead(), prompt="deep"), model.backbone, CLASSES)
    shapes = {f"head.{name}": value.shape for name, value in head.state_dict().items()}
    shapes |= {f"prompt.{name}": value.shape for name, value in prompt.state_dict().items()} if prompt else {}
    assert shapes == {name: value.shape for name, value in model.stored_state().items()}


@pytest.mark.parametrize(
    ("head", "settings", "said"),
    [
        (LinearMaskHead(taps=[9]), {}, r"head.taps=\[9\]: the backbone has layers 0 to 5"),
        (LinearMaskHead(taps=[-1, 5]), {}, "names a layer twice"),
        (LinearMaskHead(size=4096), {}, "images make up to 786432 patches.*set head.window"),
        (LinearMaskHead(), {"prompt": "vapt"}, "prompt=vapt needs images of one size"),
        (LinearMaskHead(), {"backbone": {"name": "resnet18", "pretrained": False}}, "not a vision transformer"),
    ],
)
def test_settings_that_do_not_fit(head: MaskHead, settings: dict[str, Any], said: str):
    with pytest.raises(UserError, match=said):
        segmenter(head, **settings)


def test_wrong_images_are_refused(plain: Segmenter):
    with pytest.raises(ValueError, match="images must be uint8"):
        plain(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("head", "lr"),
    [
        (LinearMaskHead(), 1e-2),
        (FpnMaskHead(channels=16, scales=[2.0]), 1e-2),
        (QueryMaskHead(queries=8, layers=1), 2e-3),
    ],
)
def test_it_learns_where_bright_is(head: MaskHead, lr: float):
    """A few steps on squares brighter or darker than a grey ground."""
    torch.manual_seed(0)
    chance = np.random.default_rng(0)
    images, masks = [], []
    for _ in range(8):
        mask = np.zeros((64, 64), np.uint8)
        for label in (1, 2):
            top, left = chance.integers(0, 5, 2) * 8
            mask[top : top + 24, left : left + 24] = label
        image = np.array([128, 250, 5])[mask] + chance.integers(-5, 6, mask.shape)
        images.append(torch.from_numpy(np.repeat(image[None], 3, 0).astype(np.uint8)))
        masks.append(torch.from_numpy(mask))
    model = segmenter(head)
    criterion = segmentation_loss(["cross_entropy", "dice"])
    optimizer = torch.optim.AdamW([weight for _, _, weight in model.trainable()], lr=lr)
    model.train()
    losses = []
    for _ in range(20):
        loss = model.loss(images, masks, criterion)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
