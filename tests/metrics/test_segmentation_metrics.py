"""Metrics of segmentation against a twin that counts pixel by pixel, and against torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from vpt.data.segmentation.dataset import IGNORE
from vpt.metrics.segmentation import SegmentationMeter, boundary_f

CLASSES = ("a", "b", "c", "d", "e")


def drawn(count: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    """Masks of blobs and predictions that are mostly right; class 3 is only predicted, class 4 never occurs."""
    chance = np.random.default_rng(0)
    found = []
    for _ in range(count):
        wanted = np.kron(chance.integers(0, 3, (5, 6)), np.ones((4, 4), int)).astype(np.uint8)
        predicted = np.where(
            chance.random(wanted.shape) < 0.8, np.roll(wanted, 1, 1), chance.integers(0, 4, wanted.shape)
        )
        wanted[chance.random(wanted.shape) < 0.1] = IGNORE
        found.append((predicted.astype(np.uint8), wanted))
    return found


def measured(pairs: list[tuple[np.ndarray, np.ndarray]], **settings: bool) -> SegmentationMeter:
    meter = SegmentationMeter(CLASSES, **settings)
    for predicted, wanted in pairs:
        meter.update(predicted, wanted)
    return meter


def test_counted_pixel_by_pixel():
    pairs = drawn()
    ious, dices, right, total = [], [], 0, 0
    for label in range(5):
        both = found = true = 0
        for predicted, wanted in pairs:
            for here, there in zip(predicted.flat, wanted.flat, strict=True):
                if there != IGNORE:
                    both += here == there == label
                    found += here == label
                    true += there == label
        right, total = right + both, total + true
        ious.append(both / (found + true - both) if found + true else math.nan)
        dices.append(2 * both / (found + true) if found + true else math.nan)
    result = measured(pairs).result()
    np.testing.assert_allclose(result.iou, ious)
    np.testing.assert_allclose(result.dice, dices)
    assert math.isnan(ious[4])
    assert ious[3] == 0
    assert result.miou == pytest.approx(sum(ious[:4]) / 4)
    assert result.mean_dice == pytest.approx(sum(dices[:4]) / 4)
    assert result.pixel_accuracy == pytest.approx(right / total)
    assert len(result.image_miou) == 4


def test_equal_to_torchmetrics():
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    pairs = drawn()
    predicted = torch.tensor(np.stack([one for one, _ in pairs])).long()
    wanted = torch.tensor(np.stack([mask for _, mask in pairs])).long()
    result = measured(pairs).result()
    settings = {"num_classes": 5, "ignore_index": IGNORE}
    ious = metrics.multiclass_jaccard_index(predicted, wanted, average="none", **settings)
    np.testing.assert_allclose(result.iou[:4], ious[:4], rtol=1e-5)
    f1 = metrics.multiclass_f1_score(predicted, wanted, average="none", **settings)
    np.testing.assert_allclose(result.dice[:4], f1[:4], rtol=1e-5)
    accuracy = metrics.multiclass_accuracy(predicted, wanted, average="micro", **settings)
    assert result.pixel_accuracy == pytest.approx(float(accuracy), rel=1e-5)
    matrix = metrics.multiclass_confusion_matrix(predicted, wanted, **settings)
    assert result.confusion.tolist() == matrix.tolist()


def edge(mask: np.ndarray, ignored: np.ndarray) -> set[tuple[int, int]]:
    found = set()
    for row, column in zip(*np.nonzero(mask & ~ignored), strict=True):
        for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            there = (int(row) + down, int(column) + right)
            inside = 0 <= there[0] < mask.shape[0] and 0 <= there[1] < mask.shape[1]
            if inside and not mask[there] and not ignored[there]:
                found.add((int(row), int(column)))
    return found


def slow_f(predicted: np.ndarray, wanted: np.ndarray, ignored: np.ndarray, tolerance: float) -> float:
    near = max(1.0, tolerance * math.hypot(*predicted.shape))
    edges = edge(predicted, ignored), edge(wanted, ignored)
    if not edges[0] and not edges[1]:
        return math.nan
    fractions = [
        sum(any(math.dist(one, other) <= near for other in others) for one in some) / len(some) if some else 0.0
        for some, others in (edges, edges[::-1])
    ]
    return 2 * fractions[0] * fractions[1] / sum(fractions) if sum(fractions) else 0.0


@pytest.mark.parametrize("tolerance", [0.0, 0.0075, 0.06])
def test_boundary_f_point_by_point(tolerance: float):
    for predicted, wanted in drawn():
        for label in range(5):
            got = boundary_f(predicted == label, wanted == label, wanted == IGNORE, tolerance)
            want = slow_f(predicted == label, wanted == label, wanted == IGNORE, tolerance)
            assert got == pytest.approx(want, nan_ok=True)


def test_boundary_f_of_a_shift():
    mask = np.zeros((200, 200), bool)
    mask[50:150, 50:150] = True
    nothing = np.zeros_like(mask)
    near = 0.0075 * math.hypot(200, 200)  # 2.1 pixels
    assert boundary_f(np.roll(mask, 2, 1), mask, nothing) == 1
    far = np.roll(mask, 5, 1)
    edges = [np.zeros_like(mask), np.zeros_like(mask)]
    for place, shape in zip(edges, (far, mask), strict=True):
        for row, column in edge(shape, nothing):
            place[row, column] = True
    precision = (distance_transform_edt(~edges[1])[edges[0]] <= near).mean()
    assert boundary_f(far, mask, nothing) == pytest.approx(precision)  # symmetric
    assert boundary_f(nothing, mask, nothing) == 0


def test_the_mean_of_boundaries_is_over_images_then_classes():
    pairs = drawn()
    each = [[boundary_f(p == label, w == label, w == IGNORE) for p, w in pairs] for label in range(4)]
    means = [float(np.nanmean(row)) for row in each]
    result = measured(pairs).result()
    np.testing.assert_allclose(result.boundary[:4], means)
    assert result.boundary_f == pytest.approx(np.mean(means))
    assert math.isnan(measured(pairs, boundaries=False).result().boundary_f)


def test_parts_merge_and_perfection():
    pairs = drawn()
    first, second = measured(pairs[:1]), measured(pairs[1:])
    first.merge(second)
    whole = measured(pairs).result()
    assert first.result().iou[:4] == whole.iou[:4]
    assert first.result().boundary_f == pytest.approx(whole.boundary_f)
    right = measured([(mask.clip(0, 2), mask) for _, mask in pairs]).result()
    assert (right.miou, right.mean_dice, right.pixel_accuracy, right.boundary_f) == (1, 1, 1, 1)


def test_nothing_to_measure_is_nan():
    meter = SegmentationMeter(CLASSES)
    meter.update(np.zeros((2, 2), np.uint8), np.full((2, 2), IGNORE, np.uint8))
    assert math.isnan(meter.result().miou)
    assert math.isnan(meter.result().pixel_accuracy)


@pytest.mark.parametrize(("predicted", "wanted"), [(5, 0), (0, 5), (0, 254)])
def test_values_that_are_no_class(predicted: int, wanted: int):
    with pytest.raises(ValueError, match="classes of 5 must be 0 to 4"):
        SegmentationMeter(CLASSES).update(np.full((2, 2), predicted), np.full((2, 2), wanted))
    with pytest.raises(ValueError, match="predicted"):
        SegmentationMeter(CLASSES).update(np.zeros((2, 2)), np.zeros((2, 3)))
