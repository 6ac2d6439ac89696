"""Weights as Hugging Face's transformers stores ViT, DINOv2, CLIP and SigLIP, under the names of timm and open_clip."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor

from vpt.utils.atomic_io import read_json
from vpt.utils.errors import UserError

State = dict[str, Tensor]
_MARKS = ("embeddings.patch_embeddings.projection.weight", "embeddings.patch_embedding.weight")
_TOWER, _TEXT = "vision_model.", "text_model."
_WRAPPERS = ("vit.", "deit.", "dinov2.", "dinov2_with_registers.", "backbone.")

# Beginnings of names in a layer and outside, of all four models, and timm's.
_IN_LAYER = {
    "attention.output.dense": "attn.proj",
    "self_attn.out_proj": "attn.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
_OUTSIDE = {
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.patch_embedding": "patch_embed.proj",
    "embeddings.cls_token": "cls_token",
    "embeddings.class_embedding": "cls_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.position_embedding.weight": "pos_embed",
    "pre_layrnorm": "norm_pre",
    "pre_layernorm": "norm_pre",
    "post_layernorm": "norm",
    "layernorm": "norm",
    "head.probe": "attn_pool.latent",
    "head.attention.out_proj": "attn_pool.proj",
    "head.layernorm": "attn_pool.norm",
    "head.mlp": "attn_pool.mlp",
}
_SKIPPED = ("embeddings.mask_token", "embeddings.position_ids", "pooler.", "classifier.", "decoder.")
_QUERY = re.compile(r"(?:attention\.attention\.(query|key|value)|self_attn\.([qkv])_proj)\.(weight|bias)")
_LAYER = re.compile(r"encoder\.layers?\.(\d+)\.(.+)")


_CLIP_BLOCK = {
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    "attn.proj": "attn.out_proj",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_CLIP_VISUAL = {
    "patch_embed.proj": "conv1",
    "cls_token": "class_embedding",
    "pos_embed": "positional_embedding",
    "norm_pre": "ln_pre",
    "norm": "ln_post",
}
_CLIP_TEXT = {
    "embeddings.token_embedding": "token_embedding",
    "pos_embed": "positional_embedding",
    "final_layer_norm": "ln_final",
    "head.weight": "text_projection.weight",
    "head.bias": "text_projection.bias",
}


def is_of_transformers(state: Collection[str]) -> bool:
    """Whether tensors have the names of a vision transformer of transformers.

    >>> is_of_transformers(["vit.embeddings.patch_embeddings.projection.weight"]), is_of_transformers(["cls_token"])
    (True, False)
    """
    return any(name.endswith(_MARKS) for name in state)


def to_timm(state: Mapping[str, Tensor], wanted: Collection[str]) -> State:
    """The image tower under the names of timm's VisionTransformer. Names that are not known are kept, so that loading
    reports them.

    Args:
        state: contents of the file.
        wanted: the network's own names.

    >>> list(to_timm({"embeddings.cls_token": torch.ones(1, 1, 2), "layernorm.bias": torch.ones(2)}, []))
    ['cls_token', 'norm.bias']
    """
    found: State = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in _tower(state).items():
        if name.startswith(_SKIPPED):
            continue
        layer = _LAYER.fullmatch(name)
        if layer is None:
            found[_renamed(name, _OUTSIDE)] = value
        elif (part := _QUERY.fullmatch(layer[2])) is not None:
            key = f"blocks.{layer[1]}.attn.qkv.{part[3]}"
            parts.setdefault(key, {})[(part[1] or part[2])[0]] = value
        else:
            found[f"blocks.{layer[1]}.{_renamed(layer[2], _IN_LAYER)}"] = value
    for name, three in parts.items():
        found |= {name: torch.cat([three[part] for part in "qkv"])} if len(three) == 3 else {name: three.popitem()[1]}
    _reshape(found, wanted)
    return found


def to_open_clip(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> State:
    """CLIP or SigLIP under the names of open_clip's models.

    Args:
        state: contents of the file.
        wanted: the model's own tensors.
    """
    trunk = any(name.startswith("visual.trunk.") for name in wanted)  # SigLIP's image tower is one of timm
    visual = to_timm(state, ())
    found = {f"visual.trunk.{name}": value for name, value in visual.items()} if trunk else _as_clip(visual, "visual.")
    text = {name.removeprefix(_TEXT): value for name, value in state.items() if name.startswith(_TEXT)}
    found |= _as_clip(to_timm(text, ()), "text." if trunk else "", _CLIP_TEXT)
    for name in ("logit_scale", "logit_bias"):
        if name in state:
            found[name] = state[name].reshape(wanted[name].shape) if name in wanted else state[name]
    for theirs, ours in (("visual_projection.weight", "visual.proj"), ("text_projection.weight", "text_projection")):
        if theirs in state:
            found[ours] = state[theirs].T
    return found


def _as_clip(state: Mapping[str, Tensor], prefix: str, outside: Mapping[str, str] = _CLIP_VISUAL) -> State:
    """Names of timm as names of OpenAI's CLIP."""
    found: State = {}
    for name, value in state.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if block is not None:
            found[f"{prefix}transformer.resblocks.{block[1]}.{_renamed(block[2], _CLIP_BLOCK)}"] = value
        else:
            new = _renamed(name, outside)
            shape = {"class_embedding": (-1,), "positional_embedding": value.shape[-2:]}.get(new, value.shape)
            found[prefix + new] = value.reshape(shape)
    return found


