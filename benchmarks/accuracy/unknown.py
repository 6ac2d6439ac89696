"""Out-of-distribution scores from the features of a classifier, measured on classes that were left out of training.

    python -m benchmarks.accuracy.unknown digits
    python -m benchmarks.accuracy.unknown digits --prompt deep
    python -m benchmarks.accuracy.unknown clothing --data ../shared/data/clothing \\
        --backbone vit_tiny_patch16_224 --weights ../shared/weights/FILE -- backbone.image_size=112

Of ten classes three are left out, five times. Training images of the others give the score, test images of all classes
are judged: AUROC, and the fraction of unknown images that is accepted where 95 % of the known ones are. With prompts,
they are trained on the known classes of every draw. Results go to benchmarks/results/unknown.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.special import logsumexp, softmax
from sklearn.cluster import KMeans
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score, roc_curve

import vpt
from benchmarks.machine import machine
from benchmarks.results_files import RESULTS, read
from vpt.data.decode import decode
from vpt.heads.logistic import Targets, cross_validated
from vpt.heads.unknown import UnknownScore
from vpt.models.classifier import backbone_for
from vpt.training.context import evaluation_transform
from vpt.training.tasks import task_of
from vpt.utils.atomic_io import write_json
from vpt.utils.console import Console
from vpt.utils.errors import UserError

DRAWS, LEFT_OUT = 5, 3
SHOTS = (16, None)  # training images of a class; None: all
Scorer = Callable[["Known", np.ndarray], np.ndarray]


class Known:
    """Features (N, D) and labels (N,) of the training images, and a linear head fitted to them."""

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        self.features, self.labels = features.astype(np.float64), labels
        fitted = cross_validated(features, Targets.of(labels, int(labels.max()) + 1))
        self.weight, self.bias = fitted.folded()
        self.means = np.stack([self.features[labels == k].mean(0) for k in range(labels.max() + 1)])

    def logits(self, features: np.ndarray) -> np.ndarray:
        return features @ self.weight.T + self.bias


def softmax_score(known: Known, rows: np.ndarray) -> np.ndarray:
    return -softmax(known.logits(rows), axis=1).max(1)


def energy(known: Known, rows: np.ndarray) -> np.ndarray:
    return -logsumexp(known.logits(rows), axis=1)


def _least(rows: np.ndarray, means: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    apart = rows[:, None] - means
    return np.einsum("nkd,de,nke->nk", apart, inverse, apart, optimize=True).min(1)


def mahalanobis(known: Known, rows: np.ndarray) -> np.ndarray:
    within = ledoit_wolf(known.features - known.means[known.labels], assume_centered=True)[0]
    return _least(rows, known.means, np.linalg.inv(within))


def relative(known: Known, rows: np.ndarray) -> np.ndarray:
    center = known.features.mean(0)
    whole = ledoit_wolf(known.features - center, assume_centered=True)[0]
    return mahalanobis(known, rows) - _least(rows, center[None], np.linalg.inv(whole))


def low_rank(known: Known, rows: np.ndarray, rank: int = 64) -> np.ndarray:
    """Mahalanobis with a covariance of the leading eigenvectors and one variance for all other directions."""
    values, vectors = np.linalg.eigh(ledoit_wolf(known.features - known.means[known.labels], assume_centered=True)[0])
    values[:-rank] = values[:-rank].mean() if len(values) > rank else values[:-rank]
    return _least(rows, known.means, (vectors / values) @ vectors.T)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def neighbour(
    known: Known, rows: np.ndarray, count: int = 1, most: int | None = None, center: bool = False
) -> np.ndarray:
    stored = known.features
    if most is not None and len(stored) > most:
        stored = stored[np.random.default_rng(0).permutation(len(stored))[:most]]
    middle = known.features.mean(0) if center else 0
    near = np.sort(-_unit(rows - middle) @ _unit(stored - middle).T, axis=1)
    return near[:, min(count, near.shape[1]) - 1]


def centres(known: Known, rows: np.ndarray, count: int) -> np.ndarray:
    """Distance to the nearest of the means of a k-means clustering of each class."""
    found, each = [], max(1, count // len(known.means))
    for label in range(len(known.means)):
        mine = _unit(known.features[known.labels == label])
        fitted = KMeans(min(each, len(mine)), n_init=1, random_state=0).fit(mine)
        found.append(fitted.cluster_centers_)
    return -(_unit(rows) @ _unit(np.concatenate(found)).T).max(1)


def vim(known: Known, rows: np.ndarray) -> np.ndarray:
    """Virtual-logit matching: the norm outside the principal subspace against the logits."""
    width = known.features.shape[1]
    size = width // 2 if width < 1500 else 512
    origin = -np.linalg.pinv(known.weight) @ known.bias
    values = known.features - origin
    outside = np.linalg.eigh(values.T @ values / len(values))[1][:, : width - size]
    alpha = known.logits(known.features).max(1).mean() / np.linalg.norm(values @ outside, axis=1).mean()
    return alpha * np.linalg.norm((rows - origin) @ outside, axis=1) - logsumexp(known.logits(rows), axis=1)


def shipped(known: Known, rows: np.ndarray) -> np.ndarray:
    """That of `metrics.unknown`: ViM around the mean of the features, with at most 64 directions."""
    score = UnknownScore(rows.shape[1])
    both = [(torch.from_numpy(one), torch.from_numpy(known.logits(one))) for one in (known.features, rows)]
    score.fit(*both[0])
    return score.raw(*both[1]).numpy()


SCORES: dict[str, Scorer] = {
    "max softmax": softmax_score,
    "energy": energy,
    "Mahalanobis": mahalanobis,
    "Mahalanobis, rank 64": low_rank,
    "relative Mahalanobis": relative,
    "nearest neighbour": neighbour,
    "nearest neighbour, 512 stored": lambda known, rows: neighbour(known, rows, most=512),
    "nearest neighbour, centred": lambda known, rows: neighbour(known, rows, center=True),
    "nearest of 64 centres": lambda known, rows: centres(known, rows, 64),
    "nearest of 256 centres": lambda known, rows: centres(known, rows, 256),
    "10th neighbour": lambda known, rows: neighbour(known, rows, 10),
    "ViM": vim,
    "ViM, 64 directions from the mean": shipped,
}


def judged(scores: np.ndarray, unknown: np.ndarray) -> dict[str, float]:
    """AUROC of the score, and the false positive rate where 95 % of the known images are accepted."""
    fpr, tpr, _ = roc_curve(~unknown, -scores)
    return {"auroc": float(roc_auc_score(unknown, scores)), "fpr95": float(fpr[tpr >= 0.95 - 1e-9][0])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["digits", "clothing"])
    parser.add_argument("--data", help="folder of the clothing data set")
    parser.add_argument("--backbone", default="vpt_nano")
    parser.add_argument("--weights", help="file of the backbone's weights")
    parser.add_argument("--prompt", choices=["none", "deep"], default="none")
    parser.add_argument("--runs", type=Path, default=Path("runs/unknown"))
    parser.add_argument("settings", nargs="*", help="key=value words")
    options = parser.parse_intermixed_args()
    words = [
        *options.settings,
        f"backbone={options.backbone}",
        f"data={options.data or options.task}",
        "data.workers=0",
    ]
    words += [f"backbone.weights={options.weights}"] if options.weights else []
    record: dict[str, Any] = {"backbone": options.backbone, "task": options.task, "prompt": options.prompt}
    record["settings"] = options.settings
    record["draws"] = measure(words, options)
    stored = RESULTS / "unknown.json"
    found = read("unknown")["rows"] if stored.exists() else []
    same = ("backbone", "task", "prompt")
    others = [row for row in found if any(row[key] != record[key] for key in same)]
    write_json(stored, {"rows": [*others, record], "left_out": LEFT_OUT, "machine": machine(torch.device("cpu"))})


def measure(words: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every score of every draw."""
    config = vpt.load_config(overrides=[*words, "prompt=none"])
    data = task_of(config).load(config)
    pixels = {split: [decode(each.source) for each in data.split(split)] for split in ("train", "test")}
    labels = {split: np.array([each.labels[0] for each in data.split(split)]) for split in ("train", "test")}
    cached = None
    stored = options.runs / f"features-{options.task}-{options.backbone}.npz"
    if options.prompt == "none" and stored.exists():
        cached = dict(np.load(stored))
    elif options.prompt == "none":
        model = task_of(config).build(config, data.classes, backbone_for(config)).eval()
        view = evaluation_transform(model, config.data)
        cached = {split: features(model, view, pixels[split]) for split in pixels}
        stored.parent.mkdir(parents=True, exist_ok=True)
        np.savez(stored, **cached)
    draws = []
    for draw in range(DRAWS):
        chance = np.random.default_rng(draw)
        left = chance.permutation(len(data.classes))[:LEFT_OUT]
        kept = [k for k in range(len(data.classes)) if k not in left]
        unknown = np.isin(labels["test"], left)
        for shots in SHOTS if cached else SHOTS[1:]:
            chosen = np.concatenate([pick(chance, labels["train"], k, shots) for k in kept])
            truth = np.searchsorted(kept, labels["train"][chosen])
            found = cached or trained(options, draw, [pixels["train"][at] for at in chosen], truth, pixels)
            train = found["train"] if cached is None else found["train"][chosen]
            known = Known(train, truth)
            scores = {
                name: judged(score(known, found["test"].astype(np.float64)), unknown) for name, score in SCORES.items()
            }
            right = known.logits(found["test"][~unknown]).argmax(1) == np.searchsorted(kept, labels["test"][~unknown])
            draws.append({"draw": draw, "shots": shots, "accuracy": float(right.mean()), "scores": scores})
        for name in SCORES:
            print(name, [f"{100 * row['scores'][name]['auroc']:.1f}" for row in draws], flush=True)
    for shots in SHOTS:
        for name in SCORES:
            mine = [row["scores"][name] for row in draws if row["shots"] == shots]
            if mine:
                print(
                    shots,
                    name,
                    *(f"{100 * statistics.mean(one[key] for one in mine):.1f}" for key in ("auroc", "fpr95")),
                )
    return draws


