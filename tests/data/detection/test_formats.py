"""Data sets of boxes: every format is read, what is wrong is mended or named, and converting loses nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.coco_folder import BOXES, coco, picture
from vpt.cli.main import main
from vpt.config import DataConfig
from vpt.data.dataloader import loader_of
from vpt.data.datasets.registry import load_data
from vpt.data.detection.collate import BoxMaker
from vpt.data.detection.convert import convert
from vpt.data.detection.dataset import BoxRecord
from vpt.data.detection.registry import load_boxes
from vpt.data.detection.transforms import BoxTransform, scale_for
from vpt.utils.errors import UserError


def contents(path: Path | str) -> dict[str, Any]:
    """All images of all splits by their file's content, with their boxes by class name."""
    data = load_boxes(DataConfig(path=str(path), val_fraction=0.3))
    found = {}
    for split in ("train", "val", "test"):
        for record in data.split(split):
            assert isinstance(record, BoxRecord)
            boxes = sorted(
                (data.classes[label], tuple(round(value, 3) for value in box))
                for label, box in zip(record.labels, record.boxes, strict=True)
            )
            found[record.source.stem] = (record.size, boxes)
    return found


def test_coco_with_sparse_ids_crowds_and_empty_images(tmp_path: Path):
    coco(tmp_path)
    data = load_boxes(DataConfig(path=str(tmp_path), val_fraction=0.3))
    assert data.classes == ("cat", "dog")  # in the order of their ids
    records = [record for record in (*data.train, *data.val) if isinstance(record, BoxRecord)]
    assert len(records) == 6
    assert sum(not record.boxes for record in records) == 1
    assert sum(crowd for record in records for crowd in record.crowds) == 1
    first = next(record for record in records if record.boxes)
    assert first.boxes == (BOXES[0][0], BOXES[1][0])
    assert first.labels == (0, 1)


def test_images_without_boxes_are_told(tmp_path: Path):
    coco(tmp_path)
    notes = load_boxes(DataConfig(path=str(tmp_path), val_fraction=0.3)).notes
    assert any(note.startswith("1 image without boxes, treated as background: ") for note in notes)


def test_voc_without_sizes_reads_those_of_the_images(tmp_path: Path):
    coco(tmp_path / "source")
    convert(load_boxes(DataConfig(path=str(tmp_path / "source"), val_fraction=0.3)), tmp_path / "made", "voc")
    whole = contents(tmp_path / "made")
    files = sorted((tmp_path / "made" / "Annotations").glob("*.xml"))
    for number, file in enumerate(files):
        empty = "<size><width>0</width><height>0</height></size>" if number % 2 else ""
        file.write_text(re.sub(r"<size>.*</size>", empty, file.read_text()))
    assert contents(tmp_path / "made") == whole


def test_boxes_that_are_all_left_out_are_told_of(tmp_path: Path):
    def change(tree: dict[str, Any]) -> None:
        for annotation in tree["annotations"]:
            annotation["bbox"] = [5, 5, 0, 0]

    coco(tmp_path, change=change)
    with pytest.raises(UserError, match=r"no boxes in its training images; .*left out \d+ boxes without area"):
        load_boxes(DataConfig(path=str(tmp_path)))


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_boxes_are_told_from_classes(tmp_path: Path, form: str):
    coco(tmp_path / "source")
    convert(load_boxes(DataConfig(path=str(tmp_path / "source"), val_fraction=0.3)), tmp_path / "made", form)
    with pytest.raises(UserError, match=r"contains boxes \(.*\); set task=detection|for boxes set task=detection"):
        load_data(DataConfig(path=str(tmp_path / "made")))


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_converting_loses_nothing(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]):
    coco(tmp_path / "source")
    words = ["data", "convert", str(tmp_path / "source"), "--to", form, "--output", str(tmp_path / "made")]
    assert main([*words]) == 0
    assert (
        f"2 classes, 5 training, 1 validation and 0 test images written to {words[-1]} as {form}"
        in capsys.readouterr().out
    )
    source = contents(tmp_path / "source")
    if form != "coco":  # which alone has crowds: the dog of the first image
        source["0"] = (source["0"][0], [box for box in source["0"][1] if box[0] != "dog"])
    assert contents(tmp_path / "made") == source
    assert main(words) == 2  # nothing is overwritten
    assert "exists and is not overwritten" in capsys.readouterr().err


