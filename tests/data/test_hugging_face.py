"""Data sets of Hugging Face's package: files that it writes, and those of pyarrow."""

from __future__ import annotations

import csv
import gc
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.image_files import class_folders, encoded, photo, save
from vpt.config import DataConfig
from vpt.data.dataset import LabelledData
from vpt.data.datasets.registry import load_data
from vpt.data.decode import BadImage, read
from vpt.utils.errors import UserError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    yield
    with warnings.catch_warnings():  # the package leaves a metadata.csv open
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def load(path: Path | str, **settings: object) -> LabelledData:
    return load_data(DataConfig(path=f"hf:{path}", **settings))  # type: ignore[arg-type]


def fails(message: str, path: Path | str, **settings: object) -> None:
    with pytest.raises(UserError, match=message):
        load(path, **settings)


def table(count: int = 6, names: tuple[str, ...] = ("hen", "owl"), start: int = 0, **columns: Any) -> Any:
    """Pictures with a ClassLabel, or with other columns and their kinds."""
    images = [{"bytes": encoded("PNG", photo(8, 8, seed=start + at)), "path": None} for at in range(count)]
    label = {"label": ([at % 2 for at in range(count)], datasets.ClassLabel(names=list(names)))}
    columns = columns or label
    kinds = {"image": datasets.Image(), **{name: kind for name, (_, kind) in columns.items()}}
    values = {"image": images, **{name: each for name, (each, _) in columns.items()}}
    return datasets.Dataset.from_dict(values, datasets.Features(kinds))


def three(**columns: Any) -> Any:
    splits = {"train": table(), "validation": table(4, start=10), "test": table(2, start=20)}
    return datasets.DatasetDict(splits)


def parquet(folder: Path) -> Path:
    """As the hub stores a data set."""
    (folder / "data").mkdir(parents=True)
    for split, each in three().items():
        each.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return folder


def test_saved_and_parquet(tmp_path: Path) -> None:
    three().save_to_disk(str(tmp_path / "saved"))
    parquet(tmp_path / "parquet")
    parquet(tmp_path / "par[q]uet*")
    for kind in ("saved", "parquet", "par[q]uet*"):
        data = load(tmp_path / kind)
        assert data.classes == ("hen", "owl")
        assert [len(data.train), len(data.val), len(data.test)] == [6, 4, 2]
        assert [record.labels for record in data.val] == [(0,), (1,), (0,), (1,)]
        assert data.val[3].name == f"{kind}/validation/000003"
        assert np.array_equal(read(data.val[3]).pixels, photo(8, 8, seed=13))
        assert np.array_equal(read(pickle.loads(pickle.dumps(data.test[1]))).pixels, photo(8, 8, seed=21))
        assert load(tmp_path / kind).fingerprint() == data.fingerprint()


@pytest.mark.parametrize("name", ["birds", "birds[2024]", "birds *"])
def test_image_folder(tmp_path: Path, name: str) -> None:
    for split in ("train", "test"):
        class_folders(tmp_path / name / split, {"hen": 3, "owl": 3}, seed=len(split))
    data = load(tmp_path / name, val_fraction=0.4)
    assert data.classes == ("hen", "owl")
    assert [len(data.train), len(data.val), len(data.test)] == [4, 2, 6]
    assert data.test[3].source == tmp_path / name / "test" / "owl" / "0.png"
    assert data.test[3].name == "test/owl/0.png"


def test_image_folder_with_a_table(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    with (save(folder / "0.png", photo(8, 8)).parent / "metadata.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "species", "patient"])
        for at in range(6):
            save(folder / f"{at}.png", photo(8, 8, seed=at))
            rows.writerow([f"{at}.png", ["hen", "owl"][at % 2], f"P{at}"])
    data = load(tmp_path, val_fraction=0.4, group="patient")
    assert data.classes == ("hen", "owl")
    assert {record.group for record in (*data.train, *data.val)} == {f"P{at}" for at in range(6)}
    fails("has no column data.group=patients; did you mean 'patient'", tmp_path, group="patients")


def test_parquet_of_other_programs(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    content = [encoded("JPEG", photo(8, 8, seed=at)) for at in range(6)]
    labels = pa.array(["hen", "owl"] * 3)
    for name, images in {
        "plain": pa.array(content),
        "struct": pa.array([{"bytes": each, "path": f"{at}.jpg"} for at, each in enumerate(content)]),
    }.items():
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"image": images, "class": labels}), tmp_path / name / "train.parquet")
        data = load(tmp_path / name, val_fraction=0.4)
        assert data.classes == ("hen", "owl")
        assert read(data.train[0]).format == "JPEG"


