"""Creates a frozen backbone by name or from a local file, at any image size."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from importlib.metadata import EntryPoint
from typing import Any

import safetensors.torch
import timm
from timm.models._registry import _deprecated_models
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vpt.backbones.adapters.open_clip_factory import build_open_clip, check_open_clip
from vpt.backbones.backbone import Backbone
from vpt.backbones.builtin_names import EMBEDDED, OPEN_CLIP, in_timm
from vpt.backbones.fingerprint import fingerprint
from vpt.backbones.pos_embed import fit_size
from vpt.backbones.quantization.linear import reduce_precision
from vpt.backbones.state_dict import load_strictly, load_weights, no_weights, not_built, seeded
from vpt.backbones.weight_files import weight_file
from vpt.config import BackboneConfig
from vpt.data.normalization import Preprocess
from vpt.utils.errors import UserError, nearest
from vpt.utils.plugins import installed, load_installed, said

GROUP = "vpt.backbones"  # of entry points: functions of the settings to a network and what it expects of its pixels
_Channels = tuple[float, float, float]
NORMALISATIONS: dict[str, tuple[_Channels, _Channels]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def load_backbone(
    config: BackboneConfig, classifier: bool = False, text: bool = False, dynamic: bool = False
) -> Backbone:
    """Create the network, load its weights strictly, adapt it to the image size, and freeze it.

    Args:
        classifier: keep the library's own classifier, for label mapping.
        text: keep the text tower of a CLIP model, for a zero-shot head.
        dynamic: accept images of any size, if the network supports it (see `any_size` of the backbone); position
            embeddings are resampled for each batch.

    Raises:
        UserError: unknown name, weights that are unavailable or do not fit, or an impossible image size.

    >>> load_backbone(BackboneConfig(name="vit_tiny_patch16_224", pretrained=False, image_size=32)).preprocess.size
    32
    """
    check_backbone(config)
    config, notes = current_name(config)
    is_clip = config.name.startswith(OPEN_CLIP)
    if classifier and (":" in config.name or config.name in EMBEDDED):
        raise UserError(f"backbone {config.name} has no classifier for head.kind=labelmap; choose head=linear")
    if text and not is_clip:
        raise UserError(
            f"backbone {config.name} has no text tower; choose a CLIP model, as in backbone=open_clip:ViT-B-32, or "
            "head=linear"
        )
    encoder = None
    if is_clip:
        net, encoder, preprocess = build_open_clip(config, text)
    elif config.name in EMBEDDED:
        net, preprocess = _embedded(config, notes)
    elif (point := _added(config.name)) is not None:
        net, preprocess = _of_plugin(point, config, notes)
    else:
        net, preprocess = _timm(config, classifier, notes)
    if config.normalise != "own":
        mean, std = NORMALISATIONS[config.normalise]
        preprocess = replace(preprocess, mean=mean, std=std)
    net.requires_grad_(False).eval()
    # Computed before resizing and quantisation, so that an artifact fits at any image size and in any dtype.
    digests = [fingerprint(net)]
    if encoder is not None:
        digests.insert(0, fingerprint(net, encoder.requires_grad_(False).eval()))
    size = config.image_size or preprocess.size
    any_size = fit_size(net, preprocess.size, size, dynamic, config.name)
    net.requires_grad_(False)  # some versions of timm make resized position embeddings trainable
    preprocess = replace(preprocess, size=size)
    library = "open_clip" if is_clip else "timm"
    reduce_precision(net, config.dtype, config.name)
    backbone = Backbone(net, library, config.name, preprocess, digests[0], encoder)
    backbone.fingerprints.update(digests)
    backbone.notes = tuple(notes)
    backbone.any_size = any_size
    return backbone


def check_backbone(config: BackboneConfig) -> None:
    """Check a backbone's settings without creating it.

    Raises:
        UserError: unknown name, missing weight file, or missing library.

    >>> check_backbone(BackboneConfig(name="vit_tiny_patch16_223"))
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: ...; did you mean 'vit_tiny_patch16_224'?; list names with: vpt backbones
    """
    if config.weights is not None and not weight_file(config.weights).is_file():
        what = (
            "is a folder without model.safetensors; give the file in it"
            if config.weights.is_dir()
            else "there is no such file"
        )
        raise UserError(f"backbone.weights={config.weights}: {what}")
    if config.name.startswith(OPEN_CLIP):
        check_open_clip(config)
    elif config.name not in EMBEDDED and _added(config.name) is None:
        _check_timm(config)


def _added(name: str) -> EntryPoint | None:
    """What an installed package offers for names `SOURCE:ARCH`; None for a name that is not of this form.

    Raises:
        UserError: no installed package offers this source.
    """
    source, colon, _ = name.partition(":")
    if not colon:
        return None
    added = installed(GROUP)
    if source not in added:
        known = [OPEN_CLIP.removesuffix(":"), *added]
        raise UserError(
            f"backbone {name}: there is no source '{source}'{nearest(source, known)}; known: {', '.join(known)}, and "
            "names of timm, which have no colon"
        )
    return added[source]


def _of_plugin(point: EntryPoint, config: BackboneConfig, notes: list[str]) -> tuple[nn.Module, Preprocess]:
    """The network that an installed package builds, with the user's file of weights if there is one."""
    build = load_installed(point)
    with seeded(config.seed):
        try:
            net, preprocess = build(config)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"backbone {config.name} cannot be built by {point.value}: {said(error)}") from error
    if not isinstance(net, nn.Module) or not isinstance(preprocess, Preprocess):
        raise UserError(f"{point.value} must give a torch.nn.Module and a vpt.data.normalization.Preprocess")
    if missing := [name for name in ("forward_features", "forward_head", "head_hidden_size") if not hasattr(net, name)]:
        raise UserError(
            f"the network that {point.value} gives lacks {', '.join(missing)}, which every network of timm has"
        )
    if config.weights is not None:
        notes += load_weights(net, config)
    return net, preprocess


