"""Stated sizes and EXIF: boxes lie where the object is, in the file as it is decoded, or the image is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.boxes import SIZE, coco, coco_tree, label, notes, picture, read, records, write_json, xml
from vpt.cli.main import main
from vpt.config import DataConfig
from vpt.data.decode import decode
from vpt.data.detection.image_sizes import read_header, turned
from vpt.data.detection.registry import load_boxes
from vpt.utils.errors import UserError

STORED = (64, 48)
OBJECT = (10, 8, 30, 20)  # in the stored pixels


def marked(path: Path, orientation: int | None, size: tuple[int, int] = STORED) -> Path:
    """A black picture with a white object at OBJECT of the stored pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    x1, y1, x2, y2 = OBJECT
    pixels[y1:y2, x1:x2] = 255
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, **({"quality": 100} if path.suffix == ".jpg" else {}))
    return path


def seen(path: Path) -> tuple[float, ...]:
    """Where the object lies in the picture as it is decoded."""
    rows, columns = np.nonzero(decode(path)[..., 0] > 128)
    return tuple(map(float, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)))


def write(form: str, folder: Path, names: list[str], box: tuple[float, ...], size: tuple[int, int] | None) -> Path:
    """Annotations of pictures that are there."""
    x1, y1, x2, y2 = box
    if form == "coco":
        sides: dict[str, Any] = {"width": size[0], "height": size[1]} if size else {"width": None, "height": None}
        images = [{"file_name": name, **sides} for name in names]
        annotations = [{"image_id": at, "bbox": [x1, y1, x2 - x1, y2 - y1]} for at in range(1, len(names) + 1)]
        write_json(folder / "annotations" / "instances_train.json", coco_tree(images, annotations))
    else:
        for name in names:
            xml(folder / "Annotations" / f"{Path(name).stem}.xml", name, [("cat", x1 + 1, y1 + 1, x2, y2)], size)
    return folder


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [None, 1, 2, 3, 4, 5, 6, 7, 8])
def test_headers_and_turns_agree_with_decoding(tmp_path: Path, orientation: int | None, suffix: str):
    path = marked(tmp_path / f"a.{suffix}", orientation)
    header = read_header(path, 10**6)
    assert header is not None
    assert header.stored == STORED
    assert header.upright == decode(path).shape[1::-1]
    if suffix in ("jpg", "png"):
        assert turned(OBJECT, header.stored, header.orientation) == pytest.approx(seen(path), abs=1)