def test_a_stored_path_is_not_opened(tmp_path: Path) -> None:
    """Only images inside the folder that the user names are read from files."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    secret = str(save(tmp_path / "secret.png", photo(8, 8)))
    rows = [
        {"bytes": None, "path": path} for path in [secret, "../secret.png", f"file://{secret}", "http://[::1]/a.png"]
    ]
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table({"image": pa.array(rows), "label": pa.array([0, 1] * 2)}), tmp_path / "set" / "a.parquet")
    data = load(tmp_path / "set", val_fraction=0.4)
    for record in (*data.train, *data.val):
        with pytest.raises(BadImage, match="it is not stored in the data set"):
            read(record)


def test_labels(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["hen", "owl"])
    number, word = datasets.Value("int64"), datasets.Value("string")
    saved = {
        "two": table(fine=([0, 1] * 3, names), coarse=([0, 1] * 3, names)),
        "lists": table(tags=([[0], [1], [0, 1]] * 2, datasets.List(names))),
        "numbers": table(label=([2, 10] * 3, number)),
        "words": table(Category=(["hen", "owl"] * 3, word)),
        "none": table(text=(["hen", "owl"] * 3, word)),
        "floats": table(label=([0.5, 1.0] * 3, datasets.Value("float32"))),
    }
    for name, each in saved.items():
        each.save_to_disk(str(tmp_path / name))
    fails("several columns of labels; set data.label_column to one of fine, coarse", tmp_path / "two")
    assert load(tmp_path / "two", label_column="fine").classes == ("hen", "owl")
    assert load(tmp_path / "lists").multilabel
    assert load(tmp_path / "numbers").classes == ("2", "10")
    assert load(tmp_path / "words").classes == ("hen", "owl")
    fails("no column of labels; set data.label_column to one of text", tmp_path / "none")
    fails("label holds no names or numbers of classes", tmp_path / "floats")
    fails("did you mean 'text'", tmp_path / "none", label_column="texts")


def test_a_test_split_with_secret_labels_is_left_out(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["hen", "owl"])
    splits = {"train": table(), "test": table(label=([-1] * 6, names)), "extra": table()}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    data = load(tmp_path / "saved")
    assert data.test == ()
    assert dict(data.left_out) == {"unlabelled": 6, "of other splits": 6}


def test_images_are_bounded(tmp_path: Path) -> None:
    from tests.helpers.image_files import bomb

    images = [{"bytes": bomb(), "path": None}] * 4
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["hen", "owl"])})
    datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 2}, kinds).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(BadImage, match=r"saved/train/00000\d: its 30000x30000 pixels|far more pixels"):
        read(load(tmp_path / "saved", val_fraction=0.4).train[0])


def test_what_cannot_be_read(tmp_path: Path) -> None:
    fails("set data.download=true", "owner/name")
    fails("there is no such folder", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    fails("cannot be read by the package datasets", tmp_path / "empty")
    parquet(tmp_path / "set")
    file = tmp_path / "set" / "data" / "test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:100])
    fails("cannot be read by the package datasets", tmp_path / "set")


def test_the_hub_runs_no_code_and_only_kinds_that_hold_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parquet(tmp_path / "set")
    asked = []
    real = datasets.load_dataset_builder

    def builder(name: str, configuration: str | None) -> Any:
        asked.append((name, configuration))
        kind = "text" if name == "owner/text" else "parquet"
        return real(kind, data_dir=str(tmp_path / "set"))

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    data = load("owner/birds:small", download=True)
    assert asked == [("owner/birds", "small")]
    assert data.test[0].name == "owner-birds-small/test/000000"
    assert len(data.test) == 2
    fails("is of the kind text, which vpt does not read", "owner/text", download=True)
