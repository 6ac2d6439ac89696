"""`vpt predict --draw` for classifiers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.bank_tasks import make
from tests.helpers.photo import photo
from vpt.cli.main import main
from vpt.inference.classification import Classification


def test_classes_are_drawn_below_the_photo(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    artifact = make(tmp_path, "probe", 2)
    Image.fromarray(photo(600, 700)).save(tmp_path / "cat.png")
    words = ["predict", str(artifact), str(tmp_path / "cat.png"), "--draw", str(tmp_path / "drawn")]
    assert main([*words, "--top", "2", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)[0]["scores"]) == 2
    picture = np.asarray(Image.open(tmp_path / "drawn" / "0001-cat.png"))
    assert np.array_equal(picture[:600], photo(600, 700))
    assert picture.shape == (600 + 2 * 40, 700, 3)
    assert main([*words, "--score", "0.5"]) == 2
    assert "--score cannot be used with an artifact of task=classification" in capsys.readouterr().err
    assert main([*words, "--iou", "0.5"]) == 2
    assert "is for detection" in capsys.readouterr().err


def test_bars_are_as_long_as_scores():
    picture = Classification("a", ("cat", "dog"), (0.75, 0.25)).drawn(np.zeros((600, 600, 3), np.uint8))
    strip = picture[600:]
    blue = (strip == [0xCF, 0xE3, 0xF2]).all(2)
    assert abs(int(blue[2].sum()) - 451) <= 1
    assert abs(int(blue[42].sum()) - 151) <= 1
