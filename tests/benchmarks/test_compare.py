"""The comparison of all methods on the suite: which runs are wanted, and what one of them trains on."""

import json
import math
from pathlib import Path

import pytest

from benchmarks.accuracy import compare_tables
from benchmarks.accuracy.suite import compare
from benchmarks.accuracy.suite.compare import COMPARED, MOST, RATES, SEARCHED, Run, Setting, rates_of, wanted
from vpt.config import DataConfig, load_config
from vpt.data.datasets.registry import load_data

SETTING = Setting("vit_tiny_patch16_224", None, 112, ("digits-16", "count"), 10.0, Path("runs"))


def rows(accuracy, rates: tuple[float, ...], method: str = "deep") -> compare.Rows:
    """Results of seed 0 on the tasks of the search."""
    return {
        Run(method, task, rate, 0): {"val": accuracy(rate), "loss": abs(math.log(rate / 0.01))}
        for rate in rates
        for task in SEARCHED
    }


def test_nothing_is_chosen_before_all_rates_are_measured():
    found = rows(lambda rate: rate, RATES["prompt"][:2])
    assert rates_of("deep", found) == (list(RATES["prompt"]), None)
    assert wanted(found, ["deep"], SETTING.tasks, 5) == [Run("deep", task, RATES["prompt"][2], 0) for task in SEARCHED]


def test_the_best_rate_inside_the_grid_is_chosen():
    low, middle, high = RATES["prompt"]
    found = rows(lambda rate: float(rate == middle), RATES["prompt"])
    assert rates_of("deep", found) == ([low, middle, high], middle)


def test_among_equals_the_lower_loss_is_chosen():
    found = rows(lambda rate: 0.5, (*RATES["prompt"], 0.04))
    assert rates_of("deep", found)[1] == 0.015  # the nearest to 0.01


@pytest.mark.parametrize(("accuracy", "beyond"), [(lambda rate: rate, 0.04), (lambda rate: -rate, 0.0005)])
def test_the_search_goes_on_beyond_the_ends_of_the_grid(accuracy, beyond: float):
    found = rows(accuracy, RATES["prompt"])
    assert wanted(found, ["deep"], SETTING.tasks, 5) == [Run("deep", task, beyond, 0) for task in SEARCHED]


def test_the_search_ends_somewhere():
    found: compare.Rows = {}
    while missing := [run for run in wanted(found, ["deep"], SEARCHED, 1) if run not in found]:
        found |= {run: {"val": run.rate, "loss": 1.0} for run in missing}
    tried, best = rates_of("deep", found)
    assert len(tried) == MOST
    assert best == tried[-1]


def test_a_run_that_failed_loses():
    found = rows(lambda rate: 0.5, RATES["prompt"])
    found |= {run: {"val": 0.0, "loss": None} for run in found if run.rate == 0.015}
    assert rates_of("deep", found)[1] == 0.005


def test_searches_come_first_and_then_seed_after_seed_of_all_methods():
    found = rows(lambda rate: float(rate == 0.005), RATES["prompt"])
    found |= rows(lambda rate: float(rate == 0.003), RATES["lora"], "lora")
    order = wanted(found, ["deep", "lora", "shallow"], ["tilt"], 2)
    assert [run.method for run in order[:6]] == ["shallow"] * 6
    assert [(run.method, run.seed) for run in order[6:]] == [("deep", 0), ("lora", 0), ("deep", 1), ("lora", 1)]


def test_deep_prompts_are_measured_with_the_default_rate_too():
    found = rows(lambda rate: float(rate == 0.015), (*RATES["prompt"], 0.04))
    order = wanted(found, ["deep"], ["tilt"], 2)
    assert [(run.rate, run.seed) for run in order] == [(0.015, 0), (0.005, 0), (0.015, 1), (0.005, 1)]