@pytest.mark.parametrize("form", ["coco", "voc"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("frame", ["stored", "upright"])
def test_the_stated_size_tells_in_which_pixels_boxes_lie(tmp_path: Path, form: str, orientation: int, frame: str):
    path = marked(tmp_path / "images" / "a.png", orientation)
    where = seen(path)
    box, size = (OBJECT, STORED) if frame == "stored" else (where, STORED[::-1])
    write(form, tmp_path, ["a.png"], box, size)
    assert read(tmp_path) == {"train": {"a.png": [("cat", where)]}}
    assert ("rotated the boxes of 1 image, annotated as stored" in notes(tmp_path)) == (frame == "stored")


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_where_the_size_does_not_tell_the_other_images_do(tmp_path: Path, form: str):
    """An image turned by half has the same size in both; a tool that stores boxes does so for all images."""
    marked(tmp_path / "images" / "half.png", 3)
    marked(tmp_path / "images" / "quarter.png", 6)
    write(form, tmp_path, ["half.png", "quarter.png"], OBJECT, STORED)
    places = {name: seen(tmp_path / "images" / name) for name in ("half.png", "quarter.png")}
    assert read(tmp_path) == {"train": {name: [("cat", box)] for name, box in places.items()}}
    assert "EXIF rotates or mirrors 1 image and the annotated size does not tell" in notes(tmp_path)


@pytest.mark.parametrize("form", ["coco", "voc"])
@pytest.mark.parametrize("size", [STORED, None])
def test_where_nothing_tells_boxes_lie_in_the_image_as_shown(tmp_path: Path, form: str, size: Any):
    path = marked(tmp_path / "images" / "half.png", 3)
    write(form, tmp_path, ["half.png"], seen(path), size)
    assert read(tmp_path) == {"train": {"half.png": [("cat", seen(path))]}}
    assert "assuming boxes in the image as displayed: " in notes(tmp_path)


def test_yolo_counts_in_the_image_as_shown(tmp_path: Path):
    path = marked(tmp_path / "images" / "a.jpg", 6)
    x1, y1, x2, y2 = seen(path)
    width, height = STORED[::-1]
    numbers = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    label(tmp_path / "labels" / "a.txt", " ".join(map(str, (0, *numbers))))
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]\n")
    assert read(tmp_path)["train"]["a.jpg"] == [("cat", pytest.approx((x1, y1, x2, y2)))]


@pytest.mark.parametrize("form", ["coco", "voc"])
@pytest.mark.parametrize(
    ("stated", "word"), [((32, 24), ""), ((640, 480), ""), ((63, 48), ""), ((48, 64), ": width and height are swapped")]
)
def test_files_of_another_size_are_refused_all_by_name(
    tmp_path: Path, form: str, stated: tuple[int, int], word: str, capsys: pytest.CaptureFixture[str]
):
    names = [f"{number}.png" for number in range(4)]
    for name in names:
        picture(tmp_path / "images" / name)
    write(form, tmp_path, names, OBJECT, stated)
    with pytest.raises(UserError) as caught:
        load_boxes(DataConfig(path=str(tmp_path)))
    text = str(caught.value)
    assert "4 images whose size differs from the annotation" in text
    assert text.count(f"the file has 64x48 pixels, {'instances_train.json' if form == 'coco' else '0.xml'} states") >= 1
    assert all(name in text for name in names)
    assert f"states {stated[0]}x{stated[1]}{word}" in text
    assert "data.on_bad=skip" in text
    assert main(["data", "check", str(tmp_path), "task=detection"]) == 2
    shown = capsys.readouterr().out
    assert "4 images cannot be used:" in shown
    assert shown.count(f"states {stated[0]}x{stated[1]}{word}") == 4


def test_images_of_another_size_can_be_left_out(tmp_path: Path):
    coco(tmp_path, ["0.png", "1.png", "2.png"])
    picture(tmp_path / "images" / "1.png", (128, 96))
    found = records(tmp_path, on_bad="skip", val_fraction=0.4)
    bad = found["instances_train/1.png"].problem()
    assert bad == "the file has 128x96 pixels, instances_train.json states 64x48"
    assert [record.size for record in found.values() if not record.problem()] == [SIZE, SIZE]


@pytest.mark.parametrize("sides", [{"width": None, "height": None}, {"width": 0, "height": 0}, {"width": ""}])
def test_a_size_that_is_not_stated_is_the_files(tmp_path: Path, sides: dict[str, Any]):
    coco(tmp_path, ["0.png", "1.png"], **sides)
    assert {record.size for record in records(tmp_path).values()} == {SIZE}


@pytest.mark.parametrize("size", [None, (0, 0)])
def test_voc_without_size(tmp_path: Path, size: tuple[int, int] | None):
    for name in ("a", "b"):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        xml(tmp_path / "Annotations" / f"{name}.xml", f"{name}.jpg", size=size)
    assert {record.size for record in records(tmp_path).values()} == {SIZE}


def test_a_text_of_digits_is_a_size(tmp_path: Path):
    coco(tmp_path, ["0.png", "1.png"], width="64", height="48.0")
    assert {record.size for record in records(tmp_path).values()} == {SIZE}


def test_an_image_that_cannot_be_read_is_left_to_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    coco(tmp_path, ["0.png", "1.png", "2.png"])
    (tmp_path / "images" / "1.png").write_bytes(b"no picture")
    assert records(tmp_path)["instances_train/1.png"].problem() == ""
    assert main(["data", "check", str(tmp_path), "task=detection"]) == 2
    assert "instances_train/1.png: it is not an image file" in capsys.readouterr().out
