"""Builds a frozen backbone by name or from a local file, at any image size."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from typing import Any

import safetensors.torch
import timm
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vpt.backbones.backbone import Backbone
from vpt.backbones.built_in import EMBEDDED, OPEN_CLIP, in_timm
from vpt.backbones.fingerprint import fingerprint
from vpt.backbones.held import hold
from vpt.backbones.open_clip_loading import build_open_clip, check_open_clip
from vpt.backbones.sizes import fit_size
from vpt.backbones.weights import load_strictly, no_weights, not_built, read_weights, seeded
from vpt.config import BackboneConfig
from vpt.errors import UserError, nearest
from vpt.preprocess import Preprocess

_Channels = tuple[float, float, float]
NORMALISATIONS: dict[str, tuple[_Channels, _Channels]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def load_backbone(
    config: BackboneConfig, classifier: bool = False, text: bool = False, dynamic: bool = False
) -> Backbone:
    """Build the network, load its weights strictly, fit it to the image size, freeze it.

    Args:
        classifier: keep the library's own classifier, for a label mapping.
        text: keep a CLIP's text tower, for a zero-shot head.
        dynamic: images of any size may come, if the network can take them, which `any_size` of the backbone tells;
            position embeddings are resampled for each.

    Raises:
        UserError: a name that does not exist, weights that cannot be had or do not fit, an impossible image size.

    >>> load_backbone(BackboneConfig(name="vit_tiny_patch16_224", pretrained=False, image_size=32)).preprocess.size
    32
    """
    check_backbone(config)
    is_clip = config.name.startswith(OPEN_CLIP)
    if classifier and (is_clip or config.name in EMBEDDED):
        raise UserError(f"backbone {config.name} has no classifier for head.kind=labelmap; choose head=linear")
    if text and not is_clip:
        raise UserError(
            f"backbone {config.name} has no text tower; name a CLIP, as in backbone=open_clip:ViT-B-32, or choose "
            "head=linear"
        )
    encoder = None
    if is_clip:
        net, encoder, preprocess = build_open_clip(config, text)
    elif config.name in EMBEDDED:
        net, preprocess = _embedded(config)
    else:
        net, preprocess = _timm(config, classifier)
    if config.normalise != "own":
        mean, std = NORMALISATIONS[config.normalise]
        preprocess = replace(preprocess, mean=mean, std=std)
    net.requires_grad_(False).eval()
    # As it was trained, so that an artifact fits at any image size and however weights are held.
    digests = [fingerprint(net)]
    if encoder is not None:
        digests.insert(0, fingerprint(net, encoder.requires_grad_(False).eval()))
    size = config.image_size or preprocess.size
    any_size = fit_size(net, preprocess.size, size, dynamic, config.name)
    net.requires_grad_(False)  # some versions of timm make position embeddings of another size that learn
    preprocess = replace(preprocess, size=size)
    library = "open_clip" if is_clip else "timm"
    hold(net, config.dtype, config.name)
    backbone = Backbone(net, library, config.name, preprocess, digests[0], encoder)
    backbone.fingerprints.update(digests)
    backbone.any_size = any_size
    return backbone


def check_backbone(config: BackboneConfig) -> None:
    """What can be told of a backbone's settings without building it.

    Raises:
        UserError: a name that does not exist, a weight file that is not there, a library that is not installed.

    >>> check_backbone(BackboneConfig(name="vit_tiny_patch16_223"))
    Traceback (most recent call last):
    ...
    vpt.errors.UserError: ...; did you mean 'vit_tiny_patch16_224'?; list names with: vpt backbones
    """
    if config.weights is not None and not config.weights.is_file():
        raise UserError(f"backbone.weights={config.weights}: there is no such file")
    if config.name.startswith(OPEN_CLIP):
        check_open_clip(config)
    elif config.name not in EMBEDDED and not in_timm(config.name):
        known = [*timm.list_models(), *EMBEDDED]
        raise UserError(
            f"backbone {config.name} does not exist in timm {timm.__version__}"
            f"{nearest(config.name.split('.')[0], known)}; list names with: vpt backbones"
        )


def _timm(config: BackboneConfig, classifier: bool) -> tuple[nn.Module, Preprocess]:
    wants_download = config.pretrained is not False and config.weights is None
    if wants_download and not timm.is_model_pretrained(config.name):
        raise UserError(
            f"timm has no weights for {config.name}; give backbone.weights=FILE or backbone.pretrained=false"
        )
    with seeded(config.seed):
        try:
            classes: dict[str, Any] = {} if classifier else {"num_classes": 0}
            net = timm.create_model(config.name, pretrained=wants_download, **classes)
        except Exception as error:
            raise (no_weights(config, error) if wants_download else not_built(config, error)) from error
    if classifier and not getattr(net, "num_classes", 0):
        raise UserError(f"backbone {config.name} has no classifier for head.kind=labelmap; choose head=linear")
    if config.weights is not None:
        load_strictly(net, read_weights(config.weights), config)
    cfg = timm.data.resolve_model_data_config(net)
    return net, Preprocess(
        int(cfg["input_size"][-1]),
        tuple(cfg["mean"]),
        tuple(cfg["std"]),
        str(cfg["interpolation"]),
        float(cfg["crop_pct"]),
    )


def _embedded(config: BackboneConfig) -> tuple[nn.Module, Preprocess]:
    folder = resources.files("vpt") / "assets"
    card: dict[str, Any] = json.loads((folder / f"{config.name}.json").read_text(encoding="utf-8"))
    with seeded(config.seed):
        net = VisionTransformer(**card["architecture"], num_classes=0)
    if config.weights is not None:
        load_strictly(net, read_weights(config.weights), config)
    elif config.pretrained is not False:
        with resources.as_file(folder / f"{config.name}.safetensors") as path:
            load_strictly(net, safetensors.torch.load_file(path), config)
    return net, Preprocess(
        int(card["image_size"]), tuple(card["mean"]), tuple(card["std"]), card["interpolation"], card["crop_pct"]
    )
