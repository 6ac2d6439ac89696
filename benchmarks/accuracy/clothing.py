"""Real photos: prompt tuning against the linear probe and the other baselines, on the clothing data set.

    python -m benchmarks.accuracy.clothing search --data ../shared/data/clothing --weights ../shared/weights/FILE
    python -m benchmarks.accuracy.clothing final  --data ../shared/data/clothing --weights ../shared/weights/FILE

`search` is how the defaults were chosen: small images, 100 a class, one question after the other, ranked by validation
accuracy; the test split is never looked at. `final` trains with the defaults on the whole training split and measures
the test split once. Both write JSON to benchmarks/results, `final` keeps each run's log there too; runs that are
already finished are only read.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.accuracy.train_and_measure import trained
from vpt.utils.atomic_io import write_json
from vpt.utils.console import Console
from vpt.utils.errors import UserError

RESULTS = Path(__file__).resolve().parent / "results"

RATE = "train.optimizer.lr"
# question -> the fixed settings, and the settings that are compared.
SEARCH: dict[str, tuple[list[str], list[list[str]]]] = {
    "learning rates of prompt and head": (
        ["prompt=deep"],
        [[f"{RATE}.prompt={p}", f"{RATE}.head={h}"] for h in (1e-3, 1e-2) for p in (1e-3, 2.5e-3, 5e-3, 1e-2)],
    ),
    "augmentation": (["prompt=deep"], [[f"data.augment={name}"] for name in ("none", "light", "standard", "strong")]),
    "epochs": (["prompt=deep"], [[f"train.epochs={count}"] for count in (5, 10, 20, 40)]),
    "tokens": (["prompt=deep"], [[f"prompt.tokens={count}"] for count in (1, 5, 10, 50)]),
    "initialisation of the prompts": (["prompt=deep"], [[f"prompt.init={init}"] for init in ("uniform", "sample")]),
    "learning rate of a head alone": (
        ["prompt=none", "data.augment=none", "train.epochs=60"],
        [[f"{RATE}.head={rate}"] for rate in (1e-3, 3e-3, 1e-2, 3e-2)],
    ),
    "rate of biases": (["prompt=none", "tuning=bias"], [[f"{RATE}.bias={rate}"] for rate in (3e-4, 1e-3, 3e-3)]),
    "rate of lora": (["prompt=none", "tuning=lora"], [[f"{RATE}.lora={rate}"] for rate in (3e-4, 1e-3, 3e-3)]),
    "rate of a whole backbone": (
        ["prompt=none", "tuning=full"],
        [[f"{RATE}.backbone={rate}"] for rate in (1e-5, 3e-5, 1e-4)],
    ),
}
SMALL = ["backbone.image_size=112", "data.shots=100", "train.epochs=10", "train.eval_every=100"]

METHODS = {
    "linear probe": ["prompt=none", "data.augment=none", "train.epochs=60", f"{RATE}.head=0.001"],
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
    parser.add_argument("--only", nargs="+", default=None, help="questions or methods")
    parser.add_argument("settings", nargs="*", help="key=value words for every run")
    options = parser.parse_intermixed_args()
    place = [f"data={options.data}", f"backbone.weights={options.weights}", "data.cache=true"]
    shared = ["backbone=vit_small_patch16_224", *options.settings]
    if options.what == "search":
        search([*SMALL, *shared], place, options)
    else:
        final(shared, place, options)


def search(shared: list[str], place: list[str], options: argparse.Namespace) -> None:
    """Answer the questions in turn; each is asked with the defaults that the package has now."""
    out = RESULTS / "clothing-search.json"
    rows = _stored(out)
    for number, (question, (fixed, settings)) in enumerate(SEARCH.items()):
        if options.only and question not in options.only:
            continue
        rows = [row for row in rows if row["question"] != question]
        for setting in settings:
            name = f"search-{number}-" + "-".join(word.rsplit(".", 1)[1].replace("=", "-") for word in setting)
            found = run([*place, *shared, *fixed, *setting], options.runs / name)
            rows.append({"question": question, "fixed": fixed, "setting": setting, **found, "test": None})
            print(question, setting, found["val"]["accuracy"], found["val"]["loss"], flush=True)
            write_json(out, {"settings": shared, "rows": rows})


def final(shared: list[str], place: list[str], options: argparse.Namespace) -> None:
    """Every method once on all data; the test split is measured with the weights that validation chose."""
    out = RESULTS / "clothing.json"
    rows = _stored(out)
    for method, words in METHODS.items():
        if options.only and method not in options.only:
            continue
        folder = options.runs / f"final-{method.replace(' ', '-')}"
        found = run([*place, *shared, *words], folder)
        rows = [row for row in rows if row["method"] != method] + [{"method": method, "words": words, **found}]
        rows.sort(key=lambda row: list(METHODS).index(row["method"]))
        print(method, found["test"]["accuracy"], flush=True)
        write_json(out, {"settings": shared, "rows": rows})
        logs = RESULTS / "clothing-logs"
        logs.mkdir(exist_ok=True)
        shutil.copyfile(folder / "log.jsonl", logs / f"{folder.name}.jsonl")


def _stored(out: Path) -> list[dict[str, Any]]:
    return json.loads(out.read_text())["rows"] if out.exists() else []


def run(words: list[str], folder: Path) -> dict[str, Any]:
    """Train, or resume, or only read a run; what it measured."""
    metrics = trained(words, folder, Console()).metrics
    kept = ("accuracy", "balanced_accuracy", "macro_f1", "loss")
    return {
        "val": {key: metrics["val"][key] for key in kept},
        "test": {key: metrics["test"][key] for key in kept},
        **{key: metrics[key] for key in ("parameters", "artifact_bytes", "best_epoch", "epochs", "seconds")},
    }


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
