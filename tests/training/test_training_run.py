"""Whole runs: learning, exact resume, and mistakes told before any work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.helpers.runs import QUIET, settings, states_of_epochs
from vpt.backbones.factory import load_backbone
from vpt.backbones.fingerprint import fingerprint
from vpt.config import load_config, read_yaml, word
from vpt.inference.evaluate import evaluate
from vpt.models.artifact import read_artifact
from vpt.training.run import resume, train
from vpt.training.run_folder import claim, stem_of
from vpt.training.signals import Stopped
from vpt.training.trainer import Trainer
from vpt.utils.errors import UserError
from vpt.utils.run_log import RunLog, read_rows

pytestmark = pytest.mark.usefixtures("small_net")


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die just before optimiser step `step` (counted from 0)."""
    usual = Trainer.train_step

    def fatal(trainer, *args):
        if trainer.progress.step == step:
            raise Killed
        return usual(trainer, *args)

    monkeypatch.setattr(Trainer, "train_step", fatal)


def rows(folder: Path) -> list[dict]:
    """What was logged, but for how long it took."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(folder)]


def test_a_run_leaves_everything_a_user_expects(shapes: Path, drawn_plots: None, tmp_path: Path):
    words = ["train.epochs=20", "data.augment=none", "tuning=full", "train.optimizer.lr=0.003"]
    config = settings(shapes, tmp_path, *words)
    result = train(config, QUIET)
    names = {path.name for path in result.folder.iterdir()}
    assert names == {
        ".lock",
        "results.csv",
        "train_batch.jpg",
        "val_batch.jpg",
        "labels.jpg",
        "val_predictions.jpg",
        "artifact.safetensors",
        "checkpoint.safetensors",
        "config.yaml",
        "confusion.png",
        "curves.png",
        "last.safetensors",
        "log.jsonl",
        "log.txt",
        "metrics.json",
        "predictions-test.csv",
        "predictions-val.csv",
        "tensorboard",
    }
    for name in ("confusion.png", "curves.png"):
        with Image.open(result.folder / name) as picture:
            assert picture.width > 300
    assert json.loads((result.folder / "metrics.json").read_text()) == result.metrics
    assert result.metrics["test"]["accuracy"] > 0.6  # chance is a third
    assert result.metrics["artifact_bytes"] == result.artifact.stat().st_size
    text = (result.folder / "log.txt").read_text()
    assert "trainable parameters: " in text
    assert "estimated peak memory of this process: " in text
    assert "artifact size: " in text
    measured = evaluate(result, "test", console=QUIET)  # a path to its folder
    assert measured["accuracy"] == result.metrics["test"]["accuracy"]
    assert measured["confusion"] == result.metrics["test"]["confusion"]


@pytest.mark.parametrize("kind", ["deep", "shallow"])
def test_half_precision_is_measured_again_as_it_was_in_training(shapes: Path, tmp_path: Path, kind: str):
    """What does not depend on the image is computed once, from weights that are rounded in training."""
    words = ["train.precision=bf16", f"prompt={kind}", "prompt.tokens=4", "train.epochs=3"]
    result = train(settings(shapes, tmp_path, *words), QUIET)
    measured = evaluate(result.artifact, "test", console=QUIET)
    assert measured["loss"] == result.metrics["test"]["loss"]


def test_the_frozen_weights_are_bit_identical_after_training(shapes: Path, tmp_path: Path, monkeypatch):
    config = settings(shapes, tmp_path)
    before = fingerprint(load_backbone(config.backbone).net)
    models = []
    usual = Trainer.fit
    monkeypatch.setattr(Trainer, "fit", lambda trainer, *more: (models.append(trainer.model), usual(trainer, *more))[1])
    result = train(config, QUIET)
    assert fingerprint(models[0].backbone.net) == before
    tensors = read_artifact(result.artifact).tensors
    assert {name.split(".")[0] for name in tensors} == {"prompt", "head"}


def test_the_best_epoch_on_validation_is_kept(shapes: Path, tmp_path: Path, monkeypatch):
    scores = iter([0.2, 0.9, 0.5])
    monkeypatch.setattr(
        "vpt.training.tasks.classification._metrics", lambda *_: {"loss": 0.0, "accuracy": next(scores, 0.0)}
    )
    states = states_of_epochs(monkeypatch)
    result = train(settings(shapes, tmp_path), QUIET)
    assert result.metrics["best_epoch"] == 2
    tensors = read_artifact(result.artifact).tensors
    assert all(torch.equal(tensors[name], states[1][name]) for name in tensors)
    assert not torch.equal(tensors["prompt.tokens"], states[2]["prompt.tokens"])


def test_early_stop_counts_validations_without_a_better_one(shapes: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("vpt.training.tasks.classification._metrics", lambda *_: {"loss": 0.0, "accuracy": 0.5})
    result = train(settings(shapes, tmp_path, "train.epochs=9", "train.patience=2"), QUIET)
    assert result.metrics["epochs"] == 3
    assert result.metrics["best_epoch"] == 1
    words = ["train.epochs=9", "train.patience=2", "train.eval_every=2"]
    seldom = train(settings(shapes, tmp_path / "seldom", *words), QUIET)
    assert seldom.metrics["epochs"] == 6  # validated after 2, 4 and 6


@pytest.fixture(scope="module")
def whole(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted: 3 epochs of 5 steps."""
    return train(settings(shapes, tmp_path_factory.mktemp("whole")), QUIET).folder


