"""The pictures of a run: what the model gets, drawn once, and only where there are images; labels; predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.coco_folder import coco
from tests.helpers.runs import QUIET, interrupted, settings
from vpt.config import load_config
from vpt.data.dataset import LabelledData, Record, spread
from vpt.data.detection.dataset import BoxRecord
from vpt.metrics.label_plots import label_picture
from vpt.metrics.predictions import Answer, read_answers
from vpt.metrics.predictions_plot import answers_picture
from vpt.training import batch_pictures
from vpt.training.batch_pictures import LABELS, TRAIN, VAL
from vpt.training.run import resume, train
from vpt.utils.bar_chart import bar_chart
from vpt.utils.image_grid import COLUMNS, grid, tile
from vpt.utils.plotting import BLUE, ORANGE

pytestmark = pytest.mark.usefixtures("small_net")


def test_a_run_draws_its_first_batch_once(shapes: Path, tmp_path: Path):
    with interrupted(2, save=True):
        train(settings(shapes, tmp_path), QUIET)
    before = {name: (tmp_path / "run" / name).read_bytes() for name in (TRAIN, VAL, LABELS)}
    assert not (tmp_path / "run" / "val_predictions.jpg").exists()
    resume(tmp_path / "run", console=QUIET)
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in before}
    one = tile(np.zeros((9, 9, 3), np.uint8), ["a"])
    for name, lines in {TRAIN: 1, VAL: 1, "val_predictions.jpg": 2}.items():  # eight and twelve images in rows of six
        with Image.open(tmp_path / "run" / name) as found:
            assert found.size == (COLUMNS * one.shape[1], 2 * (one.shape[0] + (lines - 1) * 18))
            assert np.asarray(found).std() > 20


def test_a_picture_that_fails_is_a_warning(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fails(*_: object) -> None:
        raise RuntimeError("no such\nfont")

    monkeypatch.setattr(batch_pictures, "picture_jpeg", fails)
    result = train(settings(shapes, tmp_path, "train.epochs=1"))
    assert result.metrics["epochs"] == 1
    said = capsys.readouterr().err
    for name in (LABELS, TRAIN, VAL, "the picture of predictions"):
        assert f"{name} is not drawn: no such font" in said
    assert not list(result.folder.glob("*.jpg"))


def test_predictions_are_those_of_the_same_images(shapes: Path, tmp_path: Path):
    result = train(settings(shapes, tmp_path, "train.epochs=1"), QUIET)
    file = result.folder / "predictions-val.csv"
    assert read_answers(file, [1, 5]) == [read_answers(file)[at] for at in (1, 5)]


def test_wrong_predictions_have_another_frame(tmp_path: Path):
    Image.new("RGB", (30, 20), "#FFFF00").save(tmp_path / "a.png")
    record = Record("a.png", tmp_path / "a.png", (0,))
    for true, colour in {"cat": BLUE, "dog": ORANGE}.items():
        shown = answers_picture([record], [Answer("a.png", true, "cat", 0.75, 0.75)], 10**6)
        found = {"#%02X%02X%02X" % tuple(pixel) for pixel in np.unique(shown.reshape(-1, 3), axis=0)}  # noqa: UP031
        assert colour in found
        assert ({BLUE, ORANGE} - {colour}).isdisjoint(found)
    gone = Record("b.png", tmp_path / "b.png", (0,))
    assert answers_picture([gone], [Answer("b.png", "cat", "cat", 1.0, 1.0)], 10**6).min() == 255


def test_bars_are_fractions_of_their_split():
    shown = bar_chart("images", [("cat", [30, 1]), ("dog", [10, 3])], {"training": 40, "validation": 4, "test": 0})

    def length(colour: str, row: int) -> int:
        top = 34 + 22 + row * 33
        rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        return int((shown[top : top + 26] == rgb).all(-1).any(0).sum())

    assert length(BLUE, 0) == length(ORANGE, 1) == pytest.approx(3 * length(BLUE, 1), abs=3)
    assert length(ORANGE, 0) == pytest.approx(length(BLUE, 1), abs=1)


def test_many_classes_and_none(tmp_path: Path):
    classes = tuple(f"a class with a rather long name {number}" for number in range(1000))
    records = tuple(Record(f"{at}", tmp_path, (at,)) for at in range(1000))
    assert label_picture(LabelledData(classes, False, records, ())).shape[0] < 1200
    boxes = BoxRecord("a", tmp_path, (0, 0), ((0.0, 0.0, 4.0, 4.0), (0.0, 0.0, 600.0, 600.0)))
    few = LabelledData(("cat",), False, (boxes, BoxRecord("b", tmp_path, ())), ())
    assert label_picture(few).shape[0] > 300  # classes, and sizes


def test_images_are_spread_over_a_split():
    assert spread(0, 12) == []
    assert spread(5, 12) == [0, 1, 2, 3, 4]
    assert len(spread(1000, 12)) == 12
    assert spread(1000, 12)[-1] > 900


def test_cached_features_are_not_drawn(shapes: Path, tmp_path: Path):
    result = train(settings(shapes, tmp_path, "prompt=none", "data.augment=none"), QUIET)
    assert not (result.folder / TRAIN).exists()
    assert not (result.folder / VAL).exists()
    assert (result.folder / LABELS).exists()


def test_boxes_are_drawn_on_the_resized_images(tmp_path: Path):
    data = coco(tmp_path / "data")
    words = [f"data={data}", "task=detection", "backbone=test_vit_patch8_32", "backbone.pretrained=false"]
    words += ["train.epochs=1", "head.size=64", "train.batch_size=4", f"out={tmp_path}", "name=run", "data.workers=0"]
    result = train(load_config(overrides=words), QUIET)
    for name in (TRAIN, VAL, LABELS, "val_predictions.jpg"):
        with Image.open(result.folder / name) as found:
            assert found.width > 700


def test_a_grid_is_filled_with_white():
    tiles = [tile(np.zeros((5, 5, 3), np.uint8), ["a", "b" * 300])] * (COLUMNS + 1)
    whole = grid(tiles)
    assert whole.shape[:2] == (2 * tiles[0].shape[0], COLUMNS * tiles[0].shape[1])
    assert (whole[-10:, -10:] == 255).all()
