"""Result of segmentation: the class of each pixel of an image."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from vpt.data.segmentation.run_lengths import pixel_counts, segments
from vpt.inference.result import Result
from vpt.utils.atomic_io import write_atomic
from vpt.utils.errors import UserError

if TYPE_CHECKING:
    import supervision


class Segment(NamedTuple):
    """The pixels of one class of a `Segmentation`."""

    mask: np.ndarray  # (H, W) bool
    label: str
    score: float
    class_id: int


class Segmentation(Result):
    """The class of each pixel of one image.

    Supports `len` and iteration over the classes that occur, as `Segment`s, and indexing by class: `found["cat"]` and
    `found[2]` are masks (H, W) bool.

    Args:
        image: name of the image.
        mask: (H, W) class indices.
        classes: names of all classes.
        scores: (K,) mean probability of each class over its pixels, from 0 to 1; default: ones.

    Attributes:
        mask: (H, W) uint8, read-only; copy it to change it.
        scores: (K,) float64; zero for classes without pixels.

    Raises:
        ValueError: indices that are no class, or scores of another number or out of range.

    >>> found = Segmentation("a.jpg", np.array([[0, 1, 1]]), ["sky", "sea"])
    >>> found.areas, found["sea"].tolist(), [segment.label for segment in found]
    ({'sky': 1, 'sea': 2}, [[False, True, True]], ['sky', 'sea'])
    """

    columns = ("image", "label", "score", "pixels", "fraction")

    def __init__(
        self,
        image: str,
        mask: np.ndarray,
        classes: Sequence[str],
        scores: Sequence[float] | np.ndarray | None = None,
    ) -> None:
        self.image, self.classes = image, tuple(classes)
        values = np.asarray(mask)
        if values.ndim != 2 or not values.size or not 0 <= values.min() <= values.max() < len(self.classes):
            raise ValueError(f"{image}: a mask must be (H, W) with classes from 0 to {len(self.classes) - 1}")
        self.mask = values.astype(np.uint8)
        self.counts = pixel_counts(self.mask, len(self.classes))
        given = np.ones(len(self.classes)) if scores is None else np.array(scores, dtype=np.float64)
        if given.shape != (len(self.classes),) or not ((given >= 0) & (given <= 1 + 1e-6)).all():
            raise ValueError(f"{image}: {len(self.classes)} classes need a score from 0 to 1 each")
        self.scores = given * (self.counts > 0)
        for array in (self.mask, self.counts, self.scores):
            array.setflags(write=False)

    @property
    def width(self) -> int:
        """Width of the image, in pixels."""
        return int(self.mask.shape[1])

    @property
    def height(self) -> int:
        """Height of the image, in pixels."""
        return int(self.mask.shape[0])

    @property
    def class_ids(self) -> np.ndarray:
        """Indices of the classes that occur, in ascending order."""
        return np.flatnonzero(self.counts)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes that occur."""
        return tuple(self.classes[index] for index in self.class_ids.tolist())

    @property
    def areas(self) -> dict[str, int]:
        """Number of pixels of each class that occurs."""
        return {self.classes[index]: int(self.counts[index]) for index in self.class_ids.tolist()}

    def __len__(self) -> int:
        return len(self.class_ids)

    def __getitem__(self, label: str | int) -> np.ndarray:
        if isinstance(label, str):
            if label not in self.classes:
                raise KeyError(label)
            label = self.classes.index(label)
        found: np.ndarray = self.mask == range(len(self.classes))[label]
        return found

    def __iter__(self) -> Iterator[Segment]:
        return (
            Segment(self[index], self.classes[index], float(self.scores[index]), index)
            for index in self.class_ids.tolist()
        )

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Convert to plain values for JSON: the classes that occur, with COCO's run-length encodings."""
        rows = segments(self.mask, self.classes, self.scores)
        return {"image": self.image, "width": self.width, "height": self.height, "segments": rows}

    def within(self, pixels: int) -> Segmentation:
        """The mask at a whole fraction of its size, every n-th pixel of every n-th row, if it has more pixels."""
        step = next(step for step in itertools.count(1) if -(-self.height // step) * -(-self.width // step) <= pixels)
        if step == 1:
            return self
        return Segmentation(self.image, self.mask[::step, ::step], self.classes, self.scores)

    def rows(self) -> list[tuple[object, ...]]:
        """A row for every class that occurs."""
        size = self.mask.size
        return [
            (self.image, self.classes[index], f"{self.scores[index]:.6f}", count, f"{count / size:.6f}")
            for index, count in ((index, int(self.counts[index])) for index in self.class_ids.tolist())
        ]

    def lines(self) -> list[str]:
        """All classes that occur in one line, the largest first."""
        order = sorted(self.areas.items(), key=lambda pair: -pair[1])
        return ["  ".join(f"{label} {100 * count / self.mask.size:.1f} %" for label, count in order)]

    def drawn(self, pixels: np.ndarray) -> np.ndarray:
        """The mask over the image (H, W, 3) uint8, with a legend; a small one is enlarged."""
        from vpt.metrics.segmentation_plots import drawn

        return drawn(pixels, self.mask, self.classes)

    def save_mask(self, path: str | Path) -> Path:
        """Write the mask as a PNG whose pixels are class indices, with Pascal VOC's colours as its palette."""
        from vpt.metrics.segmentation_plots import palette

        picture = Image.fromarray(self.mask)
        picture.putpalette(palette(256).tobytes())
        return write_atomic(path, lambda temporary: picture.save(temporary, format="PNG"))

    def to_coco(
        self, image_id: int | None = None, category_ids: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """Convert to entries of COCO's results format, one for each class that occurs.

        Args:
            image_id: id of the image in a COCO data set. The entries then contain ids, as read by pycocotools'
                `COCO.loadRes`; without it, they contain `file_name` and the class name instead.
            category_ids: class name -> id in that data set; classes that are not in it, such as a background, are left
                out. Default: 1 for the first class and so on.

        >>> Segmentation("a.jpg", np.array([[0, 1]]), ["sky", "sea"]).to_coco(image_id=7)[1]["segmentation"]
        {'size': [1, 2], 'counts': '11'}
        """
        ids = {name: number for number, name in enumerate(self.classes, 1)} if category_ids is None else category_ids
        rows = []
        for one in segments(self.mask, self.classes, self.scores):
            if one["label"] not in ids:
                continue
            place: dict[str, Any] = {"file_name": self.image, "category": one["label"]}
            if image_id is not None:
                place = {"image_id": image_id, "category_id": ids[one["label"]]}
            rows.append({**place, "segmentation": one["rle"], "score": one["score"]})
        return rows

    def to_supervision(self) -> supervision.Detections:
        """Convert to `supervision.Detections`, one for each class that occurs, with its mask and the box around it.

        Raises:
            UserError: the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise UserError("to_supervision needs the package supervision: pip install supervision") from None
        masks = np.stack([segment.mask for segment in self])
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks).astype(np.float32),
            mask=masks,
            confidence=self.scores[self.class_ids].astype(np.float32),
            class_id=self.class_ids.astype(np.int64),
            data={"class_name": np.array(self.labels, dtype=np.str_)},
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Segmentation):
            return NotImplemented
        same = (self.image, self.classes) == (other.image, other.classes)
        return same and np.array_equal(self.mask, other.mask) and np.array_equal(self.scores, other.scores)

    def __hash__(self) -> int:
        return hash((self.image, self.classes, self.mask.shape))

    def __repr__(self) -> str:
        return f"Segmentation({self.image!r}, {self.width}x{self.height}: {', '.join(self.labels)})"
