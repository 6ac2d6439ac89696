"""Calibration of scores: reliability diagram (Guo et al. 2017), likelihood and Brier score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from vpt.metrics.classification import Bin, calibration_error, reliability
from vpt.metrics.probabilities import probabilities
from vpt.metrics.score_metrics import squared_distance
from vpt.report.html import Section, percent, render
from vpt.report.svg_charts import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Chart, Frame, picture, tag


def brier(scores: np.ndarray, labels: np.ndarray) -> float:
    """Brier score (1950): mean squared distance between probabilities and one-hot labels; 0 is perfect, 2 is worst.

    Of two classes it is that of one of them, as in scikit-learn, so that 1 is worst.

    Args:
        scores: (N, K) probabilities.
        labels: (N,) class of each image.

    >>> brier(np.array([[0.5, 0.5]]), np.array([0]))
    0.25
    """
    return float(squared_distance(scores, labels).mean())


def section(
    confidence: np.ndarray,
    right: np.ndarray,
    what: str,
    nll: float | None = None,
    logits: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    of: str = "",
) -> Section:
    """Reliability diagram and calibration metrics.

    Args:
        confidence, right: one value for each item; `what` names the items.
        nll: mean negative log-likelihood of the split.
        logits, labels: (N, K) and (N,), if all scores are available.
        of: which images the scores cover, if not all.
    """
    numbers: list[tuple[str, str]] = [
        ("expected calibration error", percent(calibration_error(confidence, right))),
        ("mean confidence", percent(float(confidence.mean()))),
        (f"{what} correct", percent(float(right.mean()))),
    ]
    if nll is not None:
        numbers.append(("negative log-likelihood", f"{nll:.4f}"))
    if logits is not None and labels is not None:
        numbers.append((f"Brier score{of}", f"{brier(probabilities(logits), labels):.4f}"))
    gap = float(confidence.mean() - right.mean())
    size = f"{100 * abs(gap):.1f} points"
    tendency = f"overconfident: mean confidence exceeds accuracy by {size}"
    if gap < 0:
        tendency = f"underconfident: mean confidence is {size} below accuracy"
    if abs(gap) < 0.01:
        tendency = "well calibrated on average: mean confidence is within a point of accuracy"
    body = render(
        "calibration.html",
        chart=diagram(reliability(confidence, right), what),
        numbers=numbers,
        tendency=tendency,
    )
    return Section("calibration", "Calibration", body)


def diagram(bins: Sequence[Bin], what: str) -> Chart:
    """Reliability diagram: bars of accuracy by confidence with counts, and a line at each bin's mean confidence."""
    frame = Frame(0, 1, 0, 1.08)
    base = HEIGHT - BOTTOM
    parts: list[Markup] = [frame.axes("confidence", percent=True)]
    (x0, y0), (x1, y1) = frame.at(0, 0), frame.at(1, 1)
    parts.append(tag("path", d=f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}", class_="mark"))
    for bin in bins:
        left, top = frame.at(bin.low, bin.right)
        wide = (WIDTH - LEFT - RIGHT) * (bin.high - bin.low)
        _, sure = frame.at(0, bin.confidence)
        span = f"confidence {percent(bin.low, 0)} to {percent(bin.high, 0)}"
        text = f"{span}: {bin.count} {what}, {percent(bin.right)} correct"
        bar = tag(
            "rect",
            x=f"{left + 1:.1f}",
            y=f"{top:.1f}",
            width=f"{wide - 2:.1f}",
            height=f"{base - top:.1f}",
            class_="bar t0",
        )
        line = tag("path", d=f"M{left + 1:.1f} {sure:.1f}h{wide - 2:.1f}", class_="level t1")
        label = tag(
            "text", _short(bin.count), x=f"{left + wide / 2:.1f}", y=f"{min(top, sure) - 5:.1f}", class_="middle tiny"
        )
        parts.append(tag("g", tag("title", text) + bar + line + label))
    text = "; ".join(f"{percent(bin.confidence, 0)}: {percent(bin.right, 0)} of {bin.count}" for bin in bins)
    legend = [("t0", "accuracy"), ("t1", "mean confidence")]
    return Chart("reliability", picture(f"Accuracy by confidence. {text}", parts), legend)


def _short(count: int) -> str:
    """A count short enough to fit above a bar.

    >>> _short(312), _short(14200)
    ('312', '14k')
    """
    return str(count) if count < 1000 else f"{count / 1000:.2g}k" if count < 9950 else f"{round(count / 1000)}k"
