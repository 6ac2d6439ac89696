"""Result of detection: the boxes found in an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from vpt.inference.result import Result
from vpt.utils.errors import UserError

if TYPE_CHECKING:
    import supervision


class Box(NamedTuple):
    """One box of `Detections`."""

    box: np.ndarray  # (4,) float32: left, top, right and bottom, in pixels
    label: str
    score: float
    class_id: int


class Detections(Result):
    """Boxes found in one image, as numpy arrays.

    Supports `len`, iteration, and numpy indexing: `found[:10]`, `found[found.scores > 0.5]` and
    `found[found.class_ids == 2]` are `Detections`, `found[0]` is a `Box`.

    Args:
        image: name of the image.
        width: width of the image, in pixels.
        height: height of the image, in pixels.
        boxes: (N, 4) left, top, right and bottom of each box, in pixels.
        labels: the class of each box, as an index into `names`, or by its name.
        scores: (N,) score of each box, from 0 to 1.
        names: names of all classes. Default: those in `labels`, in order of first appearance.

    Attributes:
        boxes: (N, 4) float32.
        scores: (N,) float64, which represents float32 scores exactly and has Python floats as elements.
        class_ids: (N,) int64, indices into `names`.
        names: names of all classes.

    Arrays are read-only; copy them to change them.

    Raises:
        ValueError: values are not finite or out of range, or lists differ in length.

    >>> found = Detections("a.jpg", 20, 10, [(1, 2, 5, 6), (0, 0, 4, 4)], [1, 0], [0.9, 0.2], ["cat", "dog"])
    >>> found.boxes.shape, found.labels, found[found.scores > 0.5].labels
    ((2, 4), ('dog', 'cat'), ('dog',))
    >>> [(label, score) for _, label, score, _ in found]
    [('dog', 0.9), ('cat', 0.2)]
    """

    def __init__(
        self,
        image: str,
        width: int,
        height: int,
        boxes: Sequence[Sequence[float]] | np.ndarray,
        labels: Sequence[int] | Sequence[str] | np.ndarray,
        scores: Sequence[float] | np.ndarray,
        names: Sequence[str] | None = None,
    ) -> None:
        self.image, self.width, self.height = image, width, height
        if not len(boxes) == len(labels) == len(scores):
            raise ValueError(f"{image}: boxes, labels and scores differ in number")
        self.scores = as_scores(scores)
        with np.errstate(over="ignore"):  # a value too large for float32 is refused as infinite
            corners = np.array(boxes, dtype=np.float64).astype(np.float32)
        self.boxes = _frozen(corners if corners.size else corners.reshape(0, 4))
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"{image}: boxes must be (N, 4), found {self.boxes.shape}")
        sound = np.isfinite(self.boxes).all(1) & in_range(self.scores)
        if not sound.all():
            wrong = int(sound.argmin())
            raise ValueError(
                f"{image}: a box needs four finite numbers and a score from 0 to 1: "
                f"{self.boxes[wrong].tolist()}, {self.scores[wrong]}"
            )
        if (backwards := (self.boxes[:, 2:] < self.boxes[:, :2]).any(1)).any():
            raise ValueError(f"{image}: a box must not end before it starts: {self.boxes[backwards][0].tolist()}")
        self.names, ids = _classes(labels, names)
        self.class_ids = _frozen(ids)
        if len(ids) and not (ids.min() >= 0 and ids.max() < len(self.names)):
            raise ValueError(f"{image}: labels must be from 0 to {len(self.names) - 1}, found {ids.tolist()}")

    @property
    def labels(self) -> tuple[str, ...]:
        """The class name of each box."""
        return tuple(self.names[index] for index in self.class_ids.tolist())

    @property
    def boxes_xyxy(self) -> tuple[tuple[float, ...], ...]:
        """`boxes` as tuples of Python floats, their only form before version 0.2."""
        return tuple(tuple(box) for box in self.boxes.tolist())

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, index: int) -> Box: ...

    @overload
    def __getitem__(self, index: slice | np.ndarray | Sequence[int] | Sequence[bool]) -> Detections: ...

    def __getitem__(self, index: Any) -> Box | Detections:
        if isinstance(index, int | np.integer):
            name = self.names[self.class_ids[index]]
            return Box(self.boxes[index], name, float(self.scores[index]), int(self.class_ids[index]))
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.size == 0 and index.dtype != bool:
                index = index.astype(np.int64)  # an empty list is one of floats to numpy
        kept = self.boxes[index], self.class_ids[index], self.scores[index]
        part = Detections(self.image, self.width, self.height, *kept, self.names)
        part.read = self.read
        return part

    def __iter__(self) -> Iterator[Box]:
        return (self[index] for index in range(len(self)))

    def above(self, score: float) -> Detections:
        """Boxes with at least this score."""
        return self[self.scores >= score]

    columns = ("image", "label", "score", "x1", "y1", "x2", "y2")

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        return {
            "image": self.image,
            "width": self.width,
            "height": self.height,
            "boxes": [
                {"label": label, "score": round(score, 6), "box_xyxy": [round(value, 2) for value in box.tolist()]}
                for box, label, score, _ in self
            ],
        }

    def rows(self) -> list[tuple[object, ...]]:
        """A row for every box."""
        return [
            (self.image, label, f"{score:.6f}", *(f"{value:.2f}" for value in box)) for box, label, score, _ in self
        ]

    def lines(self) -> list[str]:
        """A line for every box."""
        corners = [" ".join(f"{value:.0f}" for value in box) for box in self.boxes]
        return [f"{one.label} {one.score:.3f}  {edges}" for one, edges in zip(self, corners, strict=True)] or [
            "no boxes"
        ]

    def drawn(self, pixels: np.ndarray) -> np.ndarray:
        """The boxes drawn into the image (H, W, 3) uint8; a small one is enlarged."""
        from vpt.metrics.detection_plots import draw_boxes, enlarged

        pixels, times = enlarged(pixels)
        captions = [f"{label} {score:.2f}" for label, score in zip(self.labels, self.scores, strict=True)]
        return draw_boxes(pixels, self.boxes * times, self.class_ids.tolist(), captions)

    def to_coco(
        self, image_id: int | None = None, category_ids: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """Convert to entries of COCO's results format, with boxes as left, top, width and height.

        Args:
            image_id: id of the image in a COCO data set. The entries then contain ids, as read by pycocotools'
                `COCO.loadRes`; without it, they contain `file_name` and the class name instead.
            category_ids: class name -> id in that data set. Default: 1 for the first class and so on, as in files
                written by `vpt data convert`.

        Raises:
            UserError: `category_ids` lacks the class of a box.

        >>> found = Detections("a.jpg", 20, 10, [(1, 2, 5, 6)], ["cat"], [0.9])
        >>> found.to_coco()
        [{'file_name': 'a.jpg', 'category': 'cat', 'bbox': [1.0, 2.0, 4.0, 4.0], 'score': 0.9}]
        >>> found.to_coco(image_id=7)
        [{'image_id': 7, 'category_id': 1, 'bbox': [1.0, 2.0, 4.0, 4.0], 'score': 0.9}]
        """
        ids = {name: number for number, name in enumerate(self.names, 1)} if category_ids is None else category_ids
        rows = []
        for box, label, score, _ in self:
            if image_id is None:
                place: dict[str, Any] = {"file_name": self.image, "category": label}
            elif label in ids:
                place = {"image_id": image_id, "category_id": ids[label]}
            else:
                raise UserError(f"category_ids has no id for class '{label}'")
            left, top, right, bottom = box.tolist()
            sides = [round(value, 3) for value in (left, top, right - left, bottom - top)]
            rows.append({**place, "bbox": sides, "score": round(score, 6)})
        return rows

    def to_supervision(self) -> supervision.Detections:
        """Convert to `supervision.Detections`, for its annotators, trackers and metrics, with class names in
        `data["class_name"]`.

        Raises:
            UserError: the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise UserError("to_supervision needs the package supervision: pip install supervision") from None
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.astype(np.float32),
            class_id=self.class_ids.copy(),
            data={"class_name": np.array(self.labels, dtype=np.str_)},
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        mine, theirs = (
            (each.image, each.width, each.height, each.labels, each.boxes.tolist(), each.scores.tolist())
            for each in (self, other)
        )
        return mine == theirs

    def __hash__(self) -> int:
        return hash((self.image, self.width, self.height, self.labels))

    def __repr__(self) -> str:
        return f"Detections({self.image!r}, {self.width}x{self.height}: {len(self)} boxes)"


def as_scores(values: Sequence[float] | np.ndarray) -> np.ndarray:
    return _frozen(np.array(values, dtype=np.float64))


def in_range(scores: np.ndarray) -> np.ndarray:
    return np.isfinite(scores) & (scores >= -1e-6) & (scores <= 1 + 1e-6)


def _frozen(values: np.ndarray) -> np.ndarray:
    values.setflags(write=False)
    return values


def _classes(
    labels: Sequence[int] | Sequence[str] | np.ndarray, names: Sequence[str] | None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names, and the index of each label in them."""
    if any(isinstance(label, str) for label in labels):
        known = tuple(dict.fromkeys(labels)) if names is None else tuple(names)
        place = {name: index for index, name in enumerate(known)}
        if unknown := [label for label in labels if label not in place]:
            raise ValueError(f"label {unknown[0]!r} is not among the class names")
        return known, np.array([place[label] for label in labels], dtype=np.int64)
    return tuple(names or ()), np.array(labels, dtype=np.int64)
