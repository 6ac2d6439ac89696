"""Every method on one task with one search budget: learning rates by validation, then three seeds on test.

    python -m benchmarks.accuracy.methods digits  # the embedded backbone
    python -m benchmarks.accuracy.methods digits --random  # the same architecture with random weights
    python -m benchmarks.accuracy.methods fashion  # Debian package dataset-fashion-mnist
    python -m benchmarks.accuracy.methods clothing --data ../shared/data/clothing
    python -m benchmarks.accuracy.methods clothing --data ../shared/data/clothing --methods all \\
        --backbone vit_small_patch16_224 --weights ../shared/weights/FILE -- backbone.image_size=112
    python -m benchmarks.accuracy.methods scenes --methods all  # boxes, the embedded backbone
    python -m benchmarks.accuracy.methods raccoon --data ../shared/data/raccoon --methods all \\
        --backbone vit_small_patch16_224 --weights ../shared/weights/FILE -- head.size=256
    python -m benchmarks.accuracy.methods mask-scenes --methods all  # masks, the embedded backbone
    python -m benchmarks.accuracy.methods camvid --data ../shared/data/camvid --methods all --seeds 5 \\
        --backbone vit_tiny_patch16_224 --weights ../shared/weights/FILE -- head=linear_segmentation

Results go to benchmarks/results/methods-TASK-BACKBONE.json, every finished run as soon as it is there, so a benchmark
that was stopped goes on, on another machine too (--again measures anew). The rate is chosen on validation with seed 0;
test is measured with the chosen rate, seeds 0 to 2, or more where a difference is small:

    python -m benchmarks.accuracy.methods raccoon ... --methods "head only" deep --seeds 8
    python -m benchmarks.accuracy.methods raccoon ... --methods "head only" deep --label long -- ... train.epochs=36
    python -m benchmarks.accuracy.methods ... --times  # on a quiet machine: time of an epoch, all methods in turn
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import statistics
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.box_tasks import BOX_TASKS, written
from benchmarks.accuracy.train_and_measure import trained
from benchmarks.machine import machine, peak, reset_peak
from benchmarks.results_files import RESULTS
from vpt.config.tasks import ranking
from vpt.utils.atomic_io import write_json
from vpt.utils.console import Console
from vpt.utils.errors import UserError

ROUNDS = 3
PROMPT = ("prompt", (1e-3, 3e-3, 1e-2))
# method -> settings, the role whose rate is searched, and the rates.
METHODS: dict[str, tuple[list[str], str, tuple[float, ...]]] = {
    "linear": (["prompt=none", "train.epochs=60"], "head", (3e-3, 1e-2, 3e-2)),
    "shallow": (["prompt=shallow"], *PROMPT),
    "deep": (["prompt=deep"], *PROMPT),
    "deep, SPT start": (["prompt=deep", "prompt.init=sample"], *PROMPT),
    "deep, VIPAMIN start": (["prompt=deep", "prompt.init=vipamin"], *PROMPT),
    "vfpt": (["prompt=vfpt"], *PROMPT),
    "e2vpt": (["prompt=e2vpt"], *PROMPT),
    "e2vpt, pruned": (["prompt=e2vpt", "prompt.prune_tokens=0.3", "prompt.prune_segments=0.25"], *PROMPT),
    "cvpt": (["prompt=cvpt"], *PROMPT),
    "vapt": (["prompt=vapt"], *PROMPT),
    "gated": (["prompt=gated"], *PROMPT),
    "bpt": (["prompt=bpt", "prompt.layers=all", "prompt.tokens=10", "prompt.rank=5"], *PROMPT),
    "deep, PAE": (["prompt=deep", "prompt.pae=released"], *PROMPT),
    "da-vpt": (["prompt=davpt"], *PROMPT),
    "da-vpt+": (["prompt=davpt", "prompt.value_bias=true"], *PROMPT),
    "vqt": (["prompt=vqt"], *PROMPT),
    "pro-vpt": (["prompt=provpt"], *PROMPT),
    "tcpa": (["prompt=tcpa", "prompt.random_epochs=1"], *PROMPT),
    "viapt": (["prompt=viapt"], *PROMPT),
    "ship": (["prompt=ship", "prompt.tokens=10"], *PROMPT),
    "sa2vp": (["prompt=sa2vp"], *PROMPT),
    "adapter": (["prompt=adapter"], *PROMPT),
    "pixel frame": (["prompt=pixel"], "pixels", (1e-2, 3e-2, 1e-1)),
    "pixels of low rank": (["prompt=pixel", "prompt.shape=lowrank"], "pixels", (1e-2, 3e-2, 1e-1)),
    "bias": (["prompt=none", "tuning=bias"], "bias", (3e-4, 1e-3, 3e-3)),
    "lora": (["prompt=none", "tuning=lora"], "lora", (3e-4, 1e-3, 3e-3)),
    "full": (["prompt=none", "tuning=full"], "backbone", (3e-5, 1e-4, 3e-4)),
}
# Boxes take much longer to learn, so every method gets two rates. Of 0.001 and 0.003 prompts always took the higher.
BOX_PROMPT = ("prompt", (3e-3, 1e-2))
BOXES: dict[str, tuple[list[str], str, tuple[float, ...]]] = {
    "head only": (["prompt=none"], "head", (5e-4, 1e-3)),
    "deep": (["prompt=deep"], *BOX_PROMPT),
    "shallow": (["prompt=shallow"], *BOX_PROMPT),
    "lora": (["prompt=none", "tuning=lora"], "lora", (3e-4, 1e-3)),
    "full": (["prompt=none", "tuning=full"], "backbone", (3e-5, 1e-4)),
}
# Masks and small sets of boxes: the rate of the head is searched alone first, and the other methods keep it.
MASKS: dict[str, tuple[list[str], str, tuple[float, ...]]] = {
    "head only": (["prompt=none"], "head", (3e-3, 1e-2, 3e-2)),
    "shallow": (["prompt=shallow"], "prompt", (1e-3, 3e-3, 1e-2)),
    "deep": (["prompt=deep"], "prompt", (3e-3, 1e-2, 3e-2)),
    "lora": (["prompt=none", "tuning=lora"], "lora", (3e-4, 1e-3, 3e-3)),
    "full": (["prompt=none", "tuning=full"], "backbone", (3e-5, 1e-4, 3e-4)),
}
# Sets of box_tasks.py.
SMALL_BOXES: dict[str, tuple[list[str], str, tuple[float, ...]]] = {
    "head only": (["prompt=none"], "head", (1e-3, 3e-3, 1e-2)),
    "deep": (["prompt=deep"], "prompt", (1e-3, 3e-3, 1e-2)),
}
# Other tasks: METHODS.
KNOWN = {"scenes": BOXES, "raccoon": BOXES, "mask-scenes": MASKS, "camvid": MASKS}
KNOWN |= dict.fromkeys(BOX_TASKS, SMALL_BOXES)
BASELINES = ("linear", "shallow", "deep", "bias", "lora", "full")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["digits", "fashion", "clothing", *KNOWN])
    parser.add_argument("--data", help="folder of the clothing, raccoon or camvid data set")
    parser.add_argument("--backbone", default="vpt_nano")
    parser.add_argument("--weights", help="file of the backbone's weights")
    parser.add_argument("--random", action="store_true", help="random weights")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *BOXES, "baselines", "all"], default=["baselines"])
    parser.add_argument("--again", action="store_true", help="measure anew what the results already have")
    parser.add_argument("--times", action="store_true", help="measure only the time of an epoch, of what is measured")
    parser.add_argument("--seeds", type=int, default=3, help="how many, at least two; what is measured gets more")
    parser.add_argument("--label", help="results of other settings, in a file of their own: -- train.epochs=36")
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"))
    parser.add_argument("settings", nargs="*", help="key=value words for every run")
    options = parser.parse_intermixed_args()
    if options.seeds < 2:
        parser.error("--seeds must be 2 or more: one has no spread")
    label = f"{options.task}-{'random' if options.random else options.backbone}"
    label += f"-{options.label}" if options.label else ""
    place, shared = words_of(options)
    known = KNOWN.get(options.task, METHODS)
    record = Record(RESULTS / f"methods-{label}.json", options.task, shared)
    if options.times:
        record.retime(timed(record.read()["rows"], [*place, *shared], options.runs / label))
        return
    for method in chosen(options.methods, known):
        if options.again:
            record.forget(method)
        settings, role, rates = known[method]
        if known in (MASKS, SMALL_BOXES) and method != "head only":
            settings = [*settings, f"train.optimizer.lr.{record.chosen('head only')}"]
        row = record.row(method, settings)
        if row is not None and len(row["test"]) >= options.seeds:
            print(f"{label} {method}: already measured", flush=True)
            continue
        bench = Bench(
            method,
            settings,
            role,
            rates,
            [*place, *shared],
            options.runs / label,
            record,
            known in (MASKS, SMALL_BOXES),
        )
        row = bench.search() if row is None else row
        row = bench.repeat(row, options.seeds)
        record.add(row, list(known))
        print(f"{label} {method}: {row['mean']:.4f} +- {row['spread']:.4f}", flush=True)


class Record:
    """The file of results. It is read before every change, because other processes may measure other methods."""

    def __init__(self, path: Path, task: str, shared: list[str]) -> None:
        self.path = path
        self.empty: dict[str, Any] = {"task": task, "settings": shared, "rows": [], "runs": {}}
        self.read()

    def read(self) -> dict[str, Any]:
        found = self.empty | json.loads(self.path.read_text()) if self.path.exists() else self.empty
        if found["settings"] != self.empty["settings"]:
            raise UserError(
                f"{self.path} was measured with {found['settings']}, not {self.empty['settings']}: "
                "results of other settings cannot be compared; move it away to start anew"
            )
        return {**found, "machine": machine(torch.device("cpu")), "runs": dict(found["runs"])}

    def row(self, method: str, words: list[str]) -> dict[str, Any] | None:
        """What is known of a method, with the same settings."""
        rows = self.read()["rows"]
        return next((row for row in rows if row["method"] == method and row["words"] == words), None)

    def chosen(self, method: str) -> str:
        """The role and rate that were chosen for a method."""
        return next(str(row["chosen"]) for row in self.read()["rows"] if row["method"] == method)

    def forget(self, method: str) -> None:
        found = self.read()
        rows = [row for row in found["rows"] if row["method"] != method]
        runs = {name: run for name, run in found["runs"].items() if run["method"] != method}
        write_json(self.path, {**found, "rows": rows, "runs": runs})

    def add(self, row: dict[str, Any], order: list[str]) -> None:
        """A method is measured; its single runs are in its row now."""
        found = self.read()
        rows = [other for other in found["rows"] if other["method"] != row["method"]] + [row]
        rows.sort(key=lambda row: order.index(row["method"]))
        runs = {name: run for name, run in found["runs"].items() if run["method"] != row["method"]}
        write_json(self.path, {**found, "rows": rows, "runs": runs})

    def retime(self, seconds: dict[str, float]) -> None:
        found = self.read()
        for row in found["rows"]:
            row["seconds_per_epoch"] = seconds.get(row["method"], row["seconds_per_epoch"])
        write_json(self.path, {**found, "timed": f"{ROUNDS} alternating rounds"})

    def run(self, name: str, words: list[str]) -> dict[str, Any] | None:
        """What an earlier run measured, of the same settings."""
        found = self.read()["runs"].get(name)
        return found if found and found["words"] == words else None

    def add_run(self, name: str, run: dict[str, Any]) -> None:
        found = self.read()
        write_json(self.path, {**found, "runs": {**found["runs"], name: run}})


def chosen(names: list[str], known: Collection[str]) -> list[str]:
    if "all" in names:
        return list(known)
    return [name for name in known if name in names or ("baselines" in names and name in BASELINES)]


def words_of(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Settings of every run: where things lie, and what decides the result."""
    place = [f"out={options.runs}"]
    shared = [f"backbone={options.backbone}"]
    if options.random:
        shared.append("backbone.pretrained=false")
    if options.weights:
        place.append(f"backbone.weights={options.weights}")
    if options.task in ("clothing", "raccoon", "camvid"):
        if not options.data:
            raise UserError(f"{options.task} needs --data FOLDER")
        place.append(f"data.path={options.data}")
    if options.task == "clothing":
        shared += ["data.shots=50", "data.augment=light"]
    elif options.task == "raccoon":
        # The split is made by a fixed rule: see vpt/data/splits.py.
        shared += ["task=detection", "data.test_fraction=0.25", "data.val_fraction=0.15", "data.augment=light"]
    elif options.task == "camvid":
        shared += ["task=segmentation", "data.ignore_index=11", "data.augment=light"]
    elif options.task == "mask-scenes":
        shared += ["task=segmentation", "data=scenes", "head.taps=[1,3,5]", "data.augment=light"]
    elif options.task == "scenes":
        shared += ["task=detection", "data=scenes", "head.taps=[1,3,5]", "data.augment=light"]
    elif options.task in BOX_TASKS:
        place.append(f"data.path={written(options.task, options.runs / 'box-tasks' / options.task)}")
        shared += ["task=detection", "head.taps=[1,3,5]", "head.scales=[1,0.5]", "data.augment=none"]
        shared += ["train.batch_size=4"]
    elif options.task == "fashion":
        place.append(f"data.root={fashion(options.runs)}")
        shared += ["data=torchvision:FashionMNIST", "data.shots=100", "data.val_fraction=0.0167", "data.augment=light"]
    else:
        shared += ["data=digits", "data.augment=none"]
    epochs = 20 if options.task in ("clothing", "fashion") else 16 if options.task in BOX_TASKS else 12
    shared += [f"train.epochs={epochs}", "train.eval_every=1000", "data.cache=true", "train.keep=last"]
    given = {word.partition("=")[0] for word in options.settings}
    return place, [*(word for word in shared if word.partition("=")[0] not in given), *options.settings]


