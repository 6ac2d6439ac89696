"""Results as people show and save them: in notebooks, as pictures, as tables."""

from __future__ import annotations

import base64
import builtins
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vpt
from tests.helpers.paths import ROOT
from vpt.data.decode import BadImage
from vpt.inference.result import SHOWN, Result
from vpt.utils.errors import UserError

PHOTO = np.full((300, 600, 3), 128, np.uint8)
RESULTS: list[Result] = [
    vpt.Classification("a <b>.jpg", ("cat", "dog"), (0.75, 0.25)),
    vpt.Detections("a <b>.jpg", 600, 300, [(20, 40, 100, 200)], ["cat"], [0.75]),
    vpt.Segmentation("a <b>.jpg", (np.indices((300, 600))[1] > 300).astype(int), ["sky", "sea"], [0.75, 0.5]),
]


@pytest.fixture(params=RESULTS, ids=lambda result: type(result).__name__)
def result(request: pytest.FixtureRequest) -> Any:
    copy = pickle.loads(pickle.dumps(request.param))
    copy.read = PHOTO.copy
    return copy


def test_a_result_is_drawn_into_its_image(result: Result, tmp_path: Path):
    shown = np.asarray(result.plot())
    assert shown.shape[1] == 600
    assert (shown[:300] != PHOTO).any() or shown.shape[0] > 300
    np.testing.assert_array_equal(shown, result.plot(PHOTO))
    assert result.save(tmp_path / "a.png") == tmp_path / "a.png"
    with Image.open(tmp_path / "a.png") as saved:
        np.testing.assert_array_equal(shown, saved)
    result.save(tmp_path / "a.JPG")
    with Image.open(tmp_path / "a.JPG") as saved:
        assert saved.format == "JPEG"
    for name in ("a.txt", "a", "a.png.exe"):
        with pytest.raises(UserError, match="the ending of the file must be that of an image"):
            result.save(tmp_path / name)


def test_a_notebook_shows_the_image(result: Result):
    png = result._repr_png_()
    assert png is not None
    with Image.open(io.BytesIO(png)) as picture:
        assert (picture.format, max(picture.size) <= SHOWN) == ("PNG", True)
    page = result._repr_html_()
    assert "<b>" not in page
    assert "a &lt;b&gt;.jpg" in page
    with Image.open(io.BytesIO(base64.b64decode(page.partition("base64,")[2].partition('"')[0]))) as picture:
        assert picture.width == 600


def test_a_notebook_shows_lines_where_the_image_is_not_known(result: Result):
    result.read = None
    assert result._repr_png_() is None
    page = result._repr_html_()
    assert page.startswith("<pre>a &lt;b&gt;.jpg\n")
    assert any(word in page for word in ("cat 0.750", "sea 49.8 %"))
    with pytest.raises(UserError, match=r"a <b>.jpg: only `predict` of a model knows the image"):
        result.plot()


def test_json_is_the_dictionary(result: Result):
    assert json.loads(result.to_json()) == result.to_dict()


def test_frames_have_a_row_for_each_part_and_numbers(result: Any):
    pandas = pytest.importorskip("pandas")
    frame = result.to_pandas()
    assert tuple(frame.columns) == result.columns
    assert len(frame) == len(result.rows()) > 0
    assert frame["score"].iloc[0] == 0.75
    assert str(frame[result.columns[-1]].dtype) == "float64"
    if isinstance(result, vpt.Detections):
        empty = result.above(0.9).to_pandas()
        assert (len(empty), str(empty["score"].dtype)) == (0, "float64")
        assert len(pandas.concat([frame, empty])) == 1


def test_a_missing_pandas_is_named(result: Result, monkeypatch: pytest.MonkeyPatch):
    usual = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return usual(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match="pip install pandas"):
        result.to_pandas()


def test_a_model_is_called_with_images_and_its_results_know_them(tmp_path: Path):
    file = tmp_path / "a.png"
    Image.fromarray(PHOTO).save(file)
    model = vpt.load(ROOT / "tests" / "compat" / "0.1" / "artifacts" / "nano-deep.safetensors")
    of_file, of_array = model([file, PHOTO])
    assert of_file.labels == of_array.labels
    np.testing.assert_array_equal(of_file.plot(), of_array.plot())
    pickle.loads(pickle.dumps(of_file)).plot()
    file.unlink()
    with pytest.raises(BadImage, match="no such file"):
        of_file.plot()
    assert of_file._repr_html_().startswith("<pre>")


def test_parts_of_a_result_know_the_image():
    whole = vpt.Detections("a.jpg", 600, 300, [(20, 40, 100, 200), (0, 0, 9, 9)], ["cat", "dog"], [0.75, 0.2])
    whole.read = PHOTO.copy
    assert whole.above(0.5).plot().size == whole.plot().size
