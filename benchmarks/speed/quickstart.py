"""Results of the quickstart and of configs/digits.yaml, for the README: a table as JSON, and a picture.

python -m benchmarks.speed.quickstart
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch

from benchmarks.machine import machine
from benchmarks.results_files import RESULTS
from vpt.config import load_config, read_yaml
from vpt.metrics.comparison import method_name
from vpt.training.run import train
from vpt.utils.atomic_io import write_json

ROOT = Path(__file__).resolve().parents[2]


QUESTIONS = {"quickstart": "how far apart are two digits?", "digits": "which digit is it?"}


def main() -> None:
    result = []
    with tempfile.TemporaryDirectory() as place:
        for name, question in QUESTIONS.items():
            config = load_config(base=read_yaml(ROOT / "configs" / f"{name}.yaml"), overrides=[f"out={place}"])
            run = train(config).folder
            if name == "quickstart":
                shutil.copy(run / "comparison.png", ROOT / "docs" / "images" / "quickstart.png")
            for folder in (run, *run.glob("compare-*")):
                found = read_yaml(folder / "metrics.json")
                row = {
                    "question": question,
                    "method": method_name(found),
                    "accuracy": found["test"]["accuracy"],
                    "images": found["test"]["images"],
                    "learning": found["parameters"]["learning"],
                    "artifact_bytes": found["artifact_bytes"],
                    "seconds": found["seconds"],
                }
                result.append(row)
    write_json(RESULTS / "quickstart.json", {"machine": machine(torch.device("cpu")), "rows": result})


if __name__ == "__main__":
    main()
