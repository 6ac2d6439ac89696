"""The most confident mistakes of a run, as thumbnails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vpt.data.dataset import Record
from vpt.data.decode import BadImage, read
from vpt.metrics.predictions import Answer
from vpt.report.html import Section, percent, render
from vpt.report.image_encoding import photo_uri, small

SIDE = 200  # pixels of a thumbnail


def most_confident_mistakes(answers: Sequence[Answer], most: int, multilabel: bool = False) -> list[Answer]:
    """Wrong answers, most confident first.

    With a single label the confidence is the score of the answer. With several labels the worst one counts: a false
    positive with a high score, or a true label with a low one.

    >>> right, wrong = Answer("a", "cat", "cat", 0.9, 0.9), Answer("b", "cat", "dog", 0.8, 0.2)
    >>> [answer.image for answer in most_confident_mistakes([right, wrong], 5)]
    ['b']
    """
    return sorted((answer for answer in answers if not answer.right), key=lambda one: -confidence(one, multilabel))[
        :most
    ]


def confidence(answer: Answer, multilabel: bool) -> float:
    """Confidence of a wrong answer, from 0 to 1.

    >>> confidence(Answer("a", "cat|dog", "", 0.0, 0.1), multilabel=True)
    0.9
    """
    return max(answer.score, 1 - answer.score_of_true) if multilabel else answer.score


def section(
    answers: Sequence[Answer],
    records: Mapping[str, Record] | None,
    most: int,
    max_pixels: int,
    multilabel: bool = False,
) -> Section:
    """Thumbnails of the mistakes, or a list if the images are not available.

    Args:
        answers: of the split.
        records: of the split by name; None if the data is not available.
        most: maximum number of mistakes shown.
        max_pixels: larger images are left out.
        multilabel: images have several labels.
    """
    chosen = most_confident_mistakes(answers, most, multilabel)
    wrong = sum(not answer.right for answer in answers)
    tiles = [
        {
            "image": answer.image,
            "true": answer.true or "no label",
            "predicted": answer.predicted or "no label",
            "score": percent(answer.score) if answer.predicted else "",
            "of_true": percent(answer.score_of_true),
            "uri": thumbnail(records, answer.image, max_pixels),
        }
        for answer in chosen
    ]
    text = f"{wrong:,} of {len(answers):,} answers are wrong"
    text += f"; the {len(chosen)} most confident mistakes:" if wrong else "."
    return Section("mistakes", "Most confident mistakes", render("mistakes.html", text=text, tiles=tiles))


def thumbnail(records: Mapping[str, Record] | None, name: str, max_pixels: int, side: int = SIDE) -> str | None:
    """The image of that name as a data URI, or None if it is not available."""
    if records is None or name not in records:
        return None
    try:
        return photo_uri(small(read(records[name], max_pixels).pixels, side))
    except BadImage:
        return None
