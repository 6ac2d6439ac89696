"""Measures time, memory and energy of prompting here, of prompting by concatenation, and of the alternatives.

    nice -n 10 python -m benchmarks.speed.steps  # ViT-S and ViT-B at 224 px, 50 and 100 tokens
    python -m benchmarks.speed.steps --preset gpu  # ViT-S/B/L, 10 to 200 tokens, batch 1 to 128, ...
    python -m benchmarks.speed.steps --models vit_small_patch16_224 --tokens 50 --batch 1 8 --precision fp32 bf16
    OMP_NUM_THREADS=1 python -m benchmarks.speed.steps --preset forms  # prompting as published and here, on a CPU

Variants: the plain backbone, a linear probe, shallow prompts, deep prompts by concatenation (the reference that the
tests compare with, tests/helpers/concatenation_twin.py), deep prompts here, LoRA by peft, full fine-tuning. All
variants of a case take turns in one process, so that other load on the machine affects them alike; medians are
reported. Weights are random, because speed does not depend on them. A variant named "vpt, bf16" is computed in bf16
whatever the precision of its case, so that precisions take turns, too.

Results go to benchmarks/results/speed-<device>.json (of the preset "forms" to speed-<device>-forms.json), one series of
alternating rounds after another. Cases that are already complete are skipped. Missing variants of a case are measured
in a separate series together with `vpt` and the plain backbone, so that ratios never cross series. `--note` is stored
with the series, as in --note 'machine shared with other work'.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import joules, machine, matmul_rate, operations, peak, reset_peak, settle
from benchmarks.results_files import RESULTS
from benchmarks.speed.variants import SETTINGS, VARIANTS, Case, Step
from vpt.utils.atomic_io import write_json
from vpt.utils.device import pick_device

PRESETS: dict[str, dict[str, list[Any]]] = {
    "cpu": {
        "models": ["vit_small_patch16_224", "vit_base_patch16_224"],
        "tokens": [50, 100],
        "batch": [8, 32],
        "precision": ["fp32"],
        "mode": ["eager"],
    },
    "gpu": {
        "models": [f"vit_{size}_patch16_224" for size in ("small", "base", "large")],
        "tokens": [10, 50, 100, 200],
        "batch": [1, 32, 128],
        "precision": ["fp32", "bf16"],
        "mode": ["eager", "graphs", "compiled"],
    },
    "forms": {
        "models": [f"vit_{size}_patch16_224" for size in ("tiny", "small", "base")],
        "tokens": [10, 50, 100],
        "batch": [4],
        "precision": ["fp32"],
        "mode": ["eager"],
        "variants": [
            *("plain backbone", "plain backbone, bf16", "plain forward", "plain forward, bf16"),
            *("released form", "concatenation", "vpt", "vpt, bf16", "lora", "full"),
        ],
        "rounds": 3,
        "memory": False,
        "startup": False,
    },
}
DEFAULTS = {"variants": list(VARIANTS), "rounds": 7, "memory": True, "startup": True}
REFERENCES = ("plain backbone", "vpt")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
START = {
    "vpt": "import vpt; print(vpt.load({artifact!r}, device={device!r}).predict({picture!r})[0].top)",
    "timm": """
import timm, torch
from PIL import Image
net = timm.create_model({model!r}, num_classes=10).eval().to({device!r})
make = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
with torch.inference_mode():
    print(int(net(make(Image.open({picture!r}).convert("RGB"))[None].to({device!r})).argmax()))
""",
}


def main(words: Sequence[str] | None = None) -> None:
    options = parsed(words)
    device = pick_device(options.device)
    out = options.out or RESULTS / f"speed-{device.type}{'-forms' if options.preset == 'forms' else ''}.json"
    found = read(out, device)
    for setting in product(options.models, options.tokens, options.batch, options.precision, options.mode):
        case = of_setting(found, setting)
        wanted = missing(case, options.variants)
        if not wanted:
            print(f"{described(case)}: measured already", flush=True)
            continue
        case["series"].append(measure(case, wanted, options, device))
        write_json(out, found)
        print(f"{described(case)}: {summary(case['series'][-1])}", flush=True)
    for precision in options.precision:
        found["matmul_per_second"].setdefault(precision, matmul_rate(device, DTYPES[precision]))
    for model in options.models if options.startup else ():
        if model not in found["startup"]:
            found["startup"][model] = startup(model, device)
            print(f"{model}, start to first answer: {found['startup'][model]}", flush=True)
            write_json(out, found)
    write_json(out, found)
    print(f"written to {out}")


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what is not given comes from the preset, and what that does not name from `DEFAULTS`."""
    names = [*SETTINGS, *(f"{name}, {precision}" for name, precision in product(SETTINGS, DTYPES))]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="cpu")
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--tokens", nargs="+", type=int)
    parser.add_argument("--batch", nargs="+", type=int)
    parser.add_argument("--precision", nargs="+", choices=list(DTYPES))
    parser.add_argument("--mode", nargs="+", choices=["eager", "graphs", "compiled"])
    parser.add_argument("--variants", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--parts", nargs="+", choices=["training", "inference"], default=["training", "inference"])
    parser.add_argument("--rounds", type=int)
    memory = "count memory and operations, too, which takes one step more"
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=None, help=memory)
    parser.add_argument("--joules-s", type=float, default=2.0, help="seconds over which energy is counted")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--startup", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(words)
    for key, values in {**DEFAULTS, **PRESETS[options.preset]}.items():
        if getattr(options, key) is None:
            setattr(options, key, values)
    return options


