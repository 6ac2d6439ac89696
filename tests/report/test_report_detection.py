"""Reports of detection runs."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.reports import report
from tests.helpers.runs import QUIET
from vpt.config import load_config
from vpt.data.detection.registry import load_boxes
from vpt.metrics.best_score import shown_score
from vpt.metrics.bootstrap import interval
from vpt.metrics.metrics_file import read_metrics
from vpt.metrics.significance import verdict
from vpt.report.compare_detection import scored
from vpt.report.detection import judge
from vpt.report.run_data import read_source
from vpt.training.run import train
from vpt.utils.errors import UserError

HOSTILE = "</text><script>alert(1)</script>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import warnings

    words = ["task=detection", "backbone=vpt_nano", "prompt.tokens=2", "head.channels=64", "data.shots=4"]
    words += [
        "train.epochs=1",
        "train.optimizer.lr.head=0.001",  # five steps must find something
        "head.scales=[1.0,0.5]",
        "head.size=64",
        f"out={tmp_path_factory.mktemp('det')}",
        "name=run",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train(load_config(overrides=words), QUIET).folder


@pytest.fixture
def sure(run: Path, tmp_path: Path) -> Path:
    """A copy that predicts the truth of the first images, but shifted in every second one, and by a wrong name in every
    third."""
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    data = load_boxes(load_config(overrides=["task=detection"]).data)
    rows = []
    least = shown_score(read_metrics(folder / "metrics.json"))
    for number, record in enumerate(data.test):
        boxes = []
        for label, box in zip(record.labels, record.boxes, strict=True):
            shift = 40.0 if number % 2 else 1.0
            name = HOSTILE if number % 3 == 2 else data.classes[label]
            boxes.append({"label": name, "score": 0.9, "box_xyxy": [edge + shift for edge in box]})
            boxes.append({"label": name, "score": least / 2, "box_xyxy": list(box)})
        rows.append({"image": record.name, "boxes": boxes})
    (folder / "predictions-test.json").write_text(json.dumps(rows))
    return folder


def test_every_section_is_there(run: Path, tmp_path: Path):
    page = report(run, tmp_path / "page.html")
    assert list(page.sections)[1:] == ["curves", "boxes", "pictures", "cost", "settings"]
    assert "Mean average precision is" in page.told("")
    assert "by size of the true boxes" in page.told("boxes")


def test_errors_are_counted_and_names_are_only_text(sure: Path, tmp_path: Path):
    page = report(sure, tmp_path / "page.html", images=4)
    assert HOSTILE in page.text
    assert len(re.findall(r"\.png: (?:\d of \d found|no true box), \d+ false alarm", page.told("pictures"))) == 4
    data = load_boxes(load_config(overrides=["task=detection"]).data)
    truth = {record.name: record for record in data.test}
    found = dict.fromkeys(data.classes, 0)
    least = shown_score(read_metrics(sure / "metrics.json"))
    for row in json.loads((sure / "predictions-test.json").read_text()):
        record = truth[row["image"]]
        wanted = [(data.classes[label], box) for label, box in zip(record.labels, record.boxes, strict=True)]
        said = [(box["label"], box["score"], box["box_xyxy"]) for box in row["boxes"] if box["score"] >= least]
        for (name, _), hit in zip(wanted, judge(said, wanted).found, strict=True):
            found[name] += hit
    assert sum(found.values()) > 0
    there = dict.fromkeys(data.classes, 0)
    for record in data.test:
        for label in record.labels:
            there[data.classes[label]] += 1
    text = page.told("pictures")
    for name in data.classes:
        assert f"{name}{there[name]}{found[name]}{there[name] - found[name]}" in text


def test_names_that_would_cover_each_other_are_left_out(sure: Path, tmp_path: Path):
    """The right one of two equal boxes keeps its name; both are drawn, and told to the pointer."""
    data = load_boxes(load_config(overrides=["task=detection"]).data)
    record = next(record for record in data.test if len(record.boxes) == 1)
    true = data.classes[record.labels[0]]
    other = next(name for name in data.classes if name != true)
    box = list(record.boxes[0])
    boxes = [{"label": name, "score": score, "box_xyxy": box} for name, score in ((other, 0.9), (true, 0.5))]
    (sure / "predictions-test.json").write_text(json.dumps([{"image": record.name, "boxes": boxes}]))
    text = (report(sure, tmp_path / "page.html"), (tmp_path / "page.html").read_text())[1]
    assert f">{true} 0.50</text>" in text
    assert f">{other} 0.90</text>" not in text
    assert f"<title>{other} 0.90</title>" in text
    assert text.count('class="box alarm"') == 1


def test_data_that_is_gone(run: Path, tmp_path: Path):
    page = report(run, tmp_path / "page.html", data=str(tmp_path / "gone"))
    assert "Not shown: there is no" in page.told("pictures")
    assert "metrics by class" in page.told("boxes")


def test_boxes_of_another_form_are_told(sure: Path, tmp_path: Path):
    (sure / "predictions-test.json").write_text('[{"image": "a"}]')
    page = report(sure, tmp_path / "page.html")
    assert "have an unexpected form" in page.told("")
    assert "has no predictions-test.json" in page.told("pictures")


def test_two_runs(run: Path, sure: Path, tmp_path: Path):
    page = report([run, sure], tmp_path / "page.html")
    assert "mAP by class" in page.told("classes")
    assert "precision, mean over classes" in page.told("curves")
    assert "On the same 24 images" in page.told("differences")
    assert "statistically significant" in page.told("differences")  # truth with a few shifts beside a run of one epoch
    assert "has the highest mean average precision" in page.told("")


def test_the_score_by_matches_is_that_of_the_run(run: Path, sure: Path):
    """On the images as they are; then no pair of equal runs is told apart."""
    source, data = read_source(run), load_boxes(load_config(overrides=["task=detection"]).data)
    found = scored({"one": (source.predictions, data), "other": (source.predictions, data)}, "test")
    assert found.score["one"] == pytest.approx(source.measured["map"], abs=1e-7)
    assert source.measured["map"] > 0
    assert [verdict(gain) for _, _, gain in found.pairs] == ["equal scores"]
    less = scored({"one": (source.predictions, data), "other": (read_source(sure).predictions, data)}, "test")
    assert less.images == 24


def test_the_interval_of_one_run(run: Path, sure: Path, tmp_path: Path):
    """That of the pair it makes with a run that finds nothing, whose score is 0 on any images."""
    source, data = read_source(run), load_boxes(load_config(overrides=["task=detection"]).data)
    low, high = interval(source.predictions, data, "test")
    nothing = [{**row, "boxes": []} for row in source.predictions]
    (_, _, ahead) = scored({"a": (nothing, data), "b": (source.predictions, data)}, "test").pairs[0]
    assert (low, high) == (ahead.low, ahead.high)
    assert low < source.measured["map"] < high
    lead = "95% confidence interval: "
    assert lead in report(run, tmp_path / "page.html").told("")
    (sure / "predictions-test.json").write_text('[{"image": "another", "boxes": []}]')
    assert lead not in report(sure, tmp_path / "page.html").told("")


def test_the_interval_holds_the_difference_and_turns_with_the_order(run: Path, sure: Path):
    data = load_boxes(load_config(overrides=["task=detection"]).data)
    one, other = ((read_source(folder).predictions, data) for folder in (run, sure))
    (_, _, ahead), (_, _, behind) = (
        scored(runs, "test").pairs[0] for runs in ({"a": one, "b": other}, {"b": other, "a": one})
    )
    assert 0 < ahead.low < ahead.difference < ahead.high
    assert (behind.low, behind.difference, behind.high) == pytest.approx((-ahead.high, -ahead.difference, -ahead.low))


def test_runs_that_do_not_pair_are_told(run: Path, sure: Path, tmp_path: Path):
    data = load_boxes(load_config(overrides=["task=detection"]).data)
    source = read_source(run)
    moved = replace(data, test=tuple(replace(record, boxes=record.boxes[::-1]) for record in data.test))
    with pytest.raises(UserError, match="evaluated on different data"):
        scored({"one": (source.predictions, data), "other": (source.predictions, moved)}, "test")
    renamed = [{**row, "image": f"other {row['image']}"} for row in source.predictions]
    with pytest.raises(UserError, match="no image in common"):
        scored({"one": (source.predictions, data), "other": (renamed, data)}, "test")
    (sure / "predictions-test.json").unlink()
    page = report([run, sure], tmp_path / "page.html")
    assert "Not shown: fewer than two of the runs" in page.told("differences")
    page = report([run, run], tmp_path / "page.html", data=str(tmp_path / "gone"))
    assert "Not shown: there is no" in page.told("differences")


def test_classification_beside_detection_is_refused(run: Path, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("data: digits\n")
    with pytest.raises(UserError, match="cannot be compared"):
        report([run, other], tmp_path / "page.html")
