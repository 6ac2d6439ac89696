"""The picture of the first batch: what the model gets, drawn once, and only where there are images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.coco_folder import coco
from tests.helpers.runs import QUIET, interrupted, settings
from vpt.config import load_config
from vpt.training.batch_pictures import NAME
from vpt.training.run import resume, train
from vpt.utils.image_grid import COLUMNS, grid, tile

pytestmark = pytest.mark.usefixtures("small_net")


def test_a_run_draws_its_first_batch_once(shapes: Path, tmp_path: Path):
    with interrupted(2, save=True):
        train(settings(shapes, tmp_path), QUIET)
    picture = tmp_path / "run" / NAME
    before = picture.read_bytes()
    resume(tmp_path / "run", console=QUIET)
    assert picture.read_bytes() == before
    with Image.open(picture) as found:  # a batch of eight in rows of six
        one = tile(np.zeros((9, 9, 3), np.uint8), ["a"])
        assert found.size == (COLUMNS * one.shape[1], 2 * one.shape[0])
        assert np.asarray(found).std() > 20


def test_cached_features_are_not_drawn(shapes: Path, tmp_path: Path):
    result = train(settings(shapes, tmp_path, "prompt=none", "data.augment=none"), QUIET)
    assert not (result.folder / NAME).exists()


def test_boxes_are_drawn_on_the_resized_images(tmp_path: Path):
    data = coco(tmp_path / "data")
    words = [f"data={data}", "task=detection", "backbone=test_vit_patch8_32", "backbone.pretrained=false"]
    words += ["train.epochs=1", "head.size=64", "train.batch_size=4", f"out={tmp_path}", "name=run", "data.workers=0"]
    result = train(load_config(overrides=words), QUIET)
    with Image.open(result.folder / NAME) as found:
        assert found.width > 1000


def test_a_grid_is_filled_with_white():
    tiles = [tile(np.zeros((5, 5, 3), np.uint8), ["a", "b" * 300])] * (COLUMNS + 1)
    whole = grid(tiles)
    assert whole.shape[:2] == (2 * tiles[0].shape[0], COLUMNS * tiles[0].shape[1])
    assert (whole[-10:, -10:] == 255).all()
