"""What a run says it took: memory that was really held, and joules from a counter, kept over an interruption."""

from __future__ import annotations

import mmap
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.helpers.runs import QUIET, settings
from vpt.training.run import resume, train
from vpt.training.trainer import Trainer
from vpt.utils import resource_usage
from vpt.utils.resource_usage import Usage, energy_counter

pytestmark = pytest.mark.usefixtures("small_net")


@pytest.mark.skipif(not resource_usage.STATUS.is_file(), reason="only Linux tells the mark of a process and forgets it")
def test_the_peak_is_of_what_was_held_since():
    before = Usage(torch.device("cpu"))
    low = before.peak_bytes()
    # Pages of its own: an allocator may have kept some that were freed before, which are counted already.
    with mmap.mmap(-1, 64 * 2**20) as held:
        held.write(b"1" * len(held))
    assert before.peak_bytes() >= low + 0.9 * 64 * 2**20
    assert Usage(torch.device("cpu")).peak_bytes() <= before.peak_bytes()


@pytest.mark.skipif(not resource_usage.STATUS.is_file(), reason="only Linux tells the mark of a process and forgets it")
def test_the_memory_estimated_beforehand_is_what_the_process_takes(shapes: Path, tmp_path: Path):
    """Python, libraries and weights included, which were left out: 113 MB were promised, and 1,095 MB taken."""
    result = train(settings(shapes, tmp_path, "train.batch_size=32"), QUIET)
    told = re.search(
        r"estimated peak memory of this process: ([\d.]+) (MB|GB)", (result.folder / "log.txt").read_text()
    )
    assert told is not None
    estimated = float(told[1]) * {"MB": 1e6, "GB": 1e9}[told[2]]
    assert estimated == pytest.approx(result.metrics["peak_bytes"], rel=0.25)


class Counter:
    """A GPU that uses 2.5 J between two readings; a stand-in for pynvml."""

    NVMLError = RuntimeError

    def __init__(self) -> None:
        self.millijoules = 7_000

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        assert handle == "GPU-some-uuid"
        self.millijoules += 2_500
        return self.millijoules


def test_joules_are_a_difference_of_the_gpus_own_counter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pynvml", Counter())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="some-uuid"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    found = Usage(torch.device("cuda"))
    assert found.joules() == pytest.approx(2.5)
    assert found.joules() == pytest.approx(5.0)


@pytest.mark.parametrize("fault", ["no library", "no driver", "no counter"])
def test_energy_that_cannot_be_read_stops_nothing(monkeypatch: pytest.MonkeyPatch, fault: str):
    def refuse(*_: Any) -> None:
        raise RuntimeError(fault)

    fake = Counter()
    if fault == "no driver":
        fake.nvmlInit = refuse  # type: ignore[method-assign]
    if fault == "no counter":
        fake.nvmlDeviceGetTotalEnergyConsumption = refuse  # type: ignore[assignment,method-assign]
    monkeypatch.setitem(sys.modules, "pynvml", None if fault == "no library" else fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="some-uuid"))
    counter = energy_counter(torch.device("cuda"))
    assert (None if counter is None else counter()) is None


def test_a_run_tells_what_it_took(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Joules of all parts of an interrupted run are added up; on a CPU none are told."""
    result = train(settings(shapes, tmp_path / "cpu", "train.epochs=1"), QUIET)
    assert result.metrics["joules"] is None
    assert result.metrics["peak_bytes"] > 10_000_000
    assert result.metrics["precision"] == "fp32"
    assert "thread" in result.metrics["device"]

    class Counting(Usage):
        def joules(self) -> float:
            return 100.0

    monkeypatch.setattr("vpt.training.callbacks.Usage", Counting)
    real = Trainer.train_step

    def stops(trainer: Any, *rest: Any) -> Any:
        if trainer.progress.step == 7:
            raise KeyboardInterrupt
        return real(trainer, *rest)

    monkeypatch.setattr(Trainer, "train_step", stops)
    with pytest.raises(KeyboardInterrupt):
        train(settings(shapes, tmp_path / "cut", "train.epochs=3"), QUIET)
    monkeypatch.setattr(Trainer, "train_step", real)
    assert resume(tmp_path / "cut" / "run", console=QUIET).metrics["joules"] == 200.0
