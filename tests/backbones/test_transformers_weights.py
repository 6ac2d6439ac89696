"""Checkpoints that Hugging Face's transformers writes give the same features under names of timm and open_clip."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vpt.backbones.factory import load_backbone
from vpt.config import BackboneConfig
from vpt.utils.errors import UserError

transformers = pytest.importorskip("transformers")

SIDES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 49408,
    "max_position_embeddings": 16,
    "eos_token_id": 49407,
}
OWN: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
NETS: dict[str, dict[str, Any]] = {
    "test_hf_vit": {},
    "test_hf_dinov2": {"init_values": 1e-5},
    "test_hf_registers": {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True},
    "test_hf_clip": {"pre_norm": True, "act_layer": "quick_gelu", "norm_layer": "layernorm"},
    "test_hf_clip_gelu": {"pre_norm": True, "norm_layer": "layernorm"},
    "test_hf_siglip": {"class_token": False, "global_pool": "map", "act_layer": "gelu_tanh"},
}
PICTURES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", autouse=True)
def _nets() -> Iterator[None]:
    from timm.models import _registry

    for name, sides in NETS.items():

        def build(pretrained: bool = False, sides: dict[str, Any] = sides, **_: object) -> VisionTransformer:
            if "norm_layer" in sides:
                sides = {**sides, "norm_layer": nn.LayerNorm}  # CLIP's epsilon is 1e-5
            net = VisionTransformer(**OWN, **sides)
            net.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
            return net

        build.__name__, build.__module__ = name, "timm.models.vision_transformer"
        register_model(build)
    yield
    for name in NETS:
        _registry._model_entrypoints.pop(name, None)


def saved(model: Any, folder: Path) -> Any:
    """The model as `save_pretrained` writes it, with weights large enough that a mistake shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


def features(name: str, weights: Path) -> Tensor:
    net = load_backbone(BackboneConfig(name=name, weights=weights)).net
    with torch.no_grad():
        return net.forward_head(net.forward_features(PICTURES))


@pytest.mark.parametrize("whole", [False, True])
def test_vit(tmp_path: Path, whole: bool) -> None:
    config = transformers.ViTConfig(**SIDES, layer_norm_eps=1e-6)
    model = transformers.ViTForImageClassification(config) if whole else transformers.ViTModel(config)
    model = saved(model, tmp_path)
    with torch.no_grad():
        theirs = (model.vit if whole else model)(PICTURES).last_hidden_state[:, 0]
    for weights in (tmp_path, tmp_path / "model.safetensors"):
        torch.testing.assert_close(features("test_hf_vit", weights), theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("registers", [False, True])
def test_dinov2(tmp_path: Path, registers: bool) -> None:
    sides = {name: side for name, side in SIDES.items() if name != "intermediate_size"}
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    config = getattr(transformers, f"{kind}Config")(**sides, mlp_ratio=4)
    model = saved(getattr(transformers, f"{kind}Model")(config), tmp_path)
    with torch.no_grad():
        theirs = model(PICTURES).last_hidden_state[:, 0]
    ours = features("test_hf_registers" if registers else "test_hf_dinov2", tmp_path)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def clip(folder: Path, act: str = "quick_gelu") -> Any:
    config = transformers.CLIPConfig(
        text_config={**TEXT, "hidden_act": act}, vision_config={**SIDES, "hidden_act": act}, projection_dim=24
    )
    return saved(transformers.CLIPModel(config), folder)


def siglip(folder: Path) -> Any:
    text = {**TEXT, "projection_size": 32}
    return saved(transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=SIDES)), folder)


def test_clip_and_siglip_in_timm(tmp_path: Path) -> None:
    for name, model in (("clip", clip(tmp_path / "clip")), ("siglip", siglip(tmp_path / "siglip"))):
        with torch.no_grad():
            theirs = model.vision_model(PICTURES).pooler_output
        torch.testing.assert_close(features(f"test_hf_{name}", tmp_path / name), theirs, atol=1e-5, rtol=1e-4)


def test_an_activation_that_differs_is_refused(tmp_path: Path) -> None:
    clip(tmp_path / "quick")
    clip(tmp_path / "gelu", "gelu")
    features("test_hf_clip_gelu", tmp_path / "gelu")
    with pytest.raises(UserError, match="trained with QuickGELU, which test_hf_clip_gelu does not use"):
        features("test_hf_clip_gelu", tmp_path / "quick")
    with pytest.raises(UserError, match="trained with GELU, which test_hf_clip does not use"):
        features("test_hf_clip", tmp_path / "gelu")


def register(folder: Path, name: str, **more: Any) -> str:
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    sides = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True} | more
    sides["text_cfg"] = text | sides["text_cfg"]
    (folder / f"{name}.json").write_text(json.dumps(sides))
    open_clip.add_model_config(folder / f"{name}.json")
    return f"open_clip:{name}"


def assert_same_clip(name: str, weights: Path, model: Any) -> None:
    """Features of pictures and of texts are the same."""
    words = torch.randint(1, 400, (3, 16), generator=torch.Generator().manual_seed(0))
    words[:, -1] = 49407
    backbone = load_backbone(BackboneConfig(name=name, weights=weights), text=True)
    assert backbone.text is not None
    with torch.no_grad():
        theirs = [model.vision_model(PICTURES).pooler_output, model.text_model(words).pooler_output]
        for at, projection in enumerate(("visual_projection", "text_projection")):
            if hasattr(model, projection):
                theirs[at] = getattr(model, projection)(theirs[at])
        torch.testing.assert_close(backbone.net(PICTURES), theirs[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(text_features(backbone.text, words), theirs[1], atol=1e-5, rtol=1e-4)


def text_features(encoder: Any, words: Tensor) -> Tensor:
    return encoder.clip.encode_text(words)


def test_clip_in_open_clip(tmp_path: Path) -> None:
    model = clip(tmp_path / "clip")
    assert_same_clip(register(tmp_path, "tiny-hf-clip"), tmp_path / "clip", model)
    plain = register(tmp_path, "tiny-hf-plain", quick_gelu=False)
    with pytest.raises(UserError, match="trained with QuickGELU, which open_clip:tiny-hf-plain does not use"):
        load_backbone(BackboneConfig(name=plain, weights=tmp_path / "clip"))


def test_siglip_in_open_clip(tmp_path: Path) -> None:
    model = siglip(tmp_path / "siglip")
    name = register(
        tmp_path,
        "tiny-hf-sigmoid",  # open_clip would download the tokenizer of a name with siglip
        embed_dim=32,
        quick_gelu=False,
        init_logit_bias=-10,
        custom_text=True,
        vision_cfg={"image_size": 32, "timm_model_name": "test_hf_siglip", "timm_pool": "map", "timm_proj": "none"},
        text_cfg={
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
        },
    )
    assert_same_clip(name, tmp_path / "siglip", model)


def test_weights_of_another_architecture_name_the_right_one(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        **{
            **SIDES,
            "hidden_size": 192,
            "num_attention_heads": 3,
            "image_size": 224,
            "patch_size": 16,
            "num_hidden_layers": 1,
            "intermediate_size": 64,
        }
    )
    saved(transformers.ViTModel(config), tmp_path)
    for name in ("test_hf_vit", "vit_small_patch16_224"):
        with pytest.raises(UserError, match=r"does not fit .*it looks like backbone=vit_tiny_patch16_224"):
            load_backbone(BackboneConfig(name=name, weights=tmp_path))


def test_a_folder_without_safetensors(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"is a folder without model.safetensors"):
        load_backbone(BackboneConfig(name="test_hf_vit", weights=tmp_path))
