"""Generated sets in COCO, VOC and YOLO, read by us, by pycocotools and by supervision: every box is the same."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.helpers.boxes import picture, write_json, xml
from vpt.config import DataConfig
from vpt.data.detection.dataset import BoxRecord
from vpt.data.detection.registry import numbered, read_boxes
from vpt.metrics.detection import detection_metrics
from vpt.training.tasks.detection import true_boxes

supervision = pytest.importorskip("supervision")

GENERATED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="/\\.\"'"), min_size=1, max_size=8
)
SIDES = st.integers(8, 90)
Row = tuple[str, tuple[float, ...], float, bool]  # class, corners, area, crowd


@st.composite
def scenes(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Images by file name, some in folders and some turned by EXIF, each with boxes that lie in it."""
    stems = draw(st.lists(NAMES, min_size=2, max_size=5, unique_by=str.casefold))
    found = []
    for stem in stems:
        width, height = draw(SIDES), draw(SIDES)
        boxes = []
        for _ in range(draw(st.integers(0, 4))):
            left, top = draw(st.integers(0, width - 2)), draw(st.integers(0, height - 2))
            right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
            boxes.append((draw(st.integers(0, 2)), (left, top, right, bottom)))
        found.append(
            {"stem": stem, "size": (width, height), "boxes": boxes, "turn": draw(st.sampled_from([None, 1, 6, 8]))}
        )
    if not any(scene["boxes"] for scene in found):
        found[0]["boxes"] = [(0, (0, 0, *found[0]["size"]))]
    return found


def write_pictures(folder: Path, found: Sequence[dict[str, Any]], turns: bool = False) -> None:
    for number, scene in enumerate(found):
        size, turn = scene["size"], scene["turn"] if turns else None
        stored = size[::-1] if turn in (6, 8) else size
        picture(folder / f"{scene['stem']}.jpg", stored, seed=number, orientation=turn)


def ours(path: Path) -> dict[str, list[Row]]:
    config = DataConfig(path=str(path), join_val=True)
    data = numbered(read_boxes(config)[0], config)
    found: dict[str, list[Row]] = {}
    for record in data.train:
        assert isinstance(record, BoxRecord)
        assert isinstance(record.source, Path)
        rows = zip(record.labels, record.boxes, record.object_areas(), record.crowds, strict=True)
        found[record.source.name] = [(data.classes[label], box, area, crowd) for label, box, area, crowd in rows]
    return found


def by_supervision(data: Any) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for path, detections in data.annotations.items():
        crowds = detections.data.get("iscrowd", np.zeros(len(detections)))
        areas = detections.data.get("area", [None] * len(detections))
        found[Path(path).name] = [
            (data.classes[int(label)], tuple(map(float, box)), area, bool(crowd))
            for box, label, area, crowd in zip(detections.xyxy, detections.class_id, areas, crowds, strict=True)
        ]
    return found


def same(found: dict[str, list[Row]], expected: dict[str, list[Row]], areas: bool = True) -> None:
    assert set(found) == set(expected)
    for name, rows in expected.items():
        assert [(label, crowd) for label, _, _, crowd in found[name]] == [(label, crowd) for label, _, _, crowd in rows]
        for (_, box, area, _), (_, other, other_area, _) in zip(found[name], rows, strict=True):
            assert box == pytest.approx(other, abs=2e-3)
            if areas:
                assert area == pytest.approx(other_area, rel=1e-6)


def coco_tree(found: Sequence[dict[str, Any]], ids: Sequence[int], rest: st.DataObject) -> dict[str, Any]:
    """Sparse ids in any order; categories out of order, one of them without boxes."""
    images, annotations = [], []
    for identity, scene in zip(ids, found, strict=True):
        width, height = scene["size"]
        images.append({"id": identity, "file_name": f"{scene['stem']}.jpg", "width": width, "height": height})
        for label, (x1, y1, x2, y2) in scene["boxes"]:
            annotations.append(
                {
                    "id": 3 * len(annotations) + 2,
                    "image_id": identity,
                    "category_id": (40, 7, 19)[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": rest.draw(st.floats(0.5, (x2 - x1) * (y2 - y1))),
                    "iscrowd": rest.draw(st.sampled_from([0, 0, 0, 1])),
                }
            )
    categories = [
        {"id": 40, "name": "cat"},
        {"id": 7, "name": "dog"},
        {"id": 19, "name": "bird"},
        {"id": 3, "name": "none"},
    ]
    annotations = rest.draw(st.permutations(annotations))
    return {"images": images, "annotations": annotations, "categories": categories}


@given(scenes(), st.lists(st.integers(0, 10**9), min_size=5, max_size=5, unique=True), st.data())
@GENERATED
def test_coco(found: list[dict[str, Any]], ids: list[int], rest: st.DataObject):
    from pycocotools.coco import COCO

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder / "images", found, turns=True)
        tree = coco_tree(found, ids[: len(found)], rest)
        file = write_json(folder / "annotations" / "instances_train.json", tree)
        mine = ours(folder)
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = COCO(str(file))
        names = {category["id"]: category["name"] for category in theirs.dataset["categories"]}
        expected: dict[str, list[Row]] = {}
        for identity, image in theirs.imgs.items():
            expected[image["file_name"]] = [
                (names[one["category_id"]], corners(one["bbox"]), one["area"], bool(one["iscrowd"]))
                for one in theirs.imgToAnns[identity]
            ]
        same(mine, expected)
        data = supervision.DetectionDataset.from_coco(str(folder / "images"), str(file))
        same(mine, by_supervision(data))


def corners(bbox: Sequence[float]) -> tuple[float, ...]:
    x, y, width, height = bbox
    return x, y, x + width, y + height


