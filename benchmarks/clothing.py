"""Real photos: prompt tuning against the linear probe and the other baselines, on the clothing data set.

    python benchmarks/clothing.py search --data ../shared/data/clothing --weights ../shared/weights/FILE
    python benchmarks/clothing.py final  --data ../shared/data/clothing --weights ../shared/weights/FILE

`search` is how the default learning rates were chosen: small images, 30 a class, every setting the same number of
epochs, ranked by validation accuracy. `final` trains with the defaults on the whole
training split and measures the test split once. Both write JSON to benchmarks/results; runs already there are skipped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from vpt.config import load_config
from vpt.console import Console
from vpt.errors import UserError
from vpt.files import write_json
from vpt.run import resume, train

RESULTS = Path(__file__).resolve().parent / "results"

# name -> settings. Each method gets as many settings as the next.
SEARCH = {
    "deep": [f"train.optimizer.lr.prompt={rate}" for rate in (1e-3, 2.5e-3, 5e-3, 1e-2, 2e-2)],
    "head": [f"train.optimizer.lr.head={rate}" for rate in (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)],
}
METHODS = {
    "linear probe": ["prompt=none", "data.augment=none", "train.epochs=60"],
    "linear probe, augmented": ["prompt=none"],
    "shallow": ["prompt=shallow"],
    "deep": ["prompt=deep"],
    "bias": ["prompt=none", "tuning=bias"],
    "lora": ["prompt=none", "tuning=lora"],
    "full": ["prompt=none", "tuning=full"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["search", "final"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/clothing"))
    parser.add_argument("--methods", nargs="+", default=None)
    parser.add_argument("settings", nargs="*", help="key=value words for every run")
    options = parser.parse_intermixed_args()
    base = [f"data={options.data}", "backbone=vit_small_patch16_224", f"backbone.weights={options.weights}"]
    base += [f"out={options.runs}", "data.cache=true", *options.settings]
    (search if options.what == "search" else final)(base, options)


def search(base: list[str], options: argparse.Namespace) -> None:
    """Rank settings by validation accuracy on small images."""
    small = [*base, "backbone.image_size=112", "data.shots=30", "train.epochs=8", "train.eval_every=8"]
    rows: list[dict[str, Any]] = []
    for name in options.methods or SEARCH:
        method = ["prompt=none", "data.augment=none", "train.epochs=40"] if name == "head" else ["prompt=deep"]
        for setting in SEARCH[name]:
            found = run([*small, *method, setting], options.runs, f"search-{name}-{setting.rsplit('=', 1)[1]}")
            rows.append({"method": name, "setting": setting, **found})
            print(name, setting, found["val"]["accuracy"], flush=True)
            write_json(RESULTS / "clothing-search.json", {"settings": small, "rows": rows})


def final(base: list[str], options: argparse.Namespace) -> None:
    """Every method once on all data; the test split is measured with the weights that validation chose."""
    out = RESULTS / "clothing.json"
    rows: dict[str, Any] = json.loads(out.read_text())["rows"] if out.exists() else {}
    for name in options.methods or METHODS:
        found = run([*base, *METHODS[name]], options.runs, f"final-{name.replace(' ', '-').replace(',', '')}")
        rows[name] = found
        print(name, found["test"]["accuracy"], flush=True)
        shown = [word for word in base if not word.startswith(("data=", "backbone.weights=", "out="))]
        write_json(out, {"settings": shown, "rows": rows})


def run(words: list[str], runs: Path, name: str) -> dict[str, Any]:
    """Train, or resume, or only read a run; what it measured."""
    folder = runs / name
    started = time.monotonic()
    if not (folder / "metrics.json").is_file():
        if (folder / "checkpoint.safetensors").is_file():
            resume(folder, console=Console())
        else:
            train(load_config(overrides=[*words, f"name={name}"]), Console())
    metrics = json.loads((folder / "metrics.json").read_text())
    kept = ("accuracy", "balanced_accuracy", "macro_f1", "loss")
    return {
        "val": {key: metrics["val"][key] for key in kept},
        "test": {key: metrics["test"][key] for key in kept} if "test" in metrics else None,
        "parameters": metrics["parameters"],
        "artifact_bytes": metrics["artifact_bytes"],
        "best_epoch": metrics["best_epoch"],
        "epochs": metrics["epochs"],
        "seconds": time.monotonic() - started,
    }


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
