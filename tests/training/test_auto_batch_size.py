"""`train.batch_size=auto`: what fits, what is still faster, and that a run keeps the number it began with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.runs import QUIET, interrupted, settings
from vpt.config import load_config, read_yaml
from vpt.training import auto_batch_size
from vpt.training.auto_batch_size import MOST, Pass, largest
from vpt.training.run import resume, train, train_or_resume
from vpt.utils.errors import UserError


class Device:
    """Takes a second per image up to `flat` images, and has no memory for more than `room` of them."""

    def __init__(self, room: int = 10**6, flat: int = 10**6) -> None:
        self.room, self.flat, self.asked = room, flat, list[int]()

    def __call__(self, count: int) -> Pass:
        self.asked.append(count)
        if count > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return Pass(float(max(count, min(count, self.flat) ** 0.5 * max(1, count / self.flat))), count * 1000)


@pytest.mark.parametrize(("room", "found"), [(1, 1), (2, 2), (100, 64), (128, 128), (10**6, 512)])
def test_the_largest_power_of_two_that_fits(room: int, found: int):
    device = Device(room)
    assert largest(device, most=1000, limit=10**12)[0] == found
    assert device.asked == [2**power for power in range(len(device.asked))]
    assert max(device.asked) <= 1000


def test_memory_below_the_limit_only():
    assert largest(Device(), most=1000, limit=40_000)[0] == 32
    assert largest(Device(), most=1000, limit=31_999)[0] == 16


def test_not_even_one_image():
    for device, limit in ((Device(0), 10**9), (Device(), 999)):
        with pytest.raises(UserError, match="does not fit into memory"):
            largest(device, most=64, limit=limit)


def test_time_per_image_counts_on_a_cpu():
    def run(count: int) -> Pass:  # a constant part of 16 images' time, and no gain beyond 64
        return Pass(16 + count if count <= 64 else 2.0 * count, 0)

    assert largest(run, most=1024, limit=1, gain=0.9)[0] == 64
    assert largest(run, most=1024, limit=1)[0] == 1024
    assert largest(lambda count: Pass(count, 0), most=1024, limit=1, gain=0.9)[0] == 8  # never fewer for the time


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes that the next trials find."""
    sizes = [4, 2, 8]

    def measured(*_: object) -> tuple[int, Pass, str]:
        return sizes.pop(0), Pass(1.0, 1), "twice as many do not fit"

    monkeypatch.setattr(auto_batch_size, "largest", measured)
    return sizes


@pytest.mark.usefixtures("small_net")
def test_a_run_keeps_its_batch_size(shapes: Path, tmp_path: Path, found: list[int], capsys: pytest.CaptureFixture[str]):
    config = settings(shapes, tmp_path, "train.batch_size=auto", "train.accumulate=2")
    with interrupted(2, save=True):
        train(config)
    said = " ".join(capsys.readouterr().err.split())
    assert "train.batch_size=auto: 8 images per step (twice as many do not fit)" in said
    assert "Learning rates are not changed" in said
    assert read_yaml(tmp_path / "run" / "config.yaml")["train"]["batch_size"] == 8
    assert train_or_resume(config, tmp_path / "run", QUIET).metrics["epochs"] == 3
    assert resume(tmp_path / "run", ["train.epochs=4"], QUIET).metrics["epochs"] == 4
    assert found == [2, 8]  # not measured again


@pytest.mark.usefixtures("small_net")
def test_compared_methods_take_the_same_number(shapes: Path, tmp_path: Path, found: list[int]):
    train(settings(shapes, tmp_path, "train.batch_size=auto", "train.epochs=1", "compare=none"), QUIET)
    for folder in (tmp_path / "run", tmp_path / "run" / "compare-none"):
        assert read_yaml(folder / "config.yaml")["train"]["batch_size"] == 4
    assert found == [2, 8]


@pytest.mark.usefixtures("small_net")
@pytest.mark.parametrize("word", ["head.init=small", "head=linear", "prompt=none", "tuning=full"])
def test_a_real_trial(shapes: Path, tmp_path: Path, word: str):
    """36 images: at most 8 per step, which any machine has memory for."""
    result = train(settings(shapes, tmp_path, "train.batch_size=auto", "train.epochs=1", word), QUIET)
    assert read_yaml(result.folder / "config.yaml")["train"]["batch_size"] == 8


def test_numbers_are_bounded_and_words_refused():
    assert load_config(overrides=["batch_size=auto"]).train.batch_size == "auto"
    assert MOST <= 65_536
    for word in ("batch_size=0", "batch_size=automatic", "batch_size=70000"):
        with pytest.raises(UserError, match="batch_size"):
            load_config(overrides=[word])
