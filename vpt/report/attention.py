"""Attention maps of example images: rollout, attention of the class token, and attention to prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vpt.data.dataset import Record
from vpt.metrics.predictions import Answer
from vpt.models.attention_maps import Attention, as_heat
from vpt.report.errors import most_confident_mistakes
from vpt.report.html import Section, percent, render
from vpt.report.image_encoding import heat_uri, photo_uri, small
from vpt.report.svg_charts import Line, line_chart

EXAMPLES = 6
SIDE = 168


def examples(answers: Sequence[Answer], most: int = EXAMPLES, multilabel: bool = False) -> list[Answer]:
    """Choose example images: one third most confident mistakes, the rest correct ones of different classes.

    >>> found = examples([Answer("a", "cat", "cat", 0.9, 0.9), Answer("b", "dog", "cat", 0.8, 0.2)])
    >>> [answer.image for answer in found]
    ['b', 'a']
    """
    wrong = most_confident_mistakes(answers, most // 3, multilabel)
    seen: dict[str, int] = {}
    ranked: list[tuple[int, Answer]] = []
    for answer in sorted((one for one in answers if one.right), key=lambda one: -one.score):
        seen[answer.true] = seen.get(answer.true, 0) + 1
        ranked.append((seen[answer.true], answer))  # the second of a class comes after the first of all others
    ranked.sort(key=lambda pair: pair[0])
    return [*wrong, *(answer for _, answer in ranked[: most - len(wrong)])]


def to_prompts(maps: Sequence[Attention]) -> np.ndarray:
    """Mean fraction of the patches' attention that goes to prompts, (layers,)."""
    return np.mean([one.prompts.flatten(1).mean(1).cpu().numpy() for one in maps], axis=0)


def section(found: Sequence[tuple[Record, np.ndarray, Attention]], answers: Sequence[Answer]) -> Section:
    """One row for each image: the image, its rollout, then the maps layer by layer."""
    said = {answer.image: answer for answer in answers}
    shares = to_prompts([maps for _, _, maps in found])
    prompted = bool(shares.max() > 0)
    rows = []
    for number, (record, square, maps) in enumerate(found):
        pixels = small(square, SIDE)
        kinds = [("class token", maps.cls, "attention of the class token to patches")] if maps.cls is not None else []
        if prompted:
            kinds.append(("to prompts", maps.prompts, "fraction of each patch's attention that goes to prompts"))
        layers = [
            {
                "name": name,
                "text": text,
                "maps": [
                    {"layer": at + 1, "uri": heat_uri(as_heat(one)), "most": percent(float(one.max()))}
                    for at, one in enumerate(stack)
                ],
            }
            for name, stack, text in kinds
        ]
        answer = said.get(record.name)
        rows.append(
            {
                "id": f"look{number}",
                "name": record.name,
                "true": answer.true if answer else "",
                "predicted": answer.predicted if answer else "",
                "right": answer.right if answer else True,
                "uri": photo_uri(pixels),
                "rollout": heat_uri(as_heat(maps.rollout)),
                "layers": layers,
            }
        )
    chart = None
    if prompted:
        points = [(float(at + 1), float(share)) for at, share in enumerate(shares)]
        title = "attention from patches to prompts"
        chart = line_chart(title, [Line(title, points)], "layer", percent=True, from_zero=True)
    return Section("attention", "Attention", render("attention.html", rows=rows, chart=chart))