def test_names_that_clash_are_told_apart(tmp_path: Path):
    for folder in ("a", "b"):
        coco(tmp_path / folder)
    one, two = (load_boxes(DataConfig(path=str(tmp_path / name))) for name in ("a", "b"))
    from dataclasses import replace

    both = replace(one, train=(*one.train, *two.train))
    convert(both, tmp_path / "made", "voc")
    assert len(list((tmp_path / "made" / "JPEGImages").iterdir())) == len(both.train) + len(one.val)


def test_boxes_are_cut_at_the_edge_or_left_out_by_name(tmp_path: Path):
    def change(tree: dict[str, Any]) -> None:
        for number, box in enumerate([[-10, -10, 30, 30], [5, 5, 0, 10], [60, 5, 10, 10], [5, 5, -3, 10]]):
            tree["annotations"][number]["bbox"] = box
            tree["annotations"][number]["iscrowd"] = 0

    coco(tmp_path, change=change)
    data = load_boxes(DataConfig(path=str(tmp_path)))
    notes = "\n".join(data.notes)
    assert "left out 3 boxs" not in notes
    assert "left out 3 boxes without area inside the image: instances_train/0.png (5, 5, 5, 15)" in notes
    assert "clipped 1 box at the image's edge: instances_train/0.png" in notes
    for record in (*data.train, *data.val):
        assert isinstance(record, BoxRecord)
        assert all(0 <= x1 < x2 <= 48 and 0 <= y1 < y2 <= 32 for x1, y1, x2, y2 in record.boxes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tree: tree["images"][0].update(file_name="../../etc/passwd"), "is not inside"),
        (lambda tree: tree["images"][0].update(file_name="/etc/passwd"), "is not inside"),
        (
            lambda tree: tree["images"][0].update(file_name="a\0b.png"),
            r"names 'a\\x00b\.png', which is not inside",
        ),
        (lambda tree: tree["images"][0].update(file_name=""), "names '', which is not inside"),
        (lambda tree: tree["images"][0].update(file_name="gone.png"), "cannot be found: gone.png"),
        (lambda tree: tree["annotations"][0].update(category_id=9), "category 9, which is not listed"),
        (lambda tree: tree["annotations"][0].update(image_id=9), "image 9, which is not listed"),
        (lambda tree: tree["annotations"][0].update(bbox=[1, 2, 3]), "no bbox of four numbers"),
        (lambda tree: tree["categories"][0].update(name="cat"), "two categories are named 'cat'"),
        (lambda tree: tree.pop("images"), "is not a COCO file"),
        (lambda tree: tree["images"][0].update(width="wide"), "'width' must be a whole number"),
        (lambda tree: tree["images"][0].update(width=float("nan")), "'width' must be a whole number"),
    ],
)
def test_damaged_coco_files_are_one_sentence(tmp_path: Path, change: Any, sentence: str):
    coco(tmp_path, change=change)
    with pytest.raises(UserError, match=sentence) as caught:
        load_boxes(DataConfig(path=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_backslash_before_a_zero_is_no_nul_byte(tmp_path: Path):
    coco(tmp_path, change=lambda tree: tree["images"][0].update(file_name="scan\\01.png"))
    picture(tmp_path / "images" / "scan\\01.png")
    data = load_boxes(DataConfig(path=str(tmp_path), val_fraction=0.3))
    assert any(record.source.name == "scan\\01.png" for record in (*data.train, *data.val))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"images": ', "cannot be read as JSON: Expecting value"),
        (b"\xff\xfe", "cannot be read as JSON: 'utf-8' codec"),
        (b"[" * 100_000, "cannot be read as JSON: it is nested too deeply; take another copy"),
    ],
)
def test_json_that_is_none_is_one_sentence(tmp_path: Path, content: bytes, sentence: str):
    file = coco(tmp_path)
    file.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        load_boxes(DataConfig(path=str(tmp_path)))
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def yolo(folder: Path, lines: str = "0 0.25 0.5 0.2 0.4\n1 0.5 0.5 0.5 0.5\n") -> Path:
    for split in ("train", "val"):
        for number in range(2):
            picture(folder / "images" / split / f"{number}.png")
        (folder / "labels" / split).mkdir(parents=True)
        (folder / "labels" / split / "0.txt").write_text(lines)
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return folder


