"""Data sets of boxes laid out as annotation tools export them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.helpers.boxes import SIZE, label, picture, write_json

# One box in every picture, of class cat in even and dog in odd ones; x1 is 5 plus the number.
SPLITS = {"train": (0, 1, 2), "val": (3, 4), "test": (5,)}


EVERYTHING = tuple(number for numbers in SPLITS.values() for number in numbers)


def box(number: int) -> tuple[float, float, float, float]:
    return 5.0 + number, 6.0, 25.0 + number, 21.0


def yolo_line(number: int) -> str:
    x1, y1, x2, y2 = box(number)
    width, height = SIZE
    numbers = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return " ".join([str(number % 2), *(f"{value:.6f}" for value in numbers)])


def coco_file(
    path: Path, numbers: tuple[int, ...], name: str = "a{}.jpg", first: int = 1, categories: Any = None, **more: Any
) -> None:
    """An annotation file; ids count from `first`."""
    images = [
        {"id": at, "width": SIZE[0], "height": SIZE[1], "file_name": name.format(number), "license": 0, **more}
        for at, number in enumerate(numbers, first)
    ]
    annotations = []
    for at, number in enumerate(numbers, first):
        x1, y1, x2, y2 = box(number)
        annotations.append(
            {
                "id": at,
                "image_id": at,
                "category_id": number % 2 + 1,
                "segmentation": [],
                "area": 300.0,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "iscrowd": 0,
                "attributes": {"occluded": False},
            }
        )
    kinds = categories or [{"id": 1, "name": "cat", "supercategory": ""}, {"id": 2, "name": "dog", "supercategory": ""}]
    tree = {"licenses": [], "info": {}, "categories": kinds, "images": images, "annotations": annotations}
    write_json(path, tree)


def pictures(folder: Path, numbers: tuple[int, ...], name: str = "a{}.jpg") -> None:
    for number in numbers:
        picture(folder / name.format(number), seed=number)


def roboflow_coco(root: Path) -> None:
    kinds = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "pets"},
        {"id": 2, "name": "dog", "supercategory": "pets"},
    ]
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        pictures(root / folder, SPLITS[split])
        coco_file(
            root / folder / "_annotations.coco.json", SPLITS[split], first=0, categories=kinds, extra={"name": "a.jpg"}
        )
    (root / "README.dataset.txt").write_text("# pets > 2024\n")
    (root / "README.roboflow.txt").write_text("\npets - v1\n")


def roboflow_yolo(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        pictures(root / folder / "images", SPLITS[split])
        for number in SPLITS[split]:
            label(root / folder / "labels" / f"a{number}.txt", yolo_line(number))
    (root / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n\n"
        "roboflow:\n  workspace: me\n  project: pets\n  version: 1\n  license: CC BY 4.0\n"
    )
    (root / "README.dataset.txt").write_text("# pets > 2024\n")


def roboflow_voc(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        pictures(root / folder, SPLITS[split])
        for number in SPLITS[split]:
            x1, y1, x2, y2 = (int(value) for value in box(number))
            (root / folder / f"a{number}.xml").write_text(
                f"<annotation>\n\t<folder></folder>\n\t<filename>a{number}.jpg</filename>\n\t<path>a{number}.jpg</path>\n"
                "\t<source>\n\t\t<database>roboflow.com</database>\n\t</source>\n\t<size>\n\t\t<width>64</width>\n"
                "\t\t<height>48</height>\n\t\t<depth>3</depth>\n\t</size>\n\t<segmented>0</segmented>\n\t<object>\n"
                f"\t\t<name>{('cat', 'dog')[number % 2]}</name>\n\t\t<pose>Unspecified</pose>\n"
                "\t\t<truncated>0</truncated>\n\t\t<difficult>0</difficult>\n\t\t<occluded>0</occluded>\n\t\t<bndbox>\n"
                f"\t\t\t<xmin>{x1 + 1}</xmin>\n\t\t\t<xmax>{x2}</xmax>\n\t\t\t<ymin>{y1 + 1}</ymin>\n"
                f"\t\t\t<ymax>{y2}</ymax>\n\t\t</bndbox>\n\t</object>\n</annotation>\n"
            )


def roboflow_darknet(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        pictures(root / folder, SPLITS[split])
        for number in SPLITS[split]:
            label(root / folder / f"a{number}.txt", yolo_line(number))
        (root / folder / "_darknet.labels").write_text("cat\ndog")
    (root / "README.roboflow.txt").write_text("\npets - v1\n")


def cvat_voc(root: Path, subsets: tuple[str, ...] = ("train", "val", "test")) -> None:
    """As Datumaro and CVAT write VOC: corners count from 0, as decimal numbers."""
    for subset, numbers in zip(subsets, SPLITS.values(), strict=False):
        pictures(root / "JPEGImages", numbers)
        for number in numbers:
            x1, y1, x2, y2 = box(number)
            (root / "Annotations").mkdir(exist_ok=True)
            (root / "Annotations" / f"a{number}.xml").write_text(
                f"<annotation>\n  <folder></folder>\n  <filename>a{number}.jpg</filename>\n  <source>\n"
                "    <database>Unknown</database>\n    <annotation>Unknown</annotation>\n    <image>Unknown</image>\n"
                "  </source>\n  <size>\n    <width>64</width>\n    <height>48</height>\n    <depth>3</depth>\n"
                "  </size>\n"
                f"  <segmented>0</segmented>\n  <object>\n    <name>{('cat', 'dog')[number % 2]}</name>\n"
                "    <truncated>0</truncated>\n    <occluded>0</occluded>\n    <difficult>0</difficult>\n    <bndbox>\n"
                f"      <xmin>{x1}</xmin>\n      <ymin>{y1}</ymin>\n      <xmax>{x2}</xmax>\n      <ymax>{y2}</ymax>\n"
                "    </bndbox>\n    <attributes>\n      <attribute>\n        <name>rotation</name>\n"
                "        <value>0.0</value>\n      </attribute>\n    </attributes>\n  </object>\n</annotation>\n"
            )
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{subset}.txt").write_text("".join(f"a{number}\n" for number in numbers))
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:::\ncat:::\ndog:::\n")


def cvat_yolo(root: Path, prefix: str = "data/") -> None:
    """ "YOLO 1.1": Darknet's layout, in which CVAT calls validation valid."""
    said = "classes = 2\n"
    for split, subset in (("train", "train"), ("val", "valid"), ("test", "test")):
        folder = f"obj_{subset}_data"
        pictures(root / folder, SPLITS[split])
        for number in SPLITS[split]:
            label(root / folder / f"a{number}.txt", yolo_line(number) + "\n")
        lines = "".join(f"{prefix}{folder}/a{number}.jpg\n" for number in SPLITS[split])
        (root / f"{subset}.txt").write_text(lines)
        said += f"{subset} = {prefix}{subset}.txt\n"
    (root / "obj.names").write_text("cat\ndog\n")
    (root / "obj.data").write_text(f"{said}names = {prefix}obj.names\nbackup = backup/\n")


