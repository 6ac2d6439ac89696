"""Reading data sets: folders, CSV files, torchvision's and the embedded one; and every way to get it wrong."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.image_files import class_folders, photo, save
from vpt.config import DataConfig
from vpt.data.dataset import LabelledData, Record
from vpt.data.datasets import digits
from vpt.data.datasets.registry import load_data
from vpt.data.datasets.torchvision import SETS
from vpt.data.decode import read
from vpt.data.splits import draw_shots, split_off
from vpt.utils.cache_dir import cache_dir
from vpt.utils.errors import UserError


def load(path: Path | str, **settings: object) -> LabelledData:
    return load_data(DataConfig(path=str(path), **settings))  # type: ignore[arg-type]


def fails(message: str, path: Path | str, **settings: object) -> None:
    with pytest.raises(UserError, match=message):
        load(path, **settings)


def names(records: tuple[Record, ...]) -> list[str]:
    return [record.name for record in records]


def split_folders(root: Path, val: str = "val") -> Path:
    for place, split in enumerate(("train", val, "test")):
        class_folders(root / split, {"cat": 3, "dog": 2}, seed=100 * place)
    return root


# Class folders


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_split_folders(tmp_path: Path, val: str) -> None:
    data = load(split_folders(tmp_path, val))
    assert data.classes == ("cat", "dog")
    assert [len(data.train), len(data.val), len(data.test)] == [5, 5, 5]
    assert names(data.val)[:1] == [f"{val}/cat/0.png"]
    assert [record.labels for record in data.test] == [(0,), (0,), (0,), (1,), (1,)]
    assert data.notes == ()


def test_plain_folders_get_a_validation_split(tmp_path: Path) -> None:
    data = load(class_folders(tmp_path, {"b": 20, "a": 10, "c": 1}))
    assert data.classes == ("a", "b", "c")
    labels = [record.labels[0] for record in data.val]
    assert labels == [0, 1, 1]
    assert len(data.train) == 28
    assert data.test == ()
    assert "split 3 of 31 training images off" in data.notes[0]
    assert load(tmp_path).fingerprint() == data.fingerprint()
    assert load(tmp_path, split_seed=1).fingerprint() != data.fingerprint()


def test_train_folder_may_be_a_class(tmp_path: Path) -> None:
    data = load(class_folders(tmp_path, {"train": 3, "plane": 3}))
    assert data.classes == ("plane", "train")


def test_deep_hidden_and_other_files(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"cat": 3, "dog": 3})
    save(root / "cat" / "deep" / "er" / "x.JPG", photo())
    save(root / "cat" / ".hidden.png", photo())
    save(root / ".git" / "a.png", photo())
    save(root / "stray.png", photo())
    (root / "cat" / "notes.txt").write_text("no image")
    (root / "cat" / "phone.heic").write_text("no image")
    os.symlink(root / "cat", root / "cat" / "loop")
    data = load(root)
    assert len(data.train) + len(data.val) == 7
    assert "cat/deep/er/x.JPG" in names(data.train + data.val)
    note = next(note for note in data.notes if "ignored" in note)
    assert note.startswith("ignored 1 image outside any class folder: stray.png")
    assert "ignored 2 files that are not images: 1 .txt, 1 .heic" in data.notes
    assert "ignored 2 hidden files" in data.notes  # one of them in a hidden folder
    assert data.account("file", "d") == "12 files in d: 7 images, 2 hidden, 2 not images, 1 outside class folders"


def test_linked_class_folder(tmp_path: Path) -> None:
    class_folders(tmp_path / "elsewhere", {"x": 3})
    root = class_folders(tmp_path / "data", {"dog": 3})
    os.symlink(tmp_path / "elsewhere" / "x", root / "cat")
    assert load(root).classes == ("cat", "dog")


def test_own_validation_and_test_folders(tmp_path: Path) -> None:
    train = class_folders(tmp_path / "a", {"cat": 3, "dog": 3})
    other = class_folders(tmp_path / "b", {"dog": 2}, seed=9)
    data = load(train, val=str(other), test=str(class_folders(tmp_path / "c", {"cat": 1}, seed=8)))
    assert [record.labels for record in data.val] == [(1,), (1,)]
    assert names(data.val) == ["b/dog/0.png", "b/dog/1.png"]
    assert (len(data.train), len(data.test)) == (6, 1)
    used = load(split_folders(tmp_path / "d"), test=str(other))
    assert len(used.test) == 2
    assert "is used instead" in used.notes[0]


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    fails("there is no folder .*missing", tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    fails("is empty", tmp_path / "empty")
    save(tmp_path / "flat" / "a.png", photo())
    fails("contains 1 image outside any class folder", tmp_path / "flat")
    fails("is a file but not a CSV", tmp_path / "flat" / "a.png")
    fails("only one class .cat.", class_folders(tmp_path / "one", {"cat": 3}))
    fails("without images in .*: b, d", class_folders(tmp_path / "gaps", {"a": 1, "b": 0, "c": 1, "d": 0}))
    none = class_folders(tmp_path / "none", {"a": 0, "b": 0})
    (none / "a" / "a.heic").write_text("x")
    fails("no images in the class folders of .*heic", none)
    fails("no class has two images", class_folders(tmp_path / "single", {"a": 1, "b": 1}))


def test_splits_that_cannot_be_used(tmp_path: Path) -> None:
    root = split_folders(tmp_path / "a")
    class_folders(root / "test", {"fish": 1, "newt": 1})
    fails("the test images have classes that training lacks: fish .1 image, first test/fish/0.png., newt ", root)
    shutil.rmtree(root / "train")
    fails("no train folder", root)
    twice = split_folders(tmp_path / "b")
    class_folders(twice / "valid", {"cat": 1})
    fails("contains both val/ and valid/", twice)
    gap = split_folders(tmp_path / "c")
    (gap / "train" / "emu").mkdir()
    fails("without images in .*emu", gap)
    high = tmp_path / "d"
    split_folders(high / "pets")
    class_folders(high, {"other": 2})
    fails("set data.path=.*pets", high)


def test_empty_class_in_validation_is_fine(tmp_path: Path) -> None:
    root = split_folders(tmp_path)
    shutil.rmtree(root / "val" / "dog")
    (root / "val" / "dog").mkdir()
    assert len(load(root).val) == 3


def test_file_in_two_splits(tmp_path: Path) -> None:
    root = split_folders(tmp_path)
    os.symlink(root / "train" / "cat" / "0.png", root / "test" / "cat" / "again.png")
    fails("1 file in two splits.*train/cat/0.png .train. is test/cat/again.png .test.", root)


def test_file_in_two_classes(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"cat": 2, "dog": 2})
    os.symlink(root / "cat" / "0.png", root / "dog" / "again.png")
    fails("different labels: cat/0.png .cat. and dog/again.png .dog.", root)


# CSV files


def table(tmp_path: Path, text: str, name: str = "data.csv", count: int = 8) -> Path:
    for number in range(count):
        save(tmp_path / "pics" / f"{number}.png", photo(8, 8, number))
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def rows(*labels: str) -> str:
    return "".join(f"pics/{number}.png,{label}\n" for number, label in enumerate(labels))


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_csv(tmp_path: Path, start: str) -> None:
    data = load(table(tmp_path, start + "Path, label \n" + rows("b", "a", "b", "a") + "\n\n"))
    assert data.classes == ("a", "b")
    assert not data.multilabel
    assert sorted(names(data.train + data.val)) == [f"pics/{number}.png" for number in range(4)]
    assert read(data.train[0]).pixels.shape == (8, 8, 3)


def test_csv_with_splits_semicolons_and_absolute_paths(tmp_path: Path) -> None:
    text = "split;label;path;note\n" + "".join(
        f"{split};{label};{tmp_path}/pics/{number}.png;x\n"
        for number, (split, label) in enumerate([("train", "a"), ("Train", "b"), ("valid", "b"), ("test", "a")])
    )
    data = load(table(tmp_path, text))
    assert [len(data.train), len(data.val), len(data.test)] == [2, 1, 1]


def test_csv_of_several_labels(tmp_path: Path) -> None:
    data = load(table(tmp_path, "path,label\n" + rows("b|a", "a", "c | a", "c", "b", "a|a|")), val_fraction=0.2)
    assert data.multilabel
    assert data.classes == ("a", "b", "c")
    labels = {record.name: record.labels for record in data.train + data.val}
    assert labels["pics/0.png"] == (0, 1)
    assert labels["pics/5.png"] == (0,)
    commas = load(table(tmp_path, 'path,label\npics/0.png,"a,b"\npics/1.png,a\npics/2.png,b\n'), separator=",")
    assert commas.multilabel


def test_csv_for_one_split(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "train", {"a": 3, "b": 3})
    listing = table(tmp_path, "path,label,split\npics/0.png,a,train\npics/1.png,b,test\n")
    data = load(root, test=str(listing))
    assert names(data.test) == ["data/pics/1.png"]


def test_csv_that_repeats_itself(tmp_path: Path) -> None:
    text = "path,label\n" + rows("a", "b", "a", "b")
    data = load(table(tmp_path, text + "pics/0.png,a\n./pics/../pics/1.png,b\n"))
    assert len(data.train + data.val) == 4
    assert "left out 2 repetitions of a file" in data.notes[0]
    fails(
        "different labels: pics/0.png .a; data.csv, line 2. and pics/0.png .b; data.csv, line 6.",
        table(tmp_path, text + "pics/0.png,b\n"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("path,label\n", "lists no images"),
        ("where,label\n", "no column 'path'"),
        ("path,lable\n", "did you mean 'lable'"),
        ("path,label,label\n", "names a column twice"),
        ("pics/0.png,a\npics/1.png,b\n", "first line must name the columns"),
        ("path,label\npics/0.png,a,b\n", "line 2: 3 cells but 2 columns"),
        ("path,label\npics/0.png\n", "line 2: 1 cell but 2 columns"),
        (
            "path,label\n" + "".join(f"gone/{n}.png,a\n" for n in range(12)),
            "lists 12 images and none can be found: .*gone/9.* and 2 more; relative paths start at /",
        ),
        ("path,label\n,a\n", "1 row without a path: line 2"),
        (
            "path,label\n" + rows("a", "", "b", " | "),
            "2 images without a label: .*line 3.*line 5.*multilabel",
        ),
        ("path,label,split\npics/0.png,a,tran\n", "line 2: the split is 'tran'; did you mean 'train'"),
        ("path,label,split\npics/0.png,a,val\n", "no training images"),
        ("path,label\n" + rows("a", "a"), "only one class"),
        ('path,label\n"pics/0.png,a\n', "line 2, is not CSV: .*is a quote missing"),
    ],
)
def test_csv_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    fails(message, table(tmp_path, text))


def test_csv_that_is_none(tmp_path: Path) -> None:
    fails("there is no file", tmp_path / "missing.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00path")
    fails("UTF-8", tmp_path / "binary.csv")
    (tmp_path / "folder.csv").mkdir()
    fails("cannot read", tmp_path / "folder.csv")


def test_a_file_of_another_split_is_refused(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos", {"cat": 4, "dog": 4})
    (tmp_path / "val.csv").write_text("path,label,split\nphotos/cat/0.png,cat,val\nphotos/dog/0.png,dog,val\n")
    fails("lists only val images, none for test", tmp_path / "photos", test=str(tmp_path / "val.csv"))


# torchvision


def test_every_torchvision_entry_fits_its_constructor() -> None:
    import torchvision.datasets

    for name, splits in SETS.items():
        signature = inspect.signature(getattr(torchvision.datasets, name).__init__)
        assert "train" in splits
        for arguments in splits.values():
            signature.bind(None, "root", **arguments)


def write_mnist(root: Path, train: int = 40, test: int = 10) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = np.repeat(labels, 784) * 20
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels.tobytes())


def test_torchvision_mnist(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    data = load("torchvision:mnist", root=str(tmp_path), shots=2)
    assert data.classes[:2] == ("0 - zero", "1 - one")
    assert [len(data.train), len(data.val), len(data.test)] == [20, 10, 10]
    record = data.test[3]
    assert record.name == "MNIST/test/000003"
    assert record.labels == (3,)
    assert (read(record).pixels == 60).all()


def test_torchvision_with_files(tmp_path: Path) -> None:
    class_folders(tmp_path / "eurosat" / "2750", {"Forest": 4, "River": 4}, suffix=".jpg")
    data = load("torchvision:EuroSAT", root=str(tmp_path))
    assert data.classes == ("Forest", "River")
    assert read(data.val[0]).pixels.shape == (24, 32, 3)
    assert data.test == ()


def test_torchvision_labels_need_not_count_from_zero(tmp_path: Path) -> None:
    """CLEVR's are numbers of things in the picture, 3 to 10."""
    for split in ("train", "val"):
        folder = tmp_path / "clevr" / "CLEVR_v1.0" / "images" / split
        folder.mkdir(parents=True)
        scenes = []
        for number, count in enumerate([*range(3, 11)] * 2):
            name = f"CLEVR_{split}_{number:06d}.png"
            Image.new("RGB", (8, 8), (20 * count, number, 0)).save(folder / name)
            scenes.append({"image_filename": name, "objects": [{}] * count})
        file = tmp_path / "clevr" / "CLEVR_v1.0" / "scenes" / f"CLEVR_{split}_scenes.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"scenes": scenes}))
    data = load("torchvision:CLEVRClassification", root=str(tmp_path))
    assert data.classes == ("3", "4", "5", "6", "7", "8", "9", "10")
    assert [record.labels for record in data.test] == [(label,) for label in range(8)] * 2


