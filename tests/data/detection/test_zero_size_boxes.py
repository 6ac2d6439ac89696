"""Boxes without area are named and left out, in every format, and conversion makes none of them larger."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.boxes import change, coco, label, picture, xml, yolo
from vpt.cli.main import main
from vpt.config import DataConfig
from vpt.data.dataset import LabelledData
from vpt.data.detection.registry import load_boxes


def read(folder: Path) -> dict[str, list[tuple[float, ...]]]:
    data: LabelledData = load_boxes(DataConfig(path=str(folder), join_val=True))
    return {Path(record.name).stem: list(record.boxes) for record in data.train}  # type: ignore[attr-defined]


def written(form: str, folder: Path) -> None:
    """Two images with a box of 20x10 pixels each; the first has a second box without width."""
    if form == "voc":
        for number, more in enumerate([[("cat", 30, 5, 30, 20)], []]):
            picture(folder / "JPEGImages" / f"{number}.jpg")
            xml(folder / "Annotations" / f"{number}.xml", f"{number}.jpg", [("cat", 6, 6, 25, 15), *more])
    elif form == "yolo":
        yolo(folder, count=2)
        for number, more in enumerate(["0 0.4 0.3 0 0.2\n", ""]):
            label(folder / "labels" / "train" / f"{number}.txt", f"0 0.2 0.2 0.3 0.2\n{more}")
    else:
        coco(folder, ["0.jpg", "1.jpg"])
        change(
            folder, lambda tree: tree["annotations"].append({**tree["annotations"][0], "id": 99, "bbox": [9, 9, 0, 9]})
        )


@pytest.mark.parametrize("form", ["voc", "yolo", "coco"])
def test_boxes_without_area_are_named_and_not_converted(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "boxes"
    written(form, folder)
    before = read(folder)
    assert main(["data", "check", str(folder), "task=detection", "data.join_val=true"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "without area" in line)
    assert line.startswith("left out 1 box without area inside the image: ")
    assert "0.jpg" in line
    for target in ("coco", "voc", "yolo"):
        words = ["data", "convert", str(folder), "data.join_val=true", "--to", target]
        assert main([*words, "--output", str(tmp_path / target)]) == 0
        after = read(tmp_path / target)
        assert {name: len(boxes) for name, boxes in after.items()} == {
            name: len(boxes) for name, boxes in before.items()
        }
        for name, boxes in after.items():
            for one, other in zip(boxes, before[name], strict=True):
                assert one == pytest.approx(other, abs=1e-3)


def test_boxes_that_voc_cannot_represent_are_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A box narrower than a pixel had its corners in the wrong order, and was read as a wider one."""
    folder = tmp_path / "boxes"
    coco(folder, ["0.jpg", "1.jpg"])
    thin = [[9, 9, 0.5, 9], [20, 9, 1, 9], [30, 9, 9, 0.2]]

    def add(tree: dict) -> None:
        tree["annotations"] += [
            {**tree["annotations"][0], "id": 90 + number, "bbox": box} for number, box in enumerate(thin)
        ]

    change(folder, add)
    before = read(folder)
    assert max(map(len, before.values())) == 4
    words = ["data", "convert", str(folder), "data.join_val=true", "--to", "voc", "--output", str(tmp_path / "voc")]
    assert main(words) == 0
    assert "left out 3 boxes at most one pixel wide or high, which voc cannot represent: " in capsys.readouterr().out
    assert {name: len(boxes) for name, boxes in read(tmp_path / "voc").items()} == {"0": 1, "1": 1}
