"""Measuring a finished artifact on data made for testing alone: all of it is measured, by the artifact's classes."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers import boxes
from tests.helpers.image_files import class_folders, save
from tests.helpers.runs import NET, QUIET
from vpt.cli.main import main
from vpt.config import load_config
from vpt.inference.evaluate import evaluate
from vpt.inference.load_model import load_model
from vpt.models.artifact import read_artifact, save_artifact
from vpt.training.run import train
from vpt.utils.errors import UserError

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 30), "blue": (30, 30, 200)}


def draw(root: Path, count: int, seed: int, names: dict[str, str] | None = None) -> Path:
    """`count` pictures of each colour in a folder of its name, or of the name that is given for it."""
    chance = np.random.default_rng(seed)
    for colour, rgb in COLOURS.items():
        name = colour if names is None else names.get(colour)
        for number in range(count if name is not None else 0):
            pixels = np.clip(np.array(rgb) + chance.normal(0, 5, (32, 32, 3)), 0, 255).astype(np.uint8)
            save(root / str(name) / f"n{number}.png", pixels)
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_net: None) -> Path:
    """A run that tells the three colours apart; its training data is beside it."""
    root = tmp_path_factory.mktemp("measured")
    draw(root / "col", 12, 0)
    words = [f"data={root / 'col'}", f"out={root}", "name=run", *NET, "prompt=none", "train.epochs=30"]
    result = train(load_config(overrides=[*words, "data.workers=0", "data.augment=none"]), QUIET)
    assert result.metrics["val"]["accuracy"] == 1.0
    assert read_artifact(result.folder).classes == ("blue", "green", "red")
    return result.folder


class Heard:
    """A console that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    warn = say

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def progress(self, *args: Any, **kwargs: Any) -> Any:
        return QUIET.progress(*args, **kwargs)


def measure(run: Path, split: str | None, *words: str) -> tuple[dict[str, Any], Heard]:
    heard = Heard()
    return evaluate(run, split, list(words), heard), heard  # type: ignore[arg-type]


def counts(found: dict[str, Any]) -> dict[str, int]:
    return {row["class"]: row["support"] for row in found["per_class"]}


@pytest.mark.parametrize("split", [None, "test", "val", "train"])
def test_a_folder_without_splits_is_measured_whole(trained: Path, tmp_path: Path, split: str | None) -> None:
    flat = draw(tmp_path / "flat", 5, 9)
    found, heard = measure(trained, split, f"data={flat}")
    assert counts(found) == {"blue": 5, "green": 5, "red": 5}
    assert found["accuracy"] == 1.0
    assert ("has no splits: all of its images are evaluated" in heard.text) == (split in ("val", "train"))
    assert "split 3 of" not in heard.text


def test_a_test_folder(trained: Path, tmp_path: Path) -> None:
    draw(tmp_path / "set" / "test", 5, 9)
    for split in (None, "test"):
        found, heard = measure(trained, split, f"data={tmp_path / 'set'}")
        assert (found["images"], found["accuracy"]) == (15, 1.0)
        assert "not evaluated" not in heard.text
    with pytest.raises(UserError, match="has no val images, but 15 test; choose with split=test"):
        measure(trained, "val", f"data={tmp_path / 'set'}")
    (tmp_path / "set" / "docs").mkdir()
    (tmp_path / "set" / "docs" / "a.txt").write_text("x")
    found, heard = measure(trained, None, f"data={tmp_path / 'set'}")
    assert found["images"] == 15
    assert "set: docs" in heard.text


def test_a_folder_of_several_splits(trained: Path, tmp_path: Path) -> None:
    draw(tmp_path / "train", 3, 8)
    draw(tmp_path / "test", 5, 9)
    found, heard = measure(trained, None, f"data={tmp_path}")
    assert found["images"] == 15
    assert f"not evaluated: 9 train images of {tmp_path} (split=train)" in heard.lines
    assert measure(trained, "train", f"data={tmp_path}")[0]["images"] == 9  # all of them: nothing is split off


def test_a_folder_with_validation_alone(trained: Path, tmp_path: Path) -> None:
    draw(tmp_path / "val", 2, 9)
    found, heard = measure(trained, None, f"data={tmp_path}")
    assert found["images"] == 6
    assert f"{tmp_path} has only val images, which are evaluated" in heard.lines


def test_a_single_class(trained: Path, tmp_path: Path) -> None:
    one = draw(tmp_path / "one", 5, 9, {"red": "red"})
    for split in ("train", None):
        found, _ = measure(trained, split, f"data={one}")
        assert counts(found) == {"blue": 0, "green": 0, "red": 5}
        assert found["accuracy"] == found["balanced_accuracy"] == 1.0