def test_torchvision_that_is_missing(tmp_path: Path) -> None:
    fails("did you mean 'Flowers102'", "torchvision:flower102")
    fails("known: CIFAR10", "torchvision:")
    missing = tmp_path / "nowhere"
    fails("MNIST cannot be read from .*nowhere .*set data.download=true", "torchvision:MNIST", root=str(missing))
    assert not missing.exists()


# The embedded digits


@pytest.mark.usefixtures("whole_data")
def test_digits() -> None:
    data = load("digits")
    assert data.classes == digits.NAMES
    assert [len(data.train), len(data.val), len(data.test)] == [1078, 360, 359]
    for records in (data.train, data.val, data.test):
        counts = np.bincount([record.labels[0] for record in records])
        assert counts.max() - counts.min() <= 6
    pixels = read(data.train[0]).pixels
    assert pixels.shape == (64, 64, 3)
    assert pixels[0, 0].min() > 200  # paper, not ink
    assert data.fingerprint() == load("digits").fingerprint()
    assert not [path for path in cache_dir().iterdir() if path.name.startswith(".digits")]


def test_digits_without_a_place_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    fails("cannot write the digits.*XDG_CACHE_HOME", "digits")


def test_interrupted_digits_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(folder: Path) -> None:
        (folder / "train").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(digits, "_write_images", fail)
    with pytest.raises(KeyboardInterrupt):
        load("digits")
    assert list((tmp_path / "vpt").iterdir()) == []


