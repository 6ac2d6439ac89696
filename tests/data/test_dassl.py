"""CoOp's data layout on small stand-ins: split files, official lists, ImageNet and its shifts; halves of classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vpt.config import DataConfig
from vpt.data.datasets.dassl import SETS, read_dassl, template_of
from vpt.data.datasets.registry import load_data
from vpt.utils.errors import UserError


def picture(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(path)


def split_file(root: Path, name: str, classes: int = 4, each: int = 3) -> dict[str, Any]:
    """A data set with a split file, whose labels are not in the order of names."""
    layout = SETS[name]
    tree: dict[str, Any] = {}
    for number, split in enumerate(("train", "val", "test")):
        tree[split] = []
        for label in range(classes):
            for image in range(each):
                path = f"class_{label}/{split}_{image}.jpg"
                picture(root / layout.folder / layout.images_in / path, 40 * label + 10 * image + number)
                tree[split].append([path, label, f"name_{classes - label}"])
    assert layout.split is not None
    (root / layout.folder / layout.split).write_text(json.dumps(tree))
    return tree


@pytest.mark.parametrize("name", [name for name, layout in SETS.items() if layout.split])
def test_split_files(tmp_path: Path, name: str):
    split_file(tmp_path, name)
    data = load_data(DataConfig(path=f"dassl:{name}", root=str(tmp_path)))
    assert data.classes == ("name_4", "name_3", "name_2", "name_1")  # the file's own order
    assert [len(part) for part in (data.train, data.val, data.test)] == [12, 12, 12]
    assert all(record.source.is_file() for record in data.train)
    assert data.train[-1].labels == (3,)


def test_shots_and_halves(tmp_path: Path):
    split_file(tmp_path, "eurosat", classes=5)
    common = {"path": "dassl:eurosat", "root": str(tmp_path)}
    base = load_data(DataConfig(**common, half="base", shots=2, val_shots=1))
    assert base.classes == ("name_5", "name_4", "name_3")  # the first half, one more where the number is odd
    assert len(base.train) == 6
    assert len(base.val) == 3
    new = load_data(DataConfig(**common, half="new"))
    assert new.classes == ("name_2", "name_1")
    assert {record.labels for record in new.test} == {(0,), (1,)}
    with pytest.raises(UserError, match=r"data\.half=new leaves 1 class of 2"):
        split_file(tmp_path / "two", "dtd", classes=2)
        load_data(DataConfig(path="dassl:dtd", root=str(tmp_path / "two"), half="new"))


def test_aircraft(tmp_path: Path):
    folder = tmp_path / "fgvc_aircraft"
    for split in ("train", "val", "test"):
        lines = []
        for number, name in enumerate(["707-320", "Boeing 717"]):
            picture(folder / "images" / f"{split}{number}.jpg", number)
            lines.append(f"{split}{number} {name}")
        (folder / f"images_variant_{split}.txt").write_text("\n".join(lines))
    (folder / "variants.txt").write_text("Boeing 717\n707-320\n")
    data = load_data(DataConfig(path="dassl:fgvc_aircraft", root=str(tmp_path)))
    assert data.classes == ("Boeing 717", "707-320")
    assert [record.labels for record in data.test] == [(1,), (0,)]


def test_imagenet_and_its_shifts(tmp_path: Path):
    for wnid in ("n01440764", "n01443537"):
        for part in ("train", "val"):
            picture(tmp_path / "imagenet" / "images" / part / wnid / f"{part}.JPEG")
        picture(tmp_path / "imagenet" / "images" / "train" / wnid / "second.JPEG")
    data = load_data(DataConfig(path="dassl:imagenet", root=str(tmp_path)))
    assert len(data.classes) == 1000
    assert data.classes[:2] == ("tench", "goldfish")
    assert len(set(data.classes)) == 1000
    assert [record.labels for record in data.test] == [(0,), (1,)]

    picture(tmp_path / "imagenet-rendition" / "imagenet-r" / "n01443537" / "a.jpg")
    picture(tmp_path / "imagenet-rendition" / "imagenet-r" / "n01484850" / "a.jpg")
    shift = load_data(DataConfig(path="dassl:imagenet_r", root=str(tmp_path)))
    assert shift.classes == ("goldfish", "great white shark")  # classified among its own names only
    assert not shift.train

    picture(tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val" / "999" / "a.jpeg")
    picture(tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val" / "0" / "a.jpeg")
    second = load_data(DataConfig(path="dassl:imagenetv2", root=str(tmp_path)))
    assert second.classes == ("tench", "toilet paper")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tree: [], "must contain train, val and test"),
        (lambda tree: {**tree, "train": {"a": 1}}, "must be lists"),
        (lambda tree: {**tree, "train": [["a.jpg", "0", "cat"]]}, r"not of the form \[path, label, class name\]"),
        (lambda tree: {**tree, "train": [["../../etc/passwd", 0, "name_4"]]}, "is not inside"),
        (lambda tree: {**tree, "train": [["a.jpg", 0, "other"], *tree["train"]]}, "class 0 has two names"),
    ],
)
def test_damaged_split_files_are_one_sentence(tmp_path: Path, change, sentence: str):
    tree = split_file(tmp_path, "dtd")
    (tmp_path / "dtd" / SETS["dtd"].split).write_text(json.dumps(change(tree)))
    with pytest.raises(UserError, match=sentence):
        read_dassl("dtd", tmp_path)


def test_what_is_missing_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"should be in .*caltech-101, which does not exist; set data\.root"):
        read_dassl("caltech101", tmp_path)
    (tmp_path / "caltech-101").mkdir()
    with pytest.raises(UserError, match=r"split_zhou_Caltech101\.json; it is among the split files"):
        read_dassl("caltech101", tmp_path)


def test_templates_of_the_authors():
    assert template_of("dassl:oxford_pets") == "a photo of a {}, a type of pet."
    assert template_of("pets") is None
