"""Names in plots are a stranger's: matplotlib must not read them as formulas, or the run ends without its results."""

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

import vpt
from tests.helpers.runs import QUIET, settings
from vpt.data.dataset import Record
from vpt.experiments.sweep.plots import sweep_png
from vpt.metrics.comparison import comparison_png
from vpt.metrics.predictions import Answer
from vpt.utils.plotting import confusion_png, literal, scatter_png

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
