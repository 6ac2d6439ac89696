"""A run that is still training has artifacts that work, and its number of epochs can be changed."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

import pytest
import torch

import vpt
from tests.helpers.runs import QUIET, settings
from vpt.cli.main import main
from vpt.models.artifact import read_artifact
from vpt.training import running_artifacts
from vpt.training.callbacks import Callback
from vpt.training.run import resume, train
from vpt.training.run_folder import finished
from vpt.training.signals import Stopped
from vpt.utils.errors import UserError


class Interrupted(Callback):
    """Ctrl-C at the end of an epoch, after a look at the folder."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.found = epoch, []

    def after_epoch(self, trainer, row) -> None:
        if row["epoch"] == self.epoch:
            self.found = vpt.load(trainer.folder, device="cpu").classes
            os.kill(os.getpid(), signal.SIGINT)


def stopped_run(shapes: Path, out: Path, epoch: int, *words: str) -> tuple[Interrupted, Stopped]:
    look = Interrupted(epoch)
    with pytest.raises(Stopped) as stop:
        train(settings(shapes, out, *words), QUIET, [look])
    return look, stop.value


def test_best_and_last_are_usable_during_training_and_after_an_interruption(
    shapes: Path, tmp_path: Path, small_net, monkeypatch, capsys
):
    monkeypatch.setattr(running_artifacts, "SECONDS", 0.0)
    look, stop = stopped_run(shapes, tmp_path / "my runs", 2)
    run = tmp_path / "my runs" / "run"
    assert look.found == read_artifact(run).classes
    assert stop.resume == f"vpt train resume={shlex.quote(str(run))}"
    last = read_artifact(run / "last.safetensors")
    whole = train(settings(shapes, tmp_path, "train.epochs=3", "train.keep=last"), QUIET, []).folder
    assert not (whole / "last.safetensors").exists()  # the artifact is the last epoch
    assert last.tensors.keys() == read_artifact(whole).tensors.keys()
    assert finished(run) is None
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["predict", str(run), str(shapes / "test"), "--device", "cpu"]) == 0
    assert "has not finished training" in capsys.readouterr().err
    assert main(["eval", str(run), "split=val"]) == 0
    assert "has not finished training" in capsys.readouterr().err
    assert main(["eval", str(run / "last.safetensors"), "split=val"]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_artifacts_do_not_change_the_result(shapes: Path, tmp_path: Path, small_net, monkeypatch):
    monkeypatch.setattr(running_artifacts, "SECONDS", 0.0)
    often = train(settings(shapes, tmp_path / "often"), QUIET)
    monkeypatch.setattr(running_artifacts.RunningArtifacts, "_write", lambda *_: None)
    never = train(settings(shapes, tmp_path / "never"), QUIET)
    mine, theirs = read_artifact(often.artifact).tensors, read_artifact(never.artifact).tensors
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert (often.folder / "last.safetensors").is_file()


def test_a_probe_is_usable_before_the_first_epoch(shapes: Path, tmp_path: Path, small_net, monkeypatch):
    class Early(Callback):
        def before_epoch(self, trainer) -> None:
            if trainer.progress.best_epoch == 0:
                kinds.append(read_artifact(trainer.folder).config.prompt.kind)

    kinds: list[str] = []
    train(settings(shapes, tmp_path, "head=linear", "train.epochs=1"), QUIET, [Early()])
    assert kinds == ["none"]


def test_a_finished_run_is_extended(shapes: Path, tmp_path: Path, small_net):
    run = train(settings(shapes, tmp_path, "train.epochs=2"), QUIET).folder
    with pytest.raises(UserError, match=r"train\.batch_size"):
        resume(run, ["epochs=4", "train.batch_size=4"], QUIET)
    assert finished(run) is not None  # nothing has happened
    longer = resume(run, ["epochs=4"], QUIET)
    assert longer.metrics["epochs"] == 4
    text = (run / "log.txt").read_text()
    assert "train.epochs=4 instead of 2: from epoch 3 on, the cosine schedule of 4 epochs applies" in text
    assert "epoch 3/4" in text
    assert "epoch 4/4" in text
    assert resume(run, [], QUIET).metrics["epochs"] == 4  # its settings are those of the longer run


def test_a_run_is_shortened(shapes: Path, tmp_path: Path, small_net):
    stopped_run(shapes, tmp_path, 2)
    short = resume(tmp_path / "run", ["train.epochs=2"], QUIET)
    assert short.metrics["epochs"] == 2
    assert "2 epochs are trained already, so the run ends here" in (tmp_path / "run" / "log.txt").read_text()


def test_compared_runs_are_extended_too(shapes: Path, tmp_path: Path, small_net):
    run = train(settings(shapes, tmp_path, "train.epochs=1", "compare=none"), QUIET).folder
    resume(run, ["train.epochs=2"], QUIET)
    other = finished(run / "compare-none")
    assert other is not None
    assert other.metrics["epochs"] == 2


def test_an_average_of_epochs_is_not_extended(shapes: Path, tmp_path: Path, small_net):
    words = ["train.epochs=1", "train.average.mean=1", "train.average.std=1"]
    run = train(settings(shapes, tmp_path, *words), QUIET).folder
    with pytest.raises(UserError, match=r"train\.average weighs epochs"):
        resume(run, ["epochs=2"], QUIET)
