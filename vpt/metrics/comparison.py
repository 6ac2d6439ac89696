"""Comparison of several methods on one data set: a short table, and a plot of the images on which they disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vpt.config.tasks import in_percent, ranking
from vpt.data.dataset import Record
from vpt.data.decode import BadImage, read
from vpt.metrics.predictions import Answer
from vpt.utils.console import Console
from vpt.utils.image_grid import rgb_of
from vpt.utils.plotting import BLUE, GREY, ORANGE, literal, own_style, save

TILES = 8


def method_name(metrics: Mapping[str, Any]) -> str:
    """Common name of the method that a run trained, from its metrics.

    >>> method_name({"prompt": "none", "tuning": "frozen"}), method_name({"prompt": "deep", "tuning": "frozen"})
    ('linear probe', 'deep prompts')
    >>> method_name({"prompt": "deep", "tuning": "lora"})
    'deep prompts and LoRA'
    >>> method_name({"prompt": "none", "tuning": "frozen", "head": "fcos"})
    'head only'
    """
    tuning = {"frozen": "", "full": "full fine-tuning", "lora": "LoRA", "bias": "bias tuning"}[metrics["tuning"]]
    if metrics["prompt"] != "none":
        return f"{metrics['prompt']} prompts" + (f" and {tuning}" if tuning else "")
    named = {"linear": "linear probe", "zeroshot": "zero-shot", "regression": "linear regression"}
    named |= {"knn": "nearest neighbours", "prototype": "class means"}
    return tuning or named.get(metrics.get("head", "linear"), "head only")


def shown_score(metric: str, value: float) -> str:
    """A main metric, in percent if it is a fraction.

    >>> shown_score("accuracy", 0.9), shown_score("r2", 0.9)
    ('90.0%', '0.900')
    """
    return f"{100 * value:.1f}%" if in_percent(metric) else f"{value:.3f}"


def say_comparison(console: Console, runs: Sequence[Mapping[str, Any]]) -> None:
    """Print a table of the results of runs, from their metrics."""
    rows = []
    for metrics in runs:
        split = "test" if metrics.get("test") else "val"
        found = metrics.get(split) or {}
        metric = ranking(found) if found else None
        wrong = round((1 - found["accuracy"]) * found["images"]) if metric == "accuracy" else None
        rows.append(
            [
                method_name(metrics),
                shown_score(metric, found[metric]) if metric and found[metric] is not None else "-",
                f"{wrong} of {found['images']}" if wrong is not None else "-",
                f"{metrics['parameters']['learning']:,}",
                f"{metrics['artifact_bytes'] / 1e6:.2f} MB",
            ]
        )
    console.table("comparison", ["method", "correct", "wrong", "trainable parameters", "artifact"], rows)


@own_style
def comparison_png(
    answers: Mapping[str, Sequence[Answer]], records: Sequence[Record], max_pixels: int, path: Path
) -> Path:
    """Plot the number of mistakes, and images on which the methods disagree.

    Args:
        answers: of each method, for the same images in the same order.
        records: those images.
        max_pixels: larger images are left out.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.6), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=[1, 2.1])
    left, right = halves
    axes = left.subplots()
    wrong = {literal(name): sum(not answer.right for answer in found) for name, found in answers.items()}
    colours = [BLUE, ORANGE, GREY, "#009E73"]
    bars = axes.barh(list(wrong), list(wrong.values()), color=[colours[at % 4] for at in range(len(wrong))], height=0.5)
    axes.bar_label(bars, padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.xaxis.get_major_locator().set_params(integer=True)  # counts are whole numbers
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"mistakes on {len(records)} unseen images")
    shown = disagreements(list(answers.values()))[:TILES]
    right.suptitle("images on which they disagree" if shown else "they agree on every image")
    places = right.subplots(2, TILES // 2, squeeze=False).flat
    for place in places:
        place.axis("off")
    for place, at in zip(right.axes, shown):
        try:
            place.imshow(rgb_of(read(records[at], max_pixels).pixels))
        except BadImage:
            continue
        first = next(iter(answers.values()))[at]
        lines = [f"true: {first.true}"]
        lines += [
            f"{name}: {found[at].predicted}{'' if found[at].right else ' (wrong)'}" for name, found in answers.items()
        ]
        place.set_title(literal("\n".join(lines)), fontsize=8, loc="left")
    return save(figure, path)


def disagreements(answers: Sequence[Sequence[Answer]]) -> list[int]:
    """Images on which methods disagree, most confident answers first.

    Args:
        answers: of each method, for the same images in the same order.

    >>> one = Answer("a", "cat", "cat", 0.9, 0.9)
    >>> disagreements([[one], [Answer("a", "cat", "dog", 0.8, 0.2)]])
    [0]
    """
    apart = [at for at, row in enumerate(zip(*answers, strict=True)) if len({one.predicted for one in row}) > 1]
    return sorted(apart, key=lambda at: -float(np.mean([found[at].score for found in answers])))
