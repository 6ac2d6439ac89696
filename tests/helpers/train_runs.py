"""Trains several runs one after the other, in all processes of one torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import vpt
from tests.helpers.clip_models import register_tiny
from tests.helpers.runs import QUIET
from vpt.config import load_config
from vpt.utils.distributed import is_first, joined, ranks

if __name__ == "__main__":
    with joined():
        own = Path(sys.argv[1]) / f"rank-{ranks().rank}"
        own.mkdir()
        register_tiny(own, "tiny-divided", 2)
        for words in json.loads(sys.argv[2]):
            vpt.train(load_config(overrides=words), QUIET)
            if is_first():
                print(words[-1], flush=True)