def test_yolo(tmp_path: Path):
    data = load_boxes(DataConfig(path=str(yolo(tmp_path))))
    record = data.train[0]
    assert isinstance(record, BoxRecord)
    assert record.boxes[1] == (12.0, 8.0, 36.0, 24.0)
    assert data.train[1].labels == ()  # no label file: no boxes
    polygon = load_boxes(DataConfig(path=str(yolo(tmp_path / "p", "0 0.1 0.1 0.5 0.1 0.5 0.5\n"))))
    assert polygon.train[0].boxes[0] == pytest.approx((4.8, 3.2, 24.0, 16.0))


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("0 0.1 0.1\n", "line 1: '0 0.1 0.1' is not"),
        ("5 0.1 0.1 0.1 0.1\n", "class 5 is out of range"),
        ("a b c d e\n", "is not"),
    ],
)
def test_damaged_yolo_labels_name_the_line(tmp_path: Path, lines: str, sentence: str):
    with pytest.raises(UserError, match=sentence):
        load_boxes(DataConfig(path=str(yolo(tmp_path, lines))))


def test_label_files_that_are_no_text_are_named(tmp_path: Path):
    folder = yolo(tmp_path)
    label = next((folder / "labels").rglob("*.txt"))
    label.write_bytes(b"0 0.1 0.1 \xff\xfe")
    with pytest.raises(UserError, match=rf"cannot read .*{label.name}: it is not a text file; check data\.path"):
        load_boxes(DataConfig(path=str(folder)))


def test_splits_are_set_apart_as_for_classes(tmp_path: Path):
    file = coco(tmp_path, 12)
    given = {"path": str(file), "test_fraction": 0.25, "val_fraction": 0.25}
    plain = load_boxes(DataConfig(**given))
    assert plain.test
    held = load_boxes(DataConfig(**given, hold_test=True, join_val=True))
    assert (len(held.train), held.val, held.test) == (len(plain.train) + len(plain.val), (), ())
    assert 0 < len(load_boxes(DataConfig(**given, val_shots=1)).val) < len(plain.val)


def test_voc_without_splits_and_damaged_xml(tmp_path: Path):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "b.png")
    box = "<object><name>cat</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object>"
    (tmp_path / "annotations").mkdir()
    for name in ("a", "b"):
        size = "<size><width>48</width><height>32</height></size>"
        text = f"<annotation><filename>other.png</filename>{size}{box}</annotation>"
        (tmp_path / "annotations" / f"{name}.xml").write_text(text)
    data = load_boxes(DataConfig(path=str(tmp_path), val_fraction=0.5))
    assert data.classes == ("cat",)
    assert data.train[0].boxes == ((2.0, 3.0, 20.0, 30.0),)
    (tmp_path / "annotations" / "a.xml").write_text("<annotation>")
    with pytest.raises(UserError, match=r"a\.xml cannot be read as XML"):
        load_boxes(DataConfig(path=str(tmp_path)))


def test_the_same_image_in_two_splits_is_refused(tmp_path: Path):
    file = coco(tmp_path)
    (file.parent / "instances_val.json").write_text(file.read_text())
    with pytest.raises(UserError, match="is in train and in val"):
        load_boxes(DataConfig(path=str(tmp_path)))


