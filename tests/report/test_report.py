"""`vpt report` on whole runs: what the page holds, what it says of what is missing, and that nothing gets out of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import vpt
from tests.helpers.reports import Page, report
from tests.helpers.runs import NET, QUIET, settings
from vpt.cli.main import main
from vpt.config import load_config
from vpt.metrics.predictions import read_answers
from vpt.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("small_net")
HOSTILE = '"><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def run(shapes: Path, small_net: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Deep prompts, and beside them the linear probe."""
    return vpt.train(settings(shapes, tmp_path_factory.mktemp("runs"), "compare=[none]"), QUIET).folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


class TestOneRun:
    def test_every_section_is_there(self, run: Path, tmp_path: Path):
        page = report(run, tmp_path / "page.html")
        assert list(page.sections)[1:] == [
            "curves", "classes", "mistakes", "calibration", "attention", "features", "cost", "settings",
        ]  # fmt: skip
        measured = json.loads((run / "metrics.json").read_text())["test"]
        right = round(measured["accuracy"] * 12)
        assert f"{right} of 12 test images are correct" in page.told("")
        assert "Not shown" not in page.text
        assert "deep (tokens 4, layers all, dropout 0.1)" in page.told("")
        assert f"{measured['loss']:.4f}" in page.told("calibration")
        assert "layer by layer" in page.told("attention")
        assert "before training: the backbone alone" in page.told("features")
        wrong = sum(not answer.right for answer in read_answers(run / "predictions-test.csv"))
        assert f"{wrong} of 12 answers are wrong" in page.told("mistakes")

    def test_the_linear_probe_changes_no_features(self, run: Path, tmp_path: Path):
        page = report(run / "compare-none", tmp_path / "page.html")
        assert "the features are those of the frozen backbone" in page.told("features")
        assert "to prompts" not in page.told("attention")

    def test_the_other_split(self, run: Path, tmp_path: Path):
        page = report(run, tmp_path / "page.html", split="val", model=False)
        assert "12 validation images" in page.told("")
        assert "attention" not in page.sections

    @pytest.mark.parametrize("words", [["tuning=bias", "prompt=none"], ["prompt=pixel", "prompt.size=4"]])
    def test_other_methods(self, shapes: Path, tmp_path: Path, words: list[str]):
        common = [f"data={shapes}", f"out={tmp_path}", "name=run", *NET, "train.epochs=1", *words]
        folder = vpt.train(load_config(overrides=common), QUIET).folder
        page = report(folder, tmp_path / "page.html")
        assert "before training: the backbone alone" in page.told("features")
        assert ("prompt" in page.sections) == ("prompt=pixel" in words)

    def test_a_network_without_a_sequence(self, shapes: Path, tmp_path: Path):
        words = [f"data={shapes}", f"out={tmp_path}", "name=run", "prompt=none", "train.epochs=1"]
        words += ["backbone=resnet10t", "backbone.pretrained=false", "backbone.image_size=32"]
        folder = vpt.train(load_config(overrides=words), QUIET).folder
        page = report(folder, tmp_path / "page.html")
        assert "Not shown: backbone resnet10t does not support attention maps" in page.told("attention")
        assert "t-SNE" in page.told("features")


