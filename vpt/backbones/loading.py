"""Builds a frozen backbone by name or from a local file, at any image size."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from vpt.backbones.backbone import Backbone
from vpt.backbones.timm_reader import is_timm_vit
from vpt.config import BackboneConfig
from vpt.errors import UserError, nearest
from vpt.preprocess import Preprocess

EMBEDDED = ("vpt_nano",)
OPEN_CLIP = "open_clip:"


def load_backbone(config: BackboneConfig, classifier: bool = False) -> Backbone:
    """Build the network, load its weights strictly, fit it to the image size, freeze it.

    Args:
        classifier: keep the library's own classifier, for a label mapping.

    Raises:
        UserError: a name that does not exist, weights that cannot be had or do not fit, an impossible image size.

    >>> load_backbone(BackboneConfig(name="vit_tiny_patch16_224", pretrained=False, image_size=32)).preprocess.size
    32
    """
    check_backbone(config)
    if config.name.startswith(OPEN_CLIP):
        if classifier:
            raise UserError(
                f"backbone {config.name} has no classifier for head.kind=labelmap; choose head=zeroshot or head=linear"
            )
        net, preprocess = _open_clip(config)
        library = "open_clip"
    elif config.name in EMBEDDED:
        if classifier:
            raise UserError(f"backbone {config.name} has no classifier for head.kind=labelmap; choose head=linear")
        net, preprocess = _embedded(config)
        library = "timm"
    else:
        net, preprocess = _timm(config, classifier)
        library = "timm"
    net.requires_grad_(False)
    net.eval()
    return Backbone(net, library, config.name, preprocess, fingerprint(net.state_dict()))


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
        try:
            import open_clip
        except ImportError:
            raise UserError(f"backbone {config.name} needs open_clip: pip install 'vpt[clip]'") from None
        name = config.name.removeprefix(OPEN_CLIP)
        if not name.startswith(("hf-hub:", "local-dir:")) and name.replace("/", "-") not in open_clip.list_models():
            raise UserError(f"open_clip has no model {name}{nearest(name, open_clip.list_models())}")
    elif config.name not in EMBEDDED and not timm.is_model(config.name.split(".")[0]):
        known = [*timm.list_models(), *EMBEDDED]
        raise UserError(
            f"backbone {config.name} does not exist in timm {timm.__version__}"
            f"{nearest(config.name.split('.')[0], known)}; list names with: vpt backbones"
        )


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Digest of weights: sha256 over names, shapes and float32 values.

    Position embeddings are left out: resampling for another image size changes them, not what the backbone is.

    >>> fingerprint({"a": torch.ones(2)}) == fingerprint({"a": torch.ones(2, dtype=torch.float16)})
    True
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        if "pos_embed" in name or "positional_embedding" in name:
            continue
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a local .safetensors, .pth, .pt or .bin file without unpickling code; wrappers are opened.

    Raises:
        UserError: a file that is damaged or holds no weights.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise whatever their bytes lead to
        raise UserError(
            f"backbone.weights={path} cannot be read ({type(error).__name__}): give an intact .safetensors or .pth "
            "file that holds tensors only"
        ) from error
    for wrapper in ("state_dict", "model", "model_ema", "teacher", "module"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    state = {str(name).removeprefix("module."): item for name, item in dict(state).items() if torch.is_tensor(item)}
    if not state:
        raise UserError(f"backbone.weights={path} holds no tensors")
    return state


def _load_strictly(net: nn.Module, state: Mapping[str, Tensor], config: BackboneConfig) -> None:
    wanted = net.state_dict()
    heads = ("head.", "head_dist.", "fc.", "classifier.", "heads.")
    state = {name: value for name, value in state.items() if name in wanted or not name.startswith(heads)}
    missing = sorted(set(wanted) - set(state))
    surplus = sorted(set(state) - set(wanted))
    misfit = [n for n in wanted if n in state and wanted[n].shape != state[n].shape]
    if missing or surplus or misfit:
        parts = [
            f"- missing {len(missing)}, such as {missing[0]}" if missing else "",
            f"+ unknown {len(surplus)}, such as {surplus[0]}" if surplus else "",
            f"! shape of {misfit[0]} is {tuple(state[misfit[0]].shape)}, not {tuple(wanted[misfit[0]].shape)}"
            if misfit
            else "",
        ]
        raise UserError(
            f"backbone.weights={config.weights} does not fit {config.name} ({'; '.join(filter(None, parts))}): "
            "name the architecture the file was made for"
        )
    net.load_state_dict({name: value.to(wanted[name].dtype) for name, value in state.items()}, strict=True)


def _timm(config: BackboneConfig, classifier: bool) -> tuple[nn.Module, Preprocess]:
    wants_download = config.pretrained is not False and config.weights is None
    if wants_download and not timm.is_model_pretrained(config.name):
        raise UserError(
            f"timm has no weights for {config.name}; give backbone.weights=FILE or backbone.pretrained=false"
        )
    with _seeded(config.seed):
        try:
            classes: dict[str, Any] = {} if classifier else {"num_classes": 0}
            net = timm.create_model(config.name, pretrained=wants_download, **classes)
        except Exception as error:
            raise (_no_weights(config, error) if wants_download else _not_built(config, error)) from error
    if classifier and not getattr(net, "num_classes", 0):
        raise UserError(f"backbone {config.name} has no classifier for head.kind=labelmap; choose head=linear")
    if config.weights is not None:
        _load_strictly(net, read_weights(config.weights), config)
    cfg = timm.data.resolve_model_data_config(net)
    native = int(cfg["input_size"][-1])
    size = config.image_size or native
    if size != native:
        _resize(net, size, config)
    return net, Preprocess(
        size, tuple(cfg["mean"]), tuple(cfg["std"]), str(cfg["interpolation"]), float(cfg["crop_pct"])
    )


def _embedded(config: BackboneConfig) -> tuple[nn.Module, Preprocess]:
    folder = resources.files("vpt") / "assets"
    card: dict[str, Any] = json.loads((folder / f"{config.name}.json").read_text(encoding="utf-8"))
    from timm.models.vision_transformer import VisionTransformer

    with _seeded(config.seed):
        net = VisionTransformer(**card["architecture"], num_classes=0)
    if config.weights is not None:
        _load_strictly(net, read_weights(config.weights), config)
    elif config.pretrained is not False:
        with resources.as_file(folder / f"{config.name}.safetensors") as path:
            _load_strictly(net, safetensors.torch.load_file(path), config)
    size = config.image_size or int(card["image_size"])
    if size != card["image_size"]:
        _resize(net, size, config)
    return net, Preprocess(size, tuple(card["mean"]), tuple(card["std"]), card["interpolation"], card["crop_pct"])


def _resize(net: Any, size: int, config: BackboneConfig) -> None:
    """Resample position embeddings (and rotary tables) for another image size; convolutional nets need nothing."""
    if not is_timm_vit(net):
        if hasattr(net, "set_input_size"):
            _try_resize(net, size, config)
        return
    patch = net.patch_embed.patch_size[0]
    if size % patch:
        below = size // patch * patch
        raise UserError(
            f"backbone.image_size={size} is no multiple of {config.name}'s patch of {patch} pixels; "
            f"use {max(below, patch)} or {below + patch}"
        )
    _try_resize(net, size, config)


def _try_resize(net: Any, size: int, config: BackboneConfig) -> None:
    try:
        net.set_input_size(img_size=(size, size))
    except Exception as error:
        raise UserError(f"backbone {config.name} cannot take backbone.image_size={size}: {error}") from error


def _open_clip(config: BackboneConfig) -> tuple[nn.Module, Preprocess]:
    import open_clip

    name = config.name.removeprefix(OPEN_CLIP)
    tag = config.pretrained if isinstance(config.pretrained, str) else None
    tags = open_clip.list_pretrained_tags_by_model(name)
    if config.pretrained is True and config.weights is None:
        if not tags:
            raise UserError(f"open_clip has no weights for {name}; give backbone.weights=FILE")
        tag = tags[0]
    elif tag is not None and tag not in tags:
        raise UserError(f"open_clip has no weights '{tag}' for {name}{nearest(tag, tags)}; known: {', '.join(tags)}")
    quiet = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # open_clip logs its whole config on the root logger
    try:
        with _seeded(config.seed):
            clip = open_clip.create_model(
                name,
                pretrained=None if config.weights else tag,
                force_image_size=config.image_size,
                pretrained_image=False,
                pretrained_text=False,
                load_weights=config.pretrained is not False,
            )
    except Exception as error:
        raise (_no_weights(config, error) if tag else _not_built(config, error)) from error
    finally:
        logging.getLogger().setLevel(quiet)
    if config.weights is not None:
        state = read_weights(config.weights)
        if any(key.startswith("visual.") for key in state):
            state = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
        _load_strictly(clip.visual, state, config)
    size = clip.visual.image_size
    cfg = open_clip.get_model_preprocess_cfg(clip)
    return clip.visual, Preprocess(
        int(size[0] if isinstance(size, tuple) else size), tuple(cfg["mean"]), tuple(cfg["std"]), cfg["interpolation"]
    )


def _no_weights(config: BackboneConfig, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"the weights of {config.name} cannot be had ({type(error).__name__}: {reason}); without a network give "
        "backbone.weights=FILE, or try the embedded backbone=vpt_nano"
    )


def _not_built(config: BackboneConfig, error: Exception) -> UserError:
    return UserError(f"backbone {config.name} cannot be built: {' '.join(str(error).split())[:300]}")


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random weights are a function of the seed, and the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
