"""Creates open_clip models by name, with the weights and the activation they were trained with."""

from __future__ import annotations

import logging
from typing import Any

from timm.models import clean_state_dict
from torch import Tensor, nn

from vpt.backbones.adapters.open_clip_repository import check_repository, tokenizer_of
from vpt.backbones.builtin_names import ADDRESSES, OPEN_CLIP, in_open_clip
from vpt.backbones.state_dict import load_strictly, no_weights, not_built, seeded
from vpt.backbones.text_encoder import TextEncoder
from vpt.backbones.transformers_names import is_of_transformers, refuse_other_activation, to_open_clip
from vpt.backbones.weight_files import read_weights, weight_file
from vpt.config import BackboneConfig
from vpt.data.normalization import Preprocess
from vpt.utils.errors import UserError, nearest
from vpt.utils.version import install

# Scalars stored among the weights of OpenAI's CLIP models only.
OPENAI = ("input_resolution", "context_length", "vocab_size")


def check_open_clip(config: BackboneConfig) -> None:
    """Check the settings without creating the model.

    Raises:
        UserError: open_clip is not installed, or has no such model.
    """
    try:
        import open_clip
    except ImportError:
        raise UserError(f"backbone {config.name} needs open_clip: {install('clip')}") from None
    name = config.name.removeprefix(OPEN_CLIP)
    if not name.startswith(ADDRESSES) and not in_open_clip(name):
        raise UserError(f"open_clip has no model {name}{nearest(name, open_clip.list_models())}")


def build_open_clip(config: BackboneConfig, text: bool) -> tuple[nn.Module, TextEncoder | None, Preprocess]:
    """Create the image tower at its training size, the text encoder if requested, and the tower's preprocessing.

    Raises:
        UserError: weights that are unavailable or do not fit, or a repository whose settings are refused.
    """
    import open_clip

    name = config.name.removeprefix(OPEN_CLIP)
    check_repository(name)
    tag = _tag(config, name)
    # Some weights were trained with another activation than that of the model; open_clip would only warn.
    quick = bool(tag and (open_clip.get_pretrained_cfg(name, tag) or {}).get("quick_gelu", False))
    quiet = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # open_clip logs its whole config on the root logger
    try:
        with seeded(config.seed):
            clip: Any = open_clip.create_model(
                name,
                pretrained=None if config.weights else tag,
                force_quick_gelu=quick,
                pretrained_image=False,
                pretrained_text=False,
                load_weights=config.pretrained is not False,
            )
        tokenizer = tokenizer_of(name) if text else None
    except UserError:
        raise
    except Exception as error:
        raise (no_weights(config, error) if tag else not_built(config, error)) from error
    finally:
        logging.getLogger().setLevel(quiet)
    if config.weights is not None:
        _load_file(clip, read_weights(config.weights), config, text)
    visual = clip.visual
    cfg = open_clip.get_model_preprocess_cfg(clip)
    size = visual.image_size
    pre = Preprocess(
        int(size[0] if isinstance(size, tuple) else size), tuple(cfg["mean"]), tuple(cfg["std"]), cfg["interpolation"]
    )
    return visual, TextEncoder(clip, tokenizer, config.name) if text else None, pre


def _tag(config: BackboneConfig, name: str) -> str | None:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if isinstance(config.pretrained, str):
        if config.pretrained not in tags:
            raise UserError(
                f"open_clip has no weights '{config.pretrained}' for {name}{nearest(config.pretrained, tags)}; "
                f"available: {', '.join(tags)}"
            )
        return config.pretrained
    if config.pretrained is False or config.weights is not None:
        return None
    if not tags and not name.startswith(ADDRESSES):
        raise UserError(f"open_clip has no weights for {name}; give backbone.weights=FILE")
    return tags[0] if tags else None


def _load_file(clip: Any, state: dict[str, Tensor], config: BackboneConfig, text: bool) -> None:
    """Load the file of a whole model, or of an image tower alone if no text is needed."""
    state = clean_state_dict(state)
    if is_of_transformers(state):
        assert config.weights is not None
        act = getattr(
            next(iter(getattr(getattr(clip.visual, "transformer", None), "resblocks", [])), None), "mlp", None
        )
        quick = any("Quick" in type(module).__name__ for module in (act.modules() if act is not None else ()))
        refuse_other_activation(weight_file(config.weights), state, quick, config.name)
        state = to_open_clip(state, clip.state_dict())
    if set(OPENAI) <= set(state):
        _refuse_other_activation(config)
        state = {key: value for key, value in state.items() if key not in OPENAI}
    whole = any(key.startswith("visual.") for key in state)
    if text:
        if not whole:
            raise UserError(
                f"backbone.weights={config.weights} contains only an image tower; this head needs the text tower too: "
                "give the file of the whole CLIP model"
            )
        load_strictly(clip, state, config)
        return
    if whole:
        state = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    load_strictly(clip.visual, state, config)


def _refuse_other_activation(config: BackboneConfig) -> None:
    """Refuse OpenAI's weights, trained with QuickGELU, for a model with another activation, which would be wrong."""
    import open_clip

    name = config.name.removeprefix(OPEN_CLIP)
    if (open_clip.get_model_config(name) or {}).get("quick_gelu"):
        return
    quick = f"{name}-quickgelu"
    advice = f"backbone={OPEN_CLIP}{quick}" if quick in open_clip.list_models() else "the model's -quickgelu variant"
    raise UserError(
        f"backbone.weights={config.weights} is a model of OpenAI, trained with QuickGELU, which {config.name} does not "
        f"use; set {advice}"
    )
