"""Plots of a run, drawn without a display."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from vpt.utils.atomic_io import write_atomic

P = ParamSpec("P")
R = TypeVar("R")
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"  # distinguishable for colour-blind readers too
MOST = 40  # letters of a name beside an axis


def own_style(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw texts as they are, even if the user's matplotlibrc has them set by LaTeX."""

    @functools.wraps(draw)
    def drawn(*arguments: P.args, **options: P.kwargs) -> R:
        from matplotlib import rc_context

        with rc_context({"text.usetex": False, "text.parse_math": True}):
            return draw(*arguments, **options)

    return drawn


@own_style
def curves_png(rows: Sequence[Mapping[str, Any]], path: Path, metric: str, probe: float | None = None) -> Path:
    """Plot loss and metric over epochs, from the history of a run, with the best epoch and the linear probe's
    validation score, if there is one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _line(left, rows, "train_loss", "training", BLUE)
    _line(left, rows, "val_loss", "validation", ORANGE)
    left.set_title("loss")
    _line(right, rows, "train_accuracy", "training", BLUE)
    _line(right, rows, f"val_{metric}", "validation", ORANGE)
    name = "mean average precision" if metric == "map" else metric
    right.set_title(name)
    scored = [row for row in rows if f"val_{metric}" in row]
    if scored:
        best = max(scored, key=lambda row: row[f"val_{metric}"])
        if probe is not None:
            right.axhline(probe, color=GREY, linewidth=1, label="linear probe, validation")
            best = {"epoch": 0, f"val_{metric}": probe} if probe >= best[f"val_{metric}"] else best
        for axes in (left, right):
            axes.axvline(best["epoch"], color=GREY, linestyle=":", linewidth=1)
        right.set_title(f"{name}: best {best[f'val_{metric}']:.3f} on validation, epoch {best['epoch']}")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines:
            axes.legend(frameon=False)
    return save(figure, path)


def _line(axes: Any, rows: Sequence[Mapping[str, Any]], key: str, label: str, color: str) -> None:
    points = [(row["epoch"], row[key]) for row in rows if key in row]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, color=color, marker="o", markersize=3)


@own_style
def confusion_png(matrix: Sequence[Sequence[int]], classes: Sequence[str], path: Path) -> Path:
    """Plot a confusion matrix with true classes in rows; colours are fractions of each row, numbers are counts."""
    from matplotlib.figure import Figure

    counts = np.asarray(matrix)
    share = counts / np.maximum(1, counts.sum(1, keepdims=True))
    size = len(classes)
    text = float(np.clip(11 - size / 8, 4, 10))
    names = [literal(name if len(name) <= MOST else f"{name[: MOST // 2]}...{name[-MOST // 2 :]}") for name in classes]
    longest = max(map(len, names))
    side, room = float(np.clip(2.5 + 0.45 * size, 4, 24)), longest * text / 120  # inches
    figure = Figure(figsize=(side + 1 + room, side + room), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="fraction of the true class")
    axes.set_xticks(range(size), names, rotation=90 if size > 6 or longest > 10 else 0, fontsize=text)
    axes.set_yticks(range(size), names, fontsize=text)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{int(np.trace(counts))} of {int(counts.sum())} correct")
    if size <= 30:
        for row in range(size):
            for column in range(size):
                if counts[row, column]:
                    color = "white" if share[row, column] > 0.5 else "black"
                    axes.text(column, row, counts[row, column], ha="center", va="center", color=color, fontsize=text)
    return save(figure, path)


@own_style
def scatter_png(points: Sequence[tuple[float, float]], name: str, title: str, path: Path) -> Path:
    """Plot pairs of a true and a predicted number, and the line where they are equal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    true, predicted = zip(*points, strict=True)
    edges = [min(*true, *predicted), max(*true, *predicted)]
    axes.plot(edges, edges, color=GREY, linewidth=1, linestyle=":")
    axes.scatter(true, predicted, s=10, alpha=0.5, color=BLUE)
    axes.set_xlabel(f"true {literal(name)}")
    axes.set_ylabel(f"predicted {literal(name)}")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    return save(figure, path)


def picture_png(pixels: np.ndarray, path: Path) -> Path:
    """Write pixels (H, W, 3 or 4) uint8 unchanged."""
    from PIL import Image

    return write_atomic(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="PNG"))


def picture_jpeg(pixels: np.ndarray, path: Path) -> Path:
    """Write pixels (H, W, 3) uint8 as JPEG."""
    from PIL import Image

    return write_atomic(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="JPEG", quality=90))


def data_uri(pixels: np.ndarray, form: str = "PNG", **options: int | bool) -> str:
    """An image (H, W), (H, W, 3) or (H, W, 4) uint8 as a data URI for an HTML page.

    Args:
        pixels: the image.
        form: PNG or JPEG.
        options: options of Pillow's encoder, such as quality.

    >>> data_uri(np.zeros((1, 1), np.uint8))[:22]
    'data:image/png;base64,'
    """
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def literal(text: str) -> str:
    """A text that matplotlib shows as it is; it would read what stands between two dollar signs as a formula.

    >>> print(literal("$5 to $10"))
    \\$5 to \\$10
    """
    return text.replace("$", r"\$")


def save(figure: Any, path: Path) -> Path:
    """Write a figure as PNG, atomically."""
    return write_atomic(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
