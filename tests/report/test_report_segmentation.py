"""Reports of segmentation runs."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.reports import report
from tests.helpers.runs import QUIET
from vpt.config import load_config
from vpt.data.segmentation.registry import load_masks
from vpt.data.segmentation.run_lengths import segments
from vpt.metrics.metrics_file import read_metrics
from vpt.training.run import train

HOSTILE = "</text><script>alert(1)</script>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["task=segmentation", "backbone=vpt_nano", "prompt.tokens=2", "head=linear_segmentation", "head.size=64"]
    words += ["data.shots=2", "train.epochs=1", f"out={tmp_path_factory.mktemp('seg')}", "name=run"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train(load_config(overrides=words), QUIET).folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "predictions-test.json").read_text())


def write(folder: Path, rows: object) -> None:
    (folder / "predictions-test.json").write_text(json.dumps(rows))


def test_every_section_is_there(run: Path, tmp_path: Path):
    page = report(run, tmp_path / "page.html", images=5)
    assert list(page.sections)[1:] == ["curves", "classes", "pictures", "cost", "settings"]
    found = read_metrics(run / "metrics.json")["test"]
    head = page.told("")
    assert f"Mean IoU is {100 * found['miou']:.1f}% and pixel accuracy {100 * found['pixel_accuracy']:.1f}%" in head
    low, high = map(float, re.findall(r"interval: ([\d.]+)–([\d.]+)% of the mean IoU", head)[0])
    assert low <= 100 * found["miou"] <= high
    assert low < high
    classes = page.told("classes")
    background = found["per_class"][0]
    assert f"background{100 * background['iou']:.1f}%{100 * background['dice']:.1f}%" in classes
    assert "confusion matrix" in classes


def test_the_worst_images_come_first(run: Path, tmp_path: Path):
    page = report(run, tmp_path / "page.html", images=5)
    ranked = sorted(rows_of(run), key=lambda row: row["miou"])
    shown = re.findall(r"(test/\d+\.png): mean IoU ([\d.]+)%, [\d.]+% of the pixels wrong", page.told("pictures"))
    assert shown == [(row["image"], f"{100 * row['miou']:.1f}") for row in ranked[:5]]
    assert sum(name == "svg" for name, _ in page.tags) >= 15
    assert "wrong" in page.told("pictures")


def test_counts_of_images_are_those_of_the_metrics(run: Path):
    """The counts stored with the predictions add up to the confusion matrix."""
    found = read_metrics(run / "metrics.json")["test"]
    names = [row["class"] for row in found["per_class"]]
    for at, name in enumerate(names):
        total = [sum(row["counts"].get(name, (0, 0, 0))[part] for row in rows_of(run)) for part in range(3)]
        matrix = found["confusion"]
        assert total == [matrix[at][at], sum(row[at] for row in matrix), sum(matrix[at])]


def test_predictions_of_strangers_are_only_text(copy: Path, tmp_path: Path):
    """A name of a class, an encoding of another size, one that is damaged, rows that are none."""
    rows = rows_of(copy)
    rows[0]["segments"][0]["label"] = HOSTILE
    rows[0]["miou"] = 0.0
    write(copy, rows)
    page = report(copy, tmp_path / "page.html", images=1)
    assert "cannot be shown" in page.told("pictures")
    for rle in ({"size": [10**6, 10**6], "counts": "0"}, {"size": [128, 128], "counts": "~"}, {"size": 3}, None):
        rows[0]["segments"] = [{"label": "background", "rle": rle}]
        write(copy, rows)
        assert "cannot be shown" in report(copy, tmp_path / "page.html", images=1).told("pictures")
    for wrong in ({"a": 1}, [{"image": HOSTILE}], [{**rows[1], "miou": 7}], [{**rows[1], "counts": {"a": [-1, 0, 0]}}]):
        write(copy, wrong)
        page = report(copy, tmp_path / "page.html", images=1)
        assert "predictions-test.json is ignored" in page.text
        assert "metrics by class" in page.told("classes")


def test_data_that_is_gone(run: Path, tmp_path: Path):
    page = report(run, tmp_path / "page.html", data=str(tmp_path / "gone"))
    assert "Not shown: there is no" in page.told("pictures")
    assert "bootstrap over images" in page.told("")


def test_two_runs_are_compared_on_the_same_images(run: Path, copy: Path, tmp_path: Path):
    """A run that predicts the truth is clearly better; one of another data set is not compared."""
    data = load_masks(load_config(overrides=["task=segmentation"]).data)
    truth = {record.name: record.read_mask((128, 128)) for record in data.test}
    rows = rows_of(copy)
    for row in rows:
        row["segments"] = segments(truth[row["image"]], data.classes)
        row["counts"] = {name: [true] * 3 for name, (_, _, true) in row["counts"].items() if true}
        row["miou"] = 1.0
    write(copy, rows)
    page = report([run, copy], tmp_path / "page.html")
    assert "statistically significant" in page.told("differences")
    assert "mean IoU of the other" in page.told("differences")
    assert "100.0%" in page.told("differences")
    assert "IoU by class" in page.told("classes")
    for row in rows:
        row["counts"] = {"background": [5, 5, 5]}
    write(copy, rows)
    assert "different labels" in report([run, copy], tmp_path / "page.html").told("differences")
