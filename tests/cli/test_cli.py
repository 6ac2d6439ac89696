"""The command line: quick to start, one clear sentence for every mistake, pure results on stdout."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vpt.cli.main import main

SMALL = ["backbone=vpt_nano", "prompt.tokens=2", "train.epochs=1", "train.batch_size=12", "data.augment=none"]


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    assert main(["train", f"data={shapes}", f"out={out}", "name=shapes", *SMALL]) == 0
    return out / "shapes"


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a mistake is answered with: exit code 2, nothing on stdout, no traceback."""
    capsys.readouterr()
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    err = err[err.index("vpt: ") :]
    assert "Traceback" not in err
    return err


def test_help_needs_no_heavy_import():
    code = (
        "import sys, vpt, vpt.cli.main\n"
        "try: vpt.cli.main.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'numpy', 'pydantic', 'yaml', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "vpt train configs/quickstart.yaml" in done.stdout


def test_predicting_imports_nothing_that_only_training_needs(trained: Path, tmp_path: Path):
    """Each of these takes a fifth of a second or more."""
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    code = (
        "import sys, vpt\n"
        f"vpt.load({str(trained)!r}, device='cpu').predict({str(tmp_path / 'photo.png')!r})\n"
        "spare = {'albumentations', 'cv2', 'scipy', 'sklearn', 'matplotlib', 'tensorboard', 'torchmetrics'}\n"
        "sys.exit(f'imports {spare & set(sys.modules)}' if spare & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_public_names_are_there():
    import vpt

    assert all(getattr(vpt, name) is not None for name in vpt.__all__)
    assert set(vpt.__all__) <= set(dir(vpt))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vpt.nothing


def test_train_prints_the_run_folder(trained: Path):
    assert (trained / "artifact.safetensors").is_file()


@pytest.mark.parametrize("form", ["json", "csv", "table"])
def test_predict(trained: Path, shapes: Path, capsys: pytest.CaptureFixture[str], form: str):
    capsys.readouterr()
    assert main(["predict", str(trained), str(shapes / "test" / "square"), "--format", form, "--top", "2"]) == 0
    out = capsys.readouterr().out
    if form == "json":
        found = json.loads(out)
        assert [Path(row["image"]).name for row in found] == ["0.png", "1.png", "2.png", "3.png"]
        assert all(len(row["scores"]) == 2 for row in found)
    elif form == "csv":
        lines = list(csv.DictReader(io.StringIO(out)))
        assert len(lines) == 8
        assert {line["label"] for line in lines} <= {"lying", "square", "standing"}
    else:
        assert len(out.splitlines()) == 4


def test_predict_names_what_it_cannot_read_and_goes_on(trained: Path, shapes: Path, tmp_path: Path, capsys):
    (tmp_path / "a.png").write_bytes((shapes / "test" / "square" / "0.png").read_bytes())
    (tmp_path / "b.png").write_bytes(b"not a picture")
    capsys.readouterr()
    assert main(["predict", str(trained), str(tmp_path), "--format", "json"]) == 1
    out, err = capsys.readouterr()
    assert [Path(row["image"]).name for row in json.loads(out)] == ["a.png"]
    assert "b.png" in err
    (tmp_path / "a.png").unlink()
    assert main(["predict", str(trained), str(tmp_path)]) == 2


def test_predict_takes_from_a_folder_what_training_takes(shapes: Path, tmp_path: Path):
    from vpt.data.datasets.image_folder import read_folder
    from vpt.inference.image_inputs import find_images
    from vpt.utils.errors import UserError

    picture = (shapes / "test" / "square" / "0.png").read_bytes()
    names = ("b.JFIF", "a.png", ".hidden.png", "._a.png", "notes.txt", "deeper/c.qoi", ".thumbnails/d.png")
    for name in names:
        for folder in ("photos/cat", "photos/dog"):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "e.png").write_bytes(picture)
    (tmp_path / "photos" / "cat" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "cat" / "deeper" / "loop").symlink_to(tmp_path / "photos" / "cat")
    found = [path for _, path in find_images(tmp_path / "photos")]
    assert found == sorted(entry.source for entry in read_folder(tmp_path / "photos").splits["train"])
    assert [path.name for path in found] == ["a.png", "b.JFIF", "c.qoi", "e.png", "a.png", "b.JFIF", "c.qoi"]
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"none contains no images; found only \.txt"):
        find_images(tmp_path / "none")