class TestResume:
    @pytest.mark.parametrize("step", [0, 1, 4, 5, 7, 10, 14])
    @pytest.mark.parametrize("minutes", ["0", "100"])
    def test_a_killed_run_ends_bit_identical(
        self, whole: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, minutes: str
    ):
        """Saving after every step and only at epoch ends, killed before, at and after the ends of epochs."""
        with monkeypatch.context() as patched, pytest.raises(Killed):
            kill_at(step, patched)
            train(settings(shapes, tmp_path, f"train.checkpoint_minutes={minutes}"), QUIET)
        result = resume(tmp_path / "run", console=QUIET)
        assert result.artifact.read_bytes() == (whole / "artifact.safetensors").read_bytes()
        assert rows(result.folder) == rows(whole)
        mine, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (result.folder, whole))
        for measured in ("seconds", "peak_bytes"):
            assert mine.pop(measured) > 0
            assert theirs.pop(measured) > 0
        assert mine == theirs

    def test_killed_again_and_again(self, whole: Path, shapes: Path, tmp_path: Path, monkeypatch):
        with monkeypatch.context() as patched, pytest.raises(Killed):
            kill_at(2, patched)
            train(settings(shapes, tmp_path, "train.checkpoint_minutes=0"), QUIET)
        for step in (3, 6, 9, 13):
            with monkeypatch.context() as patched, pytest.raises(Killed):
                kill_at(step, patched)
                resume(tmp_path / "run", console=QUIET)
        result = resume(tmp_path / "run", console=QUIET)
        assert result.artifact.read_bytes() == (whole / "artifact.safetensors").read_bytes()
        assert rows(result.folder) == rows(whole)

    @pytest.mark.parametrize("words", [["data.workers=2"], ["data.cache=true"], ["data.workers=2", "data.cache=true"]])
    def test_workers_and_cache_change_nothing(self, whole: Path, shapes: Path, tmp_path: Path, words: list[str]):
        result = train(settings(shapes, tmp_path, *words), QUIET)
        assert result.artifact.read_bytes() == (whole / "artifact.safetensors").read_bytes()

    def test_the_seed_changes_something(self, whole: Path, shapes: Path, tmp_path: Path):
        result = train(settings(shapes, tmp_path, "train.seed=1"), QUIET)
        one, other = read_artifact(result.artifact).tensors, read_artifact(whole).tensors
        assert not torch.equal(one["prompt.tokens"], other["prompt.tokens"])

    def test_a_finished_run_is_only_concluded_again(self, whole: Path):
        before = (whole / "artifact.safetensors").read_bytes()
        resume(whole, console=QUIET)
        assert (whole / "artifact.safetensors").read_bytes() == before

    def test_changed_settings_or_data_are_refused(self, whole: Path, shapes: Path):
        with pytest.raises(UserError, match=r"because this has changed: prompt\.tokens; restore"):
            resume(whole, ["train.epochs=9", "prompt.tokens=5"], QUIET)
        extra = shapes / "train" / "square" / "extra.png"
        extra.write_bytes((shapes / "train" / "square" / "0.png").read_bytes())
        try:
            with pytest.raises(UserError, match="because this has changed: the data; restore"):
                resume(whole, console=QUIET)
        finally:
            extra.unlink()

    def test_a_run_whose_data_and_weights_moved_goes_on(self, shapes: Path, tmp_path: Path, monkeypatch):
        before, after = tmp_path / "before", tmp_path / "after"
        for split in ("train", "val", "test"):
            shutil.copytree(shapes / split, before / split)
        weights = before / "weights.safetensors"
        save_file(load_backbone(settings(shapes, tmp_path).backbone).net.state_dict(), weights)
        words = [f"data.val={before / 'val'}", f"data.test={before / 'test'}", f"backbone.weights={weights}"]
        config = settings(before / "train", tmp_path, *words)
        whole = train(config.model_copy(update={"name": "whole"}), QUIET)
        with monkeypatch.context() as patched, pytest.raises(Killed):
            kill_at(7, patched)
            train(config, QUIET)
        before.rename(after)
        moved = [word.replace(str(before), str(after)) for word in [f"data={before / 'train'}", *words]]
        result = resume(tmp_path / "run", moved, QUIET)
        one, other = read_artifact(whole.artifact).tensors, read_artifact(result.artifact).tensors
        assert all(torch.equal(one[name], other[name]) for name in one)
        (after / "train" / "square" / "0.png").rename(after / "train" / "lying" / "new.png")
        with pytest.raises(UserError, match="because this has changed: the data; restore"):
            resume(tmp_path / "run", moved, QUIET)

    def test_a_damaged_checkpoint_is_refused(self, shapes: Path, tmp_path: Path, monkeypatch):
        with monkeypatch.context() as patched, pytest.raises(Killed):
            kill_at(7, patched)
            train(settings(shapes, tmp_path), QUIET)
        checkpoint = tmp_path / "run" / "checkpoint.safetensors"
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
        with pytest.raises(UserError, match="is damaged"):
            resume(tmp_path / "run", console=QUIET)

    @pytest.mark.parametrize(
        "words",
        [
            ["prompt=none", "tuning=full", "train.optimizer=sgd"],
            ["prompt=none", "data.augment=none"],
            ["train.accumulate=2", "prompt.project=8", "head=mlp"],
            ["prompt.init=sample"],
            ["prompt.init=vipamin"],
            ["prompt=vfpt"],
            ["prompt=cvpt"],
            ["prompt=vapt", "prompt.kernel=2"],
            ["prompt=gated"],
            ["prompt=bpt", "prompt.rank=3"],
            ["prompt=e2vpt", "prompt.prune_tokens=0.5", "prompt.prune_segments=0.5"],
        ],
    )
    def test_every_kind_of_run_resumes(self, shapes: Path, tmp_path: Path, monkeypatch, words: list[str]):
        whole = train(settings(shapes, tmp_path / "whole", *words), QUIET)
        with monkeypatch.context() as patched, pytest.raises(Killed):
            kill_at(20 if "prompt=e2vpt" in words else 8, patched)
            train(settings(shapes, tmp_path / "cut", *words, "train.checkpoint_minutes=0"), QUIET)
        result = resume(tmp_path / "cut" / "run", console=QUIET)
        assert result.artifact.read_bytes() == whole.artifact.read_bytes()


