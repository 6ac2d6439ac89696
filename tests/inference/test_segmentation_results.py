"""Masks as results: classes, areas, exchange formats, and the files of `vpt predict`."""

from __future__ import annotations

import csv
import io
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import vpt
from tests.helpers.mask_runs import CLASSES, mask_settings, squares
from tests.helpers.runs import QUIET
from vpt.cli.main import main
from vpt.data.segmentation.run_lengths import encode, mask_of, segments
from vpt.inference.segmentation import Segmentation
from vpt.inference.segmenter import MaskPredictor
from vpt.models.segmentation.read_out import read_out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = squares(tmp_path_factory.mktemp("squares"))
    words = ["train.epochs=4", "data.augment=none", "head=linear_segmentation"]
    return vpt.train(mask_settings(data, tmp_path_factory.mktemp("runs"), *words), console=QUIET).folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = squares(tmp_path_factory.mktemp("photos"), 5)
    return folder / "images" / "val" / "4.png"


def drawn_masks() -> list[np.ndarray]:
    chance = np.random.default_rng(0)
    small = [np.zeros((3, 4), bool), np.ones((3, 4), bool), np.eye(5, dtype=bool), np.ones((1, 1), bool)]
    wide = chance.random((300, 400)) > 0.5
    blob = np.zeros((700, 900), bool)
    blob[100:600, 200:850] = True
    return [*small, wide, ~np.eye(64, dtype=bool), blob]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pycocotools under numpy 2
def test_run_lengths_are_those_of_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    for mask in drawn_masks():
        found = encode(mask)
        assert found == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        back = coco.decode({"size": list(mask.shape), "counts": found.encode()})
        assert np.array_equal(back.astype(bool), mask)


def test_segments_and_back():
    mask = np.random.default_rng(1).integers(0, 4, (37, 53)).astype(np.uint8)
    rows = segments(mask, ["a", "b", "c", "d", "e"])
    assert [row["label"] for row in rows] == ["a", "b", "c", "d"]
    assert np.array_equal(mask_of(rows, ["a", "b", "c", "d", "e"]), mask)


@pytest.mark.parametrize("at_once", [1, 40 * 30 * 3, 1 << 25])
def test_reading_classes_in_parts_is_the_same(at_once: int):
    torch.manual_seed(0)
    scores = torch.randn(7, 5, 4)
    wanted = torch.randint(0, 7, (40, 30), dtype=torch.uint8)
    wanted[:3] = 255
    whole = F.interpolate(scores[None], (40, 30), mode="bilinear", align_corners=False)
    found = read_out(scores, (40, 30), wanted, at_once)
    assert torch.equal(found.labels.long(), whole.argmax(1)[0])
    torch.testing.assert_close(found.probability, whole.softmax(1).amax(1)[0])
    loss = F.cross_entropy(whole, wanted.long()[None], ignore_index=255, reduction="none")[0]
    torch.testing.assert_close(found.loss, loss, atol=1e-5, rtol=1e-5)


class TestResult:
    mask = np.array([[0, 0, 2], [0, 2, 2]])

    def found(self) -> Segmentation:
        return Segmentation("a.png", self.mask, ["sky", "sea", "road"], [0.9, 0.0, 0.5])

    def test_classes(self):
        found = self.found()
        assert len(found) == 2
        assert found.labels == ("sky", "road")
        assert found.areas == {"sky": 3, "road": 3}
        assert found["road"].tolist() == found[2].tolist() == (self.mask == 2).tolist()
        assert not found["sea"].any()
        assert [(one.label, one.score, one.class_id) for one in found] == [("sky", 0.9, 0), ("road", 0.5, 2)]
        assert (found.width, found.height) == (3, 2)
        assert found == self.found()
        assert found != Segmentation("a.png", 2 - self.mask, ["sky", "sea", "road"])
        with pytest.raises(KeyError):
            found["car"]
        with pytest.raises(ValueError, match="read-only"):
            found.mask[0, 0] = 1

    @pytest.mark.parametrize("mask", [np.zeros(3), np.zeros((0, 2)), np.full((2, 2), 3), np.full((2, 2), -1)])
    def test_what_is_no_mask(self, mask: np.ndarray):
        with pytest.raises(ValueError, match="classes from 0 to 2"):
            Segmentation("a.png", mask, ["a", "b", "c"])

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_coco(self):
        rows = self.found().to_coco(image_id=3, category_ids={"road": 9})
        assert [(row["image_id"], row["category_id"], row["score"]) for row in rows] == [(3, 9, 0.5)]
        coco = pytest.importorskip("pycocotools.mask")
        rle = rows[0]["segmentation"]
        assert np.array_equal(coco.decode({**rle, "counts": rle["counts"].encode()}), self.mask == 2)

    def test_supervision(self):
        pytest.importorskip("supervision")
        found = self.found().to_supervision()
        assert np.array_equal(found.mask[1], self.mask == 2)
        assert found.data["class_name"].tolist() == ["sky", "road"]
        assert found.xyxy[1].tolist() == [1, 0, 2, 1]


