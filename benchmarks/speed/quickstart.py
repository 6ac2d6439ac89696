"""What the quickstart reaches, for the README: its table as JSON and its picture.

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


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        config = load_config(base=read_yaml(ROOT / "configs" / "quickstart.yaml"), overrides=[f"out={place}"])
        run = train(config).folder
        metrics = [read_yaml(folder / "metrics.json") for folder in (run, *run.glob("compare-*"))]
        rows = [
            {
                "method": method_name(found),
                "accuracy": found["test"]["accuracy"],
                "images": found["test"]["images"],
                "learning": found["parameters"]["learning"],
                "artifact_bytes": found["artifact_bytes"],
                "seconds": found["seconds"],
            }
            for found in metrics
        ]
        write_json(RESULTS / "quickstart.json", {"machine": machine(torch.device("cpu")), "rows": rows})
        (ROOT / "docs" / "images").mkdir(exist_ok=True)
        shutil.copy(run / "comparison.png", ROOT / "docs" / "images" / "quickstart.png")


if __name__ == "__main__":
    main()
