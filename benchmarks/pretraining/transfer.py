"""Are the features of `vpt_nano` worth prompting?  A linear probe, against random weights and against plain pixels.

    python -m benchmarks.pretraining.transfer --clothing /data/clothing --out transfer.json

Features are the normalised class token.  The probe is a logistic regression on standardised features, its strength
chosen by cross-validation on the training part alone; the test part is read once per row of the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from benchmarks.pretraining.learner import normalise, tokens
from vpt.utils.atomic_io import write_json

ASSET = Path(__file__).resolve().parents[2] / "vpt" / "assets" / "vpt_nano.safetensors"
STRENGTHS = [0.003, 0.03, 0.3]  # inverse strength of the L2 penalty
Split = tuple[Tensor, np.ndarray, Tensor, np.ndarray]  # train images, labels, test images, labels


def to_tensor(image: Image.Image, size: int = 64) -> Tensor:
    """A picture as uint8 (3, size, size), enlarged or shrunk bicubically.

    >>> to_tensor(Image.new("L", (8, 8))).shape
    torch.Size([3, 64, 64])
    """
    resized = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def digits(seed: int = 0) -> Split:
    """scikit-learn's 1,797 digits, half for training, half for testing, equal shares of each class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = torch.stack([to_tensor(Image.fromarray((i * 15.9).astype(np.uint8))) for i in data.images])
    train, test = train_test_split(np.arange(len(images)), test_size=0.5, stratify=data.target, random_state=seed)
    return images[train], data.target[train], images[test], data.target[test]


def folders(root: Path, per_class: int | None = None) -> Split:
    """The `train` and `test` class folders under `root`; the first `per_class` training images of each class."""
    names = sorted(p.name for p in (root / "train").iterdir() if p.is_dir())

    def read(part: str, limit: int | None) -> tuple[Tensor, np.ndarray]:
        files = [(f, i) for i, n in enumerate(names) for f in sorted((root / part / n).iterdir())[:limit]]
        return torch.stack([to_tensor(Image.open(f)) for f, _ in files]), np.array([i for _, i in files])

    return (*read("train", per_class), *read("test", None))


@torch.inference_mode()
def features(model: VisionTransformer, images: Tensor) -> np.ndarray:
    """Normalised class tokens (N, C) of uint8 images (N, 3, 64, 64)."""
    model.eval()
    return torch.cat([tokens(model, normalise(part))[:, 0] for part in images.split(128)]).numpy()


def pixels(images: Tensor) -> np.ndarray:
    """The images (N, 3, 64, 64) themselves as features (N, 768): RGB means of 16 x 16 cells.

    >>> pixels(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape
    (2, 768)
    """
    return torch.nn.functional.avg_pool2d(images.float(), 4).flatten(1).numpy()


def probe(describe: Callable[[Tensor], np.ndarray], data: Split) -> float:
    """Share of correct test labels, 0..1, of a logistic regression on what `describe` makes of the images."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    train, train_labels, test, test_labels = data
    grid = {"logisticregression__C": STRENGTHS}
    search = GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression(tol=1e-3, max_iter=1000)), grid, cv=3)
    before, after = describe(train), describe(test)
    # The matrices are small: on a shared machine BLAS threads that wait for each other take minutes.
    with threadpool_limits(1):
        search.fit(before, train_labels)
        return float(search.score(after, test_labels))


def compare(weights: dict[str, Tensor], architecture: dict[str, Any], sets: dict[str, Split]) -> dict[str, Any]:
    """Probe accuracy of the given weights, of random weights (three seeds) and of pixels on every data set."""
    model = VisionTransformer(**architecture, num_classes=0)
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    result: dict[str, Any] = {}
    for name, data in sets.items():
        untrained = []
        for seed in range(3):
            torch.manual_seed(seed)
            untrained.append(probe(partial(features, VisionTransformer(**architecture, num_classes=0)), data))
        result[name] = {
            "pretrained": round(probe(partial(features, model), data), 4),
            "random_weights": [round(v, 4) for v in untrained],
            "plain_pixels": round(probe(pixels, data), 4),
            "train_images": len(data[0]),
            "test_images": len(data[2]),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, default=ASSET)
    parser.add_argument("--clothing", type=Path, help="folder with train/ and test/ class folders")
    parser.add_argument("--per-class", type=int, default=100, help="training images of a class, for --clothing")
    parser.add_argument("--out", type=Path, help="JSON file of the result")
    args = parser.parse_args()
    torch.set_num_threads(2)
    sets = {"digits": digits()}
    if args.clothing:
        sets["clothing"] = folders(args.clothing, args.per_class)
    card = json.loads(args.weights.with_suffix(".json").read_text(encoding="utf-8"))
    result = compare(load_file(args.weights), card["architecture"], sets)
    print(json.dumps(result, indent=2))
    if args.out:
        write_json(args.out, {"protocol": "linear probe, class token, 64 px", "sha256": card["sha256"], **result})


if __name__ == "__main__":
    main()
