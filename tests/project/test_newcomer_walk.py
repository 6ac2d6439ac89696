"""What somebody new types works: newcomer_walk.sh, on data as other tools write it, from a copy of the tracked files,
in bash and in zsh; and all that it types stands in the documentation."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import newcomer_data
from tests.helpers.fork_server import COMMAND
from tests.helpers.paths import ROOT

SCRIPT = ROOT / "tests" / "project" / "newcomer_walk.sh"
NAMES = newcomer_data.NAMES


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone contains: the tracked files of the package."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return ROOT
    folder = tmp_path_factory.mktemp("clone")
    files = subprocess.run(["git", "ls-files", "-z", "vpt"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in files.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def commands(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the command `vpt`, of the clone."""
    folder = tmp_path_factory.mktemp("bin")
    with tempfile.TemporaryDirectory() as short:  # a socket's path must be short
        place = f"{short}/s"
        (folder / "vpt").write_text(COMMAND.format(python=sys.executable, place=place))
        (folder / "vpt").chmod(0o755)
        environment = {**os.environ, "PYTHONPATH": str(clone), "XDG_CACHE_HOME": str(folder / "cache")}
        server = [sys.executable, "-P", str(ROOT / "tests" / "helpers" / "fork_server.py"), place]
        with subprocess.Popen(server, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == "ready\n"
                yield folder
            finally:
                process.kill()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The newcomer's folder, with four data sets and some new photos."""
    newcomer_data.class_folders(tmp_path / "flowers")
    newcomer_data.label_table(tmp_path / "tags" / "labels.csv")
    newcomer_data.voc(tmp_path / "VOC")
    newcomer_data.yolo(tmp_path / "yard")
    newcomer_data.class_folders(tmp_path / "new photos", count=1)
    (tmp_path / "new").mkdir()
    for file in (tmp_path / "new photos").glob("*/*.jpg"):
        shutil.copy(file, tmp_path / "new" / f"{file.parent.name} 1.jpg")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_walk(shell: str, commands: Path, place: Path):
    """In bash with exported files, in zsh without, for they take half of the time."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    words = ["zsh", "--no-rcs", str(SCRIPT), "quick"] if shell == "zsh" else ["bash", "--norc", str(SCRIPT)]
    environment = {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "XDG_CACHE_HOME": str(place)}
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr

    checked = {name: (place / f"check-{name}.txt").read_text() for name in ("flowers", "tags", "VOC", "yard")}
    assert "rose: 11 training images, 1 validation image\n" in checked["flowers"]
    assert "images are in the column 'filename', labels in the column 'labels'" in checked["tags"]
    assert "9 images without a label: none of the classes" in checked["tags"]
    assert "rose: 6 boxes in 6 training images, 2 boxes in 2 validation images" in checked["VOC"]
    assert "1 image with no label file, treated as background: images/train/002.jpg\n" in checked["yard"]
    assert "left out 1 box without area inside the image: images/train/001.jpg" in checked["yard"]
    assert "1 annotation file without an image: labels/train/removed.txt\n" in checked["yard"]
    for text in checked.values():
        preview = re.search(r"^preview of images with their \w+: (.+)$", text, flags=re.M)
        assert preview is not None
        Image.open(place / preview[1]).verify()

    runs = {folder.name for folder in (place / "runs").iterdir()}
    kinds = {"flowers": "deep", "tags": "deep", "VOC": "none", "yard": "none"}
    assert runs >= {f"{name}-vpt_nano-{kind}" for name, kind in kinds.items()}
    for name, kind in kinds.items():
        folder = place / "runs" / f"{name}-vpt_nano-{kind}"
        assert (folder / "artifact.safetensors").is_file()
        assert (folder / "report.html").stat().st_size > 10_000
    assert re.search(r"^accuracy +[01]\.\d{4}", (place / "eval-flowers.txt").read_text(), flags=re.M)

    with (place / "flowers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    photos = {f"{name} 1.jpg" for name in NAMES}
    assert {Path(row["image"]).name for row in rows} == photos
    for name in ("tags", "VOC", "yard"):
        assert {Path(row["image"]).name for row in json.loads((place / f"{name}.json").read_text())} == photos
    assert {file.suffix for file in (place / "drawn").iterdir()} <= {".jpg", ".png"}
    assert len(list((place / "drawn").iterdir())) == 3

    boxes = [
        annotation
        for file in (place / "VOC-coco" / "annotations").glob("*.json")
        for annotation in json.loads(file.read_text())["annotations"]
    ]
    assert len(boxes) == sum(file.read_text().count("<object>") for file in (place / "VOC" / "Annotations").iterdir())
    if shell == "zsh":
        return
    onnxruntime = pytest.importorskip("onnxruntime")
    for name in ("flowers", "yard"):
        session = onnxruntime.InferenceSession(place / f"{name}.onnx", providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0]
        shape = [side if isinstance(side, int) else 1 for side in given.shape]
        assert session.run(None, {given.name: np.zeros(shape, np.uint8)})


def test_all_that_is_typed_is_documented():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    lines = [shlex.split(line, comments=True) for line in SCRIPT.read_text().splitlines() if line.startswith("vpt ")]
    assert len(lines) > 15
    for words in lines:
        assert re.search(rf"\bvpt {words[1]}\b", text), words
        for word in words[2:]:
            key = word.partition("=")[0] if "=" in word else word
            if word.startswith("--") or "=" in word:
                assert re.search(rf"(?<![\w-]){re.escape(key)}(?![\w-])", text), word