def test_predict_writes_a_file_whole(trained: Path, shapes: Path, tmp_path: Path, capsys):
    target = tmp_path / "out.json"
    words = ["predict", str(trained), f"{shapes}/test/*/0.png", "--format", "json", "--output", str(target)]
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out == ""
    assert len(json.loads(target.read_text())) == 3


def test_predict_in_python_equals_the_command_line(trained: Path, shapes: Path, capsys):
    import vpt

    path = shapes / "test" / "lying" / "0.png"
    capsys.readouterr()
    main(["predict", str(trained), str(path), "--format", "json"])
    printed = json.loads(capsys.readouterr().out)[0]["scores"]
    predictor = vpt.load(trained)
    with Image.open(path) as picture:
        by_picture = predictor.predict(picture)[0]
    assert {
        label: round(score, 6) for label, score in zip(by_picture.labels, by_picture.scores, strict=True)
    } == printed
    import numpy as np

    batch = predictor.predict([path, np.asarray(Image.open(path))], batch_size=1)
    assert batch[0].scores.tolist() == batch[1].scores.tolist() == by_picture.scores.tolist()


def test_eval(trained: Path, capsys):
    capsys.readouterr()
    assert main(["eval", str(trained), "split=val", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    stored = json.loads((trained / "metrics.json").read_text())["val"]
    assert found["accuracy"] == stored["accuracy"]
    assert main(["eval", str(trained)]) == 0
    assert "standing" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["shapes-lr=0.1", "a=b.safetensors"])
@pytest.mark.parametrize("inside", [False, True], ids=["from without", "from within"])
def test_runs_and_artifacts_whose_names_look_like_settings(
    trained: Path, shapes: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, name: str, inside: bool
):
    words = ["split=val", "--format", "json"]
    if name.endswith(".safetensors"):
        shutil.copy(trained / "artifact.safetensors", tmp_path / name)
        words.append(f"data={shapes}")  # an artifact alone leads to no folder
    else:
        shutil.copytree(trained, tmp_path / name)
    monkeypatch.chdir(tmp_path if inside else tmp_path.parent)
    capsys.readouterr()
    assert main(["eval", name if inside else f"{tmp_path.name}/{name}", *words]) == 0
    stored = json.loads((trained / "metrics.json").read_text())["val"]
    assert json.loads(capsys.readouterr().out)["accuracy"] == stored["accuracy"]


def test_files_whose_names_look_like_settings(trained: Path, shapes: Path, tmp_path: Path, capsys):
    config = tmp_path / "lr=0.1.yaml"
    config.write_text("prompt: {tokens: 7}\n")
    assert main(["config", "show", str(config)]) == 0
    assert "tokens: 7" in capsys.readouterr().out
    (tmp_path / "set=1").symlink_to(shapes)
    assert main(["data", "check", str(tmp_path / "set=1")]) == 0
    assert "no such run folder or artifact" in told(capsys, "eval", str(tmp_path / "lr=0.2"), "split=val")
    assert f"--root {tmp_path}/a=b: no such folder" in told(
        capsys, "bench", "run", "vtab", "--root", f"{tmp_path}/a=b", "train.epochs=1"
    )


def test_data_check(shapes: Path, tmp_path: Path, capsys):
    assert main(["data", "check", str(shapes)]) == 0
    assert "60 images checked" in capsys.readouterr().out
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (9, 9), (number, 90, 90)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "broken.jpg" in capsys.readouterr().out


def test_config_and_backbones(capsys):
    assert main(["config", "show", "configs/quickstart.yaml", "prompt.tokens=7"]) == 0
    assert "tokens: 7" in capsys.readouterr().out
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["prompt"]
    assert main(["backbones", "*dinov3*"]) == 0
    assert "vit_base_patch16_dinov3.lvd1689m" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vpt ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "did you mean 'train'?"),
        (["train", "nonsense"], "as in data=nonsense"),
        (["train", "missing.yaml"], "cannot read the config missing.yaml"),
        (["train", "promt=deep"], "unknown key 'promt'; did you mean 'prompt'?"),
        (["train", "prompt=depe"], "did you mean 'deep'?"),
        (["train", "train.epochs=many"], "train.epochs=many: input should be a valid integer"),
        (["train", "data=/nowhere/at/all"], "/nowhere/at/all"),
        (["train", "resume=/nowhere"], "is not a run folder"),
        (["train", "data=torchvision:CIFAR11"], "did you mean"),
        (["train", "backbone=vit_smal_patch16_224"], "did you mean 'vit_small_patch16_224'"),
        (["train", "backbone=vpt_nano", "backbone.image_size=60"], "use 56 or 64"),
        (["predict", "/nowhere", "x.jpg"], "there is no such file"),
        (["predict"], "the following arguments are required"),
        (["eval", "/nowhere"], "no such run folder or artifact"),
        (["eval", "/nowhere", "split=tset"], "did you mean 'test'?"),
        (["backbones", "*resnext*"], "no backbone matches"),
        (["data", "check", "/nowhere"], "/nowhere"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], words: list[str], sentence: str):
    assert sentence in told(capsys, *words)


