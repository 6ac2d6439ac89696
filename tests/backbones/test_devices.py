"""Backbones that are on an accelerator before prompts and heads are made, as in a bank and in runs side by side.

No accelerator is needed: tensors are fake ones, which have a device and a shape and refuse to meet those of another
device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from tests.helpers.clip_models import KINDS, TEXT, VISION, tokenizer
from vpt.backbones.backbone import Backbone
from vpt.backbones.text_encoder import TextEncoder
from vpt.config import load_config
from vpt.data.normalization import Preprocess
from vpt.models.classifier import build_model
from vpt.prompts.clip.text_context import Contexts


@pytest.fixture(autouse=True)
def _fake() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def clip() -> Backbone:
    """A small CLIP on an accelerator; its text tower is not causal, for what is shared in others depends on numbers."""
    build, extra = KINDS["bidirectional"]
    with torch.device("cuda"):
        model: Any = build(embed_dim=20, vision_cfg=CLIPVisionCfg(**VISION), text_cfg=CLIPTextCfg(**{**TEXT, **extra}))
    visual = model.eval().visual
    return Backbone(visual, "open_clip", "clip", Preprocess(32), text=TextEncoder(model, tokenizer(), "clip"))


def test_contexts_stand_where_the_text_tower_is():
    encoder = clip().text
    assert encoder is not None
    made = Contexts(encoder, ["cat", "dog"], 2, "a photo of a")
    assert {part.device.type for part in (made.slots, made.ends, made.base)} == {"cuda"}
    made.set_names(["owl", "kite", "hen"])
    assert (len(made.base), made.base.device.type) == (3, "cuda")


@pytest.mark.parametrize(
    "words",
    [
        ["prompt=coop", "prompt.tokens=2", "prompt.words=a photo of a"],
        ["prompt=coop", "prompt.class_specific=true"],
        ["prompt=cocoop", "prompt.words=null"],
        ["prompt=kgcoop"],
        ["prompt=ivlp", "prompt.depth=2", "prompt.text_depth=2"],
        ["prompt=maple", "prompt.depth=2"],
        ["prompt=tpt"],
        ["prompt=none", "head=tip"],
    ],
    ids=" ".join,
)
def test_models_are_built_around_it(words: list[str], monkeypatch: pytest.MonkeyPatch):
    # On disk they are kept as numbers, which fake ones do not have.
    def fixed(_encoder: Any, _fingerprint: str, names: list[str], *_: Any) -> torch.Tensor:
        return F.normalize(torch.randn(len(names), 20, device="cuda"), dim=-1)

    monkeypatch.setattr("vpt.heads.zero_shot.class_features", fixed)
    model = build_model(load_config(overrides=["head=zeroshot", *words]), clip(), ["cat", "dog"])
    assert {each.device.type for each in model.backbone.parameters()} == {"cuda"}


def test_a_convolutional_tower_tells_its_width():
    with torch.device("cuda"):
        net = open_clip.modified_resnet.ModifiedResNet([1, 1, 1, 1], 16, 2, image_size=64, width=8)
    assert Backbone(net.eval(), "open_clip", "resnet", Preprocess(64)).feature_width("native") == 16
