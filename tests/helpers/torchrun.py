"""Two processes under torchrun."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.helpers.paths import ROOT

WORDS = ["backbone=vpt_nano", "data=digits", "data.shots=3", "data.augment=light", "data.workers=0", "prompt.tokens=3"]
WORDS += ["train.epochs=2", "train.device=cpu", "train.precision=fp32", "name=run"]


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *words], capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT)