def test_a_run_belongs_to_one_process(tmp_path: Path):
    path, arguments = tmp_path / "a.jsonl", (["deep", "lora"], ["tilt"], 2, tmp_path / "locks")
    first, lock = compare.next_run(path, *arguments) or pytest.fail("no run is missing")
    second, other = compare.next_run(path, *arguments) or pytest.fail("no run is missing")
    assert first != second
    lock.release()
    third, again = compare.next_run(path, *arguments) or pytest.fail("no run is missing")
    assert third == first  # its process ended without a result
    path.write_text(json.dumps({**vars(first), "val": 0.5, "loss": 1.0}) + "\n")
    again.release()
    fourth, last = compare.next_run(path, *arguments) or pytest.fail("no run is missing")
    assert fourth not in (first, second)
    other.release()
    last.release()


@pytest.mark.parametrize("method", COMPARED)
def test_every_method_has_settings_that_can_be_read(method: str):
    role = compare.METHODS[method][1]
    words = compare.words_of(Run(method, "digits-16", 0.007, 3), SETTING, images=160)
    config = load_config(overrides=words)
    assert config.train.seed == 3
    assert getattr(config.train.optimizer.lr, role) == 0.007
    assert config.train.epochs == (60 if method == "linear" else 13)  # 13 times 10 batches: 10 √160 steps


def test_a_run_is_measured_on_the_images_of_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compare, "LIMIT", 30)
    setting = Setting("vpt_nano", None, 64, ("digits-16",), 0.8, tmp_path)
    row = compare.measured(Run("deep", "digits-16", 0.005, 1), setting)
    data = load_data(DataConfig(path=str(tmp_path / "data/digits-16-1-64")))
    assert [len(getattr(data, split)) for split in ("train", "val", "test")] == [160, 40, 30]
    assert row["test"] in [number / 30 for number in range(31)]
    assert row["val"] > 0.5
    assert "train.epochs=1" in row["words"]
    assert json.loads(json.dumps(row)) == row
    assert not list((tmp_path / "runs").iterdir())  # nothing but the data stays


def test_a_run_that_cannot_be_trained_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compare, "LIMIT", 10)
    row = compare.measured(Run("deep", "digits-16", 1e30, 0), Setting("vpt_nano", None, 64, (), 0.8, tmp_path))
    assert row["test"] is None
    assert row["error"].endswith("lower train.optimizer.lr, or set train.clip_norm, in a new run")
    assert not list((tmp_path / "runs").iterdir())


def test_the_table_compares_seeds_that_both_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = rows(lambda rate: float(rate == 0.005), RATES["prompt"]) | rows(
        lambda rate: float(rate == 0.001), RATES["head"], "linear"
    )
    found |= {
        Run(method, task, rate, seed): {"val": float(rate in (0.005, 0.001)), "loss": 1.0, "test": test + seed / 10}
        for method, rate, test, seeds in (("deep", 0.005, 0.5, 3), ("linear", 0.001, 0.3, 4))
        for task in compare.MEASURED
        for seed in range(seeds)
    }
    (tmp_path / "cpu").mkdir()
    rest = {"seconds": 2.0, "parameters": {"learning": 1234}}
    failed = Run("deep", "tilt", 0.005, 2)  # counts as zero
    found[failed] |= {"test": None}
    lines = [
        json.dumps({**vars(run), "test": 0.0, **({} if run == failed else rest), **row}) for run, row in found.items()
    ]
    (tmp_path / "cpu/methods.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(compare_tables, "RESULTS", tmp_path)
    linear, deep = compare_tables.compared().splitlines()[2:]
    assert linear.startswith(
        "| `prompt=none` `train.epochs=60` | 4 | 45.0 | 45.0 |  | -20.0 ± 0.0 | -20.0 ± 0.0 | 45.0 | 45.0 |  | -8.3 ± "
    )
    assert linear.endswith("| `head=0.001` | 1,234 |  |")
    assert deep.startswith("| `prompt=deep` | 3 | 60.0 | 60.0 | +20.0 ± 0.0 |  |  | 60.0 | 36.7 | +8.3 ± ")
    assert deep.endswith("| `prompt=0.005` | 1,234 | 1.0x |")
