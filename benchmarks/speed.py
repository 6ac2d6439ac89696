"""Time and memory of prompting: this executor, the concatenating definition and the plain backbone, side by side.

    python benchmarks/speed.py                      # ViT-S and ViT-B at 224 px, 50 and 100 deep tokens
    python benchmarks/speed.py --models vit_small_patch16_224 --tokens 50 --batch 8 --rounds 5

All variants of a case take turns in one process, so that a busy machine slows them alike; medians are reported. The
concatenating definition is the one that the tests hold the executor to (tests/twin.py). Weights are random: speed does
not depend on them. Results go to benchmarks/results/speed-<device>.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from measuring import RESULTS, machine, peak, reset_peak  # noqa: E402
from twin import twin_features  # noqa: E402

from vpt.backbones.loading import load_backbone  # noqa: E402
from vpt.config import load_config  # noqa: E402
from vpt.device import autocast, pick_device  # noqa: E402
from vpt.files import write_json  # noqa: E402
from vpt.model import PromptedModel, build_model  # noqa: E402

Step = Callable[[], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vit_small_patch16_224", "vit_base_patch16_224"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[50, 100])
    parser.add_argument("--batch", nargs="+", type=int, default=[8, 32], help="32 is the default of vpt train")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    device = pick_device(options.device)
    cases = [
        measure(name, tokens, batch, options.rounds, device, options.precision)
        for name in options.models
        for tokens in options.tokens
        for batch in options.batch
    ]
    result = {"machine": machine(device), "precision": options.precision, "cases": cases}
    out = options.out or RESULTS / f"speed-{device.type}.json"
    write_json(out, result)
    print(f"written to {out}")


def measure(name: str, tokens: int, batch: int, rounds: int, device: torch.device, precision: str) -> dict[str, Any]:
    """One model and prompt length: medians of every variant, and the ratios that matter."""
    words = [f"backbone={name}", "backbone.pretrained=false", "prompt=deep", f"prompt.tokens={tokens}"]
    config = load_config(overrides=words)
    model = build_model(config, load_backbone(config.backbone), [str(digit) for digit in range(10)]).to(device)
    images = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 10, (batch,), device=device)
    context = autocast(precision, device)

    def concatenated() -> Tensor:
        assert model.prompt is not None
        sets = model.prompt.sets(batch)
        return model.head(twin_features(model.backbone, model.normalise(images), sets, model.prompt.inserted, "carry"))

    def learn(forward: Step) -> Step:
        def step() -> Tensor:
            with context():
                logits = forward()
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
            loss.backward()
            for _, _, parameter in model.trainable():
                parameter.grad = None
            return loss

        return step

    def infer(forward: Step) -> Step:
        def step() -> Tensor:
            with torch.inference_mode(), context():
                return forward()

        return step

    with torch.inference_mode(), context():
        constants = model.constants()
    net = model.backbone.net
    plain = timm_forward(net, model)
    training = {"concatenation": learn(concatenated), "vpt": learn(lambda: model(images))}
    inference = {
        "plain backbone": infer(lambda: plain(images)),
        "concatenation": infer(concatenated),
        "vpt": infer(lambda: model(images, constants)),
    }
    found: dict[str, Any] = {"model": name, "tokens": tokens, "batch": batch, "rounds": rounds}
    model.train()
    found["training"] = alternate(training, rounds, device)
    model.eval()
    found["inference"] = alternate(inference, rounds, device)
    train, infer_ = found["training"], found["inference"]
    found["training_speedup"] = train["concatenation"]["seconds"] / train["vpt"]["seconds"]
    found["training_memory_ratio"] = train["vpt"]["peak_bytes"] / max(1, train["concatenation"]["peak_bytes"])
    found["inference_over_plain"] = infer_["vpt"]["seconds"] / infer_["plain backbone"]["seconds"]
    found["concatenation_over_plain"] = infer_["concatenation"]["seconds"] / infer_["plain backbone"]["seconds"]
    print(
        f"{name}, {tokens} tokens, batch {batch}: training {found['training_speedup']:.2f}x as fast as concatenation, "
        f"inference {found['inference_over_plain']:.3f}x of the plain backbone "
        f"(concatenation {found['concatenation_over_plain']:.3f}x)",
        flush=True,
    )
    return found


def timm_forward(net: torch.nn.Module, model: PromptedModel) -> Callable[[Tensor], Tensor]:
    """The backbone as its library runs it, with the same head."""
    return lambda images: model.head(net.forward_head(net.forward_features(model.normalise(images)), pre_logits=True))


def alternate(steps: dict[str, Step], rounds: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Let all steps take turns; the median time of each, and the peak memory it needs beyond what lay there before."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    peaks: dict[str, list[int]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            before = reset_peak(device)
            started = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - started)
                peaks[name].append(peak(device) - before)
    return {
        name: {"seconds": statistics.median(seconds[name]), "peak_bytes": statistics.median(peaks[name])}
        for name in steps
    }


if __name__ == "__main__":
    main()
