"""The original VPT code (github.com/KMnP/vpt): prompts and head on a supervised, MoCo v3 or MAE ViT.

File format: a state dict has `enc.transformer.prompt_embeddings` (1, P, C), `enc.transformer.
deep_prompt_embeddings` (layers - 1, P, C), `enc.transformer.prompt_proj`, `head.last_layer`, without `transformer.` for
MoCo v3 and MAE; `prompt_epN.pth` contains numpy arrays `shallow_prompt` and `deep_prompt`, and no head. The sequence is
[CLS, prompts, patches]; prompts pass through the projection, then dropout. For MAE the input of the head is the mean of
prompts and patches, followed by the norm `enc.fc_norm`, which is frozen at ones and zeros, because MAE's own file has
no such norm. Pixels are normalised by ImageNet's mean and standard deviation for every backbone; at evaluation images
of 256 pixels are cropped to 224, and of 438 to 384.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vpt.backbones.factory import NORMALISATIONS
from vpt.data.normalization import Preprocess
from vpt.interop.convert.base import Source, fit
from vpt.models.classifier import PromptedModel
from vpt.prompts.visual.vpt import VisualPrompts
from vpt.utils.errors import UserError

RESIZED = {224: 256, 384: 438, 448: 512}  # crop -> short side before it
ALIASES = {"shallow_prompt": "prompt_embeddings", "deep_prompt": "deep_prompt_embeddings"}
HEADS = {"head.weight": "head.last_layer.weight", "head.bias": "head.last_layer.bias"}
LAYER = "transformer.encoder.layer."


class OriginalVpt(Source):
    """A state dict of the original code, or its `prompt_epN.pth` together with a file of the head."""

    title = "the file of the original VPT"

    def __init__(self, state: dict[str, Tensor]) -> None:
        named = {_short(name): value for name, value in state.items()}
        super().__init__(named)

    @classmethod
    def knows(cls, names: Iterable[str]) -> bool:
        """Whether a file with tensors of these names has this format."""
        return any(_short(name).startswith(("prompt_embeddings", "deep_prompt_embeddings")) for name in names)

    def settings(self) -> dict[str, Any]:
        """Shallow, deep, or deep in some layers, with the head's input as in the original code."""
        if self.under("layers.") or any(name[-1].isdigit() for name in self.under("deep_prompt_embeddings")):
            raise UserError(
                f"{self.title} is for a Swin transformer, which cannot be converted; train it again, prompt=deep"
            )
        if self.under("head.projection."):
            raise UserError(
                f"{self.title} has a head of several layers with batch norm (MODEL.MLP_NUM above 0), which vpt does "
                "not support; only MODEL.MLP_NUM=0 can be converted"
            )
        first = self.state.get("prompt_embeddings", self.state.get("deep_prompt_embeddings"))
        if first is None or first.ndim != 3:
            raise UserError(f"{self.title} has prompts of a shape other than (sets, tokens, channels)")
        prompt: dict[str, Any] = {"tokens": first.shape[1]}
        if "prompt_proj.weight" in self.state:
            prompt["project"] = first.shape[2]
        deep = len(self.state.get("deep_prompt_embeddings", ()))
        if not deep:
            prompt["kind"] = "shallow"
        elif "prompt_embeddings" in self.state:
            prompt |= {"kind": "deep", "layers": f"first:{deep + 1}"}
        else:
            raise UserError(
                f"{self.title} has prompts in deeper layers but none before the first (MODEL.PROMPT.REVERSE_DEEP): its "
                f"forward pass overwrites the first {first.shape[1]} patches of every image with the prompts, which "
                f"vpt does not support; train again with prompt.layers=last:{deep}"
            )
        return {"prompt": prompt, "head": {"kind": "linear", "pool": self._pool()}}

    def _pool(self) -> str:
        if not self.under("fc_norm."):
            return "native"
        plain = bool((self.take("fc_norm.weight") == 1).all() and (self.take("fc_norm.bias") == 0).all())
        return "mean_then_norm" if plain else "all"

    def preprocess(self, pre: Preprocess) -> Preprocess:
        """ImageNet's mean and standard deviation, whatever the backbone was pretrained with."""
        mean, std = NORMALISATIONS["imagenet"]
        share = pre.size / RESIZED.get(pre.size, round(pre.size * 256 / 224))
        return replace(pre, mean=mean, std=std, interpolation="bilinear", crop_pct=share)

    def owned(self, model: PromptedModel) -> dict[str, Tensor]:
        """Prompts of all layers in one tensor, the projection, and the head."""
        assert isinstance(model.prompt, VisualPrompts)
        name = model.backbone.name
        self._check_pooling(model)
        self._check_backbone(model)
        sets = [self.take(key) for key in ("prompt_embeddings", "deep_prompt_embeddings") if key in self.state]
        wanted = model.prompt.tokens.shape
        if len(wanted) == 3 and wanted[0] == 1:  # shallow, or MODEL.PROMPT.DEEP_SHARED with prompt.shared=true
            sets = sets[:1]
        found = {"prompt.tokens": fit("prompt_embeddings", torch.cat(sets), wanted, self.title, name)}
        if model.prompt.project is not None:
            for part, ours in (("weight", model.prompt.project.weight), ("bias", model.prompt.project.bias)):
                key = f"prompt_proj.{part}"
                found[f"prompt.project.{part}"] = fit(key, self.take(key), ours.shape, self.title, name)
        if not self.under("head.last_layer."):
            raise UserError(
                f"{self.title} contains prompts but no head, so it cannot predict; give the file of the head too, "
                "saved in the original code by: torch.save(model.head.state_dict(prefix='head.'), 'head.pth')"
            )
        for part in ("weight", "bias"):
            key = f"head.last_layer.{part}"
            ours = dict(model.head.named_parameters())[f"1.{part}"]
            found[f"head.1.{part}"] = fit(key, self.take(key), ours.shape, self.title, name)
        return found

    def _check_pooling(self, model: PromptedModel) -> None:
        """Check the pooling: the mean of prompts and patches, then a norm, for MAE; otherwise the class token."""
        tower = model.backbone.require_tower("token prompts")
        if self._pool() == "mean_then_norm":
            return
        late = isinstance(tower.finish, nn.LayerNorm)
        if self.under("fc_norm.") and not late:
            raise UserError(
                f"{self.title} averages prompts and patches and then applies a norm with its own weights, but "
                f"{model.backbone.name} applies the norm before: choose a backbone with fc_norm, or train again"
            )
        if not self.under("fc_norm.") and (tower.pool_rows != 1 or not tower.has_class_row):
            raise UserError(
                f"{self.title} uses the class token, but {model.backbone.name} has another pooling; choose a ViT that "
                "uses its class token"
            )

    def _check_backbone(self, model: PromptedModel) -> None:
        """Check that frozen weights in the file equal the backbone's; otherwise more than the prompts was trained."""
        ours = dict(model.backbone.net.named_parameters())
        name = model.backbone.name
        for key in [key for key in self.state if not key.startswith(("prompt", "deep_prompt", "head."))]:
            theirs = _timm_name(key)
            if theirs in ours:
                self.same(key, ours[theirs], name)
            elif ".attn." in key and key.split(".")[-2] in ("query", "key", "value"):
                whole = ours.get(f"{_timm_name(key.rsplit('.', 2)[0])}.qkv.{key.split('.')[-1]}")
                if whole is not None:
                    part = ("query", "key", "value").index(key.split(".")[-2])
                    self.same(key, whole.chunk(3)[part], name)


def _short(name: str) -> str:
    """A name without the wrappers around the transformer; prompts of both file types get the same name."""
    name = name.removeprefix("enc.")
    last = name.removeprefix("transformer.")
    last = ALIASES.get(last, last)
    if last.startswith(("prompt_", "deep_prompt_")):
        return last
    return HEADS.get(name, name)


def _timm_name(name: str) -> str:
    """The timm name of a weight of the original code's supervised ViT; the others already have timm's names."""
    for old, new in (
        ("transformer.embeddings.cls_token", "cls_token"),
        ("transformer.embeddings.position_embeddings", "pos_embed"),
        ("transformer.embeddings.patch_embeddings", "patch_embed.proj"),
        ("transformer.encoder.encoder_norm", "norm"),
        (LAYER, "blocks."),
        (".attention_norm", ".norm1"),
        (".ffn_norm", ".norm2"),
        (".ffn.", ".mlp."),
        (".attn.out.", ".attn.proj."),
    ):
        name = name.replace(old, new)
    return name
