"""Files that were damaged by a crash or made to harm: settings, annotations, logs, metrics, journals. Each ends in one
sentence, or is read without what is damaged."""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.runs import NET, QUIET, settings
from vpt.cli.main import main
from vpt.config import load_config, read_yaml
from vpt.config.overrides import parse_overrides
from vpt.data.datasets.registry import load_data
from vpt.data.detection.registry import load_boxes
from vpt.experiments.sweep.search_space import read_space
from vpt.experiments.sweep.study import Sweep, sweep
from vpt.metrics.metrics_file import read_metrics, read_protocol
from vpt.report.build import write_report
from vpt.training.run import resume, train
from vpt.training.run_folder import finished
from vpt.utils.errors import UserError
from vpt.utils.run_log import read_rows
from vpt.utils.safe_yaml import BadYaml, parse_yaml

# What no reader of JSON expects: numbers beyond all bounds, other types, half of a surrogate pair, paths to elsewhere.
ODD: list[Any] = [
    None,
    True,
    -1,
    1e400,
    float("nan"),
    10**400,
    2**63,
    1.5,
    "x",
    "",
    "x" * 5000,
    "\ud800",
    "a\nb",
    "../../etc/passwd",
    "a\0b",
    [],
    [1, [2]],
    {},
    {"id": 1},
]
ODD_BYTES = [
    b"1e400",
    b"NaN",
    b"\xff",
    b"\0" * 9,
    b"9" * 5000,
    b"[" * 5000,
    b"null\n",
    b"[1]\n",
    b"{}\n",
    b'"',
    b",",
    b"<",
]


@pytest.fixture(scope="module", autouse=True)
def _small_net(small_net: None) -> None:
    pass


