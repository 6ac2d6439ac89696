"""`vpt data check` on class folders and tables: what is read and left out is counted, and the counts add up to the
files or rows, on trees that hypothesis makes."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vpt.cli.main import main

KINDS = ["good", "good", "good", "deep", "broken", "link", "repeated", "hidden", "hidden folder", "text", "outside"]
PLACES = ["train", "val", "test", "beside"]
TOLD = {"hidden folder": "hidden", "text": "not images", "hidden": "hidden", "outside": "outside class folders"}
TREES = st.lists(
    st.tuples(
        st.sampled_from(["train", "val", "test", "beside"]), st.sampled_from(["cat", "dog"]), st.sampled_from(KINDS)
    ),
    max_size=12,
)
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def picture(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 3), (number % 250, number // 250, 7)).save(path)
    return path


def write(root: Path, tree: list[tuple[str, str, str]], divided: bool) -> Counter[str]:
    """The files of a tree, and how many there are of each kind; two good images a class for training come first."""
    told: Counter[str] = Counter()
    whole = [("train", name, "good") for name in ("cat", "dog") for _ in range(2)] + tree
    if any(kind == "outside" for _, _, kind in tree):  # without a second split, train/ would be a class
        whole.append(("val", "cat", "good"))
    for number, (split, name, kind) in enumerate(whole):
        top = root / split if divided else root
        folder = top / name
        if split == "beside":  # a folder that is no split; without splits, images beside the class folders
            picture(root / "more" / "x" / f"{number}.png" if divided else root / f"{number}.png", number)
            told["outside the split folders" if divided else "outside class folders"] += 1
            continue
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.rglob("*.png")):
            picture(folder / "first.png", 1000 + 3 * number)  # no class folder is empty
            told["images"] += 1
        match kind:
            case "good":
                picture(folder / f"{number}.png", number)
            case "deep":
                picture(folder / "a" / "b" / f"{number}.PNG", number)
            case "broken":
                (folder / f"{number}.png").write_bytes(b"no picture")
            case "link":
                (folder / f"{number}.png").symlink_to("/no/such/picture.png")
            case "repeated":
                os.link(picture(folder / f"{number}.png", number), folder / f"{number}-again.png")
                told["repeated"] += 1
            case "hidden":
                picture(folder / f"._{number}.png", number)
            case "hidden folder":
                picture(folder / ".thumbs" / f"{number}.png", number)
            case "text":
                (folder / f"{number}.txt").write_text("x")
            case "outside":
                picture(top / f"{number}.png", number)
        told[
            {
                "hidden folder": "hidden",
                "text": "not images",
                "hidden": "hidden",
                "outside": "outside class folders",
            }.get(kind, "images")
        ] += 1
        told["unusable"] += kind in ("broken", "link")
    return told


def counts(out: str) -> tuple[int, str, Counter[str]]:
    """The line that adds up, as its total, its unit and its parts."""
    [line] = re.findall(r"^(\d+) (files?|rows?) in .*: (\d+ images?(?:, \d+ [a-z ]+)*)$", out, flags=re.M)
    parts = Counter({what: int(count) for count, what in re.findall(r"(\d+) ([a-z ()]+)", line[2])})
    if "image" in parts:
        parts["images"] += parts.pop("image")
    return int(line[0]), line[1].rstrip("s"), parts


def on_disk(root: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(root, followlinks=True))


@pytest.mark.parametrize("divided", [True, False])
@QUICK
@given(tree=TREES)
def test_class_folders(divided: bool, tree: list[tuple[str, str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        told = write(root, tree, divided)
        capsys.readouterr()
        code = main(["data", "check", folder])
        out = capsys.readouterr().out
        total, unit, parts = counts(out)
        unusable = told.pop("unusable")
        assert (total, unit) == (on_disk(root), "file")
        assert sum(parts.values()) == total
        assert parts == +told
        assert code == (2 if unusable else 0)
        found = re.search(r"^(\d+) images? cannot be used", out, flags=re.M)
        assert (int(found[1]) if found else 0) == unusable
        # With those left out, everything that is left can be trained on.
        assert main(["data", "check", folder, "data.on_bad=skip"]) == code
        out, err = capsys.readouterr()
        left = re.search(r"left out, leaving: 2 classes, (\d+) training, (\d+) validation and (\d+) test", out)
        if left is not None:
            assert sum(map(int, left.groups())) == told["images"] - unusable
        elif unusable:  # all images drawn for validation were among them
            assert "no val image can be read" in err


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["good", "good", "good", "broken", "gone", "repeated", "backslashes"]),
        st.sampled_from(["cat", "dog", " cat", "dog\u200b", "no", "on"]),
    ),
    max_size=12,
)


@QUICK
@given(plan=ROWS)
def test_tables(plan: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plan = [("good", name) for name in ("cat", "dog", "cat", "dog")] + plan
        rows, told = ["path,label"], Counter[str]()
        for number, (kind, label) in enumerate(plan):
            path = f"pics/{number}.png"
            if kind == "broken":
                (root / path).write_bytes(b"no picture")
            elif kind != "gone":
                picture(root / path, number)
            rows.append(f"{path.replace('/', chr(92)) if kind == 'backslashes' else path},{label}")
            told["images"] += 1
            if kind == "repeated":
                rows.append(f"./pics/../{path},{label}")
                told["repeated"] += 1
            told["unusable"] += kind in ("broken", "gone")
        (root / "list.csv").write_text("\n".join(rows))
        capsys.readouterr()
        code = main(["data", "check", str(root / "list.csv")])
        out, err = capsys.readouterr()
        total, unit, parts = counts(out)
        unusable = told.pop("unusable")
        assert (total, unit) == (len(rows) - 1, "row")
        assert sum(parts.values()) == total
        assert parts == +told
        assert code == (2 if unusable else 0), err
        assert sum(line.startswith("  pics/") for line in out.splitlines()) == unusable
        for number, (kind, _) in enumerate(plan):
            if kind == "gone":
                line = next(at for at, row in enumerate(rows, 1) if row.startswith(f"pics/{number}.png"))
                assert f"  pics/{number}.png: no such file (list.csv, line {line})" in out
        assert main(["data", "check", str(root / "list.csv"), "data.on_bad=skip"]) == code
        left, why = capsys.readouterr()
        # A class of which nothing is left to train on cannot be trained; nor can a split be empty.
        assert ("these are left out" in left) == (unusable > 0 and not why)
        assert not why or re.search("no training images of|no val image", why)
