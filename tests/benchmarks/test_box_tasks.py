"""The drawn detection tasks of the benchmark, and the search of learning rates beyond the grid."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy.box_tasks import BOX_TASKS, COUNTS, box_of, written
from benchmarks.accuracy.methods import Bench, Record
from benchmarks.accuracy.suite.scenes import SIDE, digits
from vpt.config import DataConfig
from vpt.data.detection.registry import load_boxes


@pytest.mark.parametrize("name", BOX_TASKS)
def test_objects_are_what_the_rule_says(name: str):
    rng, members, targets = np.random.default_rng(0), digits()[2]["train"], digits()[1]
    for _ in range(20):
        figures, labels = BOX_TASKS[name].one(rng, members)
        kinds = [int(targets[figure.index]) for figure in figures]
        largest = [0 if figure is max(figures, key=lambda one: one.side) else None for figure in figures]
        expected = {
            "largest": largest,
            "largest-any": largest,
            "upright": [0 if figure.degrees == 0 else 1 for figure in figures],
            "parity": [kind % 2 for kind in kinds],
        }
        assert labels == expected[name]
        for left, top, right, bottom in map(box_of, figures):
            assert 0 <= left < right <= SIDE
            assert 0 <= top < bottom <= SIDE


def test_a_task_is_read_as_it_was_drawn(tmp_path: Path):
    folder = written("largest", tmp_path)
    before = {file: file.read_bytes() for file in folder.rglob("*.*") if file.is_file()}
    data = load_boxes(DataConfig(path=str(folder)))
    assert data.classes == ("largest",)
    assert {split: len(getattr(data, split)) for split in COUNTS} == COUNTS
    assert all(len(record.labels) == 1 for split in COUNTS for record in getattr(data, split))
    written("largest", tmp_path)
    assert {file: file.read_bytes() for file in before} == before


def test_the_search_goes_on_beyond_the_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def measured(self: Bench, rate: float, seed: int) -> dict[str, object]:
        found = {"val": -abs(rate - 0.03), "val_loss": None, "test": rate, "seconds": 1.0, "epochs": 1}
        return {**found, "parameters": {}, "artifact_bytes": 1, "peak_bytes": 1}

    monkeypatch.setattr(Bench, "measured", measured)
    bench = Bench("a", [], "head", (1e-3, 3e-3, 1e-2), [], tmp_path, Record(tmp_path / "a.json", "a", []), widen=True)
    row = bench.search()
    assert row["chosen"] == "head=0.03"
    assert list(row["searched"]) == ["head=0.001", "head=0.003", "head=0.01", "head=0.03", "head=0.09"]
