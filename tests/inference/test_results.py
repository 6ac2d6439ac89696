"""Results as arrays: indexing, filtering, and what supervision and pycocotools make of them."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest

from vpt.inference.classification import Classification
from vpt.inference.results import Box, Detections
from vpt.utils.errors import UserError

NAMES = ("cat", "dog", "fox")


@pytest.fixture
def found() -> Detections:
    boxes = [(1.0, 2.0, 5.5, 6.0), (0.0, 0.0, 4.0, 4.0), (3.0, 3.0, 20.0, 10.0)]
    return Detections("a.jpg", 20, 10, boxes, [1, 0, 1], np.array([0.9, 0.4, 0.3], np.float32), NAMES)


@pytest.fixture
def nothing() -> Detections:
    return Detections("b.jpg", 20, 10, (), (), (), NAMES)


def test_types_and_shapes(found: Detections, nothing: Detections):
    for result, count in ((found, 3), (nothing, 0)):
        assert (result.boxes.shape, result.boxes.dtype) == ((count, 4), np.float32)
        assert (result.scores.shape, result.class_ids.shape) == ((count,), (count,))
        assert result.class_ids.dtype == np.int64
        assert len(result) == count
        assert len(list(result)) == count


@pytest.mark.parametrize(
    ("index", "scores"),
    [
        (slice(None, 2), [0.9, 0.4]),
        (slice(None, None, -1), [0.3, 0.4, 0.9]),
        (np.array([True, False, True]), [0.9, 0.3]),
        ([False, False, False], []),
        ([2, 0], [0.3, 0.9]),
        (np.array([-1]), [0.3]),
        ([], []),
    ],
    ids=["slice", "reversed", "mask", "empty mask", "indices", "negative", "no index"],
)
def test_a_part_is_again_detections(found: Detections, index: object, scores: list[float]):
    part = found[index]  # type: ignore[call-overload]
    assert isinstance(part, Detections)
    assert part.scores.tolist() == pytest.approx(scores)
    assert (part.image, part.width, part.height, part.names) == ("a.jpg", 20, 10, NAMES)
    assert len(part.boxes) == len(part.labels) == len(scores)


def test_filters(found: Detections, nothing: Detections):
    assert found[found.class_ids == 1].labels == ("dog", "dog")
    assert found[found.scores > 0.35].labels == ("dog", "cat")
    assert nothing[nothing.scores > 0.35] == nothing
    with pytest.raises(IndexError):
        found[np.array([True, False])]


def test_a_threshold_is_compared_exactly(found: Detections):
    # 0.9 as float32 is a little below 0.9, and 0.3 a little above.
    assert found.above(0.9).labels == ()
    assert found.above(0.3).labels == ("dog", "cat", "dog")


def test_single_boxes(found: Detections):
    first = found[0]
    assert isinstance(first, Box)
    assert (first.label, first.class_id, first.box.tolist()) == ("dog", 1, [1.0, 2.0, 5.5, 6.0])
    assert type(first.score) is float
    assert [box.label for box in found] == ["dog", "cat", "dog"]
    assert found[np.int64(-1)].box.tolist() == found[2].box.tolist()
    with pytest.raises(IndexError):
        found[3]


def test_the_earlier_attributes_hold_plain_values(found: Detections):
    assert found.boxes_xyxy[0] == (1.0, 2.0, 5.5, 6.0)
    assert found.labels == ("dog", "cat", "dog")
    json.dumps([found.scores[0], found.boxes_xyxy])
    named = Detections("a.jpg", 20, 10, ((1.0, 2.0, 5.0, 6.0),), ("cat",), (0.9,))  # as version 0.1 made them
    assert (named.labels, named.names, named.class_ids.tolist()) == (("cat",), ("cat",), [0])
    assert named.to_dict()["boxes"] == [{"label": "cat", "score": 0.9, "box_xyxy": [1.0, 2.0, 5.0, 6.0]}]


def test_results_are_values(found: Detections):
    assert found == found[:]
    assert hash(found) == hash(found[:])
    assert found != found[:2]
    one, other = (Classification("a", ("cat", "dog"), (0.9, score)) for score in (0.1, 0.05))
    assert one == Classification("a", ("cat", "dog"), np.array([0.9, 0.1]))
    assert one != other
    with pytest.raises(ValueError, match="read-only"):
        found.boxes[0, 0] = 9
    source = np.array([0.9, 0.1])
    kept = Classification("a", ("cat", "dog"), source)
    source[:] = 0  # an array that was given may be used again
    assert kept.scores.tolist() == [0.9, 0.1]


@pytest.mark.parametrize(
    ("boxes", "labels", "scores", "said"),
    [
        ([(0, 0, 1, float("nan"))], [0], [0.5], "finite"),
        ([(0, 0, 1, 1e300)], [0], [0.5], "finite"),
        ([(0, 0, 1, 1)], [0], [1.5], "from 0 to 1"),
        ([(0, 0, 1, 1)], [0], [float("nan")], "from 0 to 1"),
        ([(2, 0, 1, 1)], [0], [0.5], "end before"),
        ([(0, 0, 1)], [0], [0.5], r"\(N, 4\)"),
        ([(0, 0, 1, 1)], [3], [0.5], "from 0 to 2"),
        ([(0, 0, 1, 1)], [-1], [0.5], "from 0 to 2"),
        ([(0, 0, 1, 1)], ["owl"], [0.5], "owl"),
        ([(0, 0, 1, 1)], [0, 1], [0.5], "differ in number"),
    ],
)
def test_boxes_that_cannot_be_are_refused(boxes: list, labels: list, scores: list, said: str):
    with pytest.raises(ValueError, match=said):
        Detections("a.jpg", 20, 10, boxes, labels, scores, NAMES)


def test_supervision_takes_them(found: Detections, nothing: Detections):
    supervision = pytest.importorskip("supervision")
    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections)
    np.testing.assert_array_equal(theirs.xyxy, found.boxes)
    np.testing.assert_array_equal(theirs.class_id, found.class_ids)
    assert theirs["class_name"].tolist() == list(found.labels)
    kept = theirs[theirs.confidence > 0.35].with_nms(threshold=0.5)
    assert kept["class_name"].tolist() == ["dog", "cat"]
    picture = supervision.BoxAnnotator().annotate(np.zeros((10, 20, 3), np.uint8), theirs)
    assert picture.any()
    assert not found.boxes.flags.writeable  # theirs is a copy of its own
    theirs.xyxy[:] = 0
    assert found.boxes.any()
    assert len(supervision.Detections.merge([theirs, nothing.to_supervision()])) == 3


def test_supervision_is_named_where_it_is_missing(found: Detections, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(UserError, match="pip install supervision"):
        found.to_supervision()


def test_pycocotools_measures_them(found: Detections, nothing: Detections):
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    ids = {"cat": 17, "dog": 18, "fox": 3}
    truth = [
        {"id": number, "image_id": 4, "category_id": ids[box.label], "iscrowd": 0}
        | {"bbox": [*box.box[:2].tolist(), *(box.box[2:] - box.box[:2]).tolist()]}
        | {"area": float(np.prod(box.box[2:] - box.box[:2]))}
        for number, box in enumerate(found, 1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        data = coco.COCO()
        data.dataset = {
            "info": {},
            "images": [{"id": 4, "file_name": "a.jpg", "width": 20, "height": 10}, {"id": 5, "file_name": "b.jpg"}],
            "categories": [{"id": number, "name": name} for name, number in ids.items()],
            "annotations": truth,
        }
        data.createIndex()
        rows = found.to_coco(4, ids) + nothing.to_coco(5, ids)
        json.dumps(rows)
        run = evaluation.COCOeval(data, data.loadRes(rows), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    assert run.stats[0] == pytest.approx(1.0)


def test_coco_ids(found: Detections):
    assert [row["category_id"] for row in found.to_coco(1)] == [2, 1, 2]
    assert "image_id" not in found.to_coco()[0]
    with pytest.raises(UserError, match="'dog'"):
        found.to_coco(1, {"cat": 1})
