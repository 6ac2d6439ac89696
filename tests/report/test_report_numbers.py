"""The numbers of a report against scikit-learn, scipy, or the slow obvious way."""

from __future__ import annotations

import math
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from vpt.metrics.classification import calibration_error, reliability
from vpt.metrics.coco_map import overlaps
from vpt.metrics.comparison import disagreements
from vpt.metrics.predictions import Answer, answers_of
from vpt.metrics.probabilities import probabilities
from vpt.metrics.significance import mcnemar, paired, wilson
from vpt.report.attention import examples
from vpt.report.calibration import brier
from vpt.report.compare import in_common
from vpt.report.confusion_matrix import confused_pairs, label_errors, matrix_of
from vpt.report.cost import facts as cost_facts
from vpt.report.detection import judge
from vpt.report.embedding_map import layout, neighbour_agreement, scatter
from vpt.report.embedding_map import section as features_section
from vpt.report.errors import most_confident_mistakes
from vpt.report.learning_curves import epochs_of, steps_of
from vpt.report.svg_charts import ticks

CLASSES = [f"class {number}" for number in range(6)]
CHANCE = np.random.default_rng(0)
LABELS = CHANCE.integers(0, 6, 200)
LOGITS = CHANCE.normal(size=(200, 6)) + 2 * np.eye(6)[LABELS]
ANSWERS = answers_of([f"{number}.png" for number in range(200)], LOGITS, LABELS, CLASSES)


class TestClassification:
    def test_the_matrix_is_scikit_learns(self):
        expected = sk.confusion_matrix(LABELS, LOGITS.argmax(1))
        assert matrix_of(ANSWERS, CLASSES).tolist() == expected.tolist()

    def test_pairs_are_the_largest_off_the_diagonal(self):
        matrix = matrix_of(ANSWERS, CLASSES)
        pairs = confused_pairs(matrix, CLASSES, most=1000)
        assert sum(pair.count for pair in pairs) == sum(not answer.right for answer in ANSWERS)
        assert [pair.count for pair in pairs] == sorted((pair.count for pair in pairs), reverse=True)
        for pair in pairs:
            mine = [answer for answer in ANSWERS if answer.true == pair.true]
            assert pair.count == sum(answer.predicted == pair.predicted for answer in mine)
            assert pair.share == pytest.approx(pair.count / len(mine))

    def test_errors_of_several_labels_are_those_of_the_multilabel_matrix(self):
        truth, logits = CHANCE.integers(0, 2, (80, 4)), CHANCE.normal(size=(80, 4))
        answers = answers_of([str(number) for number in range(80)], logits, truth, CLASSES[:4])
        missed, added = label_errors(answers)
        for number, ((_, wrong), (lost, _)) in enumerate(sk.multilabel_confusion_matrix(truth, logits >= 0)):
            assert (missed[CLASSES[number]], added[CLASSES[number]]) == (lost, wrong)

    def test_mistakes_come_surest_first(self):
        found = most_confident_mistakes(ANSWERS, 5)
        wrong = sorted((answer.score for answer in ANSWERS if not answer.right), reverse=True)
        assert [answer.score for answer in found] == wrong[:5]
        missed = Answer("a", "cat|dog", "cat", 0.6, 0.01)
        added = Answer("b", "cat", "cat|dog", 0.7, 0.9)
        assert most_confident_mistakes([added, missed], 2, multilabel=True) == [missed, added]
        # A class may have such a name where an image has one label.
        assert most_confident_mistakes([added, missed], 2) == [added, missed]

    def test_examples_are_mistakes_and_right_answers_of_different_classes(self):
        found = examples(ANSWERS, 6)
        assert [answer.right for answer in found] == [False, False, True, True, True, True]
        assert len({answer.true for answer in found[2:]}) == 4


