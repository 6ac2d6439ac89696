"""Faults of data sets that nothing used to tell: what is written is read as it is meant, or the file, the line and the
remedy are named."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from tests.helpers.image_files import class_folders, photo, save
from tests.helpers.runs import NET, QUIET
from vpt.cli.main import main
from vpt.config import DataConfig, load_config
from vpt.data.dataset import LabelledData
from vpt.data.datasets.image_folder import read_folder
from vpt.data.datasets.registry import load_data
from vpt.data.decode import BadImage, decode
from vpt.data.validation import apply, check
from vpt.training.run import train
from vpt.utils.errors import UserError

NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


def load(path: Path | str, **settings: object) -> LabelledData:
    return load_data(DataConfig(path=str(path), **settings))  # type: ignore[arg-type]


def table(folder: Path, text: str | bytes, name: str = "data.csv", count: int = 8) -> Path:
    for number in range(count):
        save(folder / "pics" / f"{number}.png", photo(8, 8, number))
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows(*labels: str) -> str:
    return "".join(f"pics/{number}.png,{label}\n" for number, label in enumerate(labels))


def classes_of(data: LabelledData) -> dict[str, str]:
    return {record.name: data.classes[record.labels[0]] for record in (*data.train, *data.val, *data.test)}


# Names of classes


def test_one_class_in_two_unicode_forms(tmp_path: Path) -> None:
    """As after unpacking on a Mac: the name looks the same in both splits, and is not."""
    class_folders(tmp_path / "train", {NFC: 3, "dog": 3})
    class_folders(tmp_path / "test", {NFD: 2, "dog": 2}, seed=50)
    data = load(tmp_path)
    assert data.classes == (NFC, "dog")
    assert [record.labels[0] for record in data.test] == [0, 0, 1, 1]
    assert f"'cafe\\u0301' as {NFC} (2 images)" in data.notes[0]
    class_folders(tmp_path / "train", {NFD: 1}, seed=90)  # both in one split: one class
    assert load(tmp_path).classes == (NFC, "dog")


@pytest.mark.parametrize("odd", ["cat ", " cat", "cat\u200b", "\ufeffcat", "c\u00adat", "cat\u00a0", "\u200fcat"])
def test_names_with_what_cannot_be_seen(tmp_path: Path, odd: str) -> None:
    class_folders(tmp_path / "folders" / "train", {"cat": 3, "dog": 3})
    class_folders(tmp_path / "folders" / "test", {odd: 2}, seed=50)
    data = load(tmp_path / "folders")
    assert data.classes == ("cat", "dog")
    assert [record.labels for record in data.test] == [(0,), (0,)]
    assert f"{odd!r} as cat (2 images)" in data.notes[0]
    data = load(table(tmp_path, "path,label\n" + rows("cat", odd, "dog", "dog")))
    assert data.classes == ("cat", "dog")


def test_joiners_inside_a_word_stay(tmp_path: Path) -> None:
    word = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    assert load(class_folders(tmp_path, {word: 2, "dog": 2})).classes == ("dog", word)


@pytest.mark.parametrize(
    "labels", [("no", "on"), ("01", "1a"), ("null", "nan"), ("true", "false"), ("2024-01-01", "1e3")]
)
def test_labels_that_yaml_would_change_are_text(tmp_path: Path, labels: tuple[str, str]) -> None:
    for place in (
        class_folders(tmp_path / "folders", dict.fromkeys(labels, 3)),
        table(tmp_path, "path,label\n" + rows(*labels * 3)),
    ):
        data = load(place)
        assert data.classes == tuple(sorted(labels))
        assert not [note for note in data.notes if note.startswith("warning")]


def test_classes_that_may_be_meant_to_be_one_are_told(tmp_path: Path) -> None:
    data = load(class_folders(tmp_path / "a", {"Cat": 2, "cat": 2, "dog": 2}))
    assert data.classes == ("Cat", "cat", "dog")
    assert "warning: class names that differ only in letter case are different classes: Cat, cat" in data.notes
    data = load(table(tmp_path, "path,label\n" + rows("1", "01", "1.0", "2", "1", "01", "1.0", "2")))
    assert data.classes == ("01", "1", "1.0", "2")
    assert "warning: class names that are equal as numbers are different classes: 01, 1, 1.0" in data.notes


def test_classes_that_training_lacks_name_their_first_image(tmp_path: Path) -> None:
    file = table(
        tmp_path, "path,label,split\n" + rows("1,train", "2,train", "1,train", "2,train", "1.0,test", "2.0,test")
    )
    with pytest.raises(UserError) as caught:
        load(file)
    told = "1.0 (1 image, first pics/4.png in data.csv, line 6; did you mean '1'?)"
    assert f"the test images have classes that training lacks: {told}, 2.0 " in str(caught.value)


# Class folders


def test_an_image_in_the_train_folder_does_not_make_it_a_class(tmp_path: Path) -> None:
    for split in ("train", "val"):
        class_folders(tmp_path / split, {"cat": 2, "dog": 2}, seed=len(split))
    save(tmp_path / "train" / "stray.png", photo())
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert "ignored 1 image outside any class folder: train/stray.png" in data.notes
    lone = class_folders(tmp_path / "lone" / "train", {"cat": 2, "dog": 2})
    save(lone / "stray.png", photo())
    assert load(tmp_path / "lone").classes == ("cat", "dog")


def test_a_folder_that_may_be_a_split_or_a_class_is_told(tmp_path: Path) -> None:
    class_folders(tmp_path, {"train": 3, "plane": 3})
    class_folders(tmp_path / "train", {"freight": 2}, seed=50)
    data = load(tmp_path)
    assert data.classes == ("plane", "train")
    assert "is read as a class called 'train'; if it is a split, put its images into class folders" in data.notes[0]


def test_all_broken_links_are_listed_and_left_out(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d", {"cat": 4, "dog": 4})
    for name in ("cat", "dog"):
        (root / name / "z.png").symlink_to("/no/such.png")
    data = load(root)
    report = check(data)
    assert [(bad.name, bad.reason) for bad in report.bad] == [
        (f"{name}/z.png", "it is a broken link to /no/such.png") for name in ("cat", "dog")
    ]
    rest = apply(data, report, "skip")
    assert len(rest.train) + len(rest.val) == 8
    assert len(data.val) == len(rest.val) == 2  # what is not there is not drawn for validation
    assert len(load(root, shots=4).train) == 6


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"cat": 2, "dog": 2})
    os.mkfifo(root / "cat" / "pipe.png")
    assert [bad.reason for bad in check(load(root)).bad] == ["it is a pipe, a socket or a device"]


def test_one_image_a_class_is_enough_without_validation(tmp_path: Path, small_net: None) -> None:
    root = class_folders(tmp_path / "d", dict.fromkeys("abcde", 1))
    with pytest.raises(UserError, match="no class has two images"):
        load(root)
    data = load(root, join_val=True)
    assert [record.labels[0] for record in data.train] == [0, 1, 2, 3, 4]
    assert not data.val
    assert not data.notes
    words = [f"data={root}", "data.join_val=true", "train.keep=last", f"out={tmp_path}", *NET, "data.workers=0"]
    result = train(load_config(overrides=[*words, "train.epochs=1", "prompt.tokens=2"]), QUIET)
    assert result.metrics["epochs"] == 1


def test_join_val_trains_on_all_in_the_order_it_did(tmp_path: Path) -> None:
    """The order of records decides the order of training, which a resumed run goes on with."""
    root = class_folders(tmp_path, {"a": 5, "b": 5})
    apart, joined = load(root), load(root, join_val=True)
    assert [record.name for record in joined.train] == [record.name for record in (*apart.train, *apart.val)]
    assert not [note for note in joined.notes if "off for validation" in note]


def test_the_same_picture_in_two_classes_is_told(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"cat": 3, "dog": 3})
    save(root / "dog" / "copy.bmp", photo(24, 32, 0))
    report = check(load(root, val_fraction=0.01))
    told = "1 image with the same pixels as one of another class: cat/0.png (cat) = dog/copy.bmp (dog)"
    assert report.worrying
    assert told in report.text() or "in two splits" in report.text()


def test_folders_of_names_that_are_no_text(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"cat": 2})
    odd = os.fsencode(root) + b"/caf\xe9"
    os.mkdir(odd)
    for number in range(2):
        save(root / "cat" / "x.png", photo(8, 8, 9 + number)).rename(os.fsdecode(odd + b"/%d.png" % number))
    assert load(root).classes == ("caf\\xe9", "cat")


def test_counts_of_the_reader(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"cat": 2, "dog": 2})
    save(root / ".cache" / "deep" / "a.png", photo())
    (root / "notes.txt").write_text("x")
    found = read_folder(root)
    assert dict(+found.left_out) == {"hidden": 1, "not images": 1}


# Tables


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath;label\npics/0.png;a\npics/1.png;b\npics/2.png;a\npics/3.png;b\n",
        "sep=;\npath;label\npics/0.png;a\npics/1.png;b\npics/2.png;a\npics/3.png;b\n",
        "path\tlabel\r\npics/0.png\ta\r\npics/1.png\tb\r\npics/2.png\ta\r\npics/3.png\tb\r\n",
        'path, label\n"pics/0.png", "a"\n"pics/1.png", "b"\n"pics/2.png", "a"\n"pics/3.png", "b"\n',
        "path,label,\npics/0.png,a,\npics/1.png,b,\npics/2.png,a,,\npics/3.png,b,\n",
        "PATH,Label\u200b\npics/0.png,a\npics/1.png,b\n\n , \npics/2.png,a\npics/3.png,b",
        "path,label\npics\\0.png,a\npics\\1.png,b\n.\\pics\\2.png,a\n./pics/3.png,b\n",
        "path,label\rpics/0.png,a\rpics/1.png,b\rpics/2.png,a\rpics/3.png,b\r",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be"])
def test_tables_as_spreadsheets_write_them(tmp_path: Path, text: str, encoding: str) -> None:
    if encoding == "utf-16-be":
        text = text if text.startswith("\ufeff") else "\ufeff" + text
    data = load(table(tmp_path, text.encode(encoding)))
    assert data.classes == ("a", "b")
    assert [record.labels[0] for record in sorted((*data.train, *data.val), key=lambda one: str(one.source))] == [
        0,
        1,
        0,
        1,
    ]


def test_backslashes_and_unicode_forms_of_paths_are_told(tmp_path: Path) -> None:
    save(tmp_path / NFD / f"{NFD}.png", photo(8, 8, 40))
    save(tmp_path / NFD / "b.png", photo(8, 8, 41))
    text = "path,label\n" + rows("a", "b") + f"{NFC}/{NFC}.png,a\npics\\2.png,b\n{NFC}\\b.png,a\n"
    data = load(table(tmp_path, text))
    assert len(data.train) + len(data.val) == 5
    assert not check(data).bad
    assert "data.csv spells 3 paths differently from the files" in data.notes[0]


def test_missing_rows_are_listed_with_all_that_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = table(tmp_path, "path,label\n" + rows(*"abababab") + "gone/1.png,a\npics/broken.png,b\ngone/2.png,b\n")
    (tmp_path / "pics" / "broken.png").write_bytes(b"x")
    assert main(["data", "check", str(file)]) == 2
    out = capsys.readouterr().out
    assert "11 rows in " in out
    assert (
        "lists 2 images that cannot be found: gone/1.png (line 10), gone/2.png (line 12); relative paths start" in out
    )
    assert "3 images cannot be used:" in out
    assert "gone/1.png: no such file (data.csv, line 10)" in out
    assert "broken.png: it is not an image file in a known format (data.csv, line 11)" in out
    assert main(["data", "check", str(file), "data.on_bad=skip"]) == 2
    assert (
        "with data.on_bad=skip these are left out, leaving: 2 classes, 7 training, 1 validation"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"path,label\npics/0.png,a\npics/1.png,caf\xe9\n", "line 3 is not UTF-8; save it as 'CSV UTF-8'"),
        (
            "pics/0.png,a\npics/1.png,b\n",
            "begins with a row, pics/0.png,a; above it the first line must name the columns",
        ),
        ("where,label\npics/0.png,a\n", "no column 'path'; rename the column 'where' to 'path'"),
        ("path,breed\npics/0.png,a\n", "no column 'label'; rename the column 'breed' to 'label'"),
        (
            "path,label\n" + rows("a", "\u200b", " ", "b"),
            "pics/1.png (data.csv, line 3), pics/2.png (data.csv, line 4)",
        ),
        ("path,label\npics/0.png,a\n\u200b,\u200b\n,b\n", "1 row without a path: line 4"),
        ('path,label\npics/0.png,a\n"pics/1.png,b\npics/2.png,a\n', "line 4, is not CSV"),
        ("path,label\npics/0.png,a,b\n", "line 2: 3 cells but 2 columns; put cells that contain a comma"),
        ("path;label\npics/0.png;a;b\n", "line 2: 3 cells but 2 columns; put cells that contain a semicolon"),
        ("path,label,split\npics/0.png,a,trian\n", "line 2: the split is 'trian'; did you mean 'train'"),
        (
            "path,label,split\npics/0.png,a,te\u200bst\u00a0\npics/1.png,a,tst\n",
            "line 3: the split is 'tst'; did you mean 'test'",
        ),
    ],
)
def test_tables_that_cannot_be_used_name_the_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(table(tmp_path, text))
    assert message in str(caught.value)
    assert "data.csv" in str(caught.value)


def test_a_table_beside_a_folder_adds_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class_folders(tmp_path / "photos", {"a": 4, "b": 4})
    file = table(tmp_path, "path,label,split\npics/0.png,a,test\npics/1.png,b,test\npics/2.png,b,train\n")
    assert main(["data", "check", str(tmp_path / "photos"), f"data.test={file}"]) == 0
    assert (
        f"11 files or rows in {tmp_path / 'photos'} and {file}: 10 images, 1 not drawn or asked for"
        in capsys.readouterr().out
    )


# Files that are something else


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\0" * 128 + b"DICM" + b"\0" * 100, "it is a DICOM file; name it .dcm and give its path"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 50, "it is a HEIC photo; save it as JPEG"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"II*\0\x08\0\0\0\0\0\0\0", "it is a TIFF of a kind"),
    ],
)
def test_files_that_are_no_images_are_named(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for source in (tmp_path / "a.png", content):
        with pytest.raises(BadImage, match=told):
            decode(source)
