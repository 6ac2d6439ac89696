"""`vpt train --dry-run`: says what would be trained, finds mistakes, and writes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.mask_runs import mask_settings, squares
from tests.helpers.runs import NET, settings
from vpt.cli.main import main
from vpt.training.dry_run import dry_run
from vpt.training.trainer import Trainer
from vpt.utils.errors import UserError

MAPPED = ["backbone=test_classifier_32", "prompt=pixel", "prompt.size=4", "head=labelmap"]
pytestmark = pytest.mark.usefixtures("small_net")


def words(shapes: Path, out: Path, *more: str) -> list[str]:
    return ["train", f"data={shapes}", f"out={out / 'runs'}", *NET, "data.workers=0", "batch_size=8", *more]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_it_says_what_would_be_trained_and_writes_nothing(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([*words(shapes, tmp_path, "epochs=3", "compare=none"), "--dry-run"]) == 0
    text = said(capsys)
    for part in (
        "3 classes, 36 training, 12 validation and 12 test images",
        "model: test_vit_patch8_32 at 32 px, prompt deep",
        "prompt none",
        "estimated peak memory",
        f"run folder: {tmp_path}/runs/shapes0-test_vit_patch8_32-deep (not made)",
        "one step: loss ",
        "3 epochs of 5 steps with 8 images each",
        "--dry-run wrote nothing",
    ):
        assert part in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [["prompt=none", "augment=none"], MAPPED, ["seed=1,2"], ["data.folds=3"]])
def test_heads_caches_seeds_and_folds(
    shapes: Path, tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main([*words(shapes, tmp_path, "epochs=1", *more), "--dry-run"]) == 0
    assert "wrote nothing" in said(capsys)
    assert not list(tmp_path.iterdir())


def test_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = squares(tmp_path / "data")
    dry_run(mask_settings(data, tmp_path / "runs"))
    assert "2 epochs of 2 steps with 4 images each" in said(capsys)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["augment=nosuch"], "nosuch"),
        (["name=taken"], "exists and is not overwritten"),
        (["compare=nosuch"], "compare=nosuch does not exist"),
        (["class_weights=1,2"], "3 classes need 3"),
        (["resume=runs/a"], "--dry-run is for a new run"),
        (["--each", "epochs=1,2"], "--dry-run checks a single run"),
        (["log=mlflow"], "log=mlflow needs"),
    ],
)
def test_mistakes_are_those_of_training(
    shapes: Path,
    tmp_path: Path,
    more: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    (tmp_path / "runs" / "taken" / "a").touch()
    given = ["train", *more] if more[0].startswith("resume") else words(shapes, tmp_path, *more)
    assert main([*given, "--dry-run"]) == 2
    assert message in said(capsys)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["taken"]


def test_a_batch_that_does_not_fit(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "forward_backward", full)
    with pytest.raises(UserError, match=r"a step with 8 images does not fit .* train\.accumulate=2"):
        dry_run(settings(shapes, tmp_path))


def test_a_run_after_it_is_as_without_it(shapes: Path, tmp_path: Path):
    from vpt.training.run import train

    one = train(settings(shapes, tmp_path / "a", "train.epochs=1"))
    dry_run(settings(shapes, tmp_path / "b", "train.epochs=1"))
    two = train(settings(shapes, tmp_path / "b", "train.epochs=1"))
    assert one.artifact.read_bytes() == two.artifact.read_bytes()