@pytest.fixture(scope="module")
def whole(shapes: Path, small_net: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    words = ["train.epochs=2", "data.workers=0"]
    return train(settings(shapes, tmp_path_factory.mktemp("whole"), *words), QUIET).folder


def plan(shapes: Path, out: Path) -> Sweep:
    words = [f"data={shapes}", f"out={out}", "name=sweep", *NET, "data.workers=0", "train.epochs=1"]
    return Sweep([*words, "prompt.tokens=2"], read_space(["prompt.tokens=1,2"]), trials=2, grid=True)


@pytest.fixture(scope="module")
def searched(shapes: Path, small_net: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep."""
    return sweep(plan(shapes, tmp_path_factory.mktemp("searched")), QUIET).folder


def mutated(tree: Any, chance: random.Random) -> Any:
    """A tree with some of its values exchanged, left out or added."""
    if chance.random() < 0.05:
        return copy.deepcopy(chance.choice(ODD))
    tree = copy.deepcopy(tree)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
            places.append((node, key))
            if isinstance(value, dict | list):
                walk(value)

    for _ in range(chance.choice((1, 1, 2, 5))):
        places.clear()
        walk(tree)
        if not places:
            break
        node, key = chance.choice(places)
        if isinstance(node, dict) and chance.random() < 0.25:
            del node[key]
        else:
            node[key] = copy.deepcopy(chance.choice(ODD))
    return tree


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """Bytes that are cut, overwritten, or have others put between them."""
    for _ in range(chance.choice((1, 1, 3, 8))):
        at = chance.randrange(len(content) + 1)
        what = chance.randrange(4)
        if what == 0:
            content = content[:at] + content[at + chance.randrange(40) :]
        elif what == 1:
            content = content[:at] + chance.choice(ODD_BYTES) + content[at:]
        elif what == 2:
            content = content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :]
        elif chance.random() < 0.3:
            content = content[:at]
    return content


def as_json(tree: Any) -> str | None:
    try:
        return json.dumps(tree)
    except ValueError:  # a number of more digits than Python writes
        return None


def one_sentence(work: Callable[[], object]) -> None:
    """It works, or ends in a UserError that is short."""
    said = "works"
    try:
        work()
    except UserError as error:
        said = str(error)
    assert 0 < len(said) < 2000


class TestYaml:
    BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    MERGED = "a0: &a0 {x: 1}\n" + "".join(
        f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (BOMB, "with its aliases expanded it has more than 100,000 values"),
            (MERGED, "with its aliases expanded it has more than 100,000 values"),
            ("a: &a [*a]", "an alias refers to a value that contains it"),
            ("a: [" + "1," * 200_000 + "1]", "more than 100,000 values"),
            ("a: " + "[" * 10_000, "nested more than 50 levels deep"),
            ("a: '" + "x" * 2_000_000 + "'", "more than 1,000,000 characters"),
            ("a: 2024-13-45", "a value cannot be read"),
            ("a: " + "1" * 5000, "a value cannot be read"),
            ("a: !!int foo", "a value cannot be read"),
            ("a: !!timestamp foo", "a value cannot be read"),
            ("a: \0", "special characters are not allowed"),
            ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
            ("? [1, 2]\n: 3", "unhashable key"),
        ],
        ids=lambda value: value[:20] if isinstance(value, str) else "",
    )
    def test_it_is_refused_in_one_sentence(self, tmp_path: Path, text: str, sentence: str):
        (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=sentence) as caught:
            load_config(tmp_path / "a.yaml")
        assert len(str(caught.value)) < 600

    def test_aliases_within_bounds_are_read(self):
        assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]")["b"] == {"x": 1, "y": 2}
        with pytest.raises(BadYaml):
            parse_yaml("a: [")

    def test_a_large_file_is_not_read_to_its_end(self, tmp_path: Path):
        with (tmp_path / "a.yaml").open("wb") as file:
            file.truncate(2**40)  # a terabyte of zeros, which takes no room
        with pytest.raises(UserError, match=r"more than 1,000,000 characters"):
            read_yaml(tmp_path / "a.yaml")

    @pytest.mark.parametrize(
        "word",
        ["train.seed=2024-13-45", "train.seed=" + "1" * 5000, "prompt.layers=" + "[" * 20_000, "train.epochs=1e400"],
        ids=lambda word: word[:20],
    )
    def test_words_of_the_command_line(self, word: str):
        parse_overrides([word])
        one_sentence(lambda: load_config(overrides=[word]))

    def test_of_many_mistakes_some_are_named(self, tmp_path: Path):
        (tmp_path / "a.yaml").write_text("".join(f"{'k' * 300}{n}: 1\n" for n in range(2000)))
        with pytest.raises(UserError, match="unknown key") as caught:
            load_config(tmp_path / "a.yaml")
        assert len(str(caught.value).splitlines()) == 21

    def test_paths_that_no_file_system_has(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        for out in ("a\\0b", "\\uD800"):
            (tmp_path / "a.yaml").write_text(f'out: "{out}"\nname: run\ndata: digits\nbackbone: vpt_nano\n')
            assert main(["train", str(tmp_path / "a.yaml"), "train.epochs=1", "data.shots=1"]) == 2
            assert "bug" not in capsys.readouterr().err


class TestAnnotations:
    """COCO, VOC and YOLO, as files of strangers."""

    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        (tmp_path / "images").mkdir()
        for number in range(6):
            Image.new("RGB", (30, 20)).save(tmp_path / "images" / f"{number}.png")
        return tmp_path

    def load(self, path: Path) -> None:
        def work() -> None:
            words = ["task=detection", f"data={path}", "data.val_fraction=0.3"]
            data = load_boxes(load_config(overrides=words).data)
            data.fingerprint()
            json.dumps(data.classes, ensure_ascii=False).encode()  # as artifacts have them

        one_sentence(work)

    def coco(self) -> dict[str, Any]:
        images = [{"id": n, "file_name": f"{n}.png", "width": 30, "height": 20} for n in range(6)]
        boxes = [
            {"id": n, "image_id": n, "category_id": n % 2 + 1, "bbox": [1, 2, 5, 6], "iscrowd": 0} for n in range(6)
        ]
        return {
            "images": images,
            "annotations": boxes,
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "b"}],
        }

    @pytest.mark.parametrize("value", [1e400, -1e400, float("nan"), 10**400, "1e400", None, [1], True])
    @pytest.mark.parametrize("place", ["bbox", "image_id", "category_id", "id", "width", "name"])
    def test_coco_s_numbers(self, photos: Path, place: str, value: Any):
        tree = self.coco()
        if place == "bbox":
            tree["annotations"][2]["bbox"][1] = value
        elif place in ("image_id", "category_id"):
            tree["annotations"][2][place] = value
        elif place == "width":
            tree["images"][2][place] = value
        else:
            tree["categories"][1][place] = value
        (photos / "a.json").write_text(json.dumps(tree))
        self.load(photos / "a.json")

    def test_coco(self, photos: Path):
        chance = random.Random(1)
        for _ in range(150):
            text = as_json(mutated(self.coco(), chance))
            if text is not None:
                (photos / "a.json").write_text(text)
                self.load(photos / "a.json")

    def test_voc(self, photos: Path):
        (photos / "JPEGImages").symlink_to(photos / "images")
        (photos / "Annotations").mkdir()
        good = (
            "<annotation><filename>{}.png</filename><size><width>30</width><height>20</height></size><object><name>cat"
            "</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
        )
        for number in range(6):
            (photos / "Annotations" / f"{number}.xml").write_text(good.format(number))
        for number in ("1e400", "nan", "-inf", "9" * 5000):
            text = good.format(3).replace("<width>30<", f"<width>{number}<").replace("<xmin>1<", f"<xmin>{number}<")
            (photos / "Annotations" / "3.xml").write_text(text)
            self.load(photos)
        chance = random.Random(2)
        for _ in range(100):
            (photos / "Annotations" / "3.xml").write_bytes(mutated_bytes(good.format(3).encode(), chance))
            self.load(photos)

    def test_yolo(self, photos: Path):
        (photos / "labels").mkdir()
        label, description = b"0 0.5 0.5 0.2 0.2\n", b"train: images\nnames: {0: cat, 1: dog}\n"
        for number in range(6):
            (photos / "labels" / f"{number}.txt").write_bytes(label)
        names = ["{null: cat}", "{.inf: cat}", "{0: [1]}", "[]", "3", "{a: b}", "[cat, cat]"]
        chance = random.Random(3)
        for text in [
            *(description.replace(b"{0: cat, 1: dog}", name.encode()) for name in names),
            *(mutated_bytes(description, chance) for _ in range(60)),
        ]:
            (photos / "data.yaml").write_bytes(text)
            self.load(photos / "data.yaml")
        (photos / "data.yaml").write_bytes(description)
        for _ in range(60):
            (photos / "labels" / "3.txt").write_bytes(mutated_bytes(label, chance))
            self.load(photos / "data.yaml")

    def test_lists(self, photos: Path):
        rows = "".join(f"images/{n}.png,{'ab'[n % 2]},{'train' if n < 4 else 'val'}\n" for n in range(6))
        chance = random.Random(4)
        for _ in range(100):
            (photos / "a.csv").write_bytes(mutated_bytes(f"path,label,split\n{rows}".encode(), chance))
            one_sentence(lambda: load_data(load_config(overrides=[f"data={photos / 'a.csv'}"]).data).fingerprint())

    def test_split_files(self, photos: Path):
        from vpt.data.datasets.dassl import SETS

        folder = photos / "dtd"
        folder.mkdir()
        (folder / "images").symlink_to(photos / "images")
        rows = [[f"{n}.png", n % 2, "ab"[n % 2]] for n in range(6)]
        good = {"train": rows[:4], "val": rows[4:5], "test": rows[5:]}
        chance = random.Random(5)
        config = load_config(overrides=["data=dassl:dtd", f"data.root={photos}"]).data
        for _ in range(100):
            text = as_json(mutated(good, chance))
            if text is not None:
                (folder / str(SETS["dtd"].split)).write_text(text)
                one_sentence(lambda: json.dumps(load_data(config).classes, ensure_ascii=False).encode())


NO_ROWS = [
    "3",
    "[]",
    "null",
    '"x"',
    "{}",
    '{"kind": "step"}',
    '{"kind": 3, "step": 1}',
    '{"kind": "step", "step": "x"}',
]
NO_ROWS += ['{"kind": "step", "step": 1, "loss": "a"}', '{"kind": "step", "step": 1, "lr": 3}', "\0" * 50, "[" * 5000]
NO_ROWS += ['{"kind": "epoch", "step": 1, "val_accuracy": null}', '{"kind": "epoch", "step": 1, "train_loss": NaN}']
NO_ROWS += [
    '{"kind": "step", "step": 1, "loss": 1e400}',
    '{"kind": "step", "st',
    '{"kind": "epoch", "step": ' + "9" * 5000,
]


class TestRunFolder:
    """What a crash may leave of a run's files."""

    @pytest.fixture
    def run(self, whole: Path, tmp_path: Path) -> Path:
        return shutil.copytree(whole, tmp_path / "run")

    @pytest.mark.parametrize("line", NO_ROWS, ids=lambda line: line[:30])
    def test_a_line_that_is_no_row_is_left_out(self, run: Path, line: str):
        log = run / "log.jsonl"
        rows = read_rows(run)
        first, rest = log.read_text().split("\n", 1)
        log.write_text("\n".join([first, line, rest]))
        assert read_rows(run) == rows
        write_report([run, run], run / "two.html", model=False, console=QUIET)
        assert [row for row in read_rows(resume(run, console=QUIET).folder) if row["kind"] != "end"] == [
            row for row in rows if row["kind"] != "end"
        ]

    def test_metrics_are_read_whole_or_not_at_all(self, run: Path):
        """Every mutation is refused by name, or every reader can read it."""
        good = json.loads((run / "metrics.json").read_text())
        chance = random.Random(6)
        refused = 0
        for _ in range(60):
            text = as_json(mutated(good, chance))
            if text is None:
                continue
            (run / "metrics.json").write_text(text)
            said = ""
            try:
                read_metrics(run / "metrics.json")
            except UserError as error:
                said = str(error)
            if said:
                refused += 1
                with pytest.raises(UserError, match=re.escape(str(run / "metrics.json"))):
                    finished(run)
            write_report(run, run / "one.html", model=False, console=QUIET)
            one_sentence(lambda: write_report([run, run], run / "two.html", model=False, console=QUIET))
        assert refused > 20

    @pytest.mark.parametrize("name", ["predictions-val.csv", "predictions-test.csv", "metrics.json", "log.jsonl"])
    def test_bytes_of_any_kind(self, run: Path, name: str):
        good = (run / name).read_bytes()
        chance = random.Random(7)
        for _ in range(25):
            (run / name).write_bytes(mutated_bytes(good, chance))
            one_sentence(lambda: write_report([run, run], run / "two.html", model=False, console=QUIET))

    @pytest.mark.parametrize("kind", ["few-shot", "base-to-new", "transfer"])
    def test_results_of_protocols(self, tmp_path: Path, kind: str):
        seeds = {"mean": 0.5, "spread": 0.1, "seeds": [0.5, 0.6]}
        good: dict[str, Any] = {
            "few-shot": {"rows": [{"shots": 1, **seeds}]},
            "base-to-new": {"base": seeds, "new": seeds, "harmonic_mean": 0.5},
            "transfer": {"source": seeds, "rows": [{"data": "a", **seeds}], "average": 0.5},
        }[kind]
        file = tmp_path / f"{kind}.json"
        whole = {"protocol": kind, "data": "digits", **good}
        file.write_text(json.dumps(whole))
        assert read_protocol(file) == whole
        chance = random.Random(8)
        for _ in range(60):
            text = as_json(mutated(whole, chance))
            if text is not None:
                file.write_text(text)
                one_sentence(lambda: read_protocol(file))
        (tmp_path / "few-shot.json").write_text(json.dumps({**whole, "protocol": "transfer"}))
        with pytest.raises(UserError, match="remove it, and give the same command again"):
            read_protocol(tmp_path / "few-shot.json")


class TestJournal:
    """Of a sweep: lines that a crash left damaged made every later call end in an error."""

    @pytest.mark.parametrize("damage", ["half a line", "zeros", "a line in the middle", "no line of Optuna's", "empty"])
    def test_it_goes_on_from_what_is_whole(self, searched: Path, shapes: Path, tmp_path: Path, damage: str):
        folder = shutil.copytree(searched, tmp_path / "sweep")
        trained = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/artifact.safetensors")}
        journal = folder / "journal.log"
        content = journal.read_bytes()
        lines = content.splitlines(keepends=True)
        journal.write_bytes(
            {
                "half a line": content[:-20],
                "zeros": content + bytes(300),
                "a line in the middle": b"".join([*lines[:4], b'{"op_code": 4, "tri' + lines[4], *lines[5:]]),
                "no line of Optuna's": b"".join([*lines[:4], b"{}\n", *lines[4:]]),
                "empty": b"",
            }[damage]
        )
        found = sweep(plan(shapes, tmp_path), QUIET)
        assert sorted(row["params"]["prompt.tokens"] for row in found.trials if row["state"] == "complete") == [1, 2]
        assert trained == {path: path.stat().st_mtime_ns for path in folder.glob("*/*/artifact.safetensors")}

    def test_what_cannot_be_cut_off_is_said(self, searched: Path, shapes: Path, tmp_path: Path):
        folder = shutil.copytree(searched, tmp_path / "sweep")
        lines = (folder / "journal.log").read_bytes().splitlines(keepends=True)
        (folder / "journal.log").write_bytes(b"".join([*lines[:4], b'{"op_code": 4}\n', *lines[4:]]))
        with pytest.raises(UserError, match=r"journal\.log is damaged; remove it and give the same command again"):
            sweep(plan(shapes, tmp_path), QUIET)
        (folder / "journal.log").unlink()
        assert len(sweep(plan(shapes, tmp_path), QUIET).trials) == 2
