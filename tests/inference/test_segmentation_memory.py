"""Masks of large images: computed in parts, so that memory is bounded, with the result of the whole at once."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import vpt
from tests.helpers.live_memory import LiveMemory
from tests.helpers.mask_runs import CLASSES, mask_settings, squares
from tests.helpers.runs import QUIET
from vpt.inference import segmenter
from vpt.inference.bank.answers import answer_each
from vpt.inference.segmentation import Segmentation
from vpt.inference.segmenter import MaskPredictor
from vpt.models.segmentation.read_out import AT_ONCE, tiles


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> MaskPredictor:
    data = squares(tmp_path_factory.mktemp("squares"))
    words = ["train.epochs=1", "data.augment=none", "head=linear_segmentation"]
    return vpt.load(vpt.train(mask_settings(data, tmp_path_factory.mktemp("runs"), *words), console=QUIET).folder)


def ask(predictor: MaskPredictor, width: int, height: int) -> Segmentation:
    """The answer for an image that had this size before it was resized for the model."""
    pixels = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
    return predictor.answer(["a.png"], [predictor.view(pixels)], [(width, height)], 5)[0]


def held(predictor: MaskPredictor) -> int:
    """Peak bytes of answering for 24 million pixels, with a mask that is reduced to one million."""
    with LiveMemory() as memory:
        found = ask(predictor, 6000, 4000).within(1_000_000).to_dict()
    assert found["width"] * found["height"] <= 1_000_000
    return memory.peak_bytes()


def test_the_bound_of_memory(predictor: MaskPredictor, monkeypatch: pytest.MonkeyPatch):
    """Two bytes a pixel and 150 MB, where scores and 64-bit copies of 24 million pixels took more than 600 MB."""
    bound = 2 * 24_000_000 + 150_000_000
    ask(predictor, 60, 40)
    assert 24_000_000 < held(predictor) < bound
    monkeypatch.setattr(segmenter, "tiles", partial(tiles, at_once=1 << 40))
    assert held(predictor) > 600_000_000


@pytest.mark.parametrize("at_once", [300, 5000])
def test_parts_give_the_answer_of_the_whole(predictor: MaskPredictor, at_once: int, monkeypatch: pytest.MonkeyPatch):
    whole = ask(predictor, 150, 101)
    monkeypatch.setattr(segmenter, "tiles", partial(tiles, at_once=at_once))
    found = ask(predictor, 150, 101)
    assert (found.mask == whole.mask).mean() > 0.999
    np.testing.assert_allclose(found.scores, whole.scores, atol=1e-3)


@pytest.mark.parametrize("inner", [(1, 1), (3, 40), (64, 7)])
def test_tiles_are_those_of_interpolate(inner: tuple[int, int]):
    torch.manual_seed(0)
    scores = torch.randn(3, *inner).half()
    wanted = F.interpolate(scores.float()[None], (53, 31), mode="bilinear", align_corners=False)[0]
    found = torch.full_like(wanted, float("nan"))
    sizes = []
    for tile in tiles(scores, (53, 31), at_once=200):
        found[:, tile.place[0], tile.place[1]] = tile.scores
        sizes.append(tile.scores.numel())
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
    assert max(sizes) <= 200


def test_a_wide_image_of_many_classes_is_divided_too():
    """One row of it would have more scores than are allowed."""
    first = next(tiles(torch.zeros(254, 2, 2), (10, 1_000_000)))
    assert first.scores.numel() <= AT_ONCE
    assert first.place[0] == slice(0, 1)


def test_a_batch_holds_reduced_masks_only():
    """Of a request with many large images, one mask at a time has the size of its image."""
    task = type("Task", (), {"name": "masks", "view": None})()
    sizes = []

    def answer(image, top):
        sizes.extend(each.mask.size for each in given)
        return Segmentation("a", np.zeros((40, 50), np.uint8), CLASSES)

    given: list[Segmentation] = []
    usual = Segmentation.within

    def within(self, pixels):
        given.append(usual(self, pixels))
        return given[-1]

    task.answer = answer
    image = type("Image", (), {"view": None})()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Segmentation, "within", within)
        found = answer_each([image] * 3, [task] * 3, 1, None, pixels=500)
    assert [each.mask.size for each in found] == [500] * 3
    assert sizes == [500] * 3  # one before the second, two before the third