def test_a_checked_file_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    coco(tmp_path)
    (tmp_path / "images" / "2.png").write_bytes(b"no picture")
    assert main(["data", "check", str(tmp_path), "task=detection"]) == 2
    assert "2.png" in capsys.readouterr().out


class TestTransform:
    record = BoxRecord("a", Path("a"), (0, 1), (BOXES[0][0], BOXES[1][0]), (False, True), (48, 32))
    image = np.zeros((32, 48, 3), np.uint8)

    def test_the_aspect_is_kept_and_boxes_follow(self):
        tensor, target = BoxTransform(64, 200)(self.image, self.record, 0)
        assert tensor.shape == (3, 64, 96)
        torch.testing.assert_close(target.boxes, torch.tensor([BOXES[0][0], BOXES[1][0]]) * 2)
        assert target.crowds.tolist() == [False, True]
        assert (target.width, target.height) == (48, 32)

    def test_one_pixel_and_very_long_images(self):
        empty = BoxRecord("a", Path("a"), (), (), (), (1, 1))
        tensor, target = BoxTransform(32, 64)(np.zeros((1, 1, 3), np.uint8), empty, 0)
        assert tensor.shape == (3, 32, 32)
        assert target.boxes.shape == (0, 4)
        tensor, _ = BoxTransform(32, 64)(np.zeros((2, 400, 3), np.uint8), empty, 0)
        assert tensor.shape == (3, 1, 64)
        assert scale_for(400, 2, 32, 64) == 0.16

    @pytest.mark.parametrize("augment", ["light", "standard", "strong"])
    def test_boxes_stay_on_what_they_mark(self, augment: str):
        """A white rectangle on black: after any change the box still bounds it."""
        image = np.zeros((64, 96, 3), np.uint8)
        image[20:40, 30:70] = 255
        record = BoxRecord("a", Path("a"), (0,), ((30.0, 20.0, 70.0, 40.0),), (False,), (96, 64))
        transform = BoxTransform(64, 200, augment)
        seen = set()
        for seed in range(12):
            tensor, target = transform(image, record, seed)
            again, _ = transform(image, record, seed)
            assert torch.equal(tensor, again)
            seen.add(tuple(target.boxes.flatten().round().tolist()))
            if len(target.boxes):
                rows, columns = (tensor[0] > 60).nonzero().T
                found = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
                slack = 12.0 if augment == "strong" else 3.0  # a turned rectangle has a wider bound
                assert (target.boxes[0] - found).abs().max() <= slack
        assert len(seen) > 1

    def test_an_unknown_augmentation_is_refused(self):
        with pytest.raises(UserError, match="did you mean 'strong'"):
            BoxTransform(32, 64, "strnog")


def test_batches_are_the_same_for_any_number_of_workers(tmp_path: Path):
    coco(tmp_path)
    data = load_boxes(DataConfig(path=str(tmp_path)))
    found = []
    for workers in (0, 2):
        maker = BoxMaker(BoxTransform(40, 80, "light"))
        loader = loader_of(data.train, maker, batch_size=2, seed=3, shuffle=True, workers=workers)
        found.append(list(loader.epoch(1)))
        loader.close()
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.index, other.index)
        for first, second in zip(one.images, other.images, strict=True):
            assert torch.equal(first, second)
        parts = one.parts(2)
        assert sum(len(part.index) for part in parts) == len(one.index)


@pytest.mark.usefixtures("whole_data")
def test_the_embedded_scenes():
    data = load_boxes(DataConfig(path="scenes"))
    assert [len(part) for part in (data.train, data.val, data.test)] == [400, 80, 120]
    assert len(data.classes) == 10
    assert sum(not record.labels for record in data.train) > 20  # some are empty
    record = next(record for record in data.train if record.labels)
    assert isinstance(record, BoxRecord)
    with Image.open(record.source) as image:
        grey = np.asarray(image.convert("L"), dtype=float)
    x1, y1, x2, y2 = (int(value) for value in record.boxes[0])
    assert grey[y1:y2, x1:x2].mean() < np.median(grey)  # digits are darker than their ground