def fashion(runs: Path) -> Path:
    """Fashion-MNIST as torchvision expects it, from Debian's package."""
    source = Path("/usr/share/datasets/fashion-mnist")
    if not source.is_dir():
        raise UserError("Fashion-MNIST is not there: apt-get install dataset-fashion-mnist")
    raw = runs / "fashion" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for packed in source.glob("*.gz"):
        target = raw / packed.stem
        if not target.exists():
            with gzip.open(packed) as read, target.open("wb") as write:
                shutil.copyfileobj(read, write)
    return runs / "fashion"


@dataclass(frozen=True)
class Bench:
    """Measures one method.

    Args:
        method: its name.
        settings: that make it.
        role: whose rate is searched.
        rates: that are tried.
        words: settings of every run.
        runs: where run folders go.
        record: what is measured already, and where results go.
        widen: whether further rates are tried while the best is the lowest or highest.
    """

    method: str
    settings: list[str]
    role: str
    rates: tuple[float, ...]
    words: list[str]
    runs: Path
    record: Record
    widen: bool = False

    def search(self) -> dict[str, Any]:
        """The best rate on validation, with one seed."""
        tried = {rate: self.measured(rate, 0) for rate in self.rates}
        best = _best(tried)
        while self.widen and len(tried) < 2 * len(self.rates) and (rate := beyond(best, tried)):
            tried[rate] = self.measured(rate, 0)
            best = _best(tried)
        found = tried[best]
        return {
            "method": self.method,
            "words": self.settings,
            "searched": {f"{self.role}={rate}": each["val"] for rate, each in tried.items()},
            "chosen": f"{self.role}={best}",
            **{key: [found[key]] for key in ("test", "val", "map50") if found.get(key) is not None},
            **{key: found[key] for key in ("parameters", "artifact_bytes")},
            "seconds": [each["seconds"] / each["epochs"] for each in tried.values()],
            "peak_bytes": statistics.median(each["peak_bytes"] for each in tried.values()),
        }

    def repeat(self, row: dict[str, Any], seeds: int) -> dict[str, Any]:
        """The row with the chosen rate measured on that many seeds."""
        rate = float(row["chosen"].partition("=")[2])
        more = [self.measured(rate, seed) for seed in range(len(row["test"]), seeds)]
        longer = {key: row[key] + [each[key] for each in more] for key in ("test", "val", "map50") if row.get(key)}
        test = longer["test"]
        seconds = row.get("seconds", []) + [each["seconds"] / each["epochs"] for each in more]
        return {
            **row,
            **longer,
            "mean": statistics.mean(test),
            "spread": statistics.stdev(test),
            "seconds": seconds,
            "seconds_per_epoch": statistics.median(seconds),
        }

    def measured(self, rate: float, seed: int) -> dict[str, Any]:
        """One run, or what is known of it."""
        stem = "".join(c if c.isalnum() else "-" for c in self.method)
        name = f"{stem}-{rate}-seed{seed}"
        own = [*self.settings, f"train.optimizer.lr.{self.role}={rate}", f"train.seed={seed}"]
        found = self.record.run(name, own)
        if found is None:
            found = {"method": self.method, "words": own, **run([*self.words, *own], self.runs / name)}
            self.record.add_run(name, found)
        return found


