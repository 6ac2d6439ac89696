"""Two processes under torchrun equal one process at the same batch, uneven last batches and all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import vpt
from tests.helpers.coco_folder import coco, picture
from tests.helpers.measure_detector import measured
from tests.helpers.torchrun import WORDS, torchrun
from vpt.config import load_config
from vpt.utils.console import Console
from vpt.utils.run_log import read_rows

TOGETHER = """
import sys, torch
from vpt.utils.distributed import agreed, all_reduce, broadcast, gathered, gathered_list, joined, ranks, sum_step
with joined():
    rank, count = ranks().rank, ranks().count
    assert count == 2
    assert broadcast("from the first" if rank == 0 else "from another") == "from the first"
    assert all_reduce([rank, 2.5]) == [1, 5]
    assert all_reduce([-rank, rank], "max") == [0, 1]
    assert agreed(15 if rank == 1 else None) == 15
    assert agreed(None) is None
    mine = torch.tensor([0, 2, 4] if rank == 0 else [1, 3])
    assert gathered(mine[:, None] * 10.0, mine).flatten().tolist() == [0, 10, 20, 30, 40]
    only = torch.tensor([0, 1] if rank == 0 else [], dtype=torch.int64)
    rows = only[:, None].repeat(1, 3) if rank == 0 else torch.zeros(0, 1, dtype=torch.int64)
    assert gathered(rows, only).tolist() == [[0, 0, 0], [1, 1, 1]]
    lists = [torch.full((n, 2), float(n)) for n in ([3, 0] if rank == 0 else [1])]
    whole = gathered_list(lists, torch.tensor([2, 0] if rank == 0 else [1]))
    assert [rows.tolist() for rows in whole] == [[], [[1.0, 1.0]], [[3.0, 3.0]] * 3]
    mine = [{"boxes": torch.ones(0, 2)}] if rank == 0 else []
    (none,) = gathered_list(mine, torch.arange(len(mine)))
    assert none["boxes"].shape == (0, 2)
    assert gathered_list([], torch.arange(0)) == []
    weight = torch.ones(2, requires_grad=True)
    if rank == 0:
        (weight * torch.tensor([1.0, 2.0])).sum().backward()
    loss, hits, images = sum_step([weight], 3.0 if rank == 0 else 0.0, 2.0 if rank == 0 else 0.0, 3 if rank == 0 else 0)
    assert (loss, hits, images) == (3.0, 2.0, 3)
    assert weight.grad.tolist() == [1.0, 2.0]
sys.stdout.write(f"passed {rank}\\n")  # in one piece, for both processes write at once
"""


def test_the_parts(tmp_path: Path):
    (tmp_path / "parts.py").write_text(TOGETHER)
    done = torchrun(str(tmp_path / "parts.py"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(done.stdout.split("\n")) == ["", "passed 0", "passed 1"]


def test_losses_and_result_are_those_of_one_process(tmp_path: Path):
    more = ["train.batch_size=29", "prompt=none", "tuning=full", "compare=[deep]"]  # a last batch of one image
    done = torchrun("-m", "vpt", "train", *WORDS, *more, f"out={tmp_path / 'two'}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [str(tmp_path / "two" / "run")]  # one process speaks
    one = vpt.train(load_config(overrides=[*WORDS, *more, f"out={tmp_path / 'one'}"]), Console(quiet=True))
    for folder in [Path("run"), *(Path("run") / each.name for each in one.folder.glob("compare-*"))]:
        logs = [read_rows(tmp_path / side / folder) for side in ("one", "two")]
        losses = [[row["loss"] for row in rows if row["kind"] == "step"] for rows in logs]
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
        scores = [[row["val_accuracy"] for row in rows if row["kind"] == "epoch"] for rows in logs]
        assert scores[0] == scores[1]
        mine, theirs = (load_file(tmp_path / side / folder / "artifact.safetensors") for side in ("two", "one"))
        for name, value in mine.items():
            np.testing.assert_allclose(value, theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)
        answers = [
            (tmp_path / side / folder / "predictions-test.csv").read_text().splitlines() for side in ("one", "two")
        ]
        assert [line.split(",")[:3] for line in answers[0]] == [line.split(",")[:3] for line in answers[1]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_boxes_are_measured_in_shares_and_exactly_as_by_one_process(tmp_path: Path):
    # Of many sizes, so that an image is padded by those beside it.
    sizes = [(30 + 7 * number, 90 - 5 * number) for number in range(12)]

    def resized(tree: dict[str, Any]) -> None:
        for image, (width, height) in zip(tree["images"], sizes, strict=True):
            image.update(width=width, height=height)

    data = coco(tmp_path / "boxes", 12, resized).parent.parent
    for number, size in enumerate(sizes):
        picture(data / "images" / f"{number}.png", size)
    base = [f"data={data}", "head.score=0"]
    cases = {
        "uneven": [*base, "data.val_fraction=0.6", "train.batch_size=2"],  # seven images: 2 + 2 and 2 + 1
        "cached": [*base, "data.val_fraction=0.6", "train.batch_size=3", "data.cache=true"],
        "for one process": [*base, "data.val_fraction=0.3", "train.batch_size=8"],
        "nothing found": [*base, "data.val_fraction=0.6", "train.batch_size=2", "head.score=0.99"],
    }
    done = torchrun("-m", "tests.helpers.measure_detector", json.dumps([*cases.values()]), str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr[-3000:]
    for number, (name, words) in enumerate(cases.items()):
        one, two = tmp_path / f"one-{number}", tmp_path / "two" / str(number)
        one.mkdir()
        alone = measured(words, one)
        for rank in range(2):
            assert json.loads((two / f"metrics-{rank}.json").read_text()) == json.loads(json.dumps(alone)), name
        assert (two / "predictions-val.json").read_text() == (one / "predictions-val.json").read_text(), name
        whole = json.loads((one / "seen-0.json").read_text())
        shares = [json.loads((two / f"seen-{rank}.json").read_text()) for rank in range(2)]
        assert shares == [whole[0::2], whole[1::2]], name
        rows = json.loads((one / "predictions-val.json").read_text())
        assert any(row["boxes"] for row in rows) == (name != "nothing found")


def test_what_takes_one_process_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(vpt.UserError, match="start it without torchrun"):
        vpt.train_together([load_config(overrides=[*WORDS, f"out={tmp_path}"])])
