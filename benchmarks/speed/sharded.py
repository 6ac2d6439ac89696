"""The training step of a sharded backbone in a process group of one: what gathering and recomputing layers costs.

    python -m benchmarks.speed.sharded --models vit_large_patch16_224 --tokens 50 --batch 64 --precision bf16

The options of benchmarks/speed/steps.py; --variants vpt recompute sharded. One card shows the overhead and that the
path runs; the traffic between cards needs several.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import distributed

from benchmarks.speed import steps


def main(words: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if words is None else words)
    backend = "gloo" if "cpu" in given or not torch.cuda.is_available() else "nccl"
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    try:
        variants = [] if "--variants" in given else ["--variants", "plain backbone", "vpt", "recompute", "sharded"]
        steps.main([*given, "--parts", "training", "--mode", "eager", *variants])
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
