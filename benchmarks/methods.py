"""Every method on one task with one search budget: learning rates by validation, then three seeds on test.

    python benchmarks/methods.py digits                                   # the embedded backbone
    python benchmarks/methods.py digits --random                          # the same architecture with random weights
    python benchmarks/methods.py fashion                                  # Debian package dataset-fashion-mnist
    python benchmarks/methods.py clothing --data ../shared/data/clothing
    python benchmarks/methods.py clothing --data ../shared/data/clothing --methods all \\
        --backbone vit_small_patch16_224 --weights ../shared/weights/FILE -- backbone.image_size=112
    python benchmarks/methods.py raccoon --data ../shared/data/raccoon --methods all \\
        --backbone vit_small_patch16_224 --weights ../shared/weights/FILE -- head.size=256

Results go to benchmarks/results/methods-TASK-BACKBONE.json. A benchmark that was stopped goes on: methods that stand
there with the same settings are kept (--again measures them anew), and finished runs are only read. The rate is chosen
on validation with seed 0; test is measured with the chosen rate, seeds 0 to 2.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import statistics
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from measuring import RESULTS, machine, peak, reset_peak

from vpt.config import load_config
from vpt.console import Console
from vpt.errors import UserError
from vpt.files import write_json
from vpt.metrics import ranking
from vpt.run import resume, train

SEEDS = (0, 1, 2)
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
    "pixel frame": (["prompt=pixel"], "pixels", (1e-2, 3e-2, 1e-1)),
    "bias": (["prompt=none", "tuning=bias"], "bias", (3e-4, 1e-3, 3e-3)),
    "lora": (["prompt=none", "tuning=lora"], "lora", (3e-4, 1e-3, 3e-3)),
    "full": (["prompt=none", "tuning=full"], "backbone", (3e-5, 1e-4, 3e-4)),
}
# Boxes take much longer to learn, so every method gets two rates.
BOX_PROMPT = ("prompt", (1e-3, 3e-3))
BOXES: dict[str, tuple[list[str], str, tuple[float, ...]]] = {
    "head only": (["prompt=none"], "head", (5e-4, 1e-3)),
    "deep": (["prompt=deep"], *BOX_PROMPT),
    "shallow": (["prompt=shallow"], *BOX_PROMPT),
    "lora": (["prompt=none", "tuning=lora"], "lora", (3e-4, 1e-3)),
    "full": (["prompt=none", "tuning=full"], "backbone", (3e-5, 1e-4)),
}
BASELINES = ("linear", "shallow", "deep", "bias", "lora", "full")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["digits", "fashion", "clothing", "raccoon"])
    parser.add_argument("--data", help="folder of the clothing or raccoon data set")
    parser.add_argument("--backbone", default="vpt_nano")
    parser.add_argument("--weights", help="file of the backbone's weights")
    parser.add_argument("--random", action="store_true", help="random weights")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *BOXES, "baselines", "all"], default=["baselines"])
    parser.add_argument("--again", action="store_true", help="measure anew what the results already have")
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"))
    parser.add_argument("settings", nargs="*", help="key=value words for every run")
    options = parser.parse_intermixed_args()
    label = f"{options.task}-{'random' if options.random else options.backbone}"
    place, shared = words_of(options)
    out = RESULTS / f"methods-{label}.json"
    known = BOXES if options.task == "raccoon" else METHODS
    for method in chosen(options.methods, known):
        if not options.again and any(done(row, method, known[method][0]) for row in rows_of(out, shared)):
            print(f"{label} {method}: already measured", flush=True)
            continue
        row = measure(method, known[method], [*place, *shared], options.runs / label)
        # Read again, because another process may have measured another method meanwhile.
        rows = [other for other in rows_of(out, shared) if other["method"] != method] + [row]
        rows.sort(key=lambda row: list(known).index(row["method"]))
        found = {"task": options.task, "settings": shared, "machine": machine(torch.device("cpu")), "rows": rows}
        write_json(out, found)
        print(f"{label} {method}: {row['mean']:.4f} +- {row['spread']:.4f}", flush=True)


def rows_of(out: Path, shared: list[str]) -> list[dict[str, Any]]:
    """The methods measured so far with these settings; rows of other settings would not be comparable."""
    found = json.loads(out.read_text()) if out.exists() else {"settings": shared, "rows": []}
    if found["settings"] != shared:
        raise UserError(f"{out} was measured with {found['settings']}, not {shared}: move it away to start anew")
    return found["rows"]


def done(row: dict[str, Any], method: str, words: list[str]) -> bool:
    return row["method"] == method and row["words"] == words


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
    if options.task in ("clothing", "raccoon"):
        if not options.data:
            raise UserError(f"{options.task} needs --data FOLDER")
        place.append(f"data.path={options.data}")
    if options.task == "clothing":
        shared += ["data.shots=50", "data.augment=light"]
    elif options.task == "raccoon":
        # The split is made by a fixed rule: see vpt/data/splits.py.
        shared += ["task=detection", "data.test_fraction=0.25", "data.val_fraction=0.15", "data.augment=light"]
    elif options.task == "fashion":
        place.append(f"data.root={fashion(options.runs)}")
        shared += ["data=torchvision:FashionMNIST", "data.shots=100", "data.val_fraction=0.0167", "data.augment=light"]
    else:
        shared += ["data=digits", "data.augment=none"]
    epochs = 20 if options.task in ("clothing", "fashion") else 12
    shared += [f"train.epochs={epochs}", "train.eval_every=1000", "data.cache=true", "train.keep=last"]
    return place, [*shared, *options.settings]


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


def measure(method: str, how: tuple[list[str], str, tuple[float, ...]], words: list[str], runs: Path) -> dict[str, Any]:
    """Search a method's rate, then measure it with several seeds."""
    settings, role, rates = how
    stem = "".join(c if c.isalnum() else "-" for c in method)
    tried = {}
    for rate in rates:
        word = f"train.optimizer.lr.{role}={rate}"
        tried[rate] = run([*words, *settings, word, "train.seed=0"], runs / f"{stem}-{rate}-seed0")
    best = max(rates, key=lambda rate: (tried[rate]["val"], -(tried[rate]["val_loss"] or 0.0)))
    seeds = [tried[best]]
    for seed in SEEDS[1:]:
        words_now = [*words, *settings, f"train.optimizer.lr.{role}={best}", f"train.seed={seed}"]
        seeds.append(run(words_now, runs / f"{stem}-{best}-seed{seed}"))
    tests = [row["test"] for row in seeds]
    first = seeds[0]
    return {
        "method": method,
        "words": settings,
        "searched": {f"{role}={rate}": row["val"] for rate, row in tried.items()},
        "chosen": f"{role}={best}",
        "test": tests,
        "mean": statistics.mean(tests),
        "spread": statistics.stdev(tests),
        "val": [row["val"] for row in seeds],
        "map50": [row["map50"] for row in seeds] if first.get("map50") is not None else None,
        **{key: first[key] for key in ("parameters", "artifact_bytes")},
        "seconds_per_epoch": statistics.median(row["seconds"] / row["epochs"] for row in [*tried.values(), *seeds]),
        "peak_bytes": statistics.median(row["peak_bytes"] for row in [*tried.values(), *seeds]),
    }


def run(words: list[str], folder: Path) -> dict[str, Any]:
    """Train, or resume, or only read a run; what it measured."""
    measured = folder / "measured.json"
    if not measured.is_file():
        cpu = torch.device("cpu")
        before = reset_peak(cpu)
        if (folder / "checkpoint.safetensors").is_file():
            result = resume(folder, console=Console(quiet=True))
        else:
            shutil.rmtree(folder, ignore_errors=True)
            config = load_config(overrides=[*words, f"out={folder.parent}", f"name={folder.name}"])
            result = train(config, Console(quiet=True))
        metrics = result.metrics
        key = ranking(metrics["val"])
        found = {
            "val": metrics["val"][key],
            "val_loss": metrics["val"].get("loss"),
            "test": metrics["test"][key],
            "map50": metrics["test"].get("map50"),
            "peak_bytes": peak(cpu) - before,
            **{key: metrics[key] for key in ("parameters", "artifact_bytes", "seconds", "epochs")},
        }
        write_json(measured, found)
    return json.loads(measured.read_text())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
