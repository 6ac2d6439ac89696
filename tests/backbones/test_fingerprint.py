"""What tells one frozen network from another: its weights, and what it computes with them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import vpt
from vpt.backbones.factory import load_backbone
from vpt.backbones.fingerprint import fingerprint
from vpt.config import BackboneConfig, load_config
from vpt.heads.zero_shot import class_features
from vpt.inference.bank.bank import Bank
from vpt.models.artifact import read_artifact, save_artifact
from vpt.models.wrap import load_prompt, wrap
from vpt.utils.errors import UserError
from vpt.utils.tensor_io import read_tensors, write_tensors

SIZE = 32
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}


def net(**settings: Any) -> nn.Module:
    """A small ViT; the same weights whatever the settings."""
    usual = {"img_size": SIZE, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 3}
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **{**usual, **settings}).eval()


TWINS: dict[str, dict[str, Any]] = {
    "heads": {"num_heads": 2},
    "activation": {"act_layer": "quick_gelu"},
    "tanh": {"act_layer": partial(nn.GELU, approximate="tanh")},
    "eps": {"norm_layer": partial(nn.LayerNorm, eps=1e-3)},
    "pooling": {"global_pool": "avg", "fc_norm": False},
}


@pytest.mark.parametrize("name", TWINS)
def test_twins_of_equal_weights_that_compute_otherwise(name: str, tmp_path: Path):
    one, other = net(), net(**TWINS[name])
    other.load_state_dict(one.state_dict())
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(one(images), other(images))
    assert fingerprint(one) != fingerprint(other)
    path = wrap(one, "deep", tokens=2).save(tmp_path / "prompt.safetensors")
    with pytest.raises(UserError, match="another precision, activation, pooling or image size"):
        load_prompt(other, path)


def test_position_embeddings_belong_to_it():
    one, other = net(), net()
    with torch.no_grad():
        other.pos_embed.add_(0.1)
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda one: one.half().float().half(), id="half"),
        pytest.param(lambda one: one.train(), id="training"),
        pytest.param(lambda one: one.requires_grad_(False), id="frozen"),
        pytest.param(lambda one: one.set_grad_checkpointing() or one, id="checkpointing"),
    ],
)
def test_what_changes_no_answer_does_not_matter(change: Any):
    one = net().half().float()
    assert fingerprint(change(net().half().float())) == fingerprint(one)


def test_what_is_idle_in_evaluation_does_not_matter():
    assert fingerprint(net(drop_rate=0.1, drop_path_rate=0.1)) == fingerprint(net())


def test_left_out_weights_do_not_matter():
    one, other = net(), net()
    nn.init.ones_(other.head.weight)
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one, without=["head.weight"]) == fingerprint(other, without=["head.weight"])


@pytest.mark.parametrize("name", ["vpt_nano", "vit_tiny_patch16_224", "eva02_tiny_patch14_224", "test_resnet"])
def test_any_image_size_and_any_way_to_hold_weights_give_the_same(name: str):
    def of(dynamic: bool = False, **settings: Any) -> str:
        found = BackboneConfig(name=name, pretrained=name == "vpt_nano", **settings)
        return load_backbone(found, dynamic=dynamic).fingerprint

    size = 56 if "14" in name else 64 if name == "test_resnet" else 48
    usual = of()
    assert of(image_size=size) == of(image_size=size, dynamic=True) == of(dynamic=True) == usual
    if name != "test_resnet":
        assert of(dtype="bf16") == usual


def test_the_embedded_backbone_keeps_its_fingerprint():
    """Artifacts stand on it. If another version of a library changes it, they would all be refused."""
    assert load_backbone(BackboneConfig(name="vpt_nano")).fingerprint[:16] == "e35d0691a9891d51"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two CLIPs of one file of weights, GELU and QuickGELU: words that choose them."""
    folder = tmp_path_factory.mktemp("clips")
    for name, extra in (("twin-gelu", {}), ("twin-quick", {"quick_gelu": True})):
        card = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT, **extra}
        (folder / f"{name}.json").write_text(json.dumps(card))
        open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(0)
    clip = open_clip.create_model("twin-gelu")
    for parameter in clip.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    save_file({key: value.contiguous() for key, value in clip.state_dict().items()}, folder / "clip.safetensors")
    return ["open_clip:twin-gelu", "open_clip:twin-quick", str(folder / "clip.safetensors")]


def test_a_clips_artifact_is_refused_by_its_twin(clips: list[str], tmp_path: Path):
    from vpt.training.tasks import task_of

    paths = []
    for name in clips[:2]:
        config = load_config(overrides=[f"backbone={name}", f"backbone.weights={clips[2]}", "prompt.tokens=2"])
        model = task_of(config).build(config, ["a", "b"])
        paths.append(save_artifact(tmp_path / f"{name[-5:]}.safetensors", model, config, ["a", "b"]))
    other = load_config(base=read_artifact(paths[0]).config.model_dump(), overrides=[f"backbone={clips[1]}"])
    with pytest.raises(UserError, match=r"twin-gelu.* not on open_clip:twin-quick .*its weights, activation and pool"):
        vpt.inference.load_model.load_model(paths[0], device="cpu", config=other)
    bank = Bank(device="cpu")
    bank.add("one", paths[0])
    with pytest.raises(UserError, match="differs in weights or computation"):
        bank.add("other", paths[1])
    photo = np.zeros((32, 32, 3), np.uint8)
    assert bank.predict([photo], ["one"])


def test_text_features_of_one_twin_are_not_taken_for_the_other(clips: list[str]):
    """The cache on disk is keyed by the fingerprint."""
    found = []
    for name in clips[:2]:
        backbone = load_backbone(BackboneConfig(name=name, weights=Path(clips[2])), text=True)
        assert backbone.text is not None
        found.append(class_features(backbone.text, backbone.fingerprint, ["cat", "owl"], ["a {}"]))
        anew = nn.functional.normalize(backbone.text.features(["a cat", "a owl"]), dim=-1)
        torch.testing.assert_close(found[-1], anew, atol=1e-6, rtol=0)
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_a_file_of_the_old_format_says_so(tmp_path: Path):
    path = wrap(net(), "deep", tokens=2).save(tmp_path / "prompt.safetensors")
    tensors, header = read_tensors(path)
    for old, said in (
        (1, "has the old format 1, which describes its backbone incompletely"),
        (99, "install that or a newer one of visual-prompt-tuning"),
    ):
        write_tensors(path, tensors, {**header, "format": old})
        with pytest.raises(UserError, match=said):
            load_prompt(net(), path)
        write_tensors(path, tensors, {**header, "format": old, "kind": "vpt artifact"})
        with pytest.raises(UserError, match=said):
            read_artifact(path)