class TestMissing:
    def test_data_that_is_gone(self, copy: Path, shapes: Path, tmp_path: Path):
        text = (copy / "config.yaml").read_text()
        (copy / "config.yaml").write_text(text.replace(str(shapes), "/no/such/folder"))
        page = report(copy, tmp_path / "page.html")
        assert "The images are not shown: there is no folder /no/such/folder" in page.told("mistakes")
        assert "Attention and features are not shown" in page.told("model")
        assert "expected calibration error" in page.told("calibration")
        moved = report(copy, tmp_path / "page.html", data=str(shapes))
        assert "attention" in moved.sections

    def test_an_artifact_that_is_damaged(self, copy: Path, tmp_path: Path):
        artifact = copy / "artifact.safetensors"
        artifact.write_bytes(artifact.read_bytes()[:-40])
        page = report(copy, tmp_path / "page.html")
        assert "artifact.safetensors" in page.told("")
        assert "the run has no artifact yet" in page.told("model")
        assert "metrics by class" in page.told("classes")

    def test_weights_that_are_gone(self, copy: Path, tmp_path: Path):
        page = report(copy, tmp_path / "page.html", weights=tmp_path / "gone.safetensors")
        assert "weights are not at" in page.told("model")

    def test_predictions_that_were_not_written_are_computed(self, copy: Path, run: Path, tmp_path: Path):
        (copy / "predictions-test.csv").unlink()
        assert report(copy, tmp_path / "a.html").told("mistakes") == report(run, tmp_path / "b.html").told("mistakes")
        assert "mistakes" not in report(copy, tmp_path / "c.html", model=False).sections

    def test_an_interrupted_run(self, copy: Path, tmp_path: Path):
        for name in ("metrics.json", "artifact.safetensors", "predictions-test.csv", "predictions-val.csv"):
            (copy / name).unlink()
        lines = (copy / "log.jsonl").read_text().splitlines(keepends=True)
        (copy / "log.jsonl").write_text("".join(lines[:8]) + lines[8][:10])
        page = report(copy, tmp_path / "page.html")
        assert "Not finished: 1 of 3 epochs completed." in page.told("")
        assert "validation" in page.told("curves")
        assert "not measured" in page.told("cost")
        (copy / "log.jsonl").write_text("".join(lines[:2]))
        assert "step" in report(copy, tmp_path / "page.html").told("curves")
        (copy / "log.jsonl").unlink()
        assert "nothing was logged" in report(copy, tmp_path / "page.html").told("curves")

    def test_damaged_files_are_named(self, copy: Path, tmp_path: Path):
        (copy / "metrics.json").write_text('{"test": ')
        (copy / "predictions-test.csv").write_text("image,true\na,b\n")
        page = report(copy, tmp_path / "page.html")
        assert "metrics.json cannot be read" in page.told("")
        assert "predictions-test.csv cannot be read" in page.told("")

    @pytest.mark.parametrize(
        ("wishes", "said"),
        [
            ({"split": "train"}, "split=train does not exist"),
            ({"images": -1}, "must not be negative"),
            ({"map": "umap"}, r"pip install 'visual-prompt-tuning\[umap\]'"),
        ],
    )
    def test_wishes_that_cannot_be_met(
        self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wishes: dict, said: str
    ):
        monkeypatch.setattr("vpt.report.embedding_map.find_spec", lambda name: None)
        with pytest.raises(UserError, match=said):
            report(run, tmp_path / "page.html", **wishes)

    def test_no_run(self, tmp_path: Path):
        with pytest.raises(UserError, match="not a run folder"):
            report(tmp_path, tmp_path / "page.html")


def test_hostile_names_are_only_text(tmp_path: Path):
    chance = np.random.default_rng(0)
    for number, name in enumerate((HOSTILE, "{{ 7*7 }}", "plain")):
        for split in ("train", "val", "test"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for count in range(4):
                pixels = chance.integers(0, 99, (32, 32, 3), dtype=np.uint8) + 50 * number
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"'onload=alert(2) {count}<script>.png")
    words = [f"data={tmp_path / 'data'}", f"out={tmp_path}", f"name={HOSTILE}", *NET, "train.epochs=1"]
    one = vpt.train(load_config(overrides=words), QUIET).folder
    other = vpt.train(load_config(overrides=[*words, "name=b", "prompt=none"]), QUIET).folder
    for page in (report(one, tmp_path / "one.html"), report([one, other], tmp_path / "two.html")):
        assert HOSTILE in page.text
        assert "{{ 7*7 }}" in page.text
        assert "49" not in page.told("classes").split()


