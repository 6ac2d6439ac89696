"""What runs answered for each image, and the picture of where methods part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vpt
from tests.helpers.runs import QUIET, settings
from vpt.data.dataset import Record
from vpt.inference.classification import Classification
from vpt.metrics.classification import classification_metrics
from vpt.metrics.comparison import comparison_png
from vpt.metrics.predictions import Answer, answers_of, read_answers, write_answers
from vpt.metrics.probabilities import probabilities
from vpt.utils.errors import UserError

CLASSES = ("ant", "bee", "cat")


def test_answers_are_softmax_of_the_scores(tmp_path: Path):
    logits = np.array([[1.0, 2.0, 0.0], [5.0, 0.0, 0.0]], np.float32)
    found = answers_of(["a", "b,c"], logits, np.array([0, 0]), CLASSES)
    share = np.exp(logits[0]) / np.exp(logits[0]).sum()
    assert (found[0].true, found[0].predicted, found[0].right) == ("ant", "bee", False)
    assert (found[0].score, found[0].score_of_true) == pytest.approx((share[1], share[0]))
    assert found[1].right
    back = read_answers(write_answers(tmp_path / "answers.csv", found))
    assert [(one.image, one.true, one.predicted) for one in back] == [("a", "ant", "bee"), ("b,c", "ant", "ant")]
    assert back[0].score == pytest.approx(found[0].score, abs=1e-6)


def test_answers_of_several_classes():
    logits = np.array([[3.0, -3.0, 1.0], [-1.0, -1.0, -1.0]])
    found = answers_of(["a", "b"], logits, np.array([[1, 0, 1], [0, 0, 0]]), CLASSES)
    assert (found[0].true, found[0].predicted) == ("ant|cat", "ant|cat")
    assert found[0].score == pytest.approx(1 / (1 + np.exp(-1)))
    assert (found[1].true, found[1].predicted, found[1].right) == ("", "", True)


def test_a_score_of_one_half_is_no_answer_as_in_the_metrics_and_in_predictions():
    logits, truth = np.zeros((1, 3)), np.array([[0, 0, 0]])
    assert answers_of(["a"], logits, truth, CLASSES)[0].predicted == ""
    assert classification_metrics(logits, truth, classes=CLASSES, multilabel=True)["exact_match"] == 1
    assert Classification("a", CLASSES, probabilities(logits[0], multilabel=True), multilabel=True).holding == ()


def test_a_broken_file_is_named(tmp_path: Path):
    (tmp_path / "answers.csv").write_text("image,true\na,b\n")
    with pytest.raises(UserError, match=r"answers\.csv cannot be read"):
        read_answers(tmp_path / "answers.csv")


def test_a_run_writes_its_answers_and_a_comparison(shapes: Path, small_net: None, tmp_path: Path):
    result = vpt.train(settings(shapes, tmp_path, "compare=[none]"), QUIET)
    found = read_answers(result.folder / "predictions-test.csv")
    assert len(found) == 12
    assert np.mean([one.right for one in found]) == pytest.approx(result.metrics["test"]["accuracy"])
    other = read_answers(result.folder / "compare-none" / "predictions-test.csv")
    assert [one.image for one in other] == [one.image for one in found]
    with Image.open(result.folder / "comparison.png") as picture:
        assert picture.width > picture.height > 300


def test_the_picture_leaves_out_what_cannot_be_read(tmp_path: Path):
    records = [Record(f"{number}.png", tmp_path / f"{number}.png", (0,)) for number in range(2)]
    answers = {
        "one": [Answer(record.name, "ant", "bee", 0.9, 0.1) for record in records],
        "other": [Answer(record.name, "ant", "ant", 0.9, 0.9) for record in records],
    }
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")  # and no 0.png
    assert comparison_png(answers, records, 1000, tmp_path / "out.png").stat().st_size > 1000
