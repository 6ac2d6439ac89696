"""What the GPU machine needs, in one folder: photos as 224 px WebP squares, some of Fashion-MNIST, weights, code.

python -m benchmarks.accuracy.suite.pack FOLDER [--quality 75] [--backbones vit_ti vit_s nano]
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed

from benchmarks.accuracy.suite import tasks

BACKBONES = {
    "vit_ti": (tasks.SHARED / "weights/vit_tiny_patch16_224_in1k.safetensors", 16, 3, (112, 224)),
    "vit_s": (tasks.SHARED / "weights/vit_small_patch16_224_saliency.safetensors", 16, 6, (112,)),
    "nano": (Path("vpt/assets/vpt_nano.safetensors"), 8, 3, (64,)),
}


def photos(folder: Path, quality: int) -> None:
    index, blob = {}, bytearray()
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        root = tasks.SHARED / "data/clothing" / name
        classes = sorted(p.name for p in root.iterdir() if p.is_dir())
        index[split] = []
        for label, kind in enumerate(classes):
            for file in sorted((root / kind).iterdir()):
                image = tasks._square(np.asarray(Image.open(file).convert("RGB")))
                out = io.BytesIO()
                image.resize((224, 224), Image.Resampling.BICUBIC).save(out, "WEBP", quality=quality, method=6)
                index[split].append([len(blob), out.tell(), label])
                blob += out.getvalue()
    (folder / "photos.bin").write_bytes(blob)
    (folder / "photos.json").write_text(json.dumps(index))


def fashion(folder: Path, seeds: int) -> None:
    parts = {}
    for seed in range(seeds):
        for split in ("train", "val"):
            images, labels = tasks.TASKS["fashion-100"].make(seed, split)
            parts[f"{seed}-{split}"] = np.stack(images)[..., 0]
            parts[f"{seed}-{split}-labels"] = labels
    images, labels = tasks.TASKS["fashion-100"].make(0, "test")
    np.savez_compressed(folder / "fashion.npz", **parts, test=np.stack(images)[..., 0], **{"test-labels": labels})


def weights(folder: Path, name: str) -> None:
    """fp16; ViT-S's matrices in 8 bits with a scale for each output, to fit what may travel."""
    file, patch, heads, sizes = BACKBONES[name]
    found = {k: v.float() for k, v in load_file(file).items() if not k.startswith("head")}
    arrays: dict[str, np.ndarray] = {}
    for key, value in found.items():
        if key == "pos_embed":
            for size in sizes:
                arrays[f"pos_embed.{size}"] = resample_abs_pos_embed(value, [size // patch] * 2).half().numpy()
        elif name == "vit_s" and key.endswith("weight") and value.dim() > 1:
            rows = value.flatten(1)
            scale = (rows.abs().amax(1, keepdim=True) / 127).half()
            arrays[key], arrays[f"{key}.scale"] = (
                (rows / scale.float()).round().clamp(-127, 127).to(torch.int8).numpy(),
                scale.numpy(),
            )
        else:
            arrays[key] = (value.flatten(1) if key.startswith("patch_embed.proj.w") else value).half().numpy()
    out = io.BytesIO()
    np.savez(out, **arrays, about=np.array([patch, heads]))
    data = out.getvalue()
    (folder / f"{name}.npz.xz").write_bytes(lzma.compress(data, preset=1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quality", type=int, default=75)
    parser.add_argument("--backbones", nargs="*", default=list(BACKBONES))
    parser.add_argument("--only-weights", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.backbones:
        weights(options.folder, name)
    if not options.only_weights:
        photos(options.folder, options.quality)
        fashion(options.folder, 5)
    code = options.folder / "benchmarks/accuracy/suite"
    code.mkdir(parents=True, exist_ok=True)
    for file in ("batched", "gpu", "tasks", "scenes", "plans", "__init__"):
        shutil.copy(Path(__file__).with_name(f"{file}.py"), code)
    heads = options.folder / "vpt/heads"
    heads.mkdir(parents=True, exist_ok=True)
    for package in (heads.parent, heads):
        (package / "__init__.py").touch()
    shutil.copy(Path("vpt/heads/logistic.py"), heads)


if __name__ == "__main__":
    main()
