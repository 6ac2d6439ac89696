"""Base class of results of prediction, of an image each."""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from PIL import Image

from vpt.utils.atomic_io import write_atomic
from vpt.utils.errors import UserError
from vpt.utils.file_names import one_line
from vpt.utils.image_grid import rgb_of
from vpt.utils.plotting import data_uri

if TYPE_CHECKING:
    import pandas

SHOWN = 800  # pixels of the longer side in a notebook
_TEXTS, _COUNTS = ("image", "label", "decision", "unsure", "unknown"), ("rank", "pixels")  # the others are floats


class Result(ABC):
    """Base class of results, which `vpt predict` and the server show. `image` is the name of the image.

    A notebook shows a result as its image with the prediction drawn.
    """

    image: str
    columns: ClassVar[tuple[str, ...]]  # of `rows`, of every result of the type
    read: Callable[[], np.ndarray] | None = None  # reads the pixels of the image again

    @abstractmethod
    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Convert to plain values for JSON, with the scores of at most `top` classes if there is one for each."""

    @abstractmethod
    def rows(self) -> list[tuple[object, ...]]:
        """Rows of a CSV file."""

    @property
    def row_columns(self) -> tuple[str, ...]:
        """Names of the values in `rows`; default: `columns`."""
        return self.columns

    @abstractmethod
    def lines(self) -> list[str]:
        """Lines of a table, without the name of the image."""

    def above(self, score: float) -> Self:
        """Without parts that have a lower score; default: all."""
        return self

    def within(self, pixels: int) -> Self:
        """With images of at most that many pixels where it contains any; default: unchanged."""
        return self

    def drawn(self, pixels: np.ndarray) -> np.ndarray:
        """The result drawn into the image (H, W, 3) uint8, which may be enlarged."""
        raise NotImplementedError

    def plot(self, pixels: np.ndarray | None = None) -> Image.Image:
        """The image with the prediction drawn into it; a small one is enlarged.

        Args:
            pixels: the image (H, W, 3) uint8; default: it is read again from where `predict` found it.

        Raises:
            UserError: the image is not given and not known, or cannot be read any more (BadImage).
        """
        if pixels is None:
            if self.read is None:
                raise UserError(f"{self.image}: only `predict` of a model knows the image; give it: plot(pixels)")
            pixels = self.read()
        return Image.fromarray(self.drawn(rgb_of(pixels)))

    def save(self, path: str | Path, pixels: np.ndarray | None = None) -> Path:
        """Write the image that `plot` returns, in the format of the file's ending, and return the path.

        Raises:
            UserError: as in `plot`, or an ending that is no image format.
        """
        picture, kind = self.plot(pixels), Image.registered_extensions().get(Path(path).suffix.lower(), "")
        if kind not in Image.SAVE:
            raise UserError(f"{path}: the ending of the file must be that of an image, such as .png or .jpg")
        return write_atomic(path, lambda temporary: picture.save(temporary, format=kind))

    def to_json(self) -> str:
        """Convert to JSON, the text of `to_dict`."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_pandas(self) -> pandas.DataFrame:
        """Convert to a `pandas.DataFrame` with the rows of `vpt predict --format csv`; concatenate those of several
        images with `pandas.concat`.

        Raises:
            UserError: the package pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("to_pandas needs the package pandas: pip install pandas") from None
        types = {name: "int64" if name in _COUNTS else "float64" for name in self.row_columns if name not in _TEXTS}
        return pandas.DataFrame(self.rows(), columns=list(self.row_columns)).astype(types)

    def _repr_png_(self) -> bytes | None:
        """For notebooks: the drawn image as PNG, at most `SHOWN` pixels a side; None if it cannot be read."""
        try:
            picture = self.plot()
        except (UserError, NotImplementedError):
            return None
        picture.thumbnail((SHOWN, SHOWN))
        file = io.BytesIO()
        picture.save(file, "PNG")
        return file.getvalue()

    def _repr_html_(self) -> str:
        """For notebooks: the drawn image above its name, or the lines of a table if it cannot be read."""
        try:
            picture = self.plot()
        except (UserError, NotImplementedError):
            return f"<pre>{escape(one_line(self.image))}\n{escape(chr(10).join(map(one_line, self.lines())))}</pre>"
        picture.thumbnail((SHOWN, SHOWN))
        name, source = escape(one_line(self.image)), data_uri(np.asarray(picture), "JPEG", quality=90)
        return f'<figure style="margin:0"><img src="{source}" alt="{name}"><figcaption>{name}</figcaption></figure>'
