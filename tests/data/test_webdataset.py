"""WebDataset shards, as the webdataset package and CLIP_benchmark write them, and hostile ones."""

from __future__ import annotations

import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.image_files import encoded, photo
from tests.helpers.shards import Files, clip_benchmark, samples, shard
from vpt.config import DataConfig
from vpt.data.dataset import LabelledData
from vpt.data.datasets.registry import load_data
from vpt.data.datasets.tar_index import tar_index
from vpt.data.decode import BadImage, read
from vpt.utils.errors import UserError


def load(path: Path | str, **settings: object) -> LabelledData:
    return load_data(DataConfig(path=f"wds:{path}", **settings))  # type: ignore[arg-type]


def fails(message: str, path: Path | str, **settings: object) -> None:
    with pytest.raises(UserError, match=message):
        load(path, **settings)


def numbered(folder: Path, shards: int = 3) -> Path:
    for at in range(shards):
        shard(folder / f"train-{at:04d}.tar", samples([0, 1, 10, 2], 4 * at))
    return folder


def test_shards_of_the_webdataset_package(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "train-%04d.tar"), maxcount=4, verbose=0) as writer:
        for at in range(12):
            pixels = photo(8, 8, seed=at)
            writer.write({"__key__": f"sample{at:06d}", "png": pixels.astype(np.float32) / 255, "cls": at % 2})
    (tmp_path / "classes.txt").write_text("hen\nowl\n")
    data = load(f"{tmp_path}/train-{{0000..0002}}.tar", val_fraction=0.3)
    assert data.classes == ("hen", "owl")
    records = sorted([*data.train, *data.val], key=lambda record: record.name)
    assert [record.name for record in records][:5:4] == [
        "train-0000.tar/sample000000.png",
        "train-0001.tar/sample000004.png",
    ]
    assert [record.labels for record in records] == [(at % 2,) for at in range(12)]
    assert np.array_equal(read(records[5]).pixels, photo(8, 8, seed=5))


def test_classes_without_names_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    data = load(numbered(tmp_path))
    assert data.classes == ("0", "1", "2", "10")
    assert [len(data.train), len(data.val), len(data.test)] == [8, 4, 0]
    again = load(tmp_path)  # from the cached index
    assert again.fingerprint() == data.fingerprint()
    assert np.array_equal(read(again.train[3]).pixels, read(data.train[3]).pixels)


def test_a_record_is_read_in_another_process(tmp_path: Path) -> None:
    record = load(numbered(tmp_path)).train[0]
    assert np.array_equal(read(pickle.loads(pickle.dumps(record))).pixels, read(record).pixels)


@pytest.mark.parametrize("kind", ["cls", "txt", "json"])
def test_labels(tmp_path: Path, kind: str) -> None:
    shard(tmp_path / "a.tar", samples([3, 4] * 3, kind=kind))
    assert load(tmp_path / "a.tar").classes == ("3", "4")


def test_the_key_of_a_label_in_json(tmp_path: Path) -> None:
    files = samples([0, 1] * 3)
    for at in range(6):
        files[f"{at:06d}.json"] = json.dumps({"kind": ["hen", "owl"][at < 3]}).encode()
    shard(tmp_path / "a.tar", files)
    assert load(tmp_path / "a.tar", label_column="kind").classes == ("hen", "owl")
    assert load(tmp_path / "a.tar").classes == ("0", "1")
    fails("has no label among kind; set data.label_column", tmp_path / "a.tar", label_column="sort")