def test_several_labels_an_image(tmp_path: Path):
    chance = np.random.default_rng(0)
    rows = ["path,label,split"]
    for number in range(48):
        labels = [name for name in ("cat", "dog", "owl") if chance.random() < 0.5] or ["cat"]
        pixels = np.zeros((32, 32, 3), np.uint8)
        for at, name in enumerate(("cat", "dog", "owl")):
            pixels[..., at] = 200 if name in labels else chance.integers(0, 60, (32, 32))
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'|'.join(labels)},{('train', 'val', 'test')[number % 3]}")
    (tmp_path / "data.csv").write_text("\n".join(rows) + "\n")
    words = [f"data={tmp_path / 'data.csv'}", f"out={tmp_path}", "name=run", *NET, "train.epochs=1"]
    folder = vpt.train(load_config(overrides=words), QUIET).folder
    page = report(folder, tmp_path / "page.html")
    assert "Not shown" not in page.text
    assert "false positives" in page.told("classes")
    assert "has exactly the same labels" in page.told("features")
    assert "labels correct" in page.told("calibration")
    other = vpt.train(load_config(overrides=[*words, "name=other", "prompt=none"]), QUIET).folder
    assert "all its labels" in report([folder, other], tmp_path / "two.html").told("differences")
    (tmp_path / "data.csv").unlink()
    assert "Not shown: runs do not store the scores" in report(folder, tmp_path / "page.html").told("calibration")


class TestSeveralRuns:
    def test_they_are_compared(self, run: Path, tmp_path: Path):
        page = report([run, run / "compare-none"], tmp_path / "page.html")
        assert list(page.sections)[1:] == [
            "runs", "curves", "differences", "disagreements", "classes", "cost", "settings",
        ]  # fmt: skip
        assert "On the same 12 images" in page.told("differences")
        assert "has the highest accuracy" in page.told("")

    def test_a_run_against_itself(self, run: Path, copy: Path, tmp_path: Path):
        page = report([run, copy], tmp_path / "page.html")
        assert "both are correct on the same images" in page.told("differences")
        assert "disagree on 0 of 12 images" in page.told("disagreements")

    def test_another_truth_is_not_compared(self, run: Path, copy: Path, tmp_path: Path):
        file = copy / "predictions-test.csv"
        file.write_text(file.read_text().replace(",square,", ",standing,"))
        page = report([run, copy], tmp_path / "page.html")
        assert "evaluated on different data" in page.told("differences")

    def test_other_pictures_of_the_same_names_are_not_compared(self, run: Path, copy: Path, tmp_path: Path):
        settings = yaml.safe_load((run / "config.yaml").read_text())
        moved = tmp_path / "moved"
        shutil.copytree(settings["data"]["path"], moved)
        settings["data"]["path"] = str(moved)
        (copy / "config.yaml").write_text(yaml.safe_dump(settings))
        assert "both are correct on the same images" in report([run, copy], tmp_path / "page.html").told("differences")
        for picture in (moved / "test").rglob("*.png"):
            Image.new("RGB", (8, 8)).save(picture)
        page = report([run, copy], tmp_path / "page.html")
        assert "they were evaluated on different data" in page.told("differences")
        assert "as there are no predictions by image" in page.told("")
        shutil.rmtree(moved)
        assert "which cannot be compared" in report([run, copy], tmp_path / "page.html").told("differences")

    def test_with_one_unfinished(self, run: Path, copy: Path, tmp_path: Path):
        for name in ("metrics.json", "artifact.safetensors", "predictions-test.csv"):
            (copy / name).unlink()
        page = report([run, copy], tmp_path / "page.html")
        assert "not finished" in page.told("runs")
        assert "fewer than two of the runs" in page.told("differences")


def test_the_command(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(run), "--no-model", "--images", "1"]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert Page(run / "report.html").attributes("alt").count("") == 0
    (run / "report.html").unlink()
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(run), str(run / "compare-none"), "--no-model"]) == 0
    assert (tmp_path / "report.html").is_file()
    assert main(["report", str(tmp_path)]) == 2
    assert "not a run folder" in capsys.readouterr().err
    assert main(["report", str(run), "--images", "-3"]) == 2


def test_scores_beside_scikit_learn(run: Path, tmp_path: Path):
    """The table of classes on the page is scikit-learn's report of the answers the run wrote."""
    from sklearn.metrics import classification_report

    answers = read_answers(run / "predictions-test.csv")
    found = classification_report(
        [one.true for one in answers], [one.predicted for one in answers], output_dict=True, zero_division=0.0
    )
    text = report(run, tmp_path / "page.html", model=False).told("classes")
    for name in ("lying", "square", "standing"):
        row = found[name]
        cells = [f"{100 * row[key]:.1f}%" for key in ("precision", "recall", "f1-score")]
        assert f"{name}{int(row['support'])}{''.join(cells)}" in text
