"""A resumed run notices images that show something else, whatever their names, sizes and times are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import PIL
import pytest
import torch
from PIL import Image, ImageOps

from tests.helpers.runs import QUIET, settings
from vpt.data import validation_cache
from vpt.models.artifact import read_artifact
from vpt.training.run import resume, train
from vpt.utils.errors import UserError
from vpt.utils.tensor_io import read_tensors, write_tensors

CHANGED = r"because this has changed: the pixels of the images \(images modified since the run began: {}\); restore it"


@pytest.fixture(scope="module", autouse=True)
def _small_net(small_net: None) -> None:
    pass


@pytest.fixture
def data(shapes: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for split in ("train", "val", "test"):
        shutil.copytree(shapes / split, folder / split)
    return folder


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Path:
    return train(settings(data, tmp_path, "train.epochs=1", "data.workers=0"), QUIET).folder


def invert(path: Path) -> None:
    with Image.open(path) as image:
        other = ImageOps.invert(image.convert("RGB"))
    other.save(path)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_image_that_shows_something_else_is_named(run: Path, data: Path, split: str):
    name = f"{split}/square/1.png"
    invert(data / name)
    with pytest.raises(UserError, match=CHANGED.format(name)):
        resume(run, console=QUIET)


def bitmap(path: Path, color: str) -> None:
    Image.new("RGB", (32, 32), color).save(path, format="BMP")  # of the same length, whatever it shows


def test_size_and_time_put_back_hide_nothing(data: Path, tmp_path: Path):
    """As `cp -p` and editors that keep times do; what an earlier check found is not believed then."""
    path = data / "train" / "square" / "1.png"
    bitmap(path, "red")
    run = train(settings(data, tmp_path, "train.epochs=1", "data.workers=0"), QUIET).folder
    before = path.stat()
    bitmap(path, "blue")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    with pytest.raises(UserError, match="because this has changed: the pixels of the images; restore it"):
        resume(run, console=QUIET)


def copied(data: Path, run: Path) -> list[str]:
    shutil.copytree(data, data.with_name("copy"), copy_function=shutil.copy)  # with times of their own
    shutil.rmtree(data)
    return [f"data={data.with_name('copy')}"]


def touched(data: Path, run: Path) -> list[str]:
    for path in data.rglob("*.png"):
        os.utime(path)
    return []


def packed_otherwise(data: Path, run: Path) -> list[str]:
    for path in data.rglob("*.png"):
        with Image.open(path) as image:
            pixels = image.copy()
        pixels.save(path, compress_level=1)
    return []


def written_before_there_were_digests(data: Path, run: Path) -> list[str]:
    tensors, header = read_tensors(run / "checkpoint.safetensors")
    del header["identity"]["pixels"]
    write_tensors(run / "checkpoint.safetensors", tensors, header)
    invert(data / "train" / "square" / "1.png")
    return []


@pytest.mark.parametrize("change", [copied, touched, packed_otherwise, written_before_there_were_digests])
def test_a_run_goes_on(run: Path, data: Path, change: Callable[[Path, Path], list[str]]):
    before = read_artifact(run).tensors
    after = read_artifact(resume(run, change(data, run), QUIET).artifact).tensors
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_version_of_the_decoder_is_no_change_of_the_data(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
):
    """It may decode a file otherwise; that nobody can put right."""
    monkeypatch.setattr(PIL, "__version__", "99.0")
    monkeypatch.setattr(validation_cache, "_FORMAT", "2 pillow-99.0")
    invert(data / "train" / "square" / "1.png")
    assert resume(run, console=QUIET).metrics["epochs"] == 1