@pytest.mark.slow
def test_sigkill_at_any_moment(tmp_path: Path):
    """Real processes, really killed: at start-up, inside epochs, and while files are written."""
    words = ["backbone=vpt_nano", "prompt.tokens=2", "train.epochs=2", "train.batch_size=64", "data.augment=none"]
    words += ["name=run", "data.shots=20", "train.checkpoint_minutes=0"]
    command = [sys.executable, "-m", "vpt", "train"]

    def start(*more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start(*words, f"out={tmp_path}/whole").wait() == 0
    process = start(*words, f"out={tmp_path}/cut")
    checkpoint = tmp_path / "cut" / "run" / "checkpoint.safetensors"
    for changes in (2, 5, 9):
        seen, last = 0, None
        while seen < changes and process.poll() is None:
            stamp = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
            seen, last = seen + (stamp != last), stamp
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (-signal.SIGKILL, 0)
        process = start(f"resume={tmp_path}/cut/run")
    assert process.wait() == 0
    one, other = (tmp_path / name / "run" / "artifact.safetensors" for name in ("whole", "cut"))
    assert one.read_bytes() == other.read_bytes()
    assert rows(one.parent) == rows(other.parent)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_lets_the_step_end_and_saves(shapes: Path, tmp_path: Path, monkeypatch, number: int, workers: int):
    usual = Trainer.train_step

    def interrupted(trainer, *args):
        if trainer.progress.step == 6:
            signal.raise_signal(number)  # in this thread: of one sent to the process, any thread may learn, and late
        return usual(trainer, *args)

    before = signal.getsignal(number)
    config = settings(shapes, tmp_path, "train.checkpoint_minutes=100", f"data.workers={workers}")
    with monkeypatch.context() as patched, pytest.raises(Stopped) as stopped:
        patched.setattr(Trainer, "train_step", interrupted)
        train(config, QUIET)
    assert stopped.value.number == number
    assert signal.getsignal(number) == before
    assert "stopped at step 7; the state is saved" in (tmp_path / "run" / "log.txt").read_text()
    steps = []
    monkeypatch.setattr(
        Trainer, "train_step", lambda trainer, *args: (steps.append(trainer.progress.step), usual(trainer, *args))[1]
    )
    result = resume(tmp_path / "run", console=QUIET)
    assert steps == list(range(7, 15))  # nothing is done again
    whole = train(settings(shapes, tmp_path / "whole"), QUIET)
    assert result.artifact.read_bytes() == whole.artifact.read_bytes()


def test_a_second_signal_acts_at_once(shapes: Path, tmp_path: Path, monkeypatch):
    def interrupted(trainer, *args):
        # In this thread: one sent to the process may reach any thread, late on a busy machine, and two become one.
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(settings(shapes, tmp_path), QUIET)
    assert not isinstance(stopped.value, Stopped)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(shapes: Path, tmp_path: Path, monkeypatch):
    usual = Trainer.train_step

    def poisoned(trainer, *args):
        if trainer.progress.step == 7:
            with torch.no_grad():
                next(trainer.model.head.parameters()).fill_(float("nan"))
        return usual(trainer, *args)

    monkeypatch.setattr(Trainer, "train_step", poisoned)
    with pytest.raises(UserError, match=r"became nan at step 8 \(learning rates: prompt .*images: "):
        train(settings(shapes, tmp_path), QUIET)
    monkeypatch.undo()
    assert resume(tmp_path / "run", console=QUIET).metrics["epochs"] == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data=/nowhere"], "/nowhere"),
        (["backbone=vit_tiny_patch16_225"], "did you mean"),
        (["backbone.image_size=30"], "use 24 or 32"),
        (["train.device=cuda:7"], "is not on this machine"),
        (["train.precision=fp16", "train.device=cpu"], "needs a CUDA device"),
        (["train.class_weights=[1,2]"], "3 classes need 3"),
        (["data.augment=strnog"], "strong"),
    ],
)
def test_mistakes_are_told_before_training(shapes: Path, tmp_path: Path, monkeypatch, words: list[str], sentence: str):
    monkeypatch.setattr(Trainer, "train_step", lambda *_: pytest.fail("training started"))
    with pytest.raises(UserError) as caught:
        train(settings(shapes, tmp_path, *words), QUIET)
    assert sentence in str(caught.value)