def beyond(best: float, tried: Collection[float]) -> float | None:
    """The rate to try next if the best one is the lowest or highest so far: a third of it, or three times as large.

    >>> beyond(0.01, [0.001, 0.003, 0.01]), beyond(0.001, [0.001, 0.003]), beyond(0.003, [0.001, 0.003, 0.01])
    (0.03, 0.0003, None)
    """
    if best not in (min(tried), max(tried)):
        return None
    return float(f"{best * (3 if best == max(tried) else 1 / 3):.1g}")


def _best(tried: dict[float, dict[str, Any]]) -> float:
    """The rate of the best validation score; among equals, of the lowest loss."""
    return max(tried, key=lambda rate: (tried[rate]["val"], -(tried[rate]["val_loss"] or 0.0)))


def timed(rows: list[dict[str, Any]], words: list[str], runs: Path) -> dict[str, float]:
    """Seconds of an epoch of every method: medians of rounds in which all take turns, two epochs each."""
    seconds: dict[str, list[float]] = {row["method"]: [] for row in rows}
    for number in range(ROUNDS):
        for row in rows:
            folder = runs / "timed"
            shutil.rmtree(folder, ignore_errors=True)
            found = run([*words, *row["words"], "train.epochs=2"], folder)
            seconds[row["method"]].append(found["seconds"] / found["epochs"])
            print(f"round {number + 1}, {row['method']}: {seconds[row['method']][-1]:.2f} s an epoch", flush=True)
    return {method: statistics.median(found) for method, found in seconds.items()}


def run(words: list[str], folder: Path) -> dict[str, Any]:
    """What a run measured; it is trained now, resumed, or read."""
    cpu = torch.device("cpu")
    before = reset_peak(cpu)
    metrics = trained(words, folder, Console(quiet=True)).metrics
    key = ranking(metrics["val"])
    return {
        "val": metrics["val"][key],
        "val_loss": metrics["val"].get("loss"),
        "test": metrics["test"][key],
        "map50": metrics["test"].get("map50"),
        "peak_bytes": peak(cpu) - before,
        "epochs": _epochs(folder),
        **{key: metrics[key] for key in ("parameters", "artifact_bytes", "seconds")},
    }


def _epochs(folder: Path) -> int:
    """How many epochs a run took in all: a prompt that is pruned is trained twice."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line)["kind"] == "epoch" for line in lines)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
