"""Splits without a labelled box or pixel: their main metric is undefined, not zero, and their files are not damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.coco_folder import coco
from tests.helpers.mask_runs import CLASSES
from tests.helpers.runs import QUIET
from vpt.cli.main import main
from vpt.config import load_config
from vpt.experiments.seeds import summary
from vpt.metrics.comparison import say_comparison
from vpt.metrics.metrics_file import read_metrics, read_split
from vpt.metrics.regression import regression_metrics
from vpt.metrics.segmentation import SegmentationMeter, split_metrics
from vpt.report.build import write_report
from vpt.training.run import train


@pytest.mark.usefixtures("small_net")
def test_test_images_without_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, blank = coco(tmp_path / "data"), coco(tmp_path / "blank", 2, lambda tree: tree.update(annotations=[]))
    words = [f"data={data}", "task=detection", "backbone=test_vit_patch8_32", "backbone.pretrained=false"]
    words += ["train.epochs=1", "head.size=32", "train.batch_size=4", f"out={tmp_path}", "name=run", "data.workers=0"]
    result = train(load_config(overrides=[*words, f"data.test={blank}"]))
    assert "test: no map, because there is nothing to measure" in capsys.readouterr().err
    found = read_metrics(result.folder / "metrics.json")
    assert (found["test"]["map"], found["test"]["boxes"]) == (None, 0)
    assert found["val"]["map"] is not None
    assert [row["split"] for row in summary([result.folder])] == ["val"]
    say_comparison(QUIET, [found])
    for runs in ([result.folder], [result.folder, result.folder]):
        page = write_report(runs, output=tmp_path / "page.html").read_text()
        assert "damaged" not in page
    capsys.readouterr()
    assert main(["eval", str(result.folder)]) == 0
    assert "map                -" in capsys.readouterr().out


def test_masks_without_a_labelled_pixel(tmp_path: Path):
    meter = SegmentationMeter(CLASSES)
    meter.update(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8))
    found = split_metrics(meter.result(), 0.0)
    assert [found[name] for name in ("miou", "mean_dice", "pixel_accuracy", "boundary_f")] == [None] * 4
    (tmp_path / "split.json").write_text(json.dumps(found))
    assert read_split(tmp_path / "split.json") == found


@pytest.mark.parametrize("true", [[3.0], [3.0, 3.0]])
def test_numbers_that_are_all_the_same(true: list[float], tmp_path: Path):
    found = regression_metrics(np.full(len(true), 2.0), np.array(true))
    (tmp_path / "split.json").write_text(json.dumps(found, allow_nan=False))
    assert read_split(tmp_path / "split.json")["mae"] == 1.0
