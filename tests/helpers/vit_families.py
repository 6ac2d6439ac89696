"""One small model of every backbone family, with weights large enough that a mistake shows."""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
from timm.models.vision_transformer import ResPostBlock
from torch import nn

from vpt.backbones.backbone import Backbone
from vpt.data.normalization import Preprocess

SIZE = 32
CLASSES = tuple("abcdefghij")
SMALL = {"img_size": SIZE, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 0}


def _timm(name: str, **kwargs: object) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, pretrained=False, **{**SMALL, **kwargs})


def _open_clip(**kwargs: object) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from open_clip.transformer import VisionTransformer

        settings = {"image_size": SIZE, "patch_size": 8, "width": 48, "layers": 4, "heads": 3, "mlp_ratio": 2.0}
        return VisionTransformer(**{**settings, "output_dim": 24, **kwargs})

    return build


def _open_clip_timm(proj: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from open_clip.timm_model import TimmModel

        tower = TimmModel("vit_tiny_patch16_224", embed_dim=24, image_size=224, pool="token", proj=proj)
        small = {key: value for key, value in SMALL.items() if key != "num_classes"}
        classes = 24 if proj == "" else 0
        tower.trunk = timm.create_model("vit_tiny_patch16_224", **small, num_classes=classes)
        if proj:
            tower.head.proj = nn.Linear(48, 24, bias=False)
        return tower

    return build


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "vit": _timm("vit_tiny_patch16_224"),
    "vit-avg": _timm("vit_tiny_patch16_224", global_pool="avg", class_token=False),
    "vit-qk-norm": _timm("vit_tiny_patch16_224", qk_norm=True, qkv_bias=False),
    "vit-gated": _timm("vit_tiny_patch16_224", scale_attn_norm=True),
    "vit-post-norm": _timm("vit_tiny_patch16_224", block_fn=ResPostBlock, init_values=0.5),
    "vit-hybrid": lambda: timm.create_model(
        "vit_tiny_r_s16_p8_224", pretrained=False, img_size=64, embed_dim=48, depth=3, num_heads=3, num_classes=0
    ),
    "deit": _timm("deit_tiny_patch16_224"),
    "deit-distilled": _timm("deit_tiny_distilled_patch16_224"),
    "deit3": _timm("deit3_small_patch16_224"),
    "dinov2": _timm("vit_small_patch14_dinov2"),
    "dinov2-registers": _timm("vit_small_patch14_reg4_dinov2"),
    "dinov3": _timm("vit_small_patch16_dinov3"),
    "eva02": _timm("eva02_tiny_patch14_224"),
    "eva02-inner-norm": _timm("eva02_base_patch14_224", qkv_fused=False),
    "eva-post-norm": _timm("eva02_tiny_patch14_224", use_post_norm=True),
    "rope-mixed": _timm("vit_small_patch16_rope_mixed_224"),
    "siglip": _timm("vit_base_patch16_siglip_224"),
    "siglip-gap": _timm("vit_base_patch16_siglip_gap_224"),
    "clip-timm": _timm("vit_base_patch32_clip_224"),
    "clip-quickgelu": _timm("vit_base_patch32_clip_quickgelu_224"),
    "clip": _open_clip(),
    "clip-avg": _open_clip(pool_type="avg", final_ln_after_pool=True),
    "clip-layer-scale": _open_clip(ls_init_value=0.5, no_ln_pre=True),
    "clip-custom-block": _open_clip(block_type="custom", qk_norm=True, scale_attn_inner=True, scale_fc=True),
    "clip-attention-pool": _open_clip(attentional_pool=True, attn_pooler_queries=5),
    "clip-over-timm": _open_clip_timm("linear"),
    "clip-over-timm-classifier": _open_clip_timm(""),
}
OPEN_CLIP = {name for name in BUILDERS if name.startswith("clip") and name not in ("clip-timm", "clip-quickgelu")}


def build_net(family: str, seed: int = 0) -> nn.Module:
    """The library's own network, in evaluation mode."""
    torch.manual_seed(seed)
    net = BUILDERS[family]()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net.eval().requires_grad_(False)


def build_backbone(family: str, seed: int = 0) -> Backbone:
    """The same network as a vpt backbone."""
    library = "open_clip" if family in OPEN_CLIP else "timm"
    size = 64 if family == "vit-hybrid" else SIZE
    return Backbone(build_net(family, seed), library, family, Preprocess(size=size), fingerprint="test")


def library_features(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    """The library's own features of normalised images."""
    if backbone.library == "open_clip":
        out = backbone.net(images)
        return out[0] if isinstance(out, tuple) else out
    return backbone.net.forward_head(backbone.net.forward_features(images), pre_logits=True)