def test_a_named_run_is_never_overwritten(shapes: Path, tmp_path: Path):
    folder = train(settings(shapes, tmp_path, "train.epochs=1"), QUIET).folder
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=r"exists and is not overwritten.*resume="):
        train(settings(shapes, tmp_path, "train.epochs=1"), QUIET)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_mistake_leaves_no_folder_behind(shapes: Path, tmp_path: Path):
    """The corrected command may take the same name."""
    wrong = [
        "data.augment=ligth",
        "train.class_weights=[1,2]",
        "train.class_weights=[1,2,-1]",
        "backbone.image_size=30",
        "compare=[noen]",
    ]
    for words in [*wrong, "compare=[maple]", "head=zeroshot"]:
        with pytest.raises(UserError):
            train(settings(shapes, tmp_path / "runs", words), QUIET)
        assert not (tmp_path / "runs").exists(), words


@pytest.mark.parametrize(("kind", "sentence"), [("noen", "did you mean 'none'"), ("maple", "set head=zeroshot")])
def test_compared_prompts_are_checked_before_the_first_training(
    shapes: Path, tmp_path: Path, monkeypatch, kind: str, sentence: str
):
    monkeypatch.setattr(Trainer, "train_step", lambda *_: pytest.fail("training started"))
    with pytest.raises(UserError, match=sentence):
        train(settings(shapes, tmp_path, f"compare=[none, {kind}]"), QUIET)