def test_splits_by_folder_and_by_name(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        shard(tmp_path / "folders" / split / "0.tar", samples([0, 1] * 3))
        shard(tmp_path / "names" / f"birds-{split}-000000.tar", samples([0, 1] * 3))
    for layout in ("folders", "names"):
        data = load(tmp_path / layout)
        assert [len(data.train), len(data.val), len(data.test)] == [6, 6, 6]
    assert data.test[0].name == "birds-test-000000.tar/000000.png"


def test_clip_benchmark(tmp_path: Path) -> None:
    data = load(clip_benchmark(tmp_path))
    assert data.classes == ("barn owl", "guinea fowl")
    assert [len(data.train), len(data.val), len(data.test)] == [6, 2, 4]
    (tmp_path / "train" / "1.tar").unlink()
    fails("counts 2 shards, but there are 1; get the others", tmp_path)


def test_only_regular_members_are_read(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(encoded("PNG"))
    file = shard(tmp_path / "a.tar", samples([0, 1] * 3))
    with tarfile.open(file, "a") as archive:
        for name, kind in (("l.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("d.png", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(tmp_path / "secret.png")
            archive.addfile(member)
    assert len(tar_index(file)) == 12


def test_names_of_members_lead_nowhere(tmp_path: Path) -> None:
    files = {f"../../{name}": content for name, content in samples([0, 1] * 3).items()}
    files["\x1b[31m/x.png"], files["\x1b[31m/x.cls"] = encoded("PNG"), b"0"
    data = load(shard(tmp_path / "in" / "a.tar", files))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.tar"]
    assert all(record.name.isprintable() for record in data.train)


def test_an_archive_that_states_too_much(tmp_path: Path) -> None:
    file = shard(tmp_path / "a.tar", samples([0, 1] * 3))
    whole = file.read_bytes()
    member = tarfile.TarInfo("big.png")
    member.size = 1 << 40
    (tmp_path / "b.tar").write_bytes(member.tobuf() + whole)
    fails("b.tar is truncated", tmp_path / "b.tar")
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        member = tarfile.TarInfo("long")
        member.type, member.size = kind, 1 << 32
        (tmp_path / "c.tar").write_bytes(member.tobuf() + whole)
        fails(r"c.tar cannot be read as a tar archive \(it has a header of \d+ bytes\)", tmp_path / "c.tar")
    (tmp_path / "d.tar").write_bytes(whole[:10240])  # at the end of a member
    fails("d.tar is truncated: it has no end mark", tmp_path / "d.tar")
    (tmp_path / "e.tar").write_bytes(b"no archive" * 100)
    fails("e.tar cannot be read as a tar archive", tmp_path / "e.tar")
    with tarfile.open(tmp_path / "f.tar", "w:gz") as archive:
        archive.add(file, "x.tar")
    fails("f.tar cannot be read .*it is compressed: unpack it", tmp_path / "f.tar")


def test_samples_that_cannot_be_used(tmp_path: Path) -> None:
    good = samples([0, 1] * 3)
    cases: dict[str, Files] = {
        "1 image without a label": {"x.png": b"x"},
        "has several images": {"x.png": b"x", "x.jpg": b"x"},
        "has a label of 70000 bytes": {"x.png": b"x", "x.cls": b"0" * 70000},
        "has a label that cannot be read": {"x.png": b"x", "x.json": b"{"},
        "must be the number or name of a class": {"x.png": b"x", "x.json": b"1.5"},
    }
    for at, (message, files) in enumerate(cases.items()):
        fails(message, shard(tmp_path / f"{at}.tar", good | files))
    (tmp_path / "classes.txt").write_text("hen\nowl\n")
    fails("has the label 2, which is none of the 2 classes", shard(tmp_path / "z.tar", good | samples([2], 9)))


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    files = samples([0, 1] * 3) | {"x.png": b"no image", "x.cls": b"0"}
    data = load(shard(tmp_path / "a.tar", files))
    [record] = [record for record in (*data.train, *data.val) if record.name.endswith("x.png")]
    with pytest.raises(BadImage, match=r"a.tar/x.png: it is"):
        read(record)


def test_shards_that_are_missing(tmp_path: Path) -> None:
    numbered(tmp_path)
    fails(r"missing 1 shard: .*train-0003.tar", f"{tmp_path}/train-{{0000..0003}}.tar")
    fails("there are no tar files there", f"{tmp_path}/test-{{0000..0003}}.tar")
    fails("not a range of at most", f"{tmp_path}/{{0..999999999}}.tar")