def test_a_table(trained: Path, tmp_path: Path) -> None:
    draw(tmp_path / "flat", 5, 9)
    rows = "".join(f"flat/{name}/n{i}.png,{name},test\n" for name in COLOURS for i in range(5))
    (tmp_path / "t.csv").write_text("path,label,split\n" + rows)
    assert measure(trained, "test", f"data={tmp_path / 't.csv'}")[0]["images"] == 15
    (tmp_path / "u.csv").write_text("path,label\n" + rows.replace(",test\n", "\n"))
    assert measure(trained, None, f"data={tmp_path / 'u.csv'}")[0]["images"] == 15
    (tmp_path / "m.csv").write_text("path,label,split\n" + rows.replace("n0.png,red,test", "n0.png,red,val"))
    found, heard = measure(trained, None, f"data={tmp_path / 'm.csv'}")
    assert found["images"] == 14
    assert "not evaluated: 1 val images" in heard.text


def test_a_place_of_its_own_for_the_split(trained: Path, tmp_path: Path) -> None:
    flat = draw(tmp_path / "flat", 5, 9)
    for words in ([f"data.test={flat}"], [f"data={flat}", f"data.test={flat}"]):
        assert measure(trained, "test", *words)[0]["images"] == 15
    assert measure(trained, "val", f"data.val={flat}")[0]["images"] == 15


