"""Turn a training checkpoint into the shipped backbone: float16 weights and a model card.

python -m benchmarks.pretraining.export /tmp/nano [--transfer transfer.json]
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer

from benchmarks.pretraining.learner import MEAN, STD
from vpt.utils.atomic_io import write_atomic, write_json

ASSETS = Path(__file__).resolve().parents[2] / "vpt" / "assets"
LIMIT = 6_000_000  # bytes that the package may spend on the weights


def card(run: dict[str, Any], sha256: str, parameters: int, transfer: dict[str, Any] | None) -> dict[str, Any]:
    """The machine-readable model card of a run whose last status is `run`."""
    # In a run that the clock ended, the plan's number of images is a limit that was never reached.
    plan = {("image_limit" if name == "images" else name): value for name, value in run["plan"].items()}
    return {
        "name": "vpt_nano",
        "architecture": run["architecture"],
        "parameters": parameters,
        "image_size": run["architecture"]["img_size"],
        "mean": list(MEAN),
        "std": list(STD),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "licence": "Apache-2.0",
        "data": "none: images drawn by formula while training (benchmarks/pretraining/generator.py)",
        "recipe": {
            "targets": "formula class, colours, place and size on the class token; figure coverage on the patches",
            "optimiser": "AdamW, betas 0.9 and 0.98, gradient norm clipped at 1, bfloat16 autocast",
            **plan,
        },
        "compute": {
            "images_seen": run["images"],
            "steps": run["step"],
            "minutes": round(run["minutes"], 1),
            "device": run["device"],
            "finished": run["progress"] >= 1.0,
        },
        "sha256": sha256,
        "measured_transfer": transfer,
        "limits": "For tests, demonstrations and small experiments: it has never seen a photograph.",
    }


def export(folder: Path, assets: Path = ASSETS, transfer: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write `vpt_nano.safetensors` and `vpt_nano.json` from the checkpoint in `folder`; give back the card.

    `transfer` is kept only if it was measured on these very weights (see `transfer.py`).
    """
    saved = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    prefix = "backbone."
    weights = {
        name.removeprefix(prefix): value.half().contiguous()
        for name, value in saved["model"].items()
        if name.startswith(prefix)
    }
    VisionTransformer(**saved["identity"]["architecture"], num_classes=0).load_state_dict(weights, strict=True)
    payload = save(weights, metadata={"format": "pt"})
    if len(payload) > LIMIT:
        raise SystemExit(f"the weights take {len(payload)} bytes, more than {LIMIT}; make the architecture smaller")
    sha256 = hashlib.sha256(payload).hexdigest()
    if transfer is not None and transfer.get("sha256") != sha256:
        raise SystemExit("--transfer was measured on other weights; run transfer.py on the exported file again")
    run = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    if run["step"] != saved["step"]:
        raise SystemExit(f"{folder} is being written: the checkpoint is at step {saved['step']}; try again")
    write_atomic(assets / "vpt_nano.safetensors", lambda path: path.write_bytes(payload) and None)
    result = card(run, sha256, sum(v.numel() for v in weights.values()), transfer)
    write_json(assets / "vpt_nano.json", result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="--out of train.py")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--transfer", type=Path, help="result of transfer.py on the same weights")
    args = parser.parse_args()
    measured = json.loads(args.transfer.read_text(encoding="utf-8")) if args.transfer else None
    print(json.dumps(export(args.folder, args.assets, measured), indent=2))


if __name__ == "__main__":
    main()
