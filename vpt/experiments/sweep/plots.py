"""Plots of a sweep: validation over trials, and over the values of every searched setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpt.utils.plotting import BLUE, GREY, ORANGE, literal, own_style, save


@own_style
def sweep_png(rows: Sequence[dict[str, Any]], axes: Sequence[str], path: Path) -> Path:
    """Plot the progress of the sweep, and validation by the values of each setting.

    Args:
        rows: trials with number, state, params and validation.
        axes: searched settings.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    scored = sorted((row for row in rows if row["validation"] is not None), key=lambda row: row["number"])
    panels = 1 + len(axes)
    figure = Figure(figsize=(3.6 * min(panels, 4), 3.4 * -(-panels // 4)), layout="constrained")
    places = list(figure.subplots(-(-panels // 4), min(panels, 4), squeeze=False, sharey=True).flat)
    best: list[float] = []
    for row in scored:
        value = row["validation"] if row["state"] == "complete" else float("-inf")
        best.append(max(value, best[-1] if best else value))
    places[0].step([row["number"] + 1 for row in scored], best, where="post", color=ORANGE, label="best so far")
    _dots(places[0], scored, [row["number"] + 1 for row in scored])
    places[0].set_xlabel("trial")
    places[0].set_ylabel("validation")
    places[0].legend(frameon=False)
    for place, key in zip(places[1:], axes):
        known = [row for row in scored if key in row["params"]]
        values = [row["params"][key] for row in known]
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        _dots(place, known, values if numeric else [literal(str(value)) for value in values])
        if numeric and values and min(values) > 0 and max(values) / min(values) >= 20:
            place.set_xscale("log")
        place.set_xlabel(key.removeprefix("train.optimizer."))
    for place in places[panels:]:
        place.axis("off")
    for place in places[:panels]:
        place.grid(alpha=0.25)
        place.spines[["top", "right"]].set_visible(False)
    return save(figure, path)


def _dots(place: Any, rows: Sequence[dict[str, Any]], values: Sequence[Any]) -> None:
    for state, colour in (("complete", BLUE), ("pruned", GREY)):
        chosen = [(value, row["validation"]) for value, row in zip(values, rows, strict=True) if row["state"] == state]
        if chosen:
            place.scatter(*zip(*chosen, strict=True), color=colour, s=18, label=None if state == "complete" else state)
