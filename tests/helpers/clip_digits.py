"""A small CLIP that is trained on digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from vpt.config import RunConfig, load_config
from vpt.data.datasets.digits import NAMES

SENTENCE = "a picture of the digit {}."


CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="session")
def digits_clip(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings that name a CLIP trained for some seconds on a third of the digits, contrastively."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-digits.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / "tiny-digits.json")
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    data = load_digits()
    images = torch.from_numpy(1 - data.images / 16).float()[::3, None]
    images = F.interpolate(images, size=32, mode="bicubic").expand(-1, 3, -1, -1)
    mean, std = (
        torch.tensor(value).view(3, 1, 1) for value in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    images = (images - mean) / std
    labels = torch.from_numpy(data.target)[::3]
    model: Any = open_clip.create_model("tiny-digits")
    tokens = open_clip.get_tokenizer("tiny-digits")([SENTENCE.format(name) for name in NAMES])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    for _step in range(120):
        pick = torch.randint(len(images), (64,))
        image = model.encode_image(images[pick], normalize=True)
        text = model.encode_text(tokens, normalize=True)
        loss = F.cross_entropy(model.logit_scale.exp() * image @ text.T, labels[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "clip.safetensors")
    return ["backbone=open_clip:tiny-digits", f"backbone.weights={folder / 'clip.safetensors'}"]


def settings(clip: list[str], out: Path, *words: str) -> RunConfig:
    common = ["data=digits", "data.augment=none", "head=zeroshot", f"head.templates={SENTENCE}", f"out={out}"]
    return load_config(overrides=[*clip, *common, "name=run", "train.epochs=4", "train.batch_size=32", *words])


WORDS = "prompt.words=a picture of the digit"


LEARNERS = {
    "coop": ["prompt=coop", "prompt.tokens=5", WORDS],
    "coop, own context": ["prompt=coop", "prompt.tokens=5", "prompt.class_specific=true", "train.epochs=15"],
    "cocoop": [
        "prompt=cocoop",
        "prompt.tokens=5",
        WORDS,
        "prompt.chunk=16",
        "train.epochs=6",
        "train.optimizer.lr.prompt=0.02",
    ],
    "kgcoop": ["prompt=kgcoop", "prompt.tokens=5", "prompt.weight=1", WORDS],
    "taskres": ["prompt=taskres", "train.optimizer.lr.prompt=0.02"],
    "clip-lora": ["prompt=clip_lora", "train.optimizer.lr.prompt=0.01", "train.epochs=3"],
    "prograd": ["prompt=prograd", "prompt.tokens=8", WORDS, "train.epochs=3"],
    "tcp": ["prompt=tcp", "prompt.tokens=5", WORDS, "prompt.layer=1", "prompt.weight=1", "train.epochs=3"],
    "mmrl": ["prompt=mmrl", "prompt.width=16", "prompt.layer=1", "train.optimizer.lr.prompt=0.01", "train.epochs=3"],
    "mmrl++": [
        *["prompt=mmrlpp", "prompt.width=16", "prompt.layer=1", "prompt.projection_rank=8"],
        *["train.optimizer.lr.prompt=0.01", "train.epochs=3"],
    ],
    "visual prompts": ["prompt=deep"],
    "pixels": ["prompt=pixel", "prompt.size=4"],
    "ivlp": ["prompt=ivlp", "prompt.depth=2", "prompt.text_depth=2", WORDS],
    "maple": ["prompt=maple", "prompt.depth=2", WORDS],
    "promptsrc": [
        *["prompt=promptsrc", "prompt.depth=2", "prompt.text_depth=2", WORDS],
        # The templates it is held to were not among this model's sentences.
        *["prompt.text_weight=1", "train.average.mean=7", "train.epochs=8", "train.optimizer.lr.prompt=0.01"],
    ],
    "tip": ["prompt=none", "head=tip"],
    "tip, finetuned": ["prompt=none", "head=tip", "head.finetune=true"],
}
