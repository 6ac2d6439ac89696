"""`vpt data check` on boxes: what is read, left out and changed is counted, and the counts add up to the files."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.boxes import LINE, SIZE, change, coco, label, picture, write_json, xml, yolo
from vpt.cli.main import main
from vpt.config import DataConfig
from vpt.data.dataset import SPLITS
from vpt.data.detection.inventory import class_lines, inventory
from vpt.data.detection.registry import numbered, read_boxes

# Boxes as they stand in a COCO file, and whether each is kept.
BOXES = {"whole": ([5, 6, 20, 15], True), "cut": ([50, 6, 40, 15], True), "flat": ([5, 6, 0, 15], False)}
BOXES |= {"outside": ([70, 6, 5, 5], False), "nan": ([float("nan"), 6, 5, 5], False)}
KINDS = sorted(BOXES)


@dataclass
class Tree:
    """A data set that was written, and what there is to find in it."""

    folder: Path
    images: Counter[str] = field(default_factory=Counter)  # in splits
    unused: set[str] = field(default_factory=set)  # images in no split or without annotation
    orphans: int = 0  # annotation files that are not read, or whose image is gone
    annotations: int = 0
    others: int = 0
    kept: int = 0
    lost: int = 0
    cut: int = 0
    bad: int = 0  # images that are missing or no images


def on_disk(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder, followlinks=True))


Plan = list[tuple[str, str, list[str]]]  # of each image: its split, what it is, its boxes
PLANS = st.lists(
    st.tuples(
        st.sampled_from(["train", "train", "val", "test", "none"]),
        st.sampled_from(["good", "good", "good", "no annotation", "gone", "broken"]),
        st.lists(st.sampled_from(KINDS), max_size=3),
    ),
    max_size=10,
)
EXTRAS = st.lists(st.sampled_from(["README.md", ".DS_Store", "notes/a.csv", "deep/er/b", ".git/config"]), unique=True)


def write(form: str, folder: Path, plan: Plan, extras: list[str]) -> Tree:
    tree = Tree(folder)
    # Two images for training that are always there, so that there is something to train on and to split off.
    plan = [("train", "good", ["whole"]), ("train", "good", ["whole"]), *plan]
    for name in extras:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
        tree.others += 1
    {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}[form](tree, plan)
    for number, (split, kind, boxes) in enumerate(plan):
        name = f"{number}.png"
        if split == "none" or (kind == "no annotation" and form != "yolo"):
            if kind != "gone":
                tree.unused.add(name)
            continue
        if kind != "gone":
            tree.images[split] += 1
        tree.bad += kind in ("gone", "broken")
        if kind == "good":
            tree.kept += sum(BOXES[box][1] for box in boxes)
            tree.lost += sum(not BOXES[box][1] for box in boxes)
            tree.cut += sum(box == "cut" for box in boxes)
    return tree


def write_image(path: Path, kind: str) -> None:
    if kind == "broken":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no picture")
    elif kind != "gone":
        picture(path)


def write_coco(tree: Tree, plan: Plan) -> None:
    for split in SPLITS:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, (mine, kind, boxes) in enumerate(plan):
            if mine == split and kind != "no annotation":
                images.append({"id": number, "file_name": f"{number}.png", "width": SIZE[0], "height": SIZE[1]})
                annotations += [
                    {"id": len(annotations) + at, "image_id": number, "category_id": 1, "bbox": BOXES[box][0]}
                    for at, box in enumerate(boxes)
                ]
        if images:
            content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
            write_json(tree.folder / "annotations" / f"instances_{split}.json", content)
            tree.annotations += 1
    for number, (_, kind, _) in enumerate(plan):
        write_image(tree.folder / "images" / f"{number}.png", kind)


def write_voc(tree: Tree, plan: Plan) -> None:
    lists: dict[str, list[str]] = {}
    for number, (split, kind, boxes) in enumerate(plan):
        write_image(tree.folder / "JPEGImages" / f"{number}.png", kind)
        if kind == "no annotation":
            continue
        objects = []
        for box in boxes:
            x, y, width, height = BOXES["outside" if box == "flat" else box][0]  # any two corners name an area
            objects.append(("cat", x + 1, y + 1, x + width, y + height))
        xml(tree.folder / "Annotations" / f"{number}.xml", f"{number}.png", objects)
        tree.orphans += kind == "gone"
        tree.annotations += kind != "gone"
        if split != "none":
            lists.setdefault(split, []).append(str(number))
    main_folder = tree.folder / "ImageSets" / "Main"
    main_folder.mkdir(parents=True)
    for split, names in lists.items():
        (main_folder / f"{split}.txt").write_text("\n".join(names))
        tree.annotations += 1


def write_yolo(tree: Tree, plan: Plan) -> None:
    there: set[str] = set()
    for number, (split, kind, boxes) in enumerate(plan):
        write_image(tree.folder / "images" / split / f"{number}.png", kind)
        if kind != "gone":
            there.add(split)
        if kind == "no annotation":
            continue
        lines = []
        for box in boxes:
            x, y, width, height = BOXES[box][0]
            numbers = ((x + width / 2) / SIZE[0], (y + height / 2) / SIZE[1], width / SIZE[0], height / SIZE[1])
            lines.append(" ".join(map(str, (0, *numbers))))
        label(tree.folder / "labels" / split / f"{number}.txt", "\n".join(lines))
        unread = kind == "gone" or split == "none"
        tree.orphans += unread
        tree.annotations += not unread
    splits = [split for split in SPLITS if split in there]
    said = "".join(f"{split}: images/{split}\n" for split in splits)
    (tree.folder / "data.yaml").write_text(f"{said}names: [cat]\n")
    tree.annotations += 1


def number_in(pattern: str, notes: str) -> int:
    found = re.search(pattern, notes)
    return int(found.group(1)) if found else 0


@given(st.sampled_from(["coco", "voc", "yolo"]), PLANS, EXTRAS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_counts_add_up(form: str, plan: Plan, extras: list[str]):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = write(form, folder, plan, extras)
        config = DataConfig(path=str(folder), on_bad="skip", val_fraction=0.4)
        found, (source,) = read_boxes(config)
        gone = form == "yolo"  # whose images are those in the folder, so that a missing one is not missed
        assert {split: len(entries) for split, entries in found.splits.items()} == {
            split: count for split in SPLITS if (count := tree.images[split] + (0 if gone else _gone(plan, split)))
        }
        data = numbered(found, config)
        images = [record.source for split in SPLITS for record in data.split(split)]
        counted = inventory(source, [image for image in images if isinstance(image, Path)])
        assert counted.total == on_disk(folder)
        assert len(counted.images) == sum(tree.images.values())
        assert {Path(image).name for image in counted.unused_images} == tree.unused
        assert len(counted.annotations) == tree.annotations
        assert len(counted.orphans) + len(counted.unused_annotations) == tree.orphans
        assert len(counted.others) == tree.others
        notes = "\n".join(data.notes)
        kept = sum(len(record.labels) for split in SPLITS for record in data.split(split) if usable(record))
        lost = number_in(r"left out (\d+) box", notes)
        assert (kept, lost, number_in(r"clipped (\d+) box", notes)) == (tree.kept, tree.lost, tree.cut)
        bad = {(split, record.name) for split in SPLITS for record in data.split(split) if not usable(record)}
        assert sum(map(boxes_told, class_lines(data, bad))) == tree.kept


def _gone(plan: Plan, split: str) -> int:
    return sum(mine == split and kind == "gone" for mine, kind, _ in plan)


def usable(record: Any) -> bool:
    return record.size != (0, 0)  # whose header could be read


def boxes_told(line: str) -> int:
    return sum(int(count) for count in re.findall(r"(\d+) box", line))


def lines_of(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    main(["data", "check", str(folder), "task=detection", *words])
    return capsys.readouterr().out.splitlines()


def test_what_is_printed_of_a_yolo_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    yolo(tmp_path, f"{LINE}1 0.5 0.5 0.2 0.2\n", "train: images/train\nval: images/val\nnames: [cat, dog, bird]\n", 4)
    picture(tmp_path / "images" / "val" / "v.jpg")
    label(tmp_path / "labels" / "val" / "v.txt", f"{LINE}1 0.5 0.5 0 0.2\n")
    picture(tmp_path / "images" / "train" / "bare.jpg")
    label(tmp_path / "labels" / "train" / "orphan.txt")
    picture(tmp_path / "images" / "extra" / "x.jpg")
    (tmp_path / "images" / "train" / "bad.jpg").write_bytes(b"no picture")
    label(tmp_path / "labels" / "train" / "bad.txt")
    (tmp_path / "README.md").write_text("x")
    lines = lines_of(tmp_path, capsys)
    assert lines[0].endswith(": 3 classes, 6 training, 1 validation and 0 test images")
    for line in (
        "1 image with no label file, treated as background: images/train/bare.jpg",
        "left out 1 box without area inside the image: images/val/v.jpg (32, 19.2, 32, 28.8) line 2 of v.txt",
        "cat: 4 boxes in 4 training images, 1 box in 1 validation image",
        "dog: 4 boxes in 4 training images",
        "bird: no boxes",
        f"17 files in {tmp_path}: 7 images and 7 annotation files read",
        "  1 image not read, in no split or without annotation: images/extra/x.jpg",
        "  1 annotation file without an image: labels/train/orphan.txt",
        "  1 other file: 1 .md",
        "1 image cannot be used:",
        "  images/train/bad.jpg: it is not an image file in a known format",
    ):
        assert line in lines, (line, lines)


def test_what_is_printed_of_crowds(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    coco(tmp_path)
    change(tmp_path, lambda tree: tree["annotations"][0].update(iscrowd=1))
    lines = lines_of(tmp_path, capsys, "data.join_val=true")
    assert "cat: 2 boxes in 2 training images" in lines
    assert "1 crowd, not used for training and not counted as missed" in lines


def test_other_folders_are_counted_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    coco(tmp_path / "a", [f"{number}.png" for number in range(4)])
    coco(tmp_path / "b", ["9.png"], split="test")
    lines = lines_of(tmp_path / "a", capsys, f"data.test={tmp_path / 'b'}")
    assert f"5 files in {tmp_path / 'a'}: 4 images and 1 annotation file read" in lines
    assert f"2 files in {tmp_path / 'b'}: 1 image and 1 annotation file read" in lines


def test_links_are_counted_as_what_they_are(tmp_path: Path):
    yolo(tmp_path)
    (tmp_path / "images" / "again.jpg").symlink_to(tmp_path / "images" / "train" / "0.jpg")
    (tmp_path / "images" / "round").symlink_to(tmp_path)
    found, _ = read_boxes(DataConfig(path=str(tmp_path)))
    images = [entry.source for entry in found.splits["train"]]
    counted = inventory(found, images)
    assert (len(counted.images), counted.repeated, counted.unused_images) == (3, ("images/again.jpg",), ())
    assert counted.total == 8
    assert "1 further path to images that were read: images/again.jpg" in counted.text()