class TestFolder:
    """Two runs that start together never share a folder."""

    def test_a_made_name_gets_the_next_number(self, tmp_path: Path):
        config = load_config(overrides=[word("out", tmp_path)])
        (tmp_path / f"{stem_of(config)}-2").mkdir()
        with ThreadPoolExecutor(8) as pool:
            folders = list(pool.map(lambda _: claim(config), range(8)))
        numbers = ["", *(f"-{number}" for number in range(3, 10))]
        assert sorted(folder.name for folder in folders) == sorted(f"{stem_of(config)}{number}" for number in numbers)
        assert all(read_yaml(folder / "config.yaml")["name"] == folder.name for folder in folders)
        plain = tmp_path / "plain"
        plain.mkdir()
        assert {folder.stat().st_mode for folder in folders} == {plain.stat().st_mode}

    def test_a_given_name_is_taken_once(self, tmp_path: Path):
        (tmp_path / "mine").mkdir()  # an empty folder may be taken, by one
        config = load_config(overrides=[word("out", tmp_path), "name=mine"])

        with ThreadPoolExecutor(8) as pool:
            attempts = [pool.submit(claim, config) for _ in range(8)]
        refused = [str(attempt.exception()) for attempt in attempts if attempt.exception() is not None]
        assert len(refused) == 7
        assert all("exists and is not overwritten" in sentence for sentence in refused)
        assert [item.name for item in tmp_path.iterdir()] == ["mine"]

    def test_a_run_that_came_first_while_this_one_got_ready(self, shapes: Path, tmp_path: Path, monkeypatch):
        usual = Trainer.__init__

        def slow(trainer, context, *more, **named):
            claim(context.config)
            usual(trainer, context, *more, **named)

        monkeypatch.setattr(Trainer, "__init__", slow)
        with pytest.raises(UserError, match="exists and is not overwritten"):
            train(settings(shapes, tmp_path), QUIET)
        config = settings(shapes, tmp_path, "train.epochs=1").model_copy(update={"name": None})
        assert train(config, QUIET).folder.name == f"{stem_of(config)}-2"

    def test_a_place_that_is_no_folder_is_told(self, tmp_path: Path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="cannot write"):
            claim(load_config(overrides=[word("out", tmp_path / "file")]))