def pick(chance: np.random.Generator, labels: np.ndarray, label: int, shots: int | None) -> np.ndarray:
    mine = np.flatnonzero(labels == label)
    return mine if shots is None else chance.permutation(mine)[:shots]


def trained(
    options: argparse.Namespace, draw: int, images: list[np.ndarray], labels: np.ndarray, pixels: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Features of a model whose prompts were trained on the known classes, for training and test images."""
    folder = options.runs / f"images-{options.task}-{draw}"
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = folder / str(label) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    words = [f"data={folder}", f"backbone={options.backbone}", f"prompt={options.prompt}", "data.val_fraction=0.1"]
    words += [f"backbone.weights={options.weights}"] if options.weights else []
    words += [
        f"out={options.runs}",
        f"name={options.task}-{options.backbone}-{options.prompt}-{draw}",
        "train.epochs=10",
    ]
    config = vpt.load_config(overrides=[*words, "data.workers=0"])
    run = Path(config.out) / str(config.name)
    artifact = run if (run / "metrics.json").exists() else vpt.train(config, Console(quiet=True)).artifact
    predictor: Any = vpt.load(artifact, device="cpu")
    return {
        "train": features(predictor.model, predictor.view, images),
        "test": features(predictor.model, predictor.view, pixels["test"]),
    }


@torch.inference_mode()
def features(model: Any, view: Any, images: list[np.ndarray]) -> np.ndarray:
    layers, parts = model.constants(), []
    for start in range(0, len(images), 64):
        batch = torch.stack([view(each) for each in images[start : start + 64]])
        parts.append(model.features(batch, layers).float().numpy())
    return np.concatenate(parts)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