@given(scenes(), st.data())
@GENERATED
def test_voc(found: list[dict[str, Any]], rest: st.DataObject):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for scene in found:  # equal corners are a pixel for supervision, and no area for us
            scene["boxes"] = [one for one in scene["boxes"] if min(one[1][2] - one[1][0], one[1][3] - one[1][1]) > 1]
        assume(any(scene["boxes"] for scene in found))
        write_pictures(folder / "JPEGImages", found, turns=True)
        for scene in found:
            objects = []
            for label, (x1, y1, x2, y2) in scene["boxes"]:
                # Some tools write parts of pixels.
                part = rest.draw(st.sampled_from([0, 0.25]))
                x2 = x2 - part
                if rest.draw(st.booleans()):
                    x1, x2 = x1 + 1, x2
                else:  # any two corners name a box
                    x1, x2 = x2, x1 + 1
                objects.append((("cat", "dog", "bird")[label], x1, y1 + 1, x2, y2))
            xml(folder / "Annotations" / f"{scene['stem']}.xml", f"{scene['stem']}.jpg", objects, scene["size"])
        data = supervision.DetectionDataset.from_pascal_voc(str(folder / "JPEGImages"), str(folder / "Annotations"))
        same(ours(folder), by_supervision(data), areas=False)


@given(scenes(), st.sampled_from([None, [2, 2], [2, 3]]), st.booleans(), st.data())
@GENERATED
def test_yolo(found: list[dict[str, Any]], shape: list[int] | None, mapping: bool, rest: st.DataObject):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder / "images", found, turns=True)
        (folder / "labels").mkdir()
        for scene in found:
            if scene["boxes"] or rest.draw(st.booleans()):  # an image without boxes may have no label file
                lines = [yolo_line(label, box, scene["size"], shape, rest) for label, box in scene["boxes"]]
                (folder / "labels" / f"{scene['stem']}.txt").write_text("\n".join(lines), encoding="utf-8")
        names: Any = ["cat", "dog", "bird"]
        said = {"names": dict(enumerate(names)) if mapping else names, "train": "images"}
        if shape:
            said["kpt_shape"] = shape
        (folder / "data.yaml").write_text(json.dumps(said).replace('"0"', "0").replace('"1"', "1").replace('"2"', "2"))
        data = supervision.DetectionDataset.from_yolo(
            str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml")
        )
        same(ours(folder), by_supervision(data), areas=False)


def yolo_line(
    label: int, box: tuple[int, ...], size: tuple[int, int], shape: list[int] | None, rest: st.DataObject
) -> str:
    """A box as a box, a polygon or a pose; the class as a whole or a decimal number."""
    width, height = size
    x1, y1, x2, y2 = box[0] / width, box[1] / height, box[2] / width, box[3] / height
    centred = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    kinds = {"box": centred, "tracked": [*centred, 0.5], "polygon": [x1, y1, x2, y1, x2, y2, (x1 + x2) / 2, y2]}
    if shape:
        del kinds["polygon"], kinds["tracked"]
        kinds["pose"] = [*centred, *([0.25] * (shape[0] * shape[1]))]
    numbers = kinds[rest.draw(st.sampled_from(sorted(kinds)))]
    form = rest.draw(st.sampled_from(["{}", "{}.0", "{}.000e+00"]))
    return " ".join([form.format(label), *(f"{value:.10g}" for value in numbers)])


@given(scenes(), st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scores_by_size_are_pycocotools_on_the_file(found: list[dict[str, Any]], rest: st.DataObject):
    """Areas of the file put objects into size classes, which may be other ones than those of their boxes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    for scene in found:  # large enough for all three classes
        scene["size"] = (scene["size"][0] * 3, scene["size"][1] * 3)
        scene["boxes"] = [(label, tuple(3 * value for value in box)) for label, box in scene["boxes"]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder / "images", found)
        tree = coco_tree(found, range(1, len(found) + 1), rest)
        for annotation in tree["annotations"]:
            annotation["area"] = rest.draw(
                st.sampled_from([0, 1, 500, 1024, 1024.5, 5000, 9216, 9217, annotation["area"]])
            )
        file = write_json(folder / "annotations" / "instances_train.json", tree)
        config = DataConfig(path=str(folder), join_val=True)
        data = numbered(read_boxes(config)[0], config)
        chance = np.random.default_rng(rest.draw(st.integers(0, 10**6)))
        ranks = iter(chance.permutation(64) + 1)  # no two scores are equal
        predicted, results = [], []
        ids = {image["file_name"]: image["id"] for image in tree["images"]}
        kinds = {category["name"]: category["id"] for category in tree["categories"]}
        for record in data.train:
            assert isinstance(record, BoxRecord)
            assert isinstance(record.source, Path)
            boxes = np.array(record.boxes, np.float32).reshape(-1, 4)
            boxes += chance.integers(-2, 3, boxes.shape)
            boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
            scores = np.array([next(ranks) for _ in boxes], np.float32) / 128
            labels = np.array(record.labels, np.int64)
            predicted.append(
                {"boxes": torch.tensor(boxes), "scores": torch.tensor(scores), "labels": torch.tensor(labels)}
            )
            for (x1, y1, x2, y2), score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
                row = {"image_id": ids[record.source.name], "category_id": kinds[data.classes[label]], "score": score}
                results.append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1]})
        measured = detection_metrics(predicted, [true_boxes(record) for record in data.train], data.classes)
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(file))
            evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        keys = {"map": 0, "map50": 1, "map75": 2, "map_small": 3, "map_medium": 4, "map_large": 5, "recall": 8}
        for key, place in keys.items():
            expected = float(evaluation.stats[place])
            assert measured[key] == (None if expected < 0 else pytest.approx(expected, abs=1e-5)), key
