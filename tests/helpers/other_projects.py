"""Slow twins of other projects' models, written from their definitions, and files in their formats.

VPT: [CLS, prompts, patches], every layer whole, q, k and v as three matrices. CoOp and successors: embeddings of
prefix, context and suffix in one sequence of full length; the image tower with prompts behind the patches.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = dict[str, Tensor]


# --- VPT ---------------------------------------------------------------------------------------------------------


def jia_names(net: Any) -> State:
    """A timm ViT's weights under the names of the original code."""
    old = net.state_dict()
    found = {
        "transformer.embeddings.cls_token": old["cls_token"],
        "transformer.embeddings.position_embeddings": old["pos_embed"],
        "transformer.embeddings.patch_embeddings.weight": old["patch_embed.proj.weight"],
        "transformer.embeddings.patch_embeddings.bias": old["patch_embed.proj.bias"],
        "transformer.encoder.encoder_norm.weight": old["norm.weight"],
        "transformer.encoder.encoder_norm.bias": old["norm.bias"],
    }
    for layer in range(len(net.blocks)):
        new, was = f"transformer.encoder.layer.{layer}", f"blocks.{layer}"
        for part in ("weight", "bias"):
            for name, piece in zip(("query", "key", "value"), old[f"{was}.attn.qkv.{part}"].chunk(3), strict=True):
                found[f"{new}.attn.{name}.{part}"] = piece
            found[f"{new}.attn.out.{part}"] = old[f"{was}.attn.proj.{part}"]
            found[f"{new}.attention_norm.{part}"] = old[f"{was}.norm1.{part}"]
            found[f"{new}.ffn_norm.{part}"] = old[f"{was}.norm2.{part}"]
            found[f"{new}.ffn.fc1.{part}"] = old[f"{was}.mlp.fc1.{part}"]
            found[f"{new}.ffn.fc2.{part}"] = old[f"{was}.mlp.fc2.{part}"]
    return {f"enc.{name}": value for name, value in found.items()}


