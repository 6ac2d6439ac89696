"""Exports of annotation tools, laid out as the tools write them: each is read as it is, with the right boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.annotation_tools import (
    EVERYTHING,
    SPLITS,
    box,
    coco_file,
    cvat_pose,
    cvat_ultralytics,
    cvat_voc,
    cvat_yolo,
    label_studio_coco_elsewhere,
    label_studio_yolo,
    pictures,
    roboflow_coco,
    roboflow_darknet,
    roboflow_voc,
    roboflow_yolo,
    yolo_line,
)
from tests.helpers.boxes import label, read, write_json
from vpt.config import DataConfig
from vpt.data.detection.registry import load_boxes


def truth(numbers: tuple[int, ...], name: str = "a{}.jpg") -> dict[str, Any]:
    return {name.format(number): [(("cat", "dog")[number % 2], box(number))] for number in numbers}


WHOLE = {split: truth(numbers) for split, numbers in SPLITS.items()}


def datumaro_coco(root: Path) -> None:
    for split, numbers in SPLITS.items():
        pictures(root / "images" / split, numbers)
        coco_file(root / "annotations" / f"instances_{split}.json", numbers)
        write_json(
            root / "annotations" / f"image_info_{split}.json",
            {"licenses": [], "info": {}, "categories": [], "images": [], "annotations": []},
        )


def cvat_coco(root: Path) -> None:
    """A project, whose subsets have capitals."""
    for split, name in (("train", "Train"), ("val", "Validation"), ("test", "Test")):
        pictures(root / "images" / name, SPLITS[split])
        coco_file(root / "annotations" / f"instances_{name}.json", SPLITS[split])


def cvat_tracks(root: Path) -> None:
    cvat_ultralytics(root, line=lambda number: f"{yolo_line(number)} {number}")


def fiftyone_coco(root: Path) -> None:
    for split, numbers in SPLITS.items():
        pictures(root / split / "data", numbers)
        kinds = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        coco_file(root / split / "labels.json", numbers, categories=kinds)


def fiftyone_yolo(root: Path) -> None:
    for split, numbers in SPLITS.items():
        pictures(root / "images" / split, numbers)
        for number in numbers:
            label(root / "labels" / split / f"a{number}.txt", yolo_line(number))
    (root / "dataset.yaml").write_text(
        f"names:\n  0: cat\n  1: dog\npath: {root}\ntest: ./images/test/\ntrain: ./images/train/\nval: ./images/val/\n"
    )


@pytest.mark.parametrize(
    "write",
    [
        roboflow_coco,
        roboflow_yolo,
        roboflow_voc,
        roboflow_darknet,
        datumaro_coco,
        cvat_coco,
        cvat_voc,
        cvat_yolo,
        cvat_ultralytics,
        cvat_pose,
        cvat_tracks,
        fiftyone_coco,
        fiftyone_yolo,
    ],
    ids=lambda write: write.__name__,
)
def test_exports_with_splits(tmp_path: Path, write: Callable[[Path], None]):
    write(tmp_path)
    found = read(tmp_path)
    assert set(found) == set(WHOLE)
    for split, images in WHOLE.items():
        assert set(found[split]) == set(images)
        for name, boxes in images.items():
            ((label_name, corners),) = found[split][name]
            assert (label_name, corners) == (boxes[0][0], pytest.approx(boxes[0][1], abs=1e-3))
    data = load_boxes(DataConfig(path=str(tmp_path)))
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.val), len(data.test)) == (3, 2, 1)


@pytest.mark.parametrize("prefix", ["", "./", "data/"])
def test_prefixes_of_cvat_s_lists(tmp_path: Path, prefix: str):
    cvat_yolo(tmp_path / "darknet", prefix)
    cvat_ultralytics(tmp_path / "ultralytics", prefix)
    for folder in ("darknet", "ultralytics"):
        assert {split: set(images) for split, images in read(tmp_path / folder).items()} == {
            split: set(images) for split, images in WHOLE.items()
        }


def test_subsets_with_capitals(tmp_path: Path):
    cvat_ultralytics(tmp_path / "yolo", names={"train": "Train", "val": "Validation", "test": "Test"})
    cvat_voc(tmp_path / "voc", ("Train", "Validation", "Test"))
    for folder in ("yolo", "voc"):
        assert {split: set(images) for split, images in read(tmp_path / folder).items()} == {
            split: set(images) for split, images in WHOLE.items()
        }


def label_studio_coco(root: Path) -> None:
    pictures(root / "images", EVERYTHING, "3f2a-a{}.jpg")
    coco_file(root / "result.json", EVERYTHING, "images/3f2a-a{}.jpg")


def label_studio_coco_windows(root: Path) -> None:
    pictures(root / "images", EVERYTHING, "3f2a-a{}.jpg")
    coco_file(root / "result.json", EVERYTHING, "images\\3f2a-a{}.jpg")


def label_studio_voc(root: Path) -> None:
    pictures(root / "images", EVERYTHING, "3f2a-a{}.jpg")
    (root / "Annotations").mkdir()
    for number in EVERYTHING:
        x1, y1, x2, y2 = (int(value) for value in box(number))
        (root / "Annotations" / f"3f2a-a{number}.xml").write_text(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotation>\n<folder>images</folder>\n'
            f"<filename>3f2a-a{number}.jpg</filename>\n<source>\n<database>MyDatabase</database>\n"
            "<annotation>COCO2017</annotation>\n<image>flickr</image>\n<flickrid>NULL</flickrid>\n"
            "<annotator>1</annotator>\n</source>\n<owner>\n<flickrid>NULL</flickrid>\n<name>Label Studio</name>\n"
            "</owner>\n<size>\n<width>64</width>\n<height>48</height>\n<depth>3</depth>\n</size>\n"
            f"<segmented>0</segmented>\n<object>\n<name>{('cat', 'dog')[number % 2]}</name>\n<pose>Unspecified</pose>\n"
            "<truncated>0</truncated>\n<difficult>0</difficult>\n<bndbox>\n"
            f"<xmin>{x1}</xmin>\n<ymin>{y1}</ymin>\n<xmax>{x2}</xmax>\n<ymax>{y2}</ymax>\n</bndbox>\n</object>\n"
            "</annotation>\n"
        )


def cvat_coco_task(root: Path) -> None:
    """A task, which has no subsets."""
    pictures(root / "images" / "default", EVERYTHING, "3f2a-a{}.jpg")
    coco_file(root / "annotations" / "instances_default.json", EVERYTHING, "3f2a-a{}.jpg")


def labelimg_yolo(root: Path) -> None:
    pictures(root, EVERYTHING, "3f2a-a{}.jpg")
    for number in EVERYTHING:
        label(root / f"3f2a-a{number}.txt", yolo_line(number) + "\n")
    (root / "classes.txt").write_text("cat\ndog\n")


def fiftyone_voc(root: Path) -> None:
    pictures(root / "data", EVERYTHING, "3f2a-a{}.jpg")
    (root / "labels").mkdir()
    for number in EVERYTHING:
        x1, y1, x2, y2 = (int(value) for value in box(number))
        (root / "labels" / f"3f2a-a{number}.xml").write_text(
            f"<annotation>\n    <folder>data</folder>\n    <filename>3f2a-a{number}.jpg</filename>\n"
            f"    <path>/home/me/export/data/3f2a-a{number}.jpg</path>\n    <source>\n"
            "        <database></database>\n    </source>\n    <size>\n        <width>64</width>\n"
            "        <height>48</height>\n        <depth>3</depth>\n    </size>\n    <segmented></segmented>\n"
            f"    <object>\n        <name>{('cat', 'dog')[number % 2]}</name>\n        <bndbox>\n"
            f"            <xmin>{x1 + 1}</xmin>\n            <ymin>{y1 + 1}</ymin>\n            <xmax>{x2}</xmax>\n"
            f"            <ymax>{y2}</ymax>\n        </bndbox>\n    </object>\n</annotation>\n"
        )


def fiftyone_yolov4(root: Path) -> None:
    pictures(root / "data", EVERYTHING, "3f2a-a{}.jpg")
    for number in EVERYTHING:
        label(root / "data" / f"3f2a-a{number}.txt", yolo_line(number))
    (root / "obj.names").write_text("cat\ndog\n")
    (root / "images.txt").write_text("".join(f"data/3f2a-a{number}.jpg\n" for number in EVERYTHING))


@pytest.mark.parametrize(
    "write",
    [
        label_studio_coco,
        label_studio_coco_elsewhere,
        label_studio_coco_windows,
        label_studio_yolo,
        label_studio_voc,
        cvat_coco_task,
        labelimg_yolo,
        fiftyone_voc,
        fiftyone_yolov4,
    ],
    ids=lambda write: write.__name__,
)
def test_exports_without_splits(tmp_path: Path, write: Callable[[Path], None]):
    write(tmp_path)
    found = read(tmp_path)
    assert list(found) == ["train"]
    expected = truth(EVERYTHING, "3f2a-a{}.jpg")
    assert set(found["train"]) == set(expected)
    for name, boxes in expected.items():
        ((label_name, corners),) = found["train"][name]
        assert (label_name, corners) == (boxes[0][0], pytest.approx(boxes[0][1], abs=1e-3))
    assert load_boxes(DataConfig(path=str(tmp_path))).classes == ("cat", "dog")


@pytest.mark.parametrize("write", [label_studio_yolo, labelimg_yolo, fiftyone_yolov4], ids=lambda write: write.__name__)
def test_held_out_lists_beside_classes_txt(tmp_path: Path, write: Callable[[Path], None]):
    write(tmp_path)
    place = next(tmp_path.rglob("3f2a-a3.jpg")).relative_to(tmp_path)
    (tmp_path / "test.txt").write_text(f"{place.as_posix()}\n")
    found = read(tmp_path)
    assert (len(found["train"]), list(found["test"])) == (5, ["3f2a-a3.jpg"])


def test_supervision_s_own_exports(tmp_path: Path):
    supervision = pytest.importorskip("supervision")
    import numpy as np

    pictures(tmp_path / "source", EVERYTHING)
    found = {
        str(tmp_path / "source" / f"a{number}.jpg"): supervision.Detections(
            xyxy=np.array([box(number)]), class_id=np.array([number % 2])
        )
        for number in EVERYTHING
    }
    data = supervision.DetectionDataset(classes=["cat", "dog"], images=list(found), annotations=found)
    data.as_coco(str(tmp_path / "coco" / "images"), str(tmp_path / "coco" / "annotations.json"))
    data.as_pascal_voc(str(tmp_path / "voc" / "images"), str(tmp_path / "voc" / "annotations"))
    yolo = tmp_path / "yolo"
    data.as_yolo(str(yolo / "images"), str(yolo / "labels"), str(yolo / "data.yaml"))
    for form in ("coco", "voc", "yolo"):
        found_boxes = read(tmp_path / form)["train"]
        assert set(found_boxes) == set(truth(EVERYTHING))
        for name, boxes in truth(EVERYTHING).items():
            assert found_boxes[name] == [(boxes[0][0], pytest.approx(boxes[0][1], abs=1e-3))], form
