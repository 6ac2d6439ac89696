"""The check before training: counts, bad files, leaks, and a memory that can be trusted."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.image_files import broken_files, class_folders, photo, save
from vpt.config import DataConfig
from vpt.data import validation as check_module
from vpt.data.dataset import Item, LabelledData, Record
from vpt.data.datasets.registry import load_data
from vpt.data.validation import CheckReport, apply, check
from vpt.utils.cache_dir import cache_dir
from vpt.utils.errors import UserError


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> LabelledData:
    root = tmp_path / "data"
    for place, split in enumerate(("train", "val", "test")):
        class_folders(root / split, {"cat": 3, "dog": 2}, seed=100 * place)
    return load_data(DataConfig(path=str(root)))


def spoil(data: LabelledData, *names: str) -> None:
    for split in ("train", "val", "test"):
        for record in data.split(split):
            if record.name in names:
                assert isinstance(record.source, Path)
                record.source.write_bytes(b"rubbish")


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    real = check_module.read

    def counted(record: Record, max_pixels: int, measure: bool) -> object:
        names.append(record.name)
        return real(record, max_pixels, measure)

    monkeypatch.setattr(check_module, "read", counted)
    return names


def test_good_data(data: LabelledData) -> None:
    steps: list[tuple[int, int]] = []
    report = check(data, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (15, 15)
    assert (report.total, report.formats, report.modes) == (15, {"PNG": 15}, {"RGB": 15})
    assert report.sizes == ((32, 24), (32, 24))
    assert (report.bad, report.notes, report.leaks) == ((), {}, ())
    assert report.text() == "15 images checked (15 PNG)\nsizes from 32x24 to 32x24 pixels, modes 15 RGB"
    assert apply(data, report) is data


def test_bad_images_stop_or_are_left_out(data: LabelledData) -> None:
    spoil(data, "train/cat/1.png", "val/dog/0.png")
    report = check(data)
    assert [(bad.split, bad.name) for bad in report.bad] == [("train", "train/cat/1.png"), ("val", "val/dog/0.png")]
    assert "2 images cannot be used:\n  train/cat/1.png: it is not an image" in report.text()
    with pytest.raises(UserError, match=r"(?s)2 images .*on_bad=skip.*train/cat/1\.png.*val/dog/0\.png"):
        apply(data, report, "error")
    rest = apply(data, report, "skip")
    assert [len(rest.train), len(rest.val), len(rest.test)] == [4, 4, 5]
    assert rest.classes == data.classes
    assert "left out 2 images that cannot be used" in rest.notes[-1]
    assert rest.fingerprint() != data.fingerprint()


def test_skipping_may_not_empty_a_class_or_a_split(data: LabelledData) -> None:
    spoil(data, "train/dog/0.png", "train/dog/1.png")
    with pytest.raises(UserError, match="no training images of dog are left"):
        apply(data, check(data), "skip")
    spoil(data, *(record.name for record in data.val))
    with pytest.raises(UserError, match="no val image can be read"):
        apply(data, check(data), "skip")


def test_long_lists_are_cut(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "many", {"a": 1, "b": 30})
    for number in range(25):
        (root / "b" / f"{number}.png").write_bytes(b"rubbish")
    data = load_data(DataConfig(path=str(root)))
    report = check(data)
    with pytest.raises(UserError) as caught:
        apply(data, report, "error")
    for text in (str(caught.value), report.text()):
        assert text.startswith(("25 images", "31 images"))
        assert text.count("it is not an image") == 20
        assert "and 5 more" in text


def test_every_kind_of_broken_file_is_listed(tmp_path: Path, data: LabelledData) -> None:
    files = broken_files(tmp_path / "broken")
    more = tuple(Record(name, path, (0,)) for name, path in files.items())
    gone = Record("gone", tmp_path / "gone.png", (0,))
    report = check(replace(data, train=(*data.train, *more, gone)))
    assert [bad.name for bad in report.bad] == [*files, "gone"]


def test_conversions_are_told(tmp_path: Path, data: LabelledData) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    odd = [
        save(tmp_path / "odd" / "cmyk.tif", Image.fromarray(photo(seed=90)).convert("CMYK")),
        save(tmp_path / "odd" / "turned.jpg", photo(90, 80, seed=91), exif=exif),
        save(tmp_path / "odd" / "alpha.png", Image.fromarray(photo(seed=92)).convert("RGBA")),
    ]
    report = check(replace(data, train=tuple(Record(path.name, path, (0,)) for path in odd)))
    assert report.notes == {"CMYK": ("cmyk.tif",), "EXIF-rotated": ("turned.jpg",), "alpha": ("alpha.png",)}
    assert report.sizes == ((32, 24), (90, 80))
    assert report.formats == {"PNG": 11, "TIFF": 1, "JPEG": 1}
    assert "1 EXIF-rotated: turned.jpg" in report.text()


def test_leaks_between_splits(tmp_path: Path, data: LabelledData) -> None:
    assert isinstance(data.train[0].source, Path)
    # Other bytes, same pixels.
    copy = save(tmp_path / "copy.bmp", Image.open(data.train[0].source))
    report = check(replace(data, test=(*data.test, Record("copy.bmp", copy, (0,)))))
    assert [tuple(leak) for leak in report.leaks] == [("train", "train/cat/0.png", "test", "copy.bmp")]
    assert "warning: 1 image in two splits" in report.text()


def test_unchanged_files_are_remembered(data: LabelledData, monkeypatch: pytest.MonkeyPatch) -> None:
    names = count_reads(monkeypatch)
    first = check(data)
    assert len(names) == 15
    names.clear()
    second = check(data)
    assert names == []
    assert second == replace(first, remembered=15)
    spoil(data, "train/cat/1.png")
    assert [bad.name for bad in check(data).bad] == names == ["train/cat/1.png"]
    names.clear()
    # Bad news is not remembered: the reason may have been outside the file.
    assert len(check(data).bad) == 1
    assert names == ["train/cat/1.png"]
    check(data, max_pixels=1000)
    assert len(names) == 16


def test_same_size_other_time(data: LabelledData, monkeypatch: pytest.MonkeyPatch) -> None:
    check(data)
    source = data.train[0].source
    assert isinstance(source, Path)
    status = source.stat()
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    names = count_reads(monkeypatch)
    check(data)
    assert names == [data.train[0].name]


@pytest.mark.parametrize(
    "spoiled",
    ["", "not json", "[]", '{"format": "0", "files": {}}', "{}", "\x00", '{"files": ' + "[" * 5000],
)
def test_spoilt_memory_is_ignored(data: LabelledData, spoiled: str) -> None:
    first = check(data)
    (file,) = (cache_dir() / "checked").iterdir()
    file.write_text(spoiled)
    assert check(data) == first


@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("value", [None, "x", -1, [1]])
def test_spoilt_rows_are_ignored(data: LabelledData, place: int, value: object) -> None:
    check(data)
    (file,) = (cache_dir() / "checked").iterdir()
    tree = json.loads(file.read_text())
    for row in tree["files"].values():
        row[place] = value
    file.write_text(json.dumps(tree))
    report = check(data)
    assert report.total == 15
    assert report.text()


def test_memory_that_cannot_be_written(data: LabelledData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert check(data).bad == ()


def test_images_of_data_sets(data: LabelledData) -> None:
    dataset = [(Image.fromarray(photo(seed=number)), number) for number in range(2)]
    items = tuple(Record(f"set/{at}", Item(dataset, at), (at,)) for at in (0, 1, 2))
    report = check(replace(data, train=items, val=(), test=()))
    assert [bad.name for bad in report.bad] == ["set/2"]
    assert report.formats == {"array": 2}


def test_text_of_an_empty_report() -> None:
    assert CheckReport(0, {}, {}, None, (), {}, ()).text() == "0 images checked"