def test_the_model_predicts_at_the_size_of_the_image(trained: Path, photo: Path):
    predictor = vpt.load(trained)
    with Image.open(photo) as opened:
        pixels = np.array(opened.convert("RGB"))
    tall = np.array(Image.fromarray(pixels).resize((90, 200)))
    together = predictor.predict([pixels, tall, pixels])
    assert [one.mask.shape for one in together] == [(32, 48), (200, 90), (32, 48)]
    assert np.array_equal(together[0].mask, together[2].mask)
    (alone,) = predictor.predict([tall])
    assert np.array_equal(alone.mask, together[1].mask)


def test_the_command_line_writes_every_form(trained: Path, photo: Path, tmp_path: Path, capsys):
    (found,) = vpt.load(trained).predict(photo)
    folders = [str(tmp_path / "drawn"), str(tmp_path / "masks")]
    words = ["predict", str(trained), str(photo), "--draw", folders[0], "--masks", folders[1]]
    assert main([*words, "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["width"], row["height"]) == (48, 32)
    assert np.array_equal(mask_of(row["segments"], CLASSES), found.mask)
    with Image.open(next((tmp_path / "masks").iterdir())) as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.array(mask), found.mask)
    with Image.open(next((tmp_path / "drawn").iterdir())) as drawn:
        assert drawn.size[0] >= 512
    assert main(["predict", str(trained), str(photo), "--format", "coco"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["category"] for row in rows] == list(found.labels)
    assert main(["predict", str(trained), str(photo), "--format", "csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [int(row["pixels"]) for row in table] == list(found.areas.values())
    assert main(["predict", str(trained), str(photo)]) == 0
    assert "background" in capsys.readouterr().out
    assert main(["predict", str(trained), str(photo), "--score", "0.5"]) == 2
    assert "--score cannot be used with an artifact of task=segmentation" in capsys.readouterr().err


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of masks that existed whenever one was made."""
    counts: list[int] = []
    masks: set[int] = set()
    usual = MaskPredictor._result

    def made(*given: object) -> Segmentation:
        found = usual(*given)  # type: ignore[arg-type]
        masks.add(id(found))
        weakref.finalize(found, masks.discard, id(found))
        counts.append(len(masks))
        return found

    monkeypatch.setattr(MaskPredictor, "_result", made)
    return counts


@pytest.mark.parametrize("form", ["table", "json", "csv", "coco"])
def test_results_of_a_folder_are_written_one_by_one(
    trained: Path, form: str, tmp_path: Path, alive: list[int], capsys: pytest.CaptureFixture[str]
):
    """All masks of the folder were kept until the last one."""
    folder = squares(tmp_path / "photos", 9) / "images"
    more = ["--draw", f"{tmp_path}/drawn", "--masks", f"{tmp_path}/masks", "--batch-size", "4"]
    capsys.readouterr()
    assert main(["predict", str(trained), str(folder), "--format", form, *more]) == 0
    shown = capsys.readouterr().out
    assert len(alive) == 9
    assert max(alive) <= 3
    assert len(list((tmp_path / "drawn").iterdir())) == len(list((tmp_path / "masks").iterdir())) == 9
    found = vpt.load(trained)(folder)
    if form in ("json", "coco"):
        rows = [one.to_dict() for one in found] if form == "json" else [row for one in found for row in one.to_coco()]
        assert shown == json.dumps(rows, indent=2) + "\n"
    elif form == "csv":
        assert list(csv.reader(io.StringIO(shown)))[1:] == [[*map(str, row)] for one in found for row in one.rows()]
    else:
        assert [line.split()[0] for line in shown.splitlines()] == [one.image for one in found]


def test_a_stream_predicts_when_results_are_needed(trained: Path, tmp_path: Path, alive: list[int]):
    folder = squares(tmp_path, 9) / "images"
    model = vpt.load(trained)
    whole = model(folder)
    alive.clear()
    stream = model(folder, batch_size=4, stream=True)
    assert alive == []
    first = next(stream)
    assert len(alive) == 1
    assert [first, *stream] == whole
    del first
    alive.clear()
    assert [one.image for one in model(folder, batch_size=4, stream=True)] == [one.image for one in whole]
    assert max(alive) - len(whole) <= 2
    with pytest.raises(vpt.UserError, match="there is no such file"):
        model(tmp_path / "absent", stream=True)