# Splits


def record(number: int, *labels: int) -> Record:
    return Record(str(number), Path(str(number)), labels)


def test_split_off_leaves_each_class_on_both_sides() -> None:
    records = [record(n, n % 3) for n in range(90)] + [record(90, 3), record(91, 3), record(92, 4)]
    for fraction in (0.01, 0.3, 0.99):
        train, val = split_off(records, fraction, 0)
        assert {r.labels[0] for r in train} == {0, 1, 2, 3, 4}
        assert {r.labels[0] for r in val} == {0, 1, 2, 3}
        assert sorted(names((*train, *val)), key=int) == names(tuple(records))
    assert len(split_off(records, 0.3, 0)[1]) == 28


def test_shots() -> None:
    records = [record(n, n % 3) for n in range(30)]
    kept, short = draw_shots(records, 4, 0)
    assert np.bincount([r.labels[0] for r in kept]).tolist() == [4, 4, 4]
    assert short == {}
    assert kept != draw_shots(records, 4, 1)[0]
    assert kept == draw_shots(records, 4, 0)[0]
    several = [record(n, n % 3, 3) for n in range(30)]
    kept, _ = draw_shots(several, 2, 0)
    assert all(sum(label in r.labels for r in kept) >= 2 for label in range(4))


def test_shots_of_small_classes_are_told(tmp_path: Path) -> None:
    root = split_folders(tmp_path)
    data = load(root, shots=3)
    assert len(data.train) == 5
    assert len(data.val) == 5
    assert "dog (2)" in data.notes[-1]


def test_fingerprint_sees_what_matters(tmp_path: Path) -> None:
    root = split_folders(tmp_path / "a")
    first = load(root).fingerprint()
    shutil.copytree(root, tmp_path / "b")
    assert load(tmp_path / "b").fingerprint() == first
    (root / "train" / "cat" / "0.png").rename(root / "train" / "cat" / "9.png")
    assert load(root).fingerprint() != first
    (tmp_path / "b" / "test" / "cat" / "0.png").unlink()
    assert load(tmp_path / "b").fingerprint() != first
