"""From the configuration to the prompt module: the one place that knows every method."""

from __future__ import annotations

from vpt.config import prompts
from vpt.prompts.base import Shape, TokenPrompts
from vpt.prompts.visual.bpt import BilinearPrompts
from vpt.prompts.visual.cvpt import CrossPrompts
from vpt.prompts.visual.e2vpt import EffectivePrompts
from vpt.prompts.visual.gated import GatedPrompts
from vpt.prompts.visual.vapt import AdaptivePrompts
from vpt.prompts.visual.vfpt import FourierPrompts
from vpt.prompts.visual.vpt import VisualPrompts
from vpt.utils.errors import UserError


def prompted_layers(layers: str | list[int], depth: int) -> tuple[int, ...]:
    """The layers, counted from 0, that `prompt.layers` means in a backbone of `depth` layers.

    Raises:
        UserError: layers that do not exist or a spelling that is not known.

    >>> prompted_layers("last:2", depth=12)
    (10, 11)
    """
    if isinstance(layers, str):
        word, _, count = layers.partition(":")
        if layers == "all":
            return tuple(range(depth))
        if word in ("first", "last") and count.isdigit() and 1 <= int(count) <= depth:
            return tuple(range(int(count)) if word == "first" else range(depth - int(count), depth))
        raise UserError(
            f"prompt.layers={str(layers)[:80]}: write all, first:N, last:N (N from 1 to {depth}) or a list of layers"
        )
    chosen = tuple(sorted(set(layers)))
    if not chosen or chosen[0] < 0 or chosen[-1] >= depth or len(chosen) != len(layers):
        raise UserError(f"prompt.layers={str(layers)[:80]}: list distinct layers from 0 to {depth - 1}")
    return chosen


def build_tokens(config: prompts.TokenPrompt, shape: Shape) -> TokenPrompts:
    """Build the token prompt that a configuration asks for.

    Raises:
        UserError: settings that do not fit the backbone.

    >>> shape = Shape(depth=4, width=8, heads=2, patch=(4, 4), grid=(2, 2))
    >>> build_tokens(prompts.DeepPrompt(tokens=3, shared=True), shape).tokens.shape
    torch.Size([1, 3, 8])
    """
    match config:
        case prompts.ShallowPrompt():
            _check_project(config.project, shape)
            return VisualPrompts(shape, {0: 0}, config.tokens, config.dropout, config.project, config.after)
        case prompts.DeepPrompt():
            _check_project(config.project, shape)
            layers = prompted_layers(config.layers, shape.depth)
            inserted = {layer: 0 if config.shared else index for index, layer in enumerate(layers)}
            return VisualPrompts(shape, inserted, config.tokens, config.dropout, config.project, config.after)
        case prompts.VfptPrompt():
            return FourierPrompts(shape, _each(config.layers, shape), config.tokens, config.fourier, config.dropout)
        case prompts.E2vptPrompt():
            inserted = _each(config.layers, shape)
            return EffectivePrompts(shape, inserted, config.tokens, config.kv_tokens, config.share_kv, config.dropout)
        case prompts.CvptPrompt():
            return CrossPrompts(shape, prompted_layers(config.layers, shape.depth), config.tokens, config.dropout)
        case prompts.VaptPrompt():
            if config.kernel > min(shape.grid):
                raise UserError(
                    f"prompt.kernel={config.kernel} is larger than the backbone's grid of {shape.grid[0]} x "
                    f"{shape.grid[1]} patches; lower it"
                )
            return AdaptivePrompts(shape, config.tokens, config.kernel, config.bottleneck, config.dropout)
        case prompts.GatedPrompt():
            return GatedPrompts(shape, config.tokens, config.gate, config.temperature, config.dropout)
        case prompts.BptPrompt():
            return BilinearPrompts(shape, _each(config.layers, shape), config.tokens, config.rank, config.dropout)


def _each(layers: str | list[int], shape: Shape) -> dict[int, int]:
    """A token set of its own for every prompted layer."""
    return {layer: index for index, layer in enumerate(prompted_layers(layers, shape.depth))}


def _check_project(project: int | None, shape: Shape) -> None:
    if project is not None and project >= shape.width:
        raise UserError(f"prompt.project={project} must be below the backbone's width {shape.width}")
