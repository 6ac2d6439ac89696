"""Names in plots are a stranger's, and matplotlib's settings a user's: neither may cost a run its results."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

import vpt
from tests.helpers.runs import QUIET, settings
from vpt.data.dataset import Record
from vpt.experiments.sweep.plots import sweep_png
from vpt.metrics.comparison import comparison_png
from vpt.metrics.detection_plots import precision_png
from vpt.metrics.predictions import Answer
from vpt.utils import plotting
from vpt.utils.plotting import confusion_png, curves_png, literal, scatter_png

NAME = r"$\x$"


def confusion(path: Path) -> Path:
    return confusion_png([[1, 0], [0, 2]], [NAME, "other"], path)


def scatter(path: Path) -> Path:
    return scatter_png([(0.0, 1.0), (1.0, 2.0)], NAME, "numbers", path)


def comparison(path: Path) -> Path:
    Image.new("RGB", (8, 8)).save(path.with_name("a.png"))
    records = [Record("a.png", path.with_name("a.png"), (0,))]
    answers = {NAME: [Answer("a.png", NAME, "other", 0.9, 0.1)], "none": [Answer("a.png", NAME, NAME, 0.9, 0.9)]}
    return comparison_png(answers, records, 1000, path)


def sweep(path: Path) -> Path:
    rows = [
        {"number": at, "validation": 0.5, "state": "complete", "params": {"data.color": value}}
        for at, value in enumerate((NAME, "other"))
    ]
    return sweep_png(rows, ["data.color"], path)


@pytest.mark.parametrize("draw", [confusion, scatter, comparison, sweep])
def test_names_are_drawn_as_they_are(draw: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    figures: list[Figure] = []
    save = Figure.savefig

    def savefig(self: Figure, *arguments: object, **options: object) -> None:
        save(self, *arguments, **options)
        figures.append(self)

    monkeypatch.setattr(Figure, "savefig", savefig)
    draw(tmp_path / "out.png")
    (figure,) = figures
    texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    assert any(literal(NAME) in text for text in texts)


def test_a_run_with_such_a_class_has_its_results(
    shapes: Path, small_net: None, drawn_plots: None, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    for split in ("train", "val", "test"):
        for place in (shapes / split).iterdir():
            name = NAME if place.name == "square" else place.name
            (folder / split / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / split / name).symlink_to(place)
    result = vpt.train(settings(folder, tmp_path, "train.epochs=1"), QUIET)
    assert NAME in vpt.load(result.artifact).classes
    assert (result.folder / "confusion.png").stat().st_size > 1000


def curves(path: Path) -> Path:
    return curves_png([{"epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5}], path, "accuracy", 0.4)


def precision(path: Path) -> Path:
    return precision_png({"0.50": [1.0, 0.5], "0.75": [1.0, 0.2], "mean": [0.5, 0.1]}, path)


@pytest.mark.parametrize("draw", [curves, confusion, scatter, precision, comparison, sweep])
def test_a_user_who_sets_all_texts_by_latex_gets_plots(draw: Callable[[Path], Path], tmp_path: Path):
    with rc_context({"text.usetex": True}):
        assert draw(tmp_path / "out.png").stat().st_size > 1000


def test_a_name_of_many_letters_leaves_room_for_the_matrix(tmp_path: Path):
    confusion_png([[1, 0], [0, 2]], ["x" * 300, "y"], tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (pixels[..., 2] > pixels[..., 0] + 60).mean() > 0.05  # of the picture is blue


@pytest.mark.parametrize("name", ["curves_png", "confusion_png"])
def test_a_plot_that_fails_is_a_warning_and_the_run_has_its_results(
    shapes: Path, small_net: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    def broken(*_: object) -> None:
        raise ValueError("Key backend: 'Qt4Agg' is not a valid value")

    monkeypatch.setattr(plotting, name, broken)
    result = vpt.train(settings(shapes, tmp_path, "train.epochs=1"), QUIET)
    assert json.loads((result.folder / "metrics.json").read_text()) == result.metrics
    assert "is not drawn: Key backend: 'Qt4Agg' is not a valid value" in (result.folder / "log.txt").read_text()