class TestCalibration:
    def test_bins_are_counted_one_by_one(self):
        confidence = np.append(CHANCE.random(300), [0.0, 1.0, 1 / 15])
        right = CHANCE.random(303) < confidence
        found = reliability(confidence, right)
        error = 0.0
        for bin in found:
            last = bin.high > 1 - 1e-9
            mine = [i for i, each in enumerate(confidence) if bin.low <= each < bin.high or (last and each == 1)]
            assert bin.count == len(mine)
            assert bin.confidence == pytest.approx(np.mean([confidence[i] for i in mine]))
            assert bin.right == pytest.approx(np.mean([right[i] for i in mine]))
            error += abs(bin.confidence - bin.right) * bin.count / len(confidence)
        assert sum(bin.count for bin in found) == len(confidence)
        assert error == pytest.approx(calibration_error(confidence, right))

    def test_brier_is_summed_over_classes_one_by_one(self):
        shares = probabilities(LOGITS)
        slow = [
            sum((share[k] - (k == label)) ** 2 for k in range(6)) for share, label in zip(shares, LABELS, strict=True)
        ]
        assert brier(shares, LABELS) == pytest.approx(np.mean(slow))
        # Of two classes one is counted.
        two = probabilities(LOGITS[:, :2])
        assert brier(two, LABELS % 2) == pytest.approx(sk.brier_score_loss(LABELS % 2, two[:, 1]))


class TestDifferences:
    @given(st.integers(0, 60), st.integers(0, 60))
    def test_mcnemar_is_the_binomial_test(self, one: int, other: int):
        expected = binomtest(one, one + other, 0.5).pvalue if one + other else 1.0
        assert mcnemar(one, other) == pytest.approx(expected)

    def test_mcnemar_of_many(self):
        # The sum over all 1,160 discordant images in whole numbers: the test stays exact, whatever their number.
        tail = sum(math.comb(1160, each) for each in range(541))
        assert mcnemar(620, 540) == pytest.approx(2 * tail / 2**1160, rel=1e-9)

    @given(st.integers(0, 400), st.integers(1, 400))
    def test_wilson_is_scipys(self, right: int, images: int):
        right = min(right, images)
        expected = binomtest(right, images).proportion_ci(method="wilson")
        low, high = wilson(right, images)
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)

    def test_the_bootstrap_is_that_of_drawn_images(self):
        one, other = CHANCE.random(150) < 0.8, CHANCE.random(150) < 0.88
        found = paired(one, other)
        drawn = []
        for _ in range(4000):
            images = CHANCE.integers(0, 150, 150)
            drawn.append(other[images].mean() - one[images].mean())
        assert found.difference == pytest.approx(other.mean() - one.mean())
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.012)
        assert (found.only_first, found.only_second) == (int((one > other).sum()), int((other > one).sum()))

    def test_noise_is_not_read_as_gain(self):
        same = np.ones(100, bool)
        better = same.copy()
        better[:2] = False
        assert not paired(better, same).clear
        better[:20] = False
        assert paired(better, same).clear

    def test_only_images_in_common_are_compared(self):
        one = [Answer("a", "cat|dog", "cat", 0.9, 0.1), Answer("b", "cat", "cat", 0.9, 0.9)]
        other = [Answer("c", "dog", "dog", 0.9, 0.9), Answer("a", "dog|cat", "dog|cat", 0.8, 0.8)]
        common = in_common({"one": one, "other": other})
        assert [answer.image for answer in common.answers["other"]] == ["a"]
        assert disagreements(list(common.answers.values())) == [0]

    def test_disagreements_come_surest_first(self):
        names = ["a", "b", "c"]
        one = [Answer(name, "cat", "cat", score, score) for name, score in zip(names, (0.5, 0.9, 0.9), strict=True)]
        other = [
            Answer("a", "cat", "dog", 0.5, 0),
            Answer("b", "cat", "cat", 0.9, 0.9),
            Answer("c", "cat", "x", 0.9, 0),
        ]
        assert disagreements([one, other]) == [2, 0]