def test_no_space_left_is_one_sentence_and_loses_nothing(shapes: Path, tmp_path: Path, monkeypatch):
    usual = os.fsync
    left = [4]

    def filling(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        usual(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", filling)
        with pytest.raises(UserError, match="No space left on device; free some space"):
            train(settings(shapes, tmp_path), QUIET)
    assert resume(tmp_path / "run", console=QUIET).metrics["epochs"] == 3


def test_features_computed_once_give_the_same_head(shapes: Path, tmp_path: Path, monkeypatch):
    """The linear probe's shortcut against the plain way."""
    words = ["prompt=none", "data.augment=none", "prompt.kind=none"]
    fast = train(settings(shapes, tmp_path / "fast", *words), QUIET)
    monkeypatch.setattr("vpt.training.tasks.pooled.frozen_part", lambda model, context: None)
    slow = train(settings(shapes, tmp_path / "slow", *words), QUIET)
    one, other = read_artifact(fast.artifact).tensors, read_artifact(slow.artifact).tensors
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-6, rtol=1e-5)


def test_compare_trains_the_other_prompts_beside(shapes: Path, tmp_path: Path):
    result = train(settings(shapes, tmp_path, "compare=[none, shallow]", "train.epochs=1"), QUIET)
    assert read_artifact(result.folder).config.prompt.kind == "deep"
    assert read_artifact(result.folder / "compare-none").config.prompt.kind == "none"
    assert read_artifact(result.folder / "compare-shallow").config.prompt.tokens == 4


def test_several_labels(shapes: Path, tmp_path: Path):
    lines = ["path,label,split"]
    for split in ("train", "val", "test"):
        for name, labels in {"lying": "bar|flat", "standing": "bar|tall", "square": "compact"}.items():
            lines += [f"{file},{labels},{split}" for file in sorted((shapes / split / name).iterdir())]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines))
    words = ["train.epochs=20", "data.augment=none", "tuning=full", "train.optimizer.lr=0.003"]
    result = train(settings(table, tmp_path, *words, "train.class_weights=balanced"), QUIET)
    assert read_artifact(result.artifact).classes == ("bar", "compact", "flat", "tall")
    assert result.metrics["test"]["map"] > 0.7  # chance is about 0.5
    # It goes on telling several where other images happen to have one each.
    plain = tmp_path / "plain.csv"
    plain.write_text("\n".join(line.replace("|flat", "").replace("|tall", "") for line in lines))
    measured = evaluate(result.artifact, "test", [f"data.path={plain}"], QUIET)
    assert "map" in measured
    assert "accuracy" not in measured


def test_an_artifact_that_tells_one_label_is_not_measured_on_several(whole: Path, shapes: Path, tmp_path: Path):
    lines = ["path,label"]
    for name in ("lying", "standing"):
        lines += [f"{file},square|{name}" for file in sorted((shapes / "train" / name).iterdir())]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines))
    with pytest.raises(UserError, match="several labels per image, but the artifact predicts one"):
        evaluate(whole, "val", [f"data.path={table}"], QUIET)


def test_evaluating_other_data_takes_its_classes_by_name(shapes: Path, tmp_path: Path):
    result = train(settings(shapes, tmp_path, "train.epochs=1"), QUIET)
    part = tmp_path / "part"
    part.mkdir()
    for name in ("square", "standing"):
        (part / name).symlink_to(shapes / "test" / name)
    measured = evaluate(result.artifact, "val", [f"data.path={part}", "data.val_fraction=0.5"], QUIET)
    whole = evaluate(result.artifact, "test", console=QUIET)
    recall = {row["class"]: row["recall"] for row in measured["per_class"]}
    assert measured["confusion"][0] == [0, 0, 0]
    assert set(recall) == {row["class"] for row in whole["per_class"]}


def test_a_resumed_log_has_no_row_twice(tmp_path: Path):
    with RunLog(tmp_path) as log:
        for step in range(1, 6):
            log.row("step", step=step, loss=1.0 / step)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')  # torn by a kill
    with RunLog(tmp_path, resume_step=3) as log:
        log.row("step", step=4, loss=0.25)
    assert [row["step"] for row in read_rows(tmp_path)] == [1, 2, 3, 4]
