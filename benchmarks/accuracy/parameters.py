"""Counts the trainable parameters of every method on ViT-B/16 at 224 px, without the head; no training, no downloads.

python -m benchmarks.accuracy.parameters
"""

from __future__ import annotations

from benchmarks.results_files import RESULTS
from vpt.config import RunConfig, load_config
from vpt.models.classifier import backbone_for, build_model
from vpt.utils.atomic_io import write_json

VIT = ["backbone=vit_base_patch16_224", "backbone.pretrained=false"]
CLIP = ["backbone=open_clip:ViT-B-16", "backbone.pretrained=false", "head=zeroshot"]
METHODS = {
    **{f"prompt={kind}": VIT for kind in ("shallow", "deep", "vfpt", "e2vpt", "cvpt", "vapt", "gated", "bpt", "pixel")},
    **{
        f"prompt={kind}": VIT
        for kind in ("davpt", "davpt prompt.value_bias=true", "vqt", "provpt", "tcpa", "viapt", "sa2vp", "adapter")
    },
    "prompt=pixel prompt.shape=lowrank": VIT,
    **{f"tuning={kind} prompt=none": VIT for kind in ("bias", "lora", "full")},
    **{f"prompt={kind}": CLIP for kind in ("coop", "cocoop", "kgcoop", "ivlp", "maple", "promptsrc", "tpt")},
    **{f"prompt={kind}": CLIP for kind in ("clip_lora", "prograd", "tcp", "mmrl", "mmrlpp")},
}


def main() -> None:
    rows = []
    for setting, base in METHODS.items():
        config = load_config(overrides=[*base, *setting.split()])
        rows.append({"setting": setting, "backbone": config.backbone.name, "learning": count(config)})
        print(rows[-1], flush=True)
    write_json(RESULTS / "parameters.json", {"rows": rows})


def count(config: RunConfig) -> int:
    """Number of trainable parameters without the classifier head."""
    model = build_model(config, backbone_for(config), ["cat", "dog"])
    return sum(parameter.numel() for _, role, parameter in model.trainable() if role != "head")


if __name__ == "__main__":
    main()
