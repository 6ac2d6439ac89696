"""Creates the module of a prompt from its settings. Available prompts are listed in `vpt.config.prompts.PROMPTS`."""

from __future__ import annotations

from vpt.backbones.backbone import Backbone
from vpt.config import NoPrompt, PixelPrompt, Prompt, TokenPrompt
from vpt.config.prompts import PROMPTS
from vpt.prompts.base import Shape, TokenPrompts, prompted_layers
from vpt.prompts.pixel.prompt import PixelPrompts
from vpt.utils.errors import UserError

__all__ = ["build_prompt", "build_tokens", "prompted_layers"]


def build_tokens(config: TokenPrompt, shape: Shape) -> TokenPrompts:
    """Create a token prompt from its settings.

    Raises:
        UserError: settings that do not fit the backbone, or a plug-in that fails.

    >>> from vpt.config import DeepPrompt
    >>> shape = Shape(depth=4, width=8, heads=2, patch=(4, 4), grid=(2, 2))
    >>> build_tokens(DeepPrompt(tokens=3, shared=True), shape).tokens.shape
    torch.Size([1, 3, 8])
    """
    if shape.stage_widths and not config.any_widths:
        raise UserError(
            f"prompt={config.kind} needs layers of one width, and those of this backbone differ; choose "
            "prompt=shallow, prompt=deep or prompt=pixel, or a ViT"
        )
    made = PROMPTS.built(config, shape)
    if not isinstance(made, TokenPrompts):
        raise UserError(f"prompt={config.kind} builds a {type(made).__name__}, not a vpt.prompts.base.TokenPrompts")
    pae = getattr(config, "pae", None)
    if pae is not None:
        from vpt.prompts.visual.pae import Evolution

        made.regularize(Evolution(pae, shape))
    return made


def build_prompt(config: Prompt, backbone: Backbone) -> TokenPrompts | PixelPrompts | None:
    """Create the prompt for a backbone, with new parameters; None if there is none. Prompts in the text of class names
    are created with their head: see vpt/models/clip.py.

    Raises:
        UserError: settings that do not fit the backbone, or a prompt that it does not support.
    """
    if isinstance(config, NoPrompt):
        return None
    if isinstance(config, PixelPrompt):
        made: PixelPrompts = config.build(backbone.preprocess.size)
        return made
    if not isinstance(config, TokenPrompt):
        raise UserError(f"prompt={config.kind} is not a token prompt; derive its settings from vpt.config.TokenPrompt")
    return build_tokens(config, Shape.of(backbone.require_tower("token prompts"), backbone.preprocess.size))