def jia_layer(state: State, layer: int, rows: Tensor, heads: int) -> Tensor:
    def part(name: str) -> tuple[Tensor, Tensor]:
        root = f"enc.transformer.encoder.layer.{layer}.{name}"
        return state[f"{root}.weight"], state[f"{root}.bias"]

    def split(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], heads, -1).transpose(1, 2)

    width = rows.shape[-1]
    normed = F.layer_norm(rows, (width,), *part("attention_norm"), eps=1e-6)
    query, key, value = (split(F.linear(normed, *part(f"attn.{name}"))) for name in ("query", "key", "value"))
    weights = (query @ key.transpose(-1, -2) / (width // heads) ** 0.5).softmax(-1)
    rows = rows + F.linear((weights @ value).transpose(1, 2).flatten(2), *part("attn.out"))
    normed = F.layer_norm(rows, (width,), *part("ffn_norm"), eps=1e-6)
    return rows + F.linear(F.gelu(F.linear(normed, *part("ffn.fc1"))), *part("ffn.fc2"))


def jia_logits(
    state: State,
    images: Tensor,
    patch: int,
    heads: int,
    depth: int,
    after: str = "carry",
    shared: bool = False,
) -> Tensor:
    """The original code's scores; `after` "drop" is FORWARD_DEEP_NOEXPAND."""
    root = "enc.transformer."

    def project(prompts: Tensor) -> Tensor:
        if f"{root}prompt_proj.weight" in state:
            prompts = F.linear(prompts, state[f"{root}prompt_proj.weight"], state[f"{root}prompt_proj.bias"])
        return prompts.expand(len(images), -1, -1)

    weight, bias = (state[f"{root}embeddings.patch_embeddings.{part}"] for part in ("weight", "bias"))
    rows = F.conv2d(images, weight, bias, stride=patch).flatten(2).transpose(1, 2)
    first = state[f"{root}embeddings.cls_token"].expand(len(images), -1, -1)
    rows = torch.cat([first, rows], dim=1) + state[f"{root}embeddings.position_embeddings"]
    deep = state.get(f"{root}deep_prompt_embeddings", torch.zeros(0))
    shallow = state.get(f"{root}prompt_embeddings")
    count = 0
    for layer in range(depth):
        fresh = None
        if layer == 0:
            fresh = shallow
        elif layer <= len(deep):
            fresh = shallow if shared else deep[layer - 1]
        elif after == "drop":
            rows, count = torch.cat([rows[:, :1], rows[:, 1 + count :]], dim=1), 0
        if fresh is not None:
            prompts = project(fresh)
            rows = torch.cat([rows[:, :1], prompts, rows[:, 1 + count :]], dim=1)
            count = prompts.shape[1]
        rows = jia_layer(state, layer, rows, heads)
    norm = f"{root}encoder.encoder_norm"
    rows = F.layer_norm(rows, rows.shape[-1:], state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-6)
    return F.linear(rows[:, 0], state["head.last_layer.weight"], state["head.last_layer.bias"])


def mae_logits(state: State, net: Any, images: Tensor) -> Tensor:
    """The original code on MAE: the mean over prompts and patches, then the norm `fc_norm`."""
    rows = net.patch_embed(images)
    rows = torch.cat([net.cls_token.expand(len(rows), -1, -1), rows], dim=1) + net.pos_embed
    sets = [state["enc.prompt_embeddings"][0], *state.get("enc.deep_prompt_embeddings", ())]
    count = 0
    for layer, block in enumerate(net.blocks):
        if layer < len(sets):
            prompts = sets[layer].expand(len(rows), -1, -1)
            rows = torch.cat([rows[:, :1], prompts, rows[:, 1 + count :]], dim=1)
            count = prompts.shape[1]
        rows = block(rows)
    pooled = rows[:, 1:].mean(1)
    pooled = F.layer_norm(pooled, pooled.shape[-1:], state["enc.fc_norm.weight"], state["enc.fc_norm.bias"], 1e-6)
    return F.linear(pooled, state["head.last_layer.weight"], state["head.last_layer.bias"])


# --- CoOp and its successors --------------------------------------------------------------------------------------


def texts(clip: Any, prefix: str, names: Sequence[str], count: int, full: int) -> dict[str, Any]:
    """What their prompt learners keep of class names: embeddings before and behind the context, token ids, lengths."""
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=full)
    names = [name.replace("_", " ") for name in names]
    ids = tokenizer([f"{prefix} {name}." for name in names])
    rows = clip.token_embedding(ids)
    return {
        "token_prefix": rows[:, :1],
        "token_suffix": rows[:, 1 + count :],
        "ends": ids.argmax(-1),
        "lengths": [len(tokenizer.encode(name)) for name in names],
    }


def placed(kept: dict[str, Any], context: Tensor, position: str = "end") -> Tensor:
    """CoOp's sequences (K, T, C): prefix, context and suffix, the name behind, between or before the context."""
    suffix, half = kept["token_suffix"], context.shape[-2] // 2
    rows = []
    for k, (start, rest) in enumerate(zip(kept["token_prefix"], suffix, strict=True)):
        own = context[k] if context.ndim == 3 else context
        name, stop = rest[: kept["lengths"][k]], rest[kept["lengths"][k] :]
        rows.append(
            {
                "end": torch.cat([start, own, rest]),
                "middle": torch.cat([start, own[:half], name, own[half:], stop]),
                "front": torch.cat([start, name, own, stop]),
            }[position]
        )
    return torch.stack(rows)


def text_features(clip: Any, rows: Tensor, ends: Tensor, deeper: Sequence[Tensor] = ()) -> Tensor:
    """Text features of embedded texts; `deeper` replaces the context rows before layers 1, 2, ..."""
    rows = rows + clip.positional_embedding
    for layer, block in enumerate(clip.transformer.resblocks):
        if 0 < layer <= len(deeper):
            fresh = deeper[layer - 1].expand(len(rows), -1, -1)
            rows = torch.cat([rows[:, :1], fresh, rows[:, 1 + fresh.shape[1] :]], dim=1)
        rows = block(rows, attn_mask=clip.attn_mask)
    return clip.ln_final(rows)[torch.arange(len(rows)), ends] @ clip.text_projection


def image_features(visual: Any, pixels: Tensor, first: Tensor | None = None, deeper: Sequence[Tensor] = ()) -> Tensor:
    """Image features with prompts behind the patches, before the first norm and before layers 1, 2, ..."""
    rows = visual.conv1(pixels).flatten(2).transpose(1, 2)
    rows = torch.cat([visual.class_embedding.expand(len(rows), 1, -1), rows], dim=1) + visual.positional_embedding
    if first is not None:
        rows = torch.cat([rows, first.expand(len(rows), -1, -1)], dim=1)
    rows = visual.ln_pre(rows)
    for layer, block in enumerate(visual.transformer.resblocks):
        if 0 < layer <= len(deeper):
            fresh = deeper[layer - 1].expand(len(rows), -1, -1)
            rows = torch.cat([rows[:, : -fresh.shape[1]], fresh], dim=1)
        rows = block(rows)
    return visual.ln_post(rows[:, 0]) @ visual.proj


def clip_logits(clip: Any, image: Tensor, text: Tensor) -> Tensor:
    """(B, K) scores; text features may be (B, K, D)."""
    image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    return clip.logit_scale.exp() * (text @ image[..., None])[..., 0]


def whole(clip: Any) -> State:
    """A whole model as MaPLe and PromptSRC save it: towers under their names, scale beside them."""
    state = {f"image_encoder.{name}": value for name, value in clip.visual.state_dict().items()}
    text = {name: value for name, value in clip.state_dict().items() if not name.startswith("visual.")}
    state["logit_scale"] = text.pop("logit_scale")
    text.pop("attn_mask", None)
    text.pop("token_embedding.weight")  # their text encoder works on embeddings
    return state | {f"text_encoder.{name}": value for name, value in text.items()}


def dassl(state: State, epochs: int = 2) -> dict[str, Any]:
    """A checkpoint of Dassl after `epochs` of training: beside the tensors an SGD that has taken steps, and a scheduler
    whose state holds another scheduler as an object, which holds that SGD, whose state is a defaultdict."""
    learned = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([learned], lr=0.002, momentum=0.9, weight_decay=5e-4)
    successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, float(epochs))
    for _ in range(epochs):
        learned.sum().backward()
        optimizer.step()
        successor.step()
    scheduler = {
        "successor": successor,
        "warmup_epoch": 1,
        "cons_lr": 1e-5,
        "base_lrs": [0.002],
        "last_epoch": 1,
        "_step_count": 2,
        "_last_lr": successor.get_last_lr(),
    }
    return {
        "state_dict": OrderedDict(state),
        "epoch": epochs,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler,
        "val_result": 93.5,
    }


def averaged(state: State, epochs: int = 20, mean: float = 15.0, std: float = 1.0) -> State:
    """A state as PromptSRC averages it: each epoch's tensors times a Gaussian weight, added up in half precision, the
    frozen ones and the embeddings of class names among them."""
    weights = np.exp(-0.5 * ((np.arange(1, epochs + 1) - mean) / std) ** 2)
    weights = weights / weights.sum()
    half = {name: value.half() for name, value in state.items()}
    found = {name: value * weights[0] for name, value in half.items()}
    for weight in weights[1:]:
        found = {name: found[name] + value * weight for name, value in half.items()}
    return found


# --- visual_prompting ---------------------------------------------------------------------------------------------


def padded(state: State, images: Tensor) -> Tensor:
    """Bahng et al.'s frame on normalised images."""
    side, size = images.shape[-1], state["pad_up"].shape[2]
    base = torch.zeros(1, 3, side - 2 * size, side - 2 * size)
    middle = torch.cat([state["pad_left"], base, state["pad_right"]], dim=3)
    return images + torch.cat([state["pad_up"], middle, state["pad_down"]], dim=2)
