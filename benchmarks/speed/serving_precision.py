"""Precision of inference on a CPU: float32, bf16, and linear layers in int8 with activations quantised on the fly.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.serving_precision --data ../shared/data/clothing \\
        --weights vit_tiny_patch16_224=../shared/weights/vit_tiny_patch16_224_in1k.safetensors

timm's own forward pass with a linear head that was fitted on features in float32; int8 is torchao's dynamic
quantisation if it is installed, and PyTorch's `quantize_dynamic` with each of its engines. All precisions take turns.
Accuracy is that on the test images, and "difference" the largest and the mean difference of class probabilities from
those in float32. Results go to benchmarks/results/serving-precision.json.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.machine import machine
from benchmarks.results_files import RESULTS
from vpt.backbones.backbone import Backbone
from vpt.backbones.factory import load_backbone
from vpt.config import load_config
from vpt.data.decode import decode
from vpt.data.normalization import normalise
from vpt.data.transforms.classification import eval_transform
from vpt.utils.atomic_io import write_json

Probabilities = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", required=True, help="BACKBONE=FILE")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS/ and test/CLASS/")
    parser.add_argument("--shots", type=int, default=16, help="training images per class")
    parser.add_argument("--images", type=int, default=100, help="test images")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    cases = [case for each in options.weights for case in measured(*each.split("=", 1), options)]
    result = {"machine": machine(torch.device("cpu")), "rounds": options.rounds, "cases": cases}
    write_json(RESULTS / "serving-precision.json", {**result, "images": options.images, "shots": options.shots})


def measured(name: str, weights: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Speed and accuracy of one backbone in every precision, by batch."""
    words = [f"backbone={name}", f"backbone.weights={weights}"]
    backbone = load_backbone(load_config(overrides=words).backbone)
    images, labels = read(options.data / "train", backbone, options.shots, None)
    tests, truth = read(options.data / "test", backbone, None, options.images)
    with torch.inference_mode():
        features = torch.cat([plain(backbone.library_net, backbone, part) for part in images.split(32)])
    head = fitted(features.clone(), labels)
    ways = precisions(backbone, head)
    with torch.inference_mode():
        found = {way: torch.cat([run(part) for part in tests.split(20)]) for way, run in ways.items()}
        cases = []
        for batch in options.batch:
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(options.rounds + 1):
                for way, run in ways.items():
                    started = time.perf_counter()
                    run(tests[:batch])
                    if turn:  # the first turn warms up
                        seconds[way].append(time.perf_counter() - started)
            for way, each in seconds.items():
                gap = (found[way] - found["fp32"]).abs()
                cases.append(
                    {
                        "model": name,
                        "batch": batch,
                        "precision": way,
                        "images_per_second": batch / statistics.median(each),
                        "accuracy": float((found[way].argmax(1) == truth).float().mean()),
                        "largest_difference": float(gap.max()),
                        "mean_difference": float(gap.mean()),
                    }
                )
                print(cases[-1], flush=True)
    return cases


def precisions(backbone: Backbone, head: nn.Linear) -> dict[str, Probabilities]:
    """The model in every precision: class probabilities (B, K) of uint8 images."""
    full = backbone.library_net
    half = copy.deepcopy(backbone)
    half.round_to("bf16")

    def bf16(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return head(plain(half.library_net, half, images)).float().softmax(1)

    ways = {"fp32": lambda images: head(plain(full, backbone, images)).softmax(1), "bf16": bf16}
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        net = copy.deepcopy(full)
        quantize_(net, Int8DynamicActivationInt8WeightConfig())
        ways["int8, torchao"] = int8(net, torch.backends.quantized.engine, backbone, head)
    except ImportError:
        pass  # not installed
    for engine in ("onednn", "x86", "fbgemm"):
        if engine in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = engine
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch.ao is deprecated
                net = torch.ao.quantization.quantize_dynamic(copy.deepcopy(full), {nn.Linear}, dtype=torch.qint8)
            ways[f"int8, {engine}"] = int8(net, engine, backbone, head)
    return ways


def int8(net: nn.Module, engine: str, backbone: Backbone, head: nn.Linear) -> Probabilities:
    """Class probabilities of a quantised network, computed by its engine."""

    def run(images: Tensor) -> Tensor:
        torch.backends.quantized.engine = engine
        return head(plain(net, backbone, images)).softmax(1)

    return run


def plain(net: Any, backbone: Backbone, images: Tensor) -> Tensor:
    """Features of uint8 images by timm's own forward pass."""
    mean, std = (255 * torch.tensor(each).view(3, 1, 1) for each in (backbone.preprocess.mean, backbone.preprocess.std))
    return net.forward_head(net.forward_features(normalise(images, mean, std)), pre_logits=True)


def read(folder: Path, backbone: Backbone, shots: int | None, most: int | None) -> tuple[Tensor, Tensor]:
    """Images (N, 3, S, S) uint8 and labels of class folders: `shots` of each class, `most` of all, by a fixed seed."""
    transform, chance = eval_transform(backbone.preprocess), random.Random(0)
    files = []
    for label, place in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        mine = [(file, label) for file in sorted(place.iterdir())]
        files += chance.sample(mine, min(len(mine), shots or len(mine)))
    files = chance.sample(files, min(len(files), most or len(files)))
    return torch.stack([transform(decode(file)) for file, _ in files]), torch.tensor([label for _, label in files])


def fitted(features: Tensor, labels: Tensor) -> nn.Linear:
    """A linear head fitted on features by logistic regression."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000).fit(features.numpy(), labels.numpy())
    head = nn.Linear(features.shape[1], len(model.classes_)).requires_grad_(False)
    head.weight.copy_(torch.from_numpy(model.coef_))
    head.bias.copy_(torch.from_numpy(model.intercept_))
    return head


if __name__ == "__main__":
    main()
