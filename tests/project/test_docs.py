"""The documentation holds: python examples run as one program a page; every `vpt` command line is held to the real
parsers and settings; the commands of the pages for newcomers run in order, on drawn photos, with a small backbone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.helpers.clip_models import register_tiny
from tests.helpers.doc_commands import (
    accepts,
    backbone_named,
    check,
    check_name,
    console_lines,
    inline_settings,
    kinds,
    vpt_words,
)
from tests.helpers.medical_files import dicom, npy
from tests.helpers.paths import ROOT
from tests.helpers.plugins import nothing_named, shown_files
from vpt.cli.main import main
from vpt.utils.errors import UserError

PAGES = sorted((ROOT / "docs").glob("**/*.md"))
ALL = [ROOT / "README.md", *PAGES]
CONFIGS = sorted((ROOT / "configs").glob("**/*.yaml"))

# Pages whose command lines run. The others are parsed and validated alone, for what they show needs a hub (clip.md,
# migrating.md, sweeps.md), several GPUs (scale.md), minutes (detection.md), or a server that stays
# (serving.md).
RUN = ("own-data.md", "segmentation.md", "medical.md", "other-answers.md", "README.md")
STAND_IN = {
    "vit_small_patch14_dinov2 backbone.image_size=224": "vpt_nano",
    "vit_small_patch14_dinov2": "vpt_nano",
    "data.folds=5": "data.folds=2",
}
QUICK = ["train.epochs=1", "data.workers=0"]


@pytest.fixture(autouse=True)
def _files_of_the_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands name classes of files that docs/adding-a-method.md shows."""
    folder = tmp_path_factory.mktemp("shown")
    with nothing_named() as patch:
        for name, text in shown_files().items():
            (folder / name).write_text(text, encoding="utf-8")
        patch.syspath_prepend(str(folder))
        yield


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:vpt|tests|benchmarks|configs|docs)/[\w./-]+)`", text)
    assert not [name for name in named if not (ROOT / name).exists()]
    links = [link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text) if link]
    assert not [link for link in links if not (page.parent / link).exists()]


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in PAGES if page.name != "README.md" and f"({page.name})" not in index]
    assert "docs/README.md" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_command_lines_are_real(page: Path):
    wrong = []
    for line in console_lines(page.read_text(encoding="utf-8")):
        words = vpt_words(line)
        try:
            if words is not None:
                check(words)
        except UserError as error:
            wrong.append(f"{line}: {error}")
    assert not wrong


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_config_opens_with_its_command(file: Path):
    first = file.read_text(encoding="utf-8").splitlines()[0]
    words = vpt_words(first.removeprefix("# "))
    assert words is not None
    assert str(file.relative_to(ROOT)) in words
    check(words)


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_settings_in_the_text_are_real(page: Path):
    wrong = []
    for words in inline_settings(page.read_text(encoding="utf-8")):
        if not accepts(words):
            wrong.append(" ".join(words))
            continue
        name = backbone_named(words)
        if name is not None and re.search("[a-z]", name) and "..." not in name:
            check_name(name)
    assert not wrong


def test_mistakes_in_documentation_are_noticed():
    for line in ("vpt train prompt.tokns=5", "vpt train backbone=vit_smal_patch16_224", "vpt predict", "vpt trian"):
        words = vpt_words(line)
        assert words is not None
        with pytest.raises(UserError):
            check(words)
    assert not accepts(["prompt.tokns=5"])
    assert not accepts(["prompt=deep", "prompt.words=x"])
    assert not accepts(["train.sede=N"])
    assert accepts(["train.seed=N"])
    page = "```console\nvpt train \\\n  a=1  # why\npip install x\n```\n"
    assert [vpt_words(line) for line in console_lines(page)] == [["train", "a=1"], None]
    assert inline_settings("`a=1 b.c=2`, `x`, `--a=1`\n```text\n`d=1`\n```\n") == [["a=1", "b.c=2"]]


def test_every_method_is_described():
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for section, names in kinds().items():
        if section != "train.optimizer":
            assert not [kind for kind in names if f"`{section}={kind}" not in text], section
    from vpt.config import BptPrompt, DeepPrompt, LabelMapHead

    for model, field in ((DeepPrompt, "init"), (BptPrompt, "init")):
        values = model.model_fields[field].annotation.__args__
        assert not [value for value in values if f"`prompt.init={value}`" not in text]
    methods = LabelMapHead.model_fields["method"].annotation.__args__
    assert not [value for value in methods if f"`{value}`" not in text and f"head.method={value}`" not in text]
    recipes = [str(file.relative_to(ROOT)) for file in CONFIGS if file.parent.name == "pixel"]
    assert not [recipe for recipe in recipes if f"`{recipe}`" not in text]