class TestFeatures:
    def test_agreement_is_that_of_the_nearest_neighbour(self):
        features, labels = CHANCE.normal(size=(40, 5)), CHANCE.integers(0, 3, 40)
        hits = 0
        for at in range(40):
            likeness = [
                features[at] @ features[i] / math.dist(features[at], [0] * 5) / math.dist(features[i], [0] * 5)
                if i != at
                else -2
                for i in range(40)
            ]
            hits += labels[int(np.argmax(likeness))] == labels[at]
        assert neighbour_agreement(features, labels) == pytest.approx(hits / 40)

    def test_of_several_labels_all_must_agree(self):
        rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        labels = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 0, 1]])  # all have the first
        assert neighbour_agreement(rows, labels) == 0.0

    def test_the_map_keeps_groups_and_repeats_itself(self):
        groups = np.repeat(np.arange(3), 20)
        features = CHANCE.normal(size=(60, 80)) + 20 * np.eye(3, 80)[groups]
        places = layout(features)
        assert (places == layout(features)).all()
        assert places.min() == 0
        assert places.max() == 1
        distance = ((places[:, None] - places[None]) ** 2).sum(-1) + np.eye(60) * 9
        assert (groups[distance.argmin(1)] == groups).all()

    def test_equal_features_do_not_break_it(self):
        assert np.isfinite(layout(np.ones((12, 4)))).all()

    @pytest.mark.parametrize("classes", [3, 30, 60])
    def test_the_map_has_a_legend_and_names_cover_no_other(self, classes: int):
        labels = np.repeat(np.arange(classes), 4)
        names = [f"a rather long name {number}" for number in range(classes)]
        for places in (CHANCE.uniform(size=(len(labels), 2)), np.full((len(labels), 2), 0.99)):
            chart = scatter(places, labels, np.zeros(len(labels), dtype=bool), names, "after training")
            texts = re.findall(r'<text x="([\d.-]+)" y="([\d.-]+)"[^>]*>([^<]+)</text>', str(chart.drawing))
            if classes > 40:
                assert not texts
                assert not chart.legend
                assert "60 classes" in chart.text
                continue
            assert [entry[1] for entry in chart.legend] == names
            assert len({(entry[0], entry[2]) for entry in chart.legend}) == classes  # a colour each
            assert texts
            for at, (x, y, name) in enumerate(texts):
                assert float(x) - 3.5 * len(name) >= 0
                assert float(x) + 3.5 * len(name) <= 400
                for other_x, other_y, _ in texts[:at]:
                    assert abs(float(x) - float(other_x)) >= 7 * len(name) - 1 or abs(float(y) - float(other_y)) >= 13

    def test_an_image_without_a_label_has_no_class_of_its_own(self):
        features = CHANCE.normal(size=(12, 4))
        labels = np.zeros((12, 2), dtype=int)
        labels[:4, 1] = 1
        body = str(features_section(None, features, labels, np.zeros(12, dtype=bool), ["cat", "dog"]).body)
        assert "</i>no label</li>" in body
        assert "</i>dog</li>" in body
        assert "</i>cat</li>" not in body

    @pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
    def test_umap_keeps_groups_and_repeats_itself(self):
        pytest.importorskip("umap")
        groups = np.repeat(np.arange(3), 20)
        features = CHANCE.normal(size=(60, 80)) + 20 * np.eye(3, 80)[groups]
        places = layout(features, "umap")
        assert (places == layout(features, "umap")).all()
        assert (places.min(), places.max()) == (0, 1)
        assert neighbour_agreement(places - places.mean(0), groups) > 0.9
        assert layout(features[:10], "umap").shape == (10, 2)

    @pytest.mark.parametrize(("images", "neighbours"), [(10, 9), (60, 15)])
    def test_what_umap_is_asked(self, monkeypatch: pytest.MonkeyPatch, images: int, neighbours: int):
        """No more neighbours than there are, a fixed seed, one thread (with more the seed would not hold)."""
        asked = []

        class UMAP:
            def __init__(self, **settings: int) -> None:
                asked.append(settings)

            def fit_transform(self, rows: np.ndarray) -> np.ndarray:
                return rows[:, :2] * 7 + 3

        monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
        features = CHANCE.normal(size=(images, 8)).astype(np.float32)
        places = layout(features, "umap", seed=5)
        assert asked == [{"n_neighbors": neighbours, "random_state": 5, "n_jobs": 1}]
        low, high = features[:, :2].min(0), features[:, :2].max(0)
        assert places == pytest.approx((features[:, :2] - low) / (high - low), abs=1e-5)


