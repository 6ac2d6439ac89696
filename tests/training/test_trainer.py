"""The trainer's seams: how short the way to the loss is, what is imported, what callbacks see, and one way to go on."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import vpt
from tests.helpers.paths import ROOT
from tests.helpers.runs import NET, QUIET, settings
from vpt.cli.main import main
from vpt.config import read_yaml
from vpt.training.callbacks import Callback
from vpt.training.run import resume, train, train_or_resume
from vpt.training.run_folder import claim
from vpt.training.trainer import Trainer
from vpt.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("small_net")


class Cut(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def cut_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die just before optimiser step `step` (counted from 0)."""
    usual = Trainer.train_step

    def fatal(trainer: Trainer, batch: Any) -> None:
        if trainer.progress.step == step:
            raise Cut
        usual(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", fatal)


def frames_of(error: BaseException) -> list[str]:
    """The functions of vpt in a traceback, from the outside in."""
    found = traceback.extract_tb(error.__traceback__)
    return [frame.name for frame in found if Path(frame.filename).is_relative_to(ROOT / "vpt")]


class TestTheWayToTheLoss:
    """A reader passes four functions: train, Trainer.fit, Trainer.train_step, Trainer.forward_backward."""

    def test_to_the_backward_pass(self, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        def broken(*_: object, **__: object) -> None:
            raise Cut

        monkeypatch.setattr(torch.Tensor, "backward", broken)
        words = [f"data={shapes}", f"out={tmp_path}", *NET, "data.workers=0", "train.epochs=1"]
        with pytest.raises(Cut) as caught:
            main(["train", *words])
        assert frames_of(caught.value) == ["main", "_train", "train", "fit", "train_step", "forward_backward"]

    def test_to_the_loss(self, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """One more function: the objective, which runs the model and calls the loss."""

        def broken(*_: object, **__: object) -> None:
            raise Cut

        config = settings(shapes, tmp_path)
        trainings = Trainer.begin_epoch

        def poisoned(trainer: Trainer) -> None:
            trainings(trainer)
            monkeypatch.setattr(torch.nn.functional, "cross_entropy", broken)

        monkeypatch.setattr(Trainer, "begin_epoch", poisoned)
        with pytest.raises(Cut) as caught:
            train(config, QUIET)
        assert frames_of(caught.value) == ["train", "fit", "train_step", "forward_backward", "plain", "single"]


@pytest.mark.parametrize(("task", "other"), [("classification", "detection"), ("detection", "classification")])
def test_a_run_imports_no_other_task(shapes: Path, tmp_path: Path, task: str, other: str):
    data = [f"data={shapes}"] if task == "classification" else ["data=scenes", "data.shots=2", "head.size=32"]
    words = [*data, f"out={tmp_path}", f"task={task}", "data.workers=0", "train.epochs=1", "data.join_val=true"]
    words += ["backbone=vpt_nano", "prompt.tokens=2", "data.hold_test=true"]
    code = (
        "import sys\nfrom vpt.cli.main import main\n"
        f"assert main(['train', *{words!r}]) == 0\n"
        "print(*sorted(name for name in sys.modules if name.startswith('vpt.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = done.stdout.splitlines()[-1].split()
    assert f"vpt.training.tasks.{task}" in modules
    assert f"vpt.training.tasks.{other}" not in modules
    prompts = [name.removeprefix("vpt.prompts.visual.") for name in modules if name.startswith("vpt.prompts.visual.")]
    assert prompts == ["vpt"]
    clip = ("prompts.clip.", "heads.zero_shot", "heads.tip_adapter", "heads.label_mapping", "training.regularizers")
    if task == "classification":
        assert [name for name in modules if name.startswith(tuple(f"vpt.{each}" for each in clip))] == []
        # The sections of the configuration are known to every run; the rest of a task is not.
        assert [name for name in modules if "detect" in name and not name.startswith("vpt.config.")] == []
    assert not [name for name in modules if name.endswith(("e2vpt_pruning", "pixel.to_image"))]


class Recorder(Callback):
    """Notes the hooks that are called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def at_start(self, trainer: Trainer) -> None:
        self.calls.append("at_start")

    def before_training(self, trainer: Trainer) -> None:
        self.calls.append("before_training")

    def before_epoch(self, trainer: Trainer) -> None:
        self.calls.append(f"before_epoch {trainer.progress.epoch}")

    def after_step(self, trainer: Trainer) -> None:
        self.calls.append(f"after_step {trainer.progress.step}")

    def after_figures(self, trainer: Trainer, figures: Any) -> None:
        assert figures.loss > 0
        self.calls.append(f"after_figures {figures.step}")

    def after_steps(self, trainer: Trainer) -> None:
        self.calls.append("after_steps")

    def after_validation(self, trainer: Trainer, score: float) -> None:
        assert 0 <= score <= 1
        self.calls.append(f"after_validation {trainer.progress.epoch}")

    def after_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        assert row == trainer.progress.history[-1]
        self.calls.append(f"after_epoch {row['epoch']}")

    def close(self) -> None:
        self.calls.append("close")


class TestCallbacks:
    words = ("train.epochs=2", "train.batch_size=18", "train.eval_every=2", "data.workers=0")

    def test_hooks_come_in_order(self, shapes: Path, tmp_path: Path):
        recorder = Recorder()
        config = settings(shapes, tmp_path, *self.words)
        train_or_resume(config, tmp_path / "run", QUIET, callbacks=[recorder])
        assert recorder.calls == [
            "at_start",
            "before_training",
            "before_epoch 0",
            "after_step 1",
            "after_figures 1",
            "after_step 2",
            "after_figures 2",
            "after_steps",
            "after_epoch 1",
            "before_epoch 1",
            "after_step 3",
            "after_figures 3",
            "after_step 4",
            "after_figures 4",
            "after_steps",
            "after_validation 1",
            "after_epoch 2",
            "close",
        ]

    def test_a_run_that_goes_on_has_no_start(self, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        config = settings(shapes, tmp_path, *self.words, "train.checkpoint_minutes=0")
        with monkeypatch.context() as patched, pytest.raises(Cut):
            cut_at(3, patched)
            train(config, QUIET)
        recorder = Recorder()
        train_or_resume(config, tmp_path / "run", QUIET, callbacks=[recorder])
        assert recorder.calls[:3] == ["before_training", "before_epoch 1", "after_step 4"]

    def test_they_are_closed_after_an_error(self, shapes: Path, tmp_path: Path):
        class Broken(Recorder):
            def after_step(self, trainer: Trainer) -> None:
                raise Cut

        broken = Broken()
        with pytest.raises(Cut):
            train_or_resume(settings(shapes, tmp_path, *self.words), tmp_path / "run", QUIET, callbacks=[broken])
        assert broken.calls[-1] == "close"


class TestTrainOrResume:
    def test_it_trains_then_reads(self, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        config = settings(shapes, tmp_path, "train.epochs=1")
        first = train_or_resume(config, tmp_path / "run", QUIET)
        monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("trained again"))
        again = train_or_resume(config, tmp_path / "run", QUIET)
        assert again.metrics["test"]["accuracy"] == first.metrics["test"]["accuracy"]
        assert again.artifact == first.artifact

    @pytest.mark.parametrize("step", [0, 7])
    def test_it_resumes(self, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int):
        whole = train(settings(shapes, tmp_path / "whole"), QUIET)
        config = settings(shapes, tmp_path / "cut", "train.checkpoint_minutes=0")
        with monkeypatch.context() as patched, pytest.raises(Cut):
            cut_at(step, patched)
            train_or_resume(config, tmp_path / "cut" / "run", QUIET)
        done = train_or_resume(config, tmp_path / "cut" / "run", QUIET)
        assert done.artifact.read_bytes() == whole.artifact.read_bytes()

    def test_a_folder_without_a_checkpoint_is_trained(self, shapes: Path, tmp_path: Path):
        """A kill between the folder and its first checkpoint leaves the settings alone."""
        config = settings(shapes, tmp_path, "train.epochs=1")
        claim(config)
        assert train_or_resume(config, tmp_path / "run", QUIET).artifact.is_file()

    def test_another_run_is_refused(self, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        with monkeypatch.context() as patched, pytest.raises(Cut):
            cut_at(2, patched)
            train(settings(shapes, tmp_path), QUIET)
        with pytest.raises(UserError, match=r"because this has changed: prompt\.tokens"):
            train_or_resume(settings(shapes, tmp_path, "prompt.tokens=5"), tmp_path / "run", QUIET)

    def test_compared_prompts_that_have_finished_are_read(
        self, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        words = ["compare=[none, shallow]", "train.epochs=1", "data.augment=none"]
        with monkeypatch.context() as patched, pytest.raises(Cut):
            cut_at_method(patched, "shallow")
            train(settings(shapes, tmp_path, *words), QUIET)
        none = tmp_path / "run" / "compare-none" / "artifact.safetensors"
        stamp = none.stat().st_mtime_ns
        resume(tmp_path / "run", console=QUIET)
        assert none.stat().st_mtime_ns == stamp
        assert (tmp_path / "run" / "compare-shallow" / "artifact.safetensors").is_file()


def cut_at_method(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Die in the first step of a prompt's training."""
    usual = Trainer.train_step

    def fatal(trainer: Trainer, batch: Any) -> None:
        if trainer.context.config.prompt.kind == kind:
            raise Cut
        usual(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", fatal)


class TestPruning:
    words = ("prompt=e2vpt", "prompt.prune_tokens=0.5", "prompt.prune_segments=0.5", "train.epochs=2")

    def test_training_begins_again_after_it(self, shapes: Path, tmp_path: Path):
        result = train(settings(shapes, tmp_path, *self.words), QUIET)
        rows = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if row["kind"] == "step"] == list(range(1, 21))
        assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == [1, 2, 1, 2]
        rates = [row["lr"] for row in rows if row["kind"] == "step"]
        assert rates[:10] == rates[10:]
        assert "pruned to 2 of 4 tokens" in (result.folder / "log.txt").read_text()

    def test_it_leaves_no_trace_in_the_progress(self, shapes: Path, tmp_path: Path):
        from vpt.utils.tensor_io import open_tensors

        result = train(settings(shapes, tmp_path, *self.words), QUIET)
        with open_tensors(result.folder / "checkpoint.safetensors") as file:
            assert not {"round", "first_step"} & file.tree["progress"].keys()
            assert not [name for name in file.tensors() if name.startswith("start:")]

    def test_a_run_that_was_cut_before_it_prunes_first(
        self, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """Version 0.1 saved between the last epoch and pruning."""
        from vpt.training.e2vpt_pruning import Pruning

        whole = train(settings(shapes, tmp_path / "whole", *self.words), QUIET)
        with monkeypatch.context() as patched, pytest.raises(Cut):

            def saved(callback: Pruning, trainer: Trainer, row: dict[str, Any]) -> None:
                if trainer.progress.finished:
                    trainer.save()
                    raise Cut

            patched.setattr(Pruning, "after_epoch", saved)
            train(settings(shapes, tmp_path / "cut", *self.words), QUIET)
        result = resume(tmp_path / "cut" / "run", console=QUIET)
        assert result.artifact.read_bytes() == whole.artifact.read_bytes()


class TestOneAfterAnother:
    """`vpt.train_together` and `--each` of version 0.1."""

    def test_the_function_warns_and_trains_each(self, shapes: Path, tmp_path: Path):
        configs = [settings(shapes, tmp_path, f"name=run{tokens}", f"prompt.tokens={tokens}") for tokens in (1, 2)]
        with pytest.warns(DeprecationWarning, match="one run after another; call vpt.train for each"):
            results = vpt.train_together(configs, QUIET)
        for config, result in zip(configs, results, strict=True):
            alone = train(config.model_copy(update={"out": tmp_path / "alone"}), QUIET)
            mine, theirs = load_file(result.artifact), load_file(alone.artifact)
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs)

    @pytest.mark.filterwarnings("ignore:vpt.train_together:DeprecationWarning")
    def test_mistakes_come_before_training(self, shapes: Path, tmp_path: Path):
        with pytest.raises(UserError, match="give one configuration or more"):
            vpt.train_together([], QUIET)
        with pytest.raises(UserError, match="two runs are called run"):
            vpt.train_together([settings(shapes, tmp_path)] * 2, QUIET)
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "file").write_text("")
        with pytest.raises(UserError, match="b exists and is not overwritten"):
            vpt.train_together([settings(shapes, tmp_path, f"name={name}") for name in "ab"], QUIET)
        assert not (tmp_path / "a").exists()

    def test_each_value_is_a_run(self, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        words = ["train", f"data={shapes}", f"out={tmp_path}", *NET, "train.epochs=1", "data.workers=0"]
        each = ["--each", "prompt.tokens=2,5", "--each", "prompt.layers=[0],[0, 1]"]
        for _ in range(2):
            assert main([*words, *each]) == 0
        out, err = capsys.readouterr()
        stem = f"{shapes.name}-test_vit_patch8_32-deep"
        names = [f"{stem}-tokens={tokens}-layers={layers}" for tokens in (2, 5) for layers in ("[0]", "[0, 1]")]
        folders = [Path(line) for line in out.splitlines()]
        assert [folder.name for folder in folders] == [*names, *(f"{name}-2" for name in names)]
        assert [read_yaml(folder / "config.yaml")["prompt"]["layers"] for folder in folders[:2]] == [[0], [0, 1]]
        assert all((folder / "artifact.safetensors").is_file() for folder in folders)
        assert "--each is deprecated" in err

    def test_a_given_name_is_taken_once(self, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        words = ["train", f"data={shapes}", f"out={tmp_path}", *NET, "train.epochs=1", "data.workers=0", "name=mine"]
        assert main([*words, "--each", "prompt.tokens=2"]) == 0
        assert Path(capsys.readouterr().out.strip()).name == "mine-tokens=2"
        assert main([*words, "--each", "prompt.tokens=1,2"]) == 2
        assert "mine-tokens=2 exists and is not overwritten" in capsys.readouterr().err
        assert not (tmp_path / "mine-tokens=1").exists()

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["--each", "prompt.tokens"], "--each prompt.tokens: give a setting and its values"),
            (["--each", "prompt.tokens=2,"], "--each prompt.tokens=2,"),
            (["--each", "prompt.toknes=2,3"], "prompt.toknes"),
            (["resume=runs/a", "--each", "prompt.tokens=2,3"], "applies to a single run"),
            (["compare=[none]", "--each", "prompt.tokens=2,3"], "compare"),
        ],
    )
    def test_mistakes(self, shapes: Path, tmp_path: Path, capsys, words: list[str], sentence: str):
        assert main(["train", f"data={shapes}", f"out={tmp_path / 'new'}", *words]) == 2
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