def read(out: Path, device: torch.device) -> dict[str, Any]:
    """The results so far, on the same machine; or none."""
    import json

    fresh = {"machine": machine(device), "matmul_per_second": {}, "startup": {}, "cases": []}
    if not out.is_file():
        return fresh
    found = {**fresh, **json.loads(out.read_text(encoding="utf-8"))}
    place, here = ([each["machine"][key] for key in ("device", "threads")] for each in (found, fresh))
    if place != here:
        raise SystemExit(
            f"{out} is of {place[0]} with {place[1]} threads, this is {here[0]} with {here[1]}; give --out"
        )
    return found


def of_setting(found: dict[str, Any], setting: Sequence[Any]) -> dict[str, Any]:
    """The case of a setting, made anew if there is none."""
    wanted = dict(zip(("model", "tokens", "batch", "precision", "mode"), setting, strict=True))
    for case in found["cases"]:
        if wanted.items() <= case.items():
            return case
    found["cases"].append({**wanted, "series": []})
    return found["cases"][-1]


def missing(case: dict[str, Any], variants: Sequence[str]) -> list[str]:
    """Variants missing from all series of the case, with the references."""
    known = {name for series in case["series"] for part in ("training", "inference") for name in series[part]}
    wanted = [name for name in variants if name not in known]
    return (
        [name for name in dict.fromkeys([*REFERENCES, *variants]) if name in [*wanted, *REFERENCES]] if wanted else []
    )


def measure(
    case: dict[str, Any], variants: Sequence[str], options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """One series of alternating rounds: every variant's median time, peak memory, energy and operations."""
    names = {name: (name, "") if name in SETTINGS else name.partition(", ")[::2] for name in variants}
    made = {
        precision: Case(case["model"], case["tokens"], case["batch"], precision, case["mode"], device)
        for precision in dict.fromkeys(own or case["precision"] for _, own in names.values())
    }

    def steps(part: str) -> dict[str, Step]:
        found: dict[str, Step] = {}
        for name, (variant, own) in names.items() if part in options.parts else ():
            of = getattr(made[own or case["precision"]], part)([variant])
            found |= dict(zip([name] * len(of), of.values(), strict=True))
        return found

    return {
        "rounds": options.rounds,
        "note": options.note,
        "optimizer": "adamw",
        **{
            part: alternate(steps(part), options, device, case["mode"] == "eager") for part in ("training", "inference")
        },
    }


def alternate(
    steps: dict[str, Step], options: argparse.Namespace, device: torch.device, eager: bool
) -> dict[str, dict[str, Any]]:
    """Run all steps in turns; a variant that fails, for lack of memory or a compiler, reports the error instead."""
    found: dict[str, dict[str, Any]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    peaks: dict[str, list[int]] = {name: [] for name in steps}
    for turn in range(options.rounds + 1):
        for name, step in steps.items():
            if name in found:
                continue
            try:
                before = reset_peak(device) if options.memory else 0
                started = time.perf_counter()
                step()
                settle(device)
            except Exception as error:  # whatever a compiler or an allocator raises
                found[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"}
                continue
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - started)
                peaks[name].append(peak(device) - before if options.memory else 0)
    for name, step in steps.items():
        if name not in found:
            found[name] = {
                "seconds": statistics.median(seconds[name]),
                "rounds": seconds[name],  # ratios are medians over rounds, so that one slow round counts once
                # What a recorded pass needs is reserved for it all the time.
                "peak_bytes": statistics.median(peaks[name]) if eager and options.memory else None,
                "operations": _counted(step) if options.memory else None,
                "joules": joules(step, device, options.joules_s),
            }
    return found


def _counted(step: Step) -> int | None:
    """Operations of a step; None if one of its kernels does not run under the counter."""
    try:
        return operations(step.usual)
    except Exception:
        return None


def startup(model: str, device: torch.device, rounds: int = 3) -> dict[str, float]:
    """Seconds from starting Python to the first answer, here from an artifact and by timm alone, in turns."""
    from PIL import Image

    from vpt.config import load_config
    from vpt.models.artifact import save_artifact
    from vpt.models.classifier import backbone_for, build_model

    with tempfile.TemporaryDirectory() as folder:
        picture, artifact = f"{folder}/picture.jpg", f"{folder}/a.safetensors"
        Image.new("RGB", (320, 240), (200, 100, 50)).save(picture)
        config = load_config(overrides=[f"backbone={model}", "backbone.pretrained=false", "prompt.tokens=50"])
        classes = [str(digit) for digit in range(10)]
        save_artifact(artifact, build_model(config, backbone_for(config), classes), config, classes)
        values = {"artifact": artifact, "picture": picture, "model": model, "device": device.type}
        codes = {name: code.format(**values) for name, code in START.items()}
        seconds: dict[str, list[float]] = {name: [] for name in codes}
        for turn in range(rounds + 1):
            for name, code in codes.items():
                started = time.perf_counter()
                subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
                if turn:  # the first turn fills the file cache
                    seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def described(case: dict[str, Any]) -> str:
    return f"{case['model']}, {case['tokens']} tokens, batch {case['batch']}, {case['precision']}, {case['mode']}"


def summary(series: dict[str, Any]) -> str:
    """Milliseconds of every variant."""

    def shown(part: str) -> str:
        return ", ".join(
            f"{name} {1000 * one['seconds']:.0f}" if "seconds" in one else f"{name} failed"
            for name, one in series[part].items()
        )

    return f"training ms: {shown('training')}; inference ms: {shown('inference')}"


if __name__ == "__main__":
    main()
