"""Converting boxes: nothing is invented, what a format cannot hold is said, and names survive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.boxes import BOX, change, coco, label, picture, read, records, yolo
from vpt.cli.main import main

FORMATS = ["coco", "voc", "yolo"]


def convert(folder: Path, form: str, output: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["data", "convert", str(folder), "--to", form, "--output", str(output), *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("form", FORMATS)
def test_crowds_are_no_objects(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]):
    source = coco(tmp_path / "source", [f"{number}.png" for number in range(4)])

    def crowd(tree: dict) -> None:
        for at in range(4):
            row = {"id": 9 + at, "image_id": at + 1, "category_id": 1, "bbox": [0, 0, 64, 48], "iscrowd": 1}
            tree["annotations"].append({**row, "area": 3000})

    change(source, crowd)
    text = convert(source, form, tmp_path / "made", capsys)
    found = records(tmp_path / "made")
    if form == "coco":
        assert all(record.crowds == (False, True) for record in found.values())
        assert "left out" not in text
    else:
        assert all(record.crowds == (False,) for record in found.values())
        assert f"left out 4 crowds, which {form} cannot distinguish from single objects: " in text


def test_an_image_of_crowds_alone_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = coco(tmp_path / "source", [f"{number}.png" for number in range(4)])
    change(source, lambda tree: tree["annotations"][0].update(iscrowd=1))
    text = convert(source, "yolo", tmp_path / "made", capsys)
    assert "left out 1 crowd" in text
    assert "1 image had only crowds and has no boxes now" in text


def test_areas_survive_in_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = coco(tmp_path / "source", [f"{number}.png" for number in range(4)])
    change(source, lambda tree: [one.update(area=17.5 + at) for at, one in enumerate(tree["annotations"])])
    convert(source, "coco", tmp_path / "made", capsys)
    assert sorted(record.object_areas() for record in records(tmp_path / "made").values()) == [
        (17.5 + at,) for at in range(4)
    ]


@pytest.mark.parametrize("form", FORMATS)
def test_names_of_classes_survive(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]):
    names = ["no", "010", "1.10", "a: b", "<c & d>", "ä", "null"]
    source = yolo(tmp_path / "source", "", f"train: images/train\nnames: {json.dumps(names)}\n", count=len(names) * 2)
    for number in range(2 * len(names)):
        label(source / "labels" / "train" / f"{number}.txt", f"{number % len(names)} 0.5 0.5 0.5 0.5\n")
    convert(source, form, tmp_path / "made", capsys)
    made = read(tmp_path / "made")
    assert {boxes[0][0] for images in made.values() for boxes in images.values()} == set(names)


@pytest.mark.parametrize("form", FORMATS)
def test_names_of_files_survive(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]):
    names = ["a[1].png", "img1.png", "img10.png", "img1.0.png", "é.png", "e\u0301.png", " b .png", "A.png", "a.png"]
    source = coco(tmp_path / "source", [*names, "new\nline.png"])

    def number(tree: dict) -> None:
        for at, one in enumerate(tree["annotations"]):
            one["bbox"] = [at, 6, 20, 15]

    change(source, number)
    convert(source, form, tmp_path / "made", capsys)
    made = read(tmp_path / "made")
    edges = [boxes[0][1][0] for images in made.values() for boxes in images.values()]
    assert sorted(edges) == list(range(len(names) + 1))
    for images in made.values():
        for name, boxes in images.items():
            if name in ("a[1].png", "img1.png", "img10.png", "img1.0.png"):
                assert boxes[0][1][0] == names.index(name)


@pytest.mark.parametrize("form", FORMATS)
def test_boxes_of_turned_images_stay_where_they_are(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]):
    """Read as stored, written as shown: the image keeps its EXIF data, and the annotation says the turned size."""
    source = coco(tmp_path / "source", [f"{number}.png" for number in range(3)])
    for number in range(3):
        picture(source / "images" / f"{number}.png", orientation=6)
    convert(source, form, tmp_path / "made", capsys)
    for folder in (source, tmp_path / "made"):
        boxes = [record.boxes[0] for record in records(folder).values()]
        assert boxes == [pytest.approx((27.0, 5.0, 42.0, 25.0), abs=1e-4)] * 3


def test_images_that_cannot_be_used_stop_or_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = coco(tmp_path / "source", [f"{number}.png" for number in range(6)])
    (source / "images" / "1.png").unlink()
    (source / "images" / "2.png").write_bytes(b"no picture")
    picture(source / "images" / "3.png", (30, 30))
    words = ["data", "convert", str(source), "--to", "voc", "--output", str(tmp_path / "made")]
    assert main(words) == 2
    assert not (tmp_path / "made").exists()
    capsys.readouterr()
    text = convert(source, "voc", tmp_path / "made", capsys, "data.on_bad=skip")
    assert "left out 3 images that cannot be used" in text
    made = read(tmp_path / "made")
    assert {name for images in made.values() for name in images} == {"0.png", "4.png", "5.png"}
    assert all(boxes == [BOX] for images in made.values() for boxes in images.values())
