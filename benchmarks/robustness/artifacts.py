"""Mutated artifacts, many of them, loaded and asked about a picture: what came of each, in JSON.

    python -m benchmarks.robustness.artifacts --count 10000

Every mutation must load or be refused by a UserError of one line. Anything else is counted as a crash and named.
Results go to benchmarks/results/robustness-artifacts.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor

import vpt
from benchmarks.machine import machine
from benchmarks.robustness import mutate
from tests.compat.backbones import register
from tests.compat.cases import pictures
from vpt.utils.atomic_io import write_json
from vpt.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = sorted((ROOT / "tests" / "compat" / "0.1" / "artifacts").glob("*.safetensors"))
ON_CLIP = ("clip", "boxes-owl")  # what their names begin with


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="of mutated files, spread over all artifacts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "robustness-artifacts.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = place  # notes and text features of the user are left alone
        found = tried(Path(place), options.count, options.seed)
    print(json.dumps(found, indent=2))
    write_json(options.output, {"machine": machine(torch.device("cpu")), "seed": options.seed, **found})


def tried(work: Path, count: int, seed: int) -> dict[str, Any]:
    """Load that many mutated artifacts; how many loaded, were refused or crashed, and what they took."""
    weights = register(work)
    each = -(-count // len(ARTIFACTS))
    counts: Counter[str] = Counter()
    crashes: list[str] = []
    longest, before = 0.0, 0
    for number, artifact in enumerate(ARTIFACTS):
        clip = artifact.name.startswith(ON_CLIP)
        target = work / artifact.name
        used(artifact, weights if clip else None)  # what a whole one takes is no mutation's
        before = max(before, peak())
        for name, write in mutations(artifact, target, each, seed + number):
            write()
            started = time.monotonic()
            try:
                used(target, weights if clip else None)
                counts["loaded"] += 1
            except UserError as error:
                counts["refused"] += 1
                if "\n" in str(error):
                    crashes.append(f"{artifact.stem}: {name}: more than one line")
            except Exception as error:
                counts["crashed"] += 1
                crashes.append(f"{artifact.stem}: {name}: {type(error).__name__}: {error}"[:300])
            longest = max(longest, time.monotonic() - started)
        print(artifact.stem, dict(counts), file=sys.stderr, flush=True)
    return {
        "mutations": sum(counts.values()),
        **{key: counts[key] for key in ("loaded", "refused", "crashed")},
        "crashes": crashes[:100],
        "longest_seconds": round(longest, 2),
        "peak_megabytes": peak(),
        "peak_megabytes_of_whole_artifacts": before,
    }


def mutations(artifact: Path, target: Path, count: int, seed: int) -> Iterator[tuple[str, Any]]:
    """What writes each mutation of an artifact: most of its header, the others of its tensors and bytes."""
    tensors, tree = mutate.load(artifact)
    text = json.dumps(tree)
    several, single = mutate.drawn(tree, count // 2, seed), list(mutate.headers(tree))
    step = max(1, len(single) // (3 * count // 10 + 1))

    def header(changed: str) -> Any:
        return lambda: mutate.write(target, tensors, changed)

    def numbers(changed: dict[str, Tensor]) -> Any:
        return lambda: mutate.write(target, changed, text)

    headers = itertools.chain(several, itertools.islice(single, seed % step, None, step))
    yield from ((name, header(changed)) for name, changed in itertools.islice(headers, count * 8 // 10))
    values = list(mutate.tensors(tensors))
    stride = max(1, len(values) // (count // 10 + 1))
    yield from ((name, numbers(changed)) for name, changed in values[seed % stride :: stride][: count // 10])
    for name, content in mutate.contents(artifact.read_bytes(), count // 10, seed):
        yield name, lambda content=content: target.write_bytes(content)


def used(path: Path, weights: Path | None) -> None:
    """Load an artifact and ask it about a picture."""
    vpt.load(path, "cpu", weights).predict(pictures()[1])


def peak() -> int:
    """The most memory of this process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
