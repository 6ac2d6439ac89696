"""The preview of `vpt data check`: a grid of images of every class, at a place that is named and outside the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import newcomer_data
from tests.helpers.image_files import class_folders
from tests.helpers.runs import QUIET, settings
from vpt.cli.main import main
from vpt.config import DataConfig
from vpt.data.datasets.registry import load_data
from vpt.report.data_preview import ROWS, _in_turn, preview_png
from vpt.training.run import train
from vpt.utils.image_grid import COLUMNS, SIDE


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def preview(out: str, what: str) -> np.ndarray:
    line = next(line for line in out.splitlines() if line.startswith(f"preview of images with their {what}: "))
    return np.asarray(Image.open(line.partition(": ")[2]))


def test_class_folders_and_their_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = tmp_path / "photos"
    class_folders(root / "train", {"cat": 20, "dog": 2})
    class_folders(root / "test", {"cat": 2, "dog": 0}, seed=50)
    files = sorted(root.rglob("*"))
    assert main(["data", "check", str(root)]) == 0
    out = capsys.readouterr().out
    assert "cat: 18 training images, 2 validation images, 2 test images\n" in out
    assert "dog: 1 training image, 1 validation image\n" in out
    shown = preview(out, "labels")
    assert shown.shape[1] // COLUMNS >= SIDE
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 100
    assert sorted(root.rglob("*")) == files  # nothing is added to the data
    chosen = tmp_path / "here.png"
    assert main(["data", "check", str(root), "--preview", str(chosen)]) == 0
    assert np.array_equal(np.asarray(Image.open(chosen)), shown)


def test_every_class_is_shown(tmp_path: Path):
    root = class_folders(tmp_path / "photos", {f"{number:02}": 3 for number in range(COLUMNS * ROWS)})
    first = list(_in_turn(load_data(DataConfig(path=str(root)))))[: COLUMNS * ROWS]
    assert len({record.labels for _, record in first}) == COLUMNS * ROWS


def test_boxes_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    newcomer_data.yolo(tmp_path / "yard")
    assert main(["data", "check", str(tmp_path / "yard"), "task=detection"]) == 0
    shown = preview(capsys.readouterr().out, "boxes")
    assert (shown == (0, 0x72, 0xB2)).all(axis=-1).sum() > 500  # outlines of the first class, in its colour


def test_images_without_a_label_are_counted_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    newcomer_data.label_table(tmp_path / "tags" / "labels.csv")
    assert main(["data", "check", str(tmp_path / "tags" / "labels.csv")]) == 0
    out = capsys.readouterr().out
    assert "none of the classes: 8 training images, 1 validation image\n" in out
    preview(out, "labels")


def test_view_draws_what_a_run_draws(shapes: Path, tmp_path: Path, small_net: None, capsys: pytest.CaptureFixture[str]):
    config = settings(shapes, tmp_path, "train.epochs=1", "data.augment=strong")
    folder = train(config, QUIET).folder
    (tmp_path / "a.yaml").write_text((folder / "config.yaml").read_text())
    assert main(["data", "view", str(tmp_path / "a.yaml"), "--output", str(tmp_path / "view")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == [str(tmp_path / "view" / name) for name in ("train_batch.jpg", "val_batch.jpg", "labels.jpg")]
    for file in shown[1:]:
        assert Path(file).read_bytes() == (folder / Path(file).name).read_bytes()
    mine, theirs = (np.asarray(Image.open(place / "train_batch.jpg")) for place in (tmp_path / "view", folder))
    rows = len(theirs) // 2  # the run drew its batch of eight, `view` twelve images: the first row is the same
    assert np.abs(mine[: rows - 9].astype(int) - theirs[: rows - 9]).mean() < 1


def test_view_of_boxes_and_of_the_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    newcomer_data.yolo(tmp_path / "yard")
    assert main(["data", "view", str(tmp_path / "yard"), "task=detection", "batch_size=auto"]) == 0
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [file.name for file in files] == ["train_batch.jpg", "val_batch.jpg", "labels.jpg"]
    assert {file.parent for file in files} == {tmp_path / "cache" / "vpt" / "previews" / "yard"}
    assert (np.asarray(Image.open(files[1])) == 255).mean() < 0.9


def test_nothing_to_draw_and_nowhere_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    root = class_folders(tmp_path / "photos", {"cat": 3, "dog": 3})
    data = load_data(DataConfig(path=str(root)))
    for file in root.rglob("*.png"):
        file.write_bytes(b"no picture")
    assert preview_png(data, 10**6, tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()
    other = class_folders(tmp_path / "others", {"cat": 3, "dog": 3})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert main(["data", "check", str(other)]) == 0
    assert "no preview is drawn: cannot write " in capsys.readouterr().out
    assert main(["data", "check", str(other), "--preview", str(tmp_path / "file" / "a.png")]) == 2
    assert "cannot write " in capsys.readouterr().err