def _check_timm(config: BackboneConfig) -> None:
    arch, _, tag = config.name.partition(".")
    if not in_timm(config.name):
        known = [*timm.list_models(), *EMBEDDED]
        raise UserError(
            f"backbone {config.name} does not exist in timm {timm.__version__}{nearest(arch, known)}; list names with: "
            "vpt backbones"
        )
    if isinstance(config.pretrained, str):
        raise UserError(
            f"backbone.pretrained={config.pretrained} is for open_clip; timm's weights are named after a dot: "
            f"backbone={arch}.{config.pretrained}"
        )
    config, _ = current_name(config)
    arch, _, tag = config.name.partition(".")
    if config.pretrained is not False and config.weights is None and not timm.is_model_pretrained(config.name):
        tags = [name.partition(".")[2] for name in timm.list_models(f"{arch}.*", pretrained=True)]
        other = f"{nearest(tag, tags)}; available: {', '.join(tags[:8])}" if tags else ""
        raise UserError(
            f"timm {timm.__version__} has no weights for {config.name}{other}; give backbone.weights=FILE or "
            "backbone.pretrained=false"
        )


def current_name(config: BackboneConfig) -> tuple[BackboneConfig, list[str]]:
    """Replace the name of an architecture that timm has renamed, and return a warning if so.

    Raises:
        UserError: timm has removed the architecture.

    >>> current_name(BackboneConfig(name="vit_base_patch16_224_in21k"))[0].name
    'vit_base_patch16_224.augreg_in21k'
    """
    arch, _, tag = config.name.partition(".")
    if arch not in _deprecated_models:
        return config, []
    name = _deprecated_models[arch]
    if name is None:
        raise UserError(f"timm {timm.__version__} has removed {arch} without a replacement")
    name = f"{name.partition('.')[0]}.{tag}" if tag else name
    note = f"warning: timm has renamed {config.name} to {name}; set backbone={name}"
    return config.model_copy(update={"name": name}), [note]


def _timm(config: BackboneConfig, classifier: bool, notes: list[str]) -> tuple[nn.Module, Preprocess]:
    wants_download = config.pretrained is not False and config.weights is None
    with seeded(config.seed):
        try:
            classes: dict[str, Any] = {} if classifier else {"num_classes": 0}
            net = timm.create_model(config.name, pretrained=wants_download, **classes)
        except Exception as error:
            renamed = f" ({notes[0].removeprefix('warning: ')})" if notes else ""
            said = no_weights(config, error) if wants_download else not_built(config, error)
            raise UserError(f"{said}{renamed}") from error
    if classifier and not getattr(net, "num_classes", 0):
        raise UserError(f"backbone {config.name} has no classifier for head.kind=labelmap; choose head=linear")
    if config.weights is not None:
        notes += load_weights(net, config)
    cfg = timm.data.resolve_model_data_config(net)
    return net, Preprocess(
        int(cfg["input_size"][-1]),
        tuple(cfg["mean"]),
        tuple(cfg["std"]),
        str(cfg["interpolation"]),
        float(cfg["crop_pct"]),
    )


def _embedded(config: BackboneConfig, notes: list[str]) -> tuple[nn.Module, Preprocess]:
    folder = resources.files("vpt") / "assets"
    card: dict[str, Any] = json.loads((folder / f"{config.name}.json").read_text(encoding="utf-8"))
    with seeded(config.seed):
        net = VisionTransformer(**card["architecture"], num_classes=0)
    if config.weights is not None:
        notes += load_weights(net, config)
    elif config.pretrained is not False:
        with resources.as_file(folder / f"{config.name}.safetensors") as path:
            load_strictly(net, safetensors.torch.load_file(path), config)
    return net, Preprocess(
        int(card["image_size"]), tuple(card["mean"]), tuple(card["std"]), card["interpolation"], card["crop_pct"]
    )
