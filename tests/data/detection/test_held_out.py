"""What a data set holds out is not trained on, in whichever format its boxes come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.boxes import LINE, coco_tree, label, notes, picture, read, write_json, xml
from vpt.config import DataConfig
from vpt.data.detection.registry import load_boxes
from vpt.utils.errors import UserError


def coco(folder: Path, names: list[str]) -> None:
    images = [{"file_name": name} for name in names]
    boxes = [{"image_id": at, "bbox": [5, 6, 20, 15]} for at in range(1, len(names) + 1)]
    write_json(folder / "annotations" / "instances_default.json", coco_tree(images, boxes))
    for name in names:
        picture(folder / "images" / name)


def voc(folder: Path, names: list[str]) -> None:
    for name in names:
        picture(folder / "JPEGImages" / name)
        xml((folder / "Annotations" / name).with_suffix(".xml"), Path(name).name)


def yolo(folder: Path, names: list[str]) -> None:
    for name in names:
        picture(folder / "images" / name)
        label((folder / "labels" / name).with_suffix(".txt"), LINE)
    (folder / "data.yaml").write_text("train: images\nnames: [cat]\n")


def classes_txt(folder: Path, names: list[str]) -> None:
    yolo(folder, names)
    (folder / "data.yaml").unlink()
    (folder / "classes.txt").write_text("cat\n")


FORMATS = pytest.mark.parametrize("write", [coco, voc, yolo, classes_txt], ids=lambda write: write.__name__)
Write = Callable[[Path, list[str]], None]


def stems(folder: Path) -> dict[str, list[str]]:
    return {split: sorted(Path(name).stem for name in images) for split, images in read(folder).items()}


@FORMATS
@pytest.mark.parametrize(("name", "split"), [("test.txt", "test"), ("val.txt", "val"), ("Valid.txt", "val")])
@pytest.mark.parametrize(
    "line", ["img1", "img1.jpg", "{folder}/img1.jpg", "./{folder}/img1.jpg", "{root}/{folder}/img1.jpg"]
)
def test_a_list_holds_out(tmp_path: Path, write: Write, name: str, split: str, line: str):
    write(tmp_path, ["img1.jpg", "img10.jpg", "img2.jpg", "img[1].jpg"])
    images = "JPEGImages" if write is voc else "images"
    (tmp_path / name).write_text(line.format(folder=images, root=tmp_path) + "\n")
    assert stems(tmp_path) == {"train": ["img10", "img2", "img[1]"], split: ["img1"]}


@FORMATS
def test_several_lists(tmp_path: Path, write: Write):
    write(tmp_path, [f"{letter}.jpg" for letter in "abcdef"])
    (tmp_path / "val.txt").write_text("a.jpg\n")
    (tmp_path / "valid.txt").write_text("b.jpg\n")
    (tmp_path / "test_list.txt").write_text("c.jpg\n")
    assert stems(tmp_path) == {"train": ["d", "e", "f"], "val": ["a", "b"], "test": ["c"]}


@FORMATS
@pytest.mark.parametrize(("folder", "split"), [("test", "test"), ("valid", "val"), ("Val", "val")])
def test_a_folder_holds_out(tmp_path: Path, write: Write, folder: str, split: str):
    write(tmp_path, ["a.jpg", "b.jpg", f"{folder}/c.jpg", "contest/d.jpg"])
    if write is classes_txt:  # whose folders are splits, if any is called so
        assert split in stems(tmp_path)
        assert "c" not in stems(tmp_path).get("train", [])
        return
    assert stems(tmp_path) == {"train": ["a", "b", "d"], split: ["c"]}
    assert f"moved 1 image from training to {split}, held out by the folder {folder}" in notes(tmp_path)


@pytest.mark.parametrize("write", [coco, yolo], ids=lambda write: write.__name__)
def test_a_list_that_fits_several_images_is_refused(tmp_path: Path, write: Write):
    write(tmp_path, ["a/1.jpg", "b/1.jpg", "b/2.jpg"])
    (tmp_path / "test.txt").write_text("1.jpg\n")
    with pytest.raises(UserError, match=r"test\.txt names '1\.jpg', which may be any of .*add the folder there"):
        load_boxes(DataConfig(path=str(tmp_path)))
    (tmp_path / "test.txt").write_text("b/1.jpg\n")
    assert len(read(tmp_path)["test"]) == 1


@pytest.mark.parametrize("write", [coco, yolo], ids=lambda write: write.__name__)
@pytest.mark.parametrize("content", [b"", b"notes on the test", b"\xff\xfe\x00", b"other.jpg\n"])
def test_a_text_file_that_lists_nothing_does_no_harm(tmp_path: Path, write: Write, content: bytes):
    write(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "test.txt").write_bytes(content)
    assert stems(tmp_path) == {"train": ["a", "b"]}


def test_splits_that_the_annotations_give_stay(tmp_path: Path):
    coco(tmp_path, ["a.jpg", "b.jpg", "test/c.jpg"])
    file = tmp_path / "annotations" / "instances_default.json"
    file.rename(file.with_name("instances_train.json"))  # which says that all three are for training
    assert stems(tmp_path) == {"train": ["a", "b", "c"]}
    (tmp_path / "test.txt").write_text("test/c.jpg\n")
    assert stems(tmp_path) == {"train": ["a", "b"], "test": ["c"]}