def draw(folder: Path) -> None:
    """Photos as the pages speak of them: class folders, two tables, new ones, and some made for testing alone."""
    chance = np.random.default_rng(0)

    def photo(path: Path, shade: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = chance.integers(0, 80, (40, 48, 3), dtype=np.uint8) + np.uint8(shade)
        Image.fromarray(pixels).save(path)

    rows, tags = ["path,label,split"], ["path,label"]
    for shade, name in ((10, "cat"), (90, "dog"), (170, "owl")):
        for number in range(12):
            photo(folder / "photos" / name / f"{number}.png", shade)
            rows.append(f"photos/{name}/{number}.png,{name},{'test' if number > 9 else 'train'}")
            tags.append(f"photos/{name}/{number}.png,{'sunny|beach' if number % 2 else 'sunny'}")
        photo(folder / "clinic" / name / "0.png", shade)
    ages = ["path,age"]
    for number in range(20):
        photo(folder / "faces" / f"{number}.png", 9 * number)
        ages.append(f"faces/{number}.png,{20 + 2.5 * number}")
        photo(folder / "grades" / ("mild", "moderate", "severe")[number % 3] / f"{number}.png", 70 * (number % 3))
        photo(folder / "wolves" / f"{number}.png", 230)
        photo(folder / "cells" / "images" / f"{number}.png", 60)
        mask = np.zeros((40, 48), np.uint8)
        mask[5 + number : 15 + number, 10:30] = 1
        (folder / "cells" / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(folder / "cells" / "masks" / f"{number}.png")
    (folder / "cells" / "classes.txt").write_text("background\ncell\n")
    for number in range(2):
        photo(folder / "new" / f"{number}.png", 100)
    archive(folder / "scans", 10)
    archive(folder / "new-scans", 1)
    for name, channel in (("normal", 3), ("tumour", 4)):
        for number in range(8):
            stain = chance.integers(0, 90, (40, 48, 5), dtype=np.uint8)
            stain[10:30, 10:30, channel] += 150
            npy(folder / "stains" / name / f"{number}.npy", stain)
    (folder / "photos.csv").write_text("\n".join(rows))
    (folder / "ages.csv").write_text("\n".join(ages))
    (folder / "tags.csv").write_text("\n".join(tags))


def archive(folder: Path, patients: int) -> None:
    """Files as an archive exports them: folders of patient, study and series, no extensions, an index, several transfer
    syntaxes, one radiograph inverted."""
    chance = np.random.default_rng(patients)
    for name, shade in (("ill", 2600), ("well", 900)):
        for patient in range(patients):
            for number in range(2):
                values = chance.integers(0, 800, (48, 40)).astype(np.uint16) + np.uint16(shade)
                inverted = {"photometric": "MONOCHROME1"} if patient == 1 else {}
                dicom(
                    folder / name / f"PA{patient:06d}" / "ST000000" / "SE000000" / f"IM{number:06d}",
                    4095 - values if inverted else values,
                    ImplicitVRLittleEndian if number else ExplicitVRLittleEndian,
                    bits=12,
                    PatientID=f"{name}-{patient}",
                    WindowCenter=2048,
                    WindowWidth=4096,
                    **inverted,
                )
        (folder / name / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")


def test_clip_on_ones_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The first part of docs/clip.md, with a CLIP of two layers."""
    page = (ROOT / "docs" / "clip.md").read_text(encoding="utf-8")
    part = page[page.index("## CLIP on my own folder") : page.index("## Learners")]
    draw(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    small = [f"backbone={register_tiny(tmp_path, 'tiny-own', 2)}", "backbone.pretrained=false", "data.workers=0"]
    ran = []
    for line in console_lines(part):
        words = [word for word in vpt_words(line) or [] if not word.startswith(("backbone=", "train.epochs="))]
        words += small if words[0] != "predict" else []
        words += ["train.epochs=1", "train.batch_size=8"] if words[0] == "train" else []
        assert main(words) == 0, f"{shlex.join(words)}: {capsys.readouterr().err}"
        ran.append(words[0])
    assert ran == ["eval"] * 3 + ["train"] * 4 + ["predict"]


@pytest.mark.parametrize("name", RUN)
def test_commands_run_in_order(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    page = ROOT / ("README.md" if name == "README.md" else f"docs/{name}")
    draw(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    ran = 0
    for line in console_lines(page.read_text(encoding="utf-8")):
        for hub, small in STAND_IN.items():
            line = line.replace(hub, small)
        words = vpt_words(line)
        if words is None:
            continue
        if words[0] == "train" and not any(word.startswith("resume=") for word in words):
            words += QUICK if any(word.startswith("data.shots=") for word in words) else [*QUICK, "data.shots=8"]
        assert main(words) == 0, f"{shlex.join(words)}: {capsys.readouterr().err}"
        ran += 1
    assert ran >= 4