def refuse_other_activation(file: Path, state: Collection[str], quick: bool, name: str) -> None:
    """Refuse CLIP's weights for a network with another activation, which would give other features.

    Args:
        file: the weights; `config.json` next to it names their activation.
        state: names of the tensors.
        quick: whether the network has QuickGELU.
        name: of the network.

    Raises:
        UserError: the activations differ.
    """
    card = file.parent / "config.json"
    if not any("pre_layrnorm" in name for name in state) or not card.is_file():
        return
    tree = read_json(card, "it belongs to the weights")
    tree = tree.get("vision_config") or tree if isinstance(tree, dict) else {}
    theirs = tree.get("hidden_act", "quick_gelu") if isinstance(tree, dict) else ""
    theirs_quick = theirs == "quick_gelu"
    if theirs_quick != quick:
        kind, what = ("QuickGELU", "with") if theirs_quick else ("GELU", "without")
        raise UserError(
            f"backbone.weights={file} was trained with {kind}, which {name} does not use; name the architecture {what} "
            "quickgelu in its name"
        )


def timm_name(state: Mapping[str, Tensor]) -> str | None:
    """The architecture of timm that converted weights belong to; None if there is no such one.

    >>> timm_name({"patch_embed.proj.weight": torch.ones(768, 3, 16, 16), "pos_embed": torch.ones(1, 197, 768)})
    'vit_base_patch16_224'
    """
    patch, positions = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    if patch is None or positions is None or patch.ndim != 4:
        return None
    width, side = patch.shape[0], patch.shape[-1]
    pixels = side * math.isqrt(positions.shape[-2])
    size = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1152: "so400m", 1280: "huge", 1536: "giant"}.get(
        width
    )
    kind = f"_{pixels}"
    if "blocks.0.ls1.gamma" in state:
        kind = "_reg4_dinov2" if "reg_token" in state else "_dinov2"
    elif "attn_pool.latent" in state:
        kind = f"_siglip_{pixels}"
    elif "norm_pre.weight" in state:
        kind = f"_clip_{pixels}"
    name = f"vit_{size}_patch{side}{kind}"
    return name if timm.is_model(name) else None


def _tower(state: Mapping[str, Tensor]) -> State:
    """The image tower, without the prefix of the model around it."""
    for prefix in (_TOWER, *_WRAPPERS):
        if any(name.startswith(f"{prefix}embeddings.") for name in state):
            return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return dict(state)


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for theirs, ours in names.items():
        if name == theirs or name.startswith(f"{theirs}."):
            return ours + name.removeprefix(theirs)
    return name


def _reshape(state: State, wanted: Collection[str]) -> None:
    """Bring tensors that transformers stores in another shape into timm's."""
    for name, dimensions in (("cls_token", 3), ("pos_embed", 3)):
        if name in state and state[name].ndim < dimensions:
            state[name] = state[name].reshape(1, -1, state[name].shape[-1])
    for kind in ("weight", "bias"):
        joined = state.pop(f"head.attention.in_proj_{kind}", None)
        if joined is not None:
            third = len(joined) // 3
            state[f"attn_pool.q.{kind}"], state[f"attn_pool.kv.{kind}"] = joined[:third], joined[third:]
    positions, cls = state.get("pos_embed"), state.get("cls_token")
    if positions is not None and cls is not None and "reg_token" in wanted and "reg_token" in state:
        # timm's DINOv2 with registers has position embeddings of patches only.
        state["cls_token"], state["pos_embed"] = cls + positions[:, :1], positions[:, 1:]
