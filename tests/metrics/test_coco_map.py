"""mAP from matches that were made once: COCO's own value, for the images as they are and for any choice of them."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vpt.metrics.coco_map import Boxes, match_all, mean_average_precision
from vpt.metrics.detection import detection_metrics

CLASSES = 4


def scenes(seed: int, images: int, ties: bool = False, crowds: bool = True) -> tuple[list[Boxes], list[Boxes]]:
    """Predicted and true boxes: shifted truth, wrong classes, false alarms, doubles; some images are empty."""
    chance = np.random.default_rng(seed)
    predicted, wanted = [], []
    for _ in range(images):
        count = int(chance.integers(0, 6))
        corners = chance.integers(0, 60, (count, 2))
        boxes = np.concatenate([corners, corners + chance.integers(4, 50, (count, 2))], axis=1).astype(np.float64)
        labels = chance.integers(0, CLASSES, count)
        crowd = (chance.random(count) < 0.2) if crowds else np.zeros(count, bool)
        wanted.append(Boxes(labels, boxes, np.zeros(count), crowd))
        chosen = chance.integers(0, max(1, count), 2 * count)
        alarms = chance.integers(0, 60, (int(chance.integers(0, 4)), 2))
        said = np.concatenate(
            [boxes[chosen] + chance.integers(-4, 5, (len(chosen), 4)), np.hstack([alarms, alarms + 20])]
        )
        said[:, 2:] = np.maximum(said[:, 2:], said[:, :2] + 1)
        names = np.concatenate([labels[chosen], chance.integers(0, CLASSES, len(alarms))])
        names = np.where(chance.random(len(names)) < 0.15, (names + 1) % CLASSES, names)
        scores = chance.random(len(names)).astype(np.float32)
        scores = np.round(scores, 1) if ties else scores
        predicted.append(Boxes(names, said, scores, np.zeros(len(names), bool)))
    return predicted, wanted


def by_library(predicted: list[Boxes], wanted: list[Boxes]) -> float:
    """The metric of runs: torchmetrics over faster-coco-eval."""
    said = [
        {
            "boxes": torch.tensor(each.boxes, dtype=torch.float32),
            "scores": torch.tensor(each.scores, dtype=torch.float32),
            "labels": torch.tensor(each.labels),
        }
        for each in predicted
    ]
    true = [
        {
            "boxes": torch.tensor(each.boxes, dtype=torch.float32),
            "labels": torch.tensor(each.labels),
            "iscrowd": torch.tensor(each.crowds.astype(np.int64)),
        }
        for each in wanted
    ]
    return detection_metrics(said, true, [str(number) for number in range(CLASSES)])["map"] or 0.0


def by_pycocotools(predicted: list[Boxes], wanted: list[Boxes]) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def rows(all_of: list[Boxes]) -> list[dict]:
        found = []
        for image, each in enumerate(all_of, 1):
            for label, (x1, y1, x2, y2), score, crowd in zip(*(each.labels, each.boxes, each.scores, each.crowds)):
                box = [x1, y1, x2 - x1, y2 - y1]
                row = {"image_id": image, "category_id": int(label) + 1, "bbox": box, "area": box[2] * box[3]}
                found.append({**row, "id": len(found) + 1, "iscrowd": int(crowd), "score": float(score)})
        return found

    truth = COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = {
            "images": [{"id": number + 1} for number in range(len(wanted))],
            "categories": [{"id": number + 1} for number in range(CLASSES)],
            "annotations": rows(wanted),
        }
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(rows(predicted)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0])


def ours(predicted: list[Boxes], wanted: list[Boxes], counts: np.ndarray | None = None) -> np.ndarray:
    counts = np.ones((1, len(wanted)), np.int64) if counts is None else counts
    return mean_average_precision(match_all(predicted, wanted, CLASSES), counts)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.booleans(), st.booleans())
def test_it_is_cocos_value(seed: int, images: int, ties: bool, crowds: bool):
    predicted, wanted = scenes(seed, images, ties, crowds)
    found = ours(predicted, wanted)[0]
    assert found == pytest.approx(by_library(predicted, wanted), abs=1e-7)
    if any(len(each.labels) for each in predicted):
        assert found == pytest.approx(max(0.0, by_pycocotools(predicted, wanted)), abs=1e-9)


def test_a_resample_is_cocos_value_of_the_images_it_drew():
    predicted, wanted = scenes(7, 30)
    counts = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=12)
    for row, found in zip(counts, ours(predicted, wanted, counts), strict=True):
        drawn = np.repeat(np.arange(30), row)
        slow = by_pycocotools([predicted[at] for at in drawn], [wanted[at] for at in drawn])
        assert found == pytest.approx(slow, abs=1e-9)


def test_only_the_hundred_surest_boxes_of_a_class_count():
    box = np.array([[0.0, 0.0, 20.0, 20.0]])
    far = np.repeat(box + 40, 100, axis=0)
    none = np.zeros(101, bool)
    said = Boxes(np.zeros(101, np.int64), np.concatenate([far, box]), np.linspace(1, 0.5, 101), none)
    true = Boxes(np.zeros(1, np.int64), box, np.zeros(1), np.zeros(1, bool))
    assert ours([said], [true])[0] == by_pycocotools([said], [true]) == 0


def test_nothing_there():
    empty = Boxes(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0, bool))
    assert ours([empty], [empty]).tolist() == [0.0]
