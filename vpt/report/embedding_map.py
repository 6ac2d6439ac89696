"""Features before and after training, projected to two dimensions, and nearest-neighbour agreement of their labels."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

import numpy as np
from markupsafe import Markup

from vpt.metrics.detection_plots import uncovered
from vpt.report.html import Section, percent, render
from vpt.report.svg_charts import TONES, Chart, picture, tag, tone
from vpt.utils.errors import UserError
from vpt.utils.version import install

MOST = 1000  # images; more take minutes and overlap
NAMED = 40  # most classes in the legend
NONE = -1  # in place of a class: an image without a label
LETTER, LINE = 7.5, 15  # room that a name takes in the drawing, by character and in height

Map = Literal["tsne", "umap"]


def require_map(kind: Map) -> None:
    """Raise a UserError if the package for the projection is not installed."""
    if kind == "umap" and find_spec("umap") is None:
        raise UserError(f"--map umap needs umap-learn: {install('umap')}, or leave out --map for t-SNE")


def neighbour_agreement(features: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of images whose nearest other image, by cosine, is of the same class.

    Args:
        features: (N, C), N at least 2.
        labels: (N,), or (N, K) of zeros and ones: then all labels must be equal.

    >>> neighbour_agreement(np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), np.array([0, 0, 1]))
    0.6666666666666666
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    same = labels[likeness.argmax(1)] == labels
    return float((same if same.ndim == 1 else same.all(1)).mean())


def layout(features: np.ndarray, kind: Map = "tsne", seed: int = 0) -> np.ndarray:
    """Positions (N, 2) from 0 to 1 by t-SNE (van der Maaten and Hinton 2008) or UMAP, deterministic for a given seed.

    >>> layout(np.random.default_rng(0).normal(size=(12, 3))).shape
    (12, 2)
    """
    count = len(features)
    rows = features.astype(np.float64)
    if np.ptp(rows, axis=0).max() == 0:  # all features are equal
        return np.full((count, 2), 0.5)
    if kind == "umap":
        from umap import UMAP

        places = UMAP(n_neighbors=min(15, count - 1), random_state=seed, n_jobs=1).fit_transform(rows)
    else:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE

        rows = rows - rows.mean(0)
        if min(rows.shape[1], count) > 50:  # as the authors recommend; the rest is mostly noise
            rows = PCA(50, random_state=seed).fit_transform(rows)
        spread = float(rows.std()) or 1.0
        perplexity = min(30.0, (count - 1) / 3)
        places = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(rows / spread)
    low, high = places.min(0), places.max(0)
    return (places - low) / np.maximum(high - low, 1e-12)


def section(
    before: np.ndarray | None,
    after: np.ndarray,
    labels: np.ndarray,
    wrong: np.ndarray,
    classes: Sequence[str],
    kind: Map = "tsne",
) -> Section:
    """Maps of the same images before and after training.

    Args:
        before: (N, C) features of the original backbone; None if they equal those after training.
        after: (N, C).
        labels: (N,) classes of the images; or (N, K) zeros and ones: the first label gives the colour.
        wrong: (N,) which of them are misclassified.
        classes: names.
    """
    if len(after) < 10:
        raise UserError(f"{len(after)} images are too few for a map")
    charts, numbers = [], []
    colours = labels if labels.ndim == 1 else np.where(labels.any(1), labels.argmax(1), NONE)
    for title, rows in (("before training: the backbone alone", before), ("after training", after)):
        if rows is None:
            continue
        agree = neighbour_agreement(rows, labels)
        title = title if before is not None else "input features of the head"
        numbers.append((title, percent(agree)))
        chart = scatter(layout(rows, kind), colours, wrong if rows is after else np.zeros_like(wrong), classes, title)
        charts.append(chart)
    body = render(
        "features.html",
        charts=charts,
        numbers=numbers,
        images=len(after),
        kind={"tsne": "t-SNE", "umap": "UMAP"}[kind],
        same=before is None,
        several=labels.ndim > 1,
        wrong=bool(wrong.any()),
    )
    return Section("features", "Features", body)


def scatter(places: np.ndarray, labels: np.ndarray, wrong: np.ndarray, classes: Sequence[str], title: str) -> Chart:
    """A dot for each image in the colour of its class, a cross if it was misclassified; a legend, and class names in
    the middle of their dots where they cover no other name."""
    side, edge = 400.0, 14.0
    spots = edge + places * (side - 2 * edge)
    parts: list[Markup] = [tag("rect", x=0, y=0, width=side, height=side, class_="field")]
    present = [int(number) for number in np.unique(labels)]
    legend, centres = [], []
    for number in present:
        name = classes[number] if number != NONE else "no label"
        mine = labels == number
        dots = "".join(f"M{x:.0f} {y:.0f}h0" for x, y in spots[mine & ~wrong])
        crosses = "".join(f"M{x - 4:.0f} {y - 4:.0f}l8 8m0-8l-8 8" for x, y in spots[mine & wrong])
        look, hue = _colour(number, len(classes))
        for path, kind in ((dots, "spots"), (crosses, "crosses")):
            if path:
                parts.append(tag("path", tag("title", name), d=path, class_=f"{kind} {look}", style=hue))
        legend.append((look, name, hue or ""))
        centres.append(np.median(spots[mine], axis=0))
    text = f"{title}: {len(labels)} images of {len(present)} classes"
    if len(present) > NAMED:
        hint = f"{len(present)} classes: the name of a dot's class is shown under the pointer"
        return Chart(title, picture(text, parts, side, side), text=hint)
    names = _names([name for _, name, _ in legend], centres, side)
    return Chart(title, picture(text, [*parts, *names], side, side), legend)


def _names(names: Sequence[str], centres: Sequence[np.ndarray], side: float) -> list[Markup]:
    """The names at their centres, moved into the field; without those that would cover one before."""
    found, places = [], []
    for name, (x, y) in zip(names, centres, strict=True):
        half = min(len(name) * LETTER, side) / 2
        x, y = float(np.clip(x, half, side - half)), float(np.clip(y, LINE, side - LINE / 2))
        places.append((x - half, y - LINE / 2, x + half, y + LINE / 2))
        found.append(tag("text", name, x=f"{x:.0f}", y=f"{y + 4:.0f}", class_="middle over"))
    return [one for one, free in zip(found, uncovered(places), strict=True) if free]


def _colour(number: int, classes: int) -> tuple[str, str | None]:
    """Distinct colours for few classes, hues for many; the golden angle keeps consecutive hues apart."""
    if number == NONE:
        return "none", None
    if classes <= TONES:
        return tone(number), None
    return "hue", f"--h:{number * 137.508 % 360:.0f}"