class TestBoxes:
    def test_overlaps_are_counted_in_pixels(self):
        some, others = (_whole_boxes(8) for _ in range(2))
        found = overlaps(some, others)
        for i, one in enumerate(some):
            for j, other in enumerate(others):
                mine, theirs = _pixels(one), _pixels(other)
                assert found[i, j] == pytest.approx(len(mine & theirs) / len(mine | theirs))

    def test_a_true_box_is_found_once_by_the_surest_of_its_class(self):
        wanted = [("cat", [0, 0, 10, 10]), ("dog", [20, 20, 30, 30])]
        predicted = [
            ("cat", 0.5, [0, 0, 10, 10]),
            ("cat", 0.9, [1, 0, 10, 10]),
            ("cat", 0.8, [20, 20, 30, 30]),
            ("dog", 0.7, [26, 26, 36, 36]),
        ]
        found = judge(predicted, wanted)
        assert found.right == [False, True, False, False]
        assert found.found == [True, False]
        assert found.errors == 4

    def test_a_crowd_is_neither_missed_nor_a_false_alarm(self):
        wanted = [("cat", [0, 0, 40, 40]), ("cat", [50, 50, 60, 60])]
        predicted = [("cat", 0.9, [5, 5, 15, 15]), ("cat", 0.8, [20, 20, 30, 30]), ("dog", 0.7, [20, 20, 30, 30])]
        found = judge(predicted, wanted, [True, False])
        assert found.right == [True, True, False]
        assert found.found == [True, False]

    @pytest.mark.parametrize(
        ("predicted", "wanted"), [([], []), ([("a", 0.9, [0, 0, 1, 1])], []), ([], [("a", [0] * 4)])]
    )
    def test_nothing_to_match(self, predicted: list, wanted: list):
        found = judge(predicted, wanted)
        assert found.errors == len(predicted) + len(wanted)


ROWS = [
    *({"kind": "step", "step": step, "loss": 1 / step, "lr": {"head": 0.1}} for step in range(1, 1001)),
    {"kind": "epoch", "step": 500, "train_loss": 2.0, "seconds": 4.0},
    {"kind": "epoch", "step": 1000, "train_loss": 1.0, "val_loss": 3.0, "seconds": 8.0},
]


class TestCurves:
    def test_steps_are_thinned_and_end_where_they_end(self):
        found = steps_of(ROWS, "loss")
        assert len(found) < 300
        assert found[0] == (1 / 500, 1.0)
        assert found[-1] == (2.0, 1 / 1000)
        assert all(value == pytest.approx(1 / (500 * epoch)) for epoch, value in found)
        assert steps_of(ROWS, "lr", "prompt") == []

    def test_epochs(self):
        assert epochs_of(ROWS, "train_loss") == [(1.0, 2.0), (2.0, 1.0)]
        assert epochs_of(ROWS, "val_loss") == [(2.0, 3.0)]

    @given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
    def test_ticks_are_round_and_inside(self, low: float, span: float):
        found = ticks(low, low + span)
        assert 2 <= len(found) <= 11
        assert all(low - span * 1e-6 <= each <= low + span * (1 + 1e-6) for each in found)


def test_what_was_not_measured_says_so():
    told = dict(cost_facts({}, []))
    assert set(told.values()) == {"not measured", "not recorded"}
    told = dict(cost_facts({"joules": 3600.0, "peak_bytes": 2_000_000, "seconds": 61.0}, ROWS))
    assert told["GPU energy"] == "1.00 Wh"
    assert told["peak memory during training"] == "2.00 MB"
    assert told["training time per epoch (median)"] == "6.0 s"


def _whole_boxes(count: int) -> np.ndarray:
    corners = CHANCE.integers(0, 12, (count, 2))
    return np.concatenate([corners, corners + CHANCE.integers(1, 9, (count, 2))], axis=1).astype(float)


def _pixels(box: np.ndarray) -> set[tuple[int, int]]:
    x1, y1, x2, y2 = box.astype(int)
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}