def test_mistakes_of_data(tmp_path: Path, capsys):
    (tmp_path / "one").mkdir()
    assert str(tmp_path) in told(capsys, "train", f"data={tmp_path}")
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "a.png")
    told(capsys, "train", f"data={tmp_path}")
    (tmp_path / "empty").mkdir()
    assert "empty" in told(capsys, "train", f"data={tmp_path}")


def test_every_mistake_is_told_at_once(capsys):
    text = told(capsys, "train", "prompt.tokns=1", "train.epocs=2", "data.resize=stretch")
    assert all(word in text for word in ("tokens", "epochs", "squash"))


def test_settings_that_do_nothing_are_told_when_measuring(trained: Path, capsys):
    text = told(
        capsys, "eval", str(trained), "prompt=shallow", "train.epochs=3", "data.augment=none", "data.val_shots=2"
    )
    assert "prompt.kind, train.epochs, data.augment would have no effect" in text
    assert "leave them out" in text
    assert "train.epochs would have no effect" in told(capsys, "eval", "head=zeroshot", "prompt=none", "train.epochs=3")
    assert "no such file" in told(capsys, "eval", "head=zeroshot", "prompt=none", "--weights", "/nowhere.pth")
    assert "prompt.tokns" in told(capsys, "eval", str(trained), "prompt.tokns=3")


def test_an_artifact_of_another_backbone(trained: Path, shapes: Path, capsys):
    text = told(capsys, "eval", str(trained), "backbone.name=vit_tiny_patch16_224", "backbone.pretrained=false")
    assert "vpt_nano" in text


def test_a_damaged_artifact(trained: Path, shapes: Path, tmp_path: Path, capsys):
    damaged = tmp_path / "damaged.safetensors"
    content = bytearray((trained / "artifact.safetensors").read_bytes())
    content[-50] ^= 1
    damaged.write_bytes(bytes(content))
    assert "is damaged" in told(capsys, "predict", str(damaged), str(shapes / "test"))


def test_a_bug_is_one_sentence_and_exit_code_one(monkeypatch, capsys):
    monkeypatch.setattr("vpt.config.load_config", lambda *_: 1 / 0)
    assert main(["config", "show"]) == 1
    err = capsys.readouterr().err
    assert "This is a bug in vpt" in err
    assert "Traceback" not in err
    with pytest.raises(ZeroDivisionError):
        main(["config", "show", "--debug"])


def test_interrupted(monkeypatch, capsys):
    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vpt.config.load_config", interrupt)
    assert main(["config", "show"]) == 130
    assert capsys.readouterr().err == "\nvpt: interrupted\n"
    monkeypatch.setattr("vpt.cli.sweep.file_and_overrides", interrupt)
    assert main(["sweep"]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_from_source_it_runs_all_the_same(monkeypatch: pytest.MonkeyPatch):
    """A training that ends on a machine where vpt is not installed keeps its artifact."""
    from importlib import metadata

    from vpt.utils.version import own_version

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert own_version() == "source"