def cvat_ultralytics(
    root: Path, prefix: str = "data/", names: Any = None, more: str = "", line: Any = yolo_line
) -> None:
    names = names or {"train": "train", "val": "val", "test": "test"}
    said = "path: .\n"
    for split, subset in names.items():
        pictures(root / "images" / subset, SPLITS[split])
        for number in SPLITS[split]:
            label(root / "labels" / subset / f"a{number}.txt", line(number) + "\n")
        lines = "".join(f"{prefix}images/{subset}/a{number}.jpg\n" for number in SPLITS[split])
        (root / f"{subset}.txt").write_text(lines)
        said += f"{subset}: {subset}.txt\n"
    (root / "data.yaml").write_text(f"{said}{more}names:\n  0: cat\n  1: dog\n")


def cvat_pose(root: Path) -> None:
    def line(number: int) -> str:
        return f"{yolo_line(number)} 0.300000 0.300000 2 0.900000 0.100000 1 0.000000 0.000000 0"

    cvat_ultralytics(root, more="kpt_shape: [3, 3]\n", line=line)


def label_studio_coco_elsewhere(root: Path) -> None:
    """Where it serves its own files, the paths are those of its upload folder."""
    pictures(root / "images", EVERYTHING, "3f2a-a{}.jpg")
    coco_file(root / "result.json", EVERYTHING, "../upload/1/3f2a-a{}.jpg")


def label_studio_yolo(root: Path) -> None:
    pictures(root / "images", EVERYTHING, "3f2a-a{}.jpg")
    for number in EVERYTHING:
        label(root / "labels" / f"3f2a-a{number}.txt", yolo_line(number) + "\n")
    (root / "classes.txt").write_text("cat\ndog\n")
    (root / "notes.json").write_text(json.dumps({"categories": [{"id": 0, "name": "cat"}], "info": {"year": 2024}}))