def test_without_the_training_data(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = draw(tmp_path / "flat", 5, 9)
    artifact = shutil.copy(trained / "artifact.safetensors", tmp_path / "a.safetensors")
    monkeypatch.chdir(tmp_path)
    tree = read_artifact(artifact)
    assert Path(tree.config.data.path).is_dir()
    moved = Path(tree.config.data.path).rename(tmp_path / "moved")
    try:
        assert measure(trained, "test", f"data.test={flat}")[0]["images"] == 15
        assert measure(Path(artifact), "test", f"data.test={flat}")[0]["images"] == 15
        assert measure(Path(artifact), None, f"data={flat}")[0]["images"] == 15
        with pytest.raises(UserError, match=r"is not in a run folder .*data=PATH"):
            measure(Path(artifact), "val")
        # The data of the run in another place, split again as training split it.
        found, _ = measure(Path(artifact), "val", f"data={moved}", "data.val_fraction=0.1")
        assert found["images"] == 3
    finally:
        moved.rename(tree.config.data.path)


def test_the_runs_own_splits_are_as_training_made_them(trained: Path) -> None:
    assert measure(trained, "val")[0]["images"] == 3
    path = read_artifact(trained).config.data.path
    assert measure(trained, "val", f"data={path}/")[0]["images"] == 3
    assert measure(trained, "train", f"data={path}")[0]["images"] == 33
    with pytest.raises(UserError, match=r"has no test split; use split=train or split=val or set data\.test=FOLDER"):
        measure(trained, None)


def test_classes_are_the_artifacts_whatever_the_folder_holds(trained: Path, tmp_path: Path) -> None:
    """In a folder with other classes the numbers of the known ones would move."""
    both = draw(tmp_path / "both", 5, 9, {"red": "red", "green": "green", "blue": "azure"})
    found, heard = measure(trained, None, f"data={both}")
    assert counts(found) == {"blue": 0, "green": 5, "red": 5}
    assert found["accuracy"] == 1.0
    assert (
        "warning: images not evaluated, of classes that the artifact does not know: "
        "azure (5 images, first azure/n0.png)" in (heard.text)
    )
    none = draw(tmp_path / "none", 5, 9, {"red": "Red"})
    with pytest.raises(
        UserError, match=r"no image of a class .*Red \(5 images, .*did you mean 'red'\?\); .*knows blue, green, red"
    ):
        measure(trained, None, f"data={none}")


def test_class_names_in_another_unicode_form(tmp_path: Path, small_net: None) -> None:
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    assert composed != decomposed
    names = {"red": decomposed, "green": "green ", "blue": "blue\u200b"}
    train_on = draw(tmp_path / "train", 6, 0, names)
    words = [f"data={train_on}", f"out={tmp_path}", "name=run", *NET, "prompt=none", "train.epochs=1", "data.workers=0"]
    run = train(load_config(overrides=words), QUIET).folder
    assert read_artifact(run).classes == ("blue", composed, "green")
    flat = draw(tmp_path / "flat", 2, 1, {"red": composed, "green": "green", "blue": "blue"})
    assert counts(measure(run, None, f"data={flat}")[0]) == {"blue": 2, composed: 2, "green": 2}
    # An artifact of a version that took names as folders have them.
    model, artifact = load_model(run, device="cpu")
    model.head.requires_grad_(True)  # so that it is saved
    raw = ["blue\u200b", decomposed, "green "]
    old = save_artifact(tmp_path / "old.safetensors", model, artifact.config, raw)
    assert list(counts(measure(old, None, f"data={flat}")[0]).values()) == [2, 2, 2]
    assert list(counts(measure(old, "val", f"data={train_on}")[0]).values()) == [1, 1, 1]


def test_images_that_cannot_be_read(trained: Path, tmp_path: Path) -> None:
    flat = draw(tmp_path / "flat", 5, 9)
    (flat / "red" / "n0.png").write_bytes(b"rubbish")
    (flat / "red" / "z.png").symlink_to("/no/such.png")
    with pytest.raises(UserError, match=r"(?s)2 images cannot be used.*red/n0\.png.*red/z\.png"):
        measure(trained, None, f"data={flat}")
    found, heard = measure(trained, None, f"data={flat}", "data.on_bad=skip")
    assert found["images"] == 14
    assert "left out 2 images that cannot be used: red/n0.png, red/z.png" in heard.text


def test_training_images_among_those_measured_are_told(trained: Path, tmp_path: Path) -> None:
    own = Path(read_artifact(trained).config.data.path)
    (own.parent / "all").mkdir()
    (own.parent / "all" / "red").symlink_to(own / "red")
    heard = measure(trained, None, f"data={own / '..' / 'all'}")[1]
    assert "used for training or validation of the run" not in heard.text  # links lead out of what is compared
    heard = measure(trained, None, f"data.test={own}")[1]
    assert "36 of the 36 images were used for training or validation of the run" in heard.text


def test_the_command_line(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = draw(tmp_path / "flat", 5, 9)
    assert main(["eval", str(trained), f"data={flat}", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["images"] == 15
    assert "evaluating 3 classes, 0 training, 0 validation and 15 test images" in err
    assert main(["eval", str(trained), f"data={tmp_path / 'nowhere'}"]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_folders_called_as_splits_may_be_classes(small_net: None, tmp_path: Path) -> None:
    names = {"red": "test", "green": "val", "blue": "blue"}
    data = draw(tmp_path / "data", 6, 0, names)
    words = [f"data={data}", f"out={tmp_path}", "name=run", *NET, "prompt=none", "train.epochs=1", "data.workers=0"]
    run = train(load_config(overrides=words), QUIET).folder
    flat = draw(tmp_path / "flat", 2, 1, names)
    for name in ("test", "val"):  # images deeper than their class folders
        (flat / name / "deep").mkdir()
        for file in list((flat / name).glob("*.png")):
            file.rename(flat / name / "deep" / file.name)
    assert counts(measure(run, None, f"data={flat}")[0]) == {"blue": 2, "test": 2, "val": 2}


def test_several_labels(small_net: None, tmp_path: Path) -> None:
    draw(tmp_path / "pics", 6, 0)
    rows = [f"pics/{name}/n{i}.png,{name}|{'warm' if name == 'red' else 'cold'}" for name in COLOURS for i in range(6)]
    (tmp_path / "train.csv").write_text("path,label\n" + "\n".join(rows))
    words = [f"data={tmp_path / 'train.csv'}", f"out={tmp_path}", "name=run", *NET, "train.epochs=1", "data.workers=0"]
    run = train(load_config(overrides=words), QUIET).folder
    draw(tmp_path / "new", 2, 1)
    rows = [f"new/{name}/n{i}.png,{name}|fresh" for name in COLOURS for i in range(2)]
    (tmp_path / "test.csv").write_text("path,label\n" + "\n".join([*rows, "new/red/n0.png,red|fresh"]))
    found, heard = measure(run, None, f"data={tmp_path / 'test.csv'}")
    assert found["images"] == 6
    assert "labels ignored, of classes that the artifact does not know: fresh (6 images" in heard.text


# Boxes


def coco(folder: Path, split: str, count: int, categories: list[dict[str, Any]], seed: int) -> Path:
    chance = np.random.default_rng(seed)
    images, boxes = [], []
    for number in range(count):
        pixels = chance.integers(0, 60, (48, 64, 3), dtype=np.uint8)
        x, y = (int(value) for value in chance.integers(2, 30, 2))
        pixels[y : y + 16, x : x + 20] = (200, 40, 40)
        save(folder / "images" / split / f"{number}.png", pixels)
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 48})
        category = categories[number % len(categories)]["id"]
        boxes.append(
            {
                "id": number,
                "image_id": number,
                "category_id": category,
                "bbox": [x, y, 20, 16],
                "area": 320,
                "iscrowd": 0,
            }
        )
    file = folder / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return folder


def test_boxes_with_test_annotations_alone(tmp_path: Path, small_net: None) -> None:
    """The categories stand in another order, one of them is not known, and the training data is gone."""
    cat, dog, cow = ({"id": number, "name": name} for number, name in enumerate(("cat", "dog", "cow"), 1))
    coco(tmp_path / "set", "train", 8, [cat, dog], 0)
    words = ["task=detection", f"data={tmp_path / 'set'}", f"out={tmp_path}", "name=run", *NET, "head.size=64"]
    run = train(load_config(overrides=[*words, "train.epochs=1", "data.workers=0"]), QUIET).folder
    assert read_artifact(run).classes == ("cat", "dog")
    shutil.rmtree(tmp_path / "set")
    only = coco(tmp_path / "only", "test", 6, [dog, cow, cat], 1)
    found, heard = measure(run, "test", f"data={only}")
    assert {row["class"]: row["boxes"] for row in found["per_class"]} == {"cat": 2, "dog": 2}
    assert "warning: boxes not evaluated, of classes that the artifact does not know: cow (2 boxes)" in heard.text
    assert "evaluating 2 classes, 0 training, 0 validation and 6 test images" in heard.text
    file = only / "annotations" / "instances_test.json"
    for words in ([f"data.test={only}"], [f"data.test={file}"], [f"data={only}"]):
        assert measure(run, None, *words)[0]["per_class"] == found["per_class"]
    with pytest.raises(UserError, match="has no val images, but 6 test"):
        measure(run, "val", f"data={only}")
    # YOLO's layout, whose classes are numbers in an order of its own.
    boxes.yolo(tmp_path / "yolo", boxes.LINE, "test: images/train\nnames: [cow, dog, cat]\n")
    boxes.label(tmp_path / "yolo" / "labels" / "train" / "0.txt", "2" + boxes.LINE[1:])
    boxes.label(tmp_path / "yolo" / "labels" / "train" / "1.txt", "1" + boxes.LINE[1:])
    found, heard = measure(run, None, f"data={tmp_path / 'yolo'}")
    assert {row["class"]: row["boxes"] for row in found["per_class"]} == {"cat": 1, "dog": 1}
    assert "cow (1 box)" in heard.text


# Without training


def test_zero_shot_on_data_for_testing_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.helpers.clip_models import register_tiny

    name = register_tiny(tmp_path, "tiny-measured", 1)
    class_folders(tmp_path / "set" / "test", {"cat": 3, "dog": 2})
    words = [
        f"backbone={name}",
        "backbone.pretrained=false",
        "head=zeroshot",
        "prompt=none",
        f"data={tmp_path / 'set'}",
    ]
    assert main(["eval", *words, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert counts(found) == {"cat": 3, "dog": 2}


def test_zero_shot_runs_keep_their_names_where_a_folder_has_fewer(tmp_path: Path) -> None:
    """With the folder's names alone, a folder of one class would always be answered right."""
    from tests.helpers.clip_models import register_tiny

    name = register_tiny(tmp_path, "tiny-measured", 1)
    data = class_folders(tmp_path / "data", {"cat": 3, "dog": 3, "owl": 3})
    words = [f"backbone={name}", "backbone.pretrained=false", "head=zeroshot", f"data={data}", f"out={tmp_path}"]
    run = train(
        load_config(overrides=[*words, "name=run", "prompt=coop", "train.epochs=1", "data.workers=0"]), QUIET
    ).folder
    one = class_folders(tmp_path / "one", {"owl": 3}, seed=50)
    found, _ = measure(run, None, f"data={one}")
    assert counts(found) == {"cat": 0, "dog": 0, "owl": 3}
    other = class_folders(tmp_path / "other", {"owl": 3, "fox": 3}, seed=60)
    found, heard = measure(run, None, f"data={other}")
    assert counts(found) == {"fox": 3, "owl": 3}
    assert "the head uses the 2 class names of the data instead of the artifact's" in heard.lines


def test_images_are_not_opened_where_nothing_is_asked(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="outside any class folder"):
        from vpt.config import DataConfig
        from vpt.data.evaluation_data import EvaluationRequest, load_measured

        load_measured(DataConfig(path=str(tmp_path)), EvaluationRequest(None, ("a", "b")))
