"""Image and mask move together; masks are never interpolated."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.mask_folders import blocks, load, pairs
from vpt.config.heads_segmentation import LinearMaskHead
from vpt.data.dataloader import loader_of
from vpt.data.segmentation.collate import MaskMaker
from vpt.data.segmentation.transforms import MaskTransform, mask_transforms
from vpt.utils.errors import UserError


def coded(size: tuple[int, int] = (96, 80)) -> tuple[np.ndarray, np.ndarray]:
    """An image whose brightness tells the class: 0, 100 and 200 for the classes 0, 1 and 2."""
    mask = blocks([0, 1, 2], size)
    mask[: size[1] // 3] = 1
    return np.repeat((mask * 100)[..., None], 3, 2), mask


@pytest.mark.parametrize("augment", ["light", "crop", "standard", "strong"])
def test_the_mask_moves_with_the_image(augment: str):
    image, mask = coded()
    transform = MaskTransform(64, 16, augment=augment)
    for seed in range(10):
        pixels, labels = transform(image, mask, seed)
        assert pixels.shape == (3, 64, 64)
        assert labels.shape == (64, 64)
        assert set(labels.unique().tolist()) <= {0, 1, 2, 255}
        if augment in ("light", "crop"):  # no change of colour
            counted = labels != 255
            agree = (pixels[0].float() / 100).round()[counted] == labels[counted]
            assert agree.float().mean() > 0.93  # all but the blended edges
        again = transform(image, mask, seed)
        assert torch.equal(again[0], pixels)
        assert torch.equal(again[1], labels)


def test_what_moves_in_from_outside_is_ignored(tmp_path: Path):
    file = tmp_path / "turn.yaml"
    file.write_text(
        "__version__: 2.0.8\ntransform:\n  __class_fullname__: Compose\n  p: 1.0\n  transforms:\n"
        "  - {__class_fullname__: Rotate, limit: [45, 45], border_mode: 0, p: 1.0}\n"
    )
    image, mask = coded((64, 64))
    _, labels = MaskTransform(64, 16, augment=str(file))(image, mask, 0)
    assert (labels[0, 0], labels[-1, -1]) == (255, 255)
    assert set(labels.unique().tolist()) <= {0, 1, 2, 255}
    assert labels[32, 32] == 1


def test_evaluation_resizes_to_patches_and_keeps_the_mask():
    image, mask = coded((100, 75))
    pixels, labels = MaskTransform(64, 16)(image, mask, 0)
    assert pixels.shape == (3, 64, 80)
    assert labels.shape == (75, 100)
    assert MaskTransform(64, 16, longest=96).fitted(1000, 50) == (96, 16)
    assert MaskTransform(64, 16, "square")(image, mask, 0)[0].shape == (3, 64, 64)


def test_sizes_that_do_not_fit_are_named():
    for head, said in (
        (LinearMaskHead(size=100), "head.size=100 is not a multiple of the patch size of 16 pixels; use 96 or 112"),
        (LinearMaskHead(window=40), "head.window=40 is not a multiple"),
    ):
        with pytest.raises(UserError, match=said):
            mask_transforms(head, 224, 16, "light")
    train, plain = mask_transforms(LinearMaskHead(), 224, 16, "light")
    assert (train.size, train.augment, plain.augment, plain.longest) == (224, "light", "none", 672)
    with pytest.raises(UserError, match=r"data.augment=lite does not exist"):
        mask_transforms(LinearMaskHead(), 224, 16, "lite")


def test_a_loader_of_masks(tmp_path: Path):
    pairs(tmp_path, ["train/a", "train/b", "train/c", "val/d"])
    data = load(tmp_path)
    records = pickle.loads(pickle.dumps(data.train))  # as to a worker process
    batch = next(iter(loader_of(records, MaskMaker(MaskTransform(32, 16, augment="light")), batch_size=3)))
    assert [tuple(image.shape) for image in batch.images] == [(3, 32, 32)] * 3
    assert [len(part.images) for part in batch.parts(2)] == [2, 1]
    blank = batch.blank()
    assert (blank.labels[0] == 255).all()
    assert not len(blank.index)  # it is no record
    assert batch.index.tolist() == [0, 1, 2]
