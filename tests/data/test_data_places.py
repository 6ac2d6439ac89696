"""What a data set is called, and where it is looked for."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.paths import ROOT
from vpt.config import DataConfig, load_config
from vpt.data.datasets.registry import load_data
from vpt.data.detection.registry import load_boxes
from vpt.training.run_folder import data_name, stem_of
from vpt.utils.errors import UserError


def picture(file: Path, shade: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (shade % 256, 90, 90)).save(file)


def yolo(folder: Path, name: str) -> Path:
    """A data set as Ultralytics' tools write it; returns the folder."""
    for split in ("train", "val"):
        for number in range(3):
            picture(folder / "images" / split / f"{number}.png", number)
            label = folder / "labels" / split / f"{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / name).write_text("path: .\ntrain: images/train\nval: images/val\nnames:\n  0: apple\n")
    return folder


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("fruit", "fruit"),
        ("sets/fruit/", "fruit"),
        ("sets/fruit/data.yaml", "fruit"),
        ("sets/fruit/config.yaml", "fruit"),
        ("sets/fruit/Dataset.YML", "fruit"),
        ("sets/fruit.yaml", "fruit"),
        ("sets/fruit/annotations/instances_train.json", "fruit"),
        ("sets/fruit/train/_annotations.coco.json", "fruit"),
        ("sets/fruit/labels.csv", "fruit"),
        ("sets/fruit/train.csv", "fruit"),
        ("photos.csv", "photos"),
        ("torchvision:Flowers102", "torchvision:Flowers102"),
        ("v1.5", "v1.5"),
        ("digits", "digits"),
    ],
)
def test_a_data_set_is_called_by_its_folder_or_a_file_name_that_tells_something(path: str, name: str):
    assert data_name(path) == name


def test_runs_of_a_file_in_the_working_folder_are_called_by_that_folder(tmp_path: Path, monkeypatch):
    (tmp_path / "fruit").mkdir()
    monkeypatch.chdir(tmp_path / "fruit")
    for path in ("data.yaml", "./data.yaml", ".", "../fruit/labels.csv"):
        assert stem_of(load_config(data=path)) == "fruit-vpt_nano-deep"
    assert stem_of(load_config(data="data.yaml", tuning="lora")) == "fruit-vpt_nano-deep-lora"


@pytest.mark.parametrize("name", ["data.yaml", "dataset.yml", "config.yaml", "fruit.yaml", "FRUIT.YAML"])
def test_a_folder_with_a_yolo_file_is_accepted(tmp_path: Path, name: str):
    folder = yolo(tmp_path / "fruit", name)
    assert load_boxes(DataConfig(path=str(folder))).classes == ("apple",)


def test_other_yaml_files_do_not_hide_it(tmp_path: Path):
    folder = yolo(tmp_path / "fruit", "set.yaml")
    (folder / "data.yaml").write_text("author: somebody\n")
    (folder / "args.yaml").write_text("epochs: 3\n")
    assert load_boxes(DataConfig(path=str(folder))).classes == ("apple",)
    shutil.copy(folder / "set.yaml", folder / "fruit.yaml")  # called like the folder
    (folder / "data.yaml").unlink()
    assert load_boxes(DataConfig(path=str(folder))).classes == ("apple",)
    os.rename(folder / "fruit.yaml", folder / "other.yaml")
    with pytest.raises(UserError, match=re.escape(f"did you mean data={folder / 'other.yaml'}?")):
        load_boxes(DataConfig(path=str(folder)))


def test_a_nested_data_set_is_suggested(tmp_path: Path):
    yolo(tmp_path / "boxes" / "fruit", "data.yaml")
    with pytest.raises(UserError, match=re.escape(f"did you mean data={tmp_path / 'boxes' / 'fruit'}?")):
        load_boxes(DataConfig(path=str(tmp_path / "boxes")))
    for name in ("rose", "tulip"):
        picture(tmp_path / "flowers" / "flowers" / name / "1.png")
    with pytest.raises(UserError, match=re.escape(f"did you mean data={tmp_path / 'flowers' / 'flowers'}?")):
        load_data(DataConfig(path=str(tmp_path / "flowers")))
    picture(tmp_path / "flat" / "1.png")
    (tmp_path / "flat" / "labels.csv").write_text("path,label\n1.png,a\n")
    with pytest.raises(UserError, match=re.escape(f"did you mean data={tmp_path / 'flat' / 'labels.csv'}?")):
        load_data(DataConfig(path=str(tmp_path / "flat")))


def test_one_class_is_not_taken_for_a_nested_data_set(tmp_path: Path):
    picture(tmp_path / "one" / "rose" / "1.png")
    picture(tmp_path / "one" / "rose" / "garden" / "2.png")
    with pytest.raises(UserError, match="has only one class"):
        load_data(DataConfig(path=str(tmp_path / "one")))


def test_no_message_tells_a_user_to_remove_data():
    """Texts only: comments and docstrings may say what is removed."""
    advice = re.compile(r"(;|, or|and|or) (remove|delete)\b(?! Normalize)")
    for file in sorted((ROOT / "vpt" / "data").rglob("*.py")):
        for line in file.read_text(encoding="utf-8").splitlines():
            assert not ('"' in line and advice.search(line)), f"{file.name}: {line.strip()}"
