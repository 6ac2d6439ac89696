"""Trains several runs in the processes of one torchrun."""

from __future__ import annotations

import json
import sys

import vpt
from tests.helpers.runs import QUIET
from vpt.config import load_config
from vpt.utils.distributed import joined

if __name__ == "__main__":
    with joined():
        for words in json.loads(sys.argv[1]):
            vpt.train(load_config(overrides=words), QUIET)
