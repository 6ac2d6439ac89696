"""Strict loading of weights from local files, and errors for weights that are unavailable."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpt.backbones.transformers_names import is_of_transformers, refuse_other_activation, timm_name, to_timm
from vpt.backbones.weight_files import is_npz, npz_shapes, read_weights, weight_file
from vpt.backbones.weight_names import converted, unwrapped
from vpt.config import BackboneConfig
from vpt.utils.errors import UserError
from vpt.utils.tensor_state import load_into

SHOWN = 3
HEADS = ("head.", "head_dist.", "fc.", "classifier.", "heads.")
# Parts used only in pretraining: MAE's decoder, masked image modelling.
PRETRAINING = ("decoder_", "decoder.", "mask_token", "masked_embed", "lm_head.")
POSITIONS, PATCHES = "pos_embed", "patch_embed.proj.weight"


def load_weights(net: nn.Module, config: BackboneConfig) -> list[str]:
    """Load the local file named by `config` into a timm network, strictly; returns notes for the user.

    Names and layouts of other projects are converted as by timm's own loader.

    Raises:
        UserError: a file that cannot be read or does not fit, with examples of what is missing (-) and what the network
            does not have (+).
    """
    path = config.weights
    assert path is not None
    if is_npz(path):
        return _load_npz(net, path, config)
    wanted = net.state_dict()
    notes: list[str] = []
    state = read_weights(path, notes)
    if is_of_transformers(state):
        return [*notes, *_load_transformers(net, state, config)]
    state, outside = unwrapped(state, wanted)
    if outside:
        parts = sorted({name.split(".")[0] for name in outside})
        notes.append(f"{path}: {len(outside)} tensors outside the backbone are not loaded ({', '.join(parts[:6])})")
    _refuse_other_patch(state.get(PATCHES), wanted.get(PATCHES), config)
    fitting = converted(state, net, config.name)
    notes += _resampled(state, wanted, path)
    load_strictly(net, fitting, config)
    return notes


def _load_transformers(net: nn.Module, state: Mapping[str, Tensor], config: BackboneConfig) -> list[str]:
    """Load the image tower of a checkpoint of transformers."""
    assert config.weights is not None
    act = getattr(getattr(next(iter(getattr(net, "blocks", [])), None), "mlp", None), "act", None)
    refuse_other_activation(weight_file(config.weights), state, "Quick" in type(act).__name__, config.name)
    wanted = net.state_dict()
    named = to_timm(state, wanted)
    name = timm_name(named)
    notes = _resampled(named, wanted, config.weights)
    try:
        _refuse_other_patch(named.get(PATCHES), wanted.get(PATCHES), config)
        load_strictly(net, converted(named, net, config.name), config)
    except UserError as error:
        raise UserError(f"{error}{f'; it looks like backbone={name}' if name else ''}") from None
    return notes


def load_strictly(net: nn.Module, state: Mapping[str, Tensor], config: BackboneConfig) -> None:
    """Load `state` into `net`. A classifier that `net` lacks, and parts used only in pretraining, are skipped.

    Raises:
        UserError: weights that are missing, unknown, of another shape (with examples of each), or not finite.
    """
    wanted = net.state_dict()
    spare = (*HEADS, *PRETRAINING)
    state = {name: value for name, value in state.items() if name in wanted or not name.startswith(spare)}
    missing = sorted(set(wanted) - set(state))
    unknown = sorted(set(state) - set(wanted))
    misfit = [
        f"{name} {tuple(state[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and wanted[name].shape != state[name].shape
    ]
    if missing or unknown or misfit:
        parts = [
            f"{sign} {what} {_some(names)}"
            for sign, what, names in (("-", "missing", missing), ("+", "unknown", unknown), ("!", "shape of", misfit))
            if names
        ]
        raise UserError(
            f"backbone.weights={config.weights} does not fit {config.name} ({'; '.join(parts)}): name the architecture "
            "that the file was made for"
        )
    bad = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise UserError(f"backbone.weights={config.weights} contains NaN or infinite values in {_some(bad)}")
    load_into(wanted, state)


def _load_npz(net: Any, path: Path, config: BackboneConfig) -> list[str]:
    """Load Google's arrays with timm's own loader, which picks arrays by name. To make sure that none is skipped, the
    file and the network must have equally many parameters, and all parameters must be set."""
    shapes = npz_shapes(path)
    if not hasattr(net, "load_pretrained"):
        raise UserError(f"backbone.weights={path} contains numpy arrays, which timm cannot load into {config.name}")
    shapes = {name: shape for name, shape in shapes.items() if "opt/" not in name or "opt/target/" in name}
    kernels = [shape for name, shape in shapes.items() if name.endswith("embedding/kernel") and len(shape) == 4]
    own = getattr(getattr(getattr(net, "patch_embed", None), "proj", None), "weight", None)
    if kernels and own is not None and kernels[0][:2] != tuple(own.shape[2:]):
        raise _other_patch(kernels[0][:2], tuple(own.shape[2:]), config)
    there = sum(_numbers(shape) for name, shape in shapes.items() if not _beside(name))
    needed = sum(value.numel() for name, value in net.named_parameters() if not name.startswith((POSITIONS, *HEADS)))
    if there != needed:
        raise UserError(
            f"backbone.weights={path} does not fit {config.name}: it has {there:,} parameters, the network {needed:,} "
            "(without position embeddings and classifier); name the architecture that the file was made for"
        )
    with torch.no_grad():
        for name, value in net.named_parameters():
            if not name.startswith(HEADS):
                value.fill_(torch.nan)
    try:
        net.load_pretrained(str(path))
    except Exception as error:  # an unexpected name or shape can raise anything
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"backbone.weights={path} does not fit {config.name} ({type(error).__name__}: {reason}): name the "
            "architecture that the file was made for"
        ) from error
    unset = [n for n, value in net.named_parameters() if not n.startswith(HEADS) and not torch.isfinite(value).all()]
    if unset:
        raise UserError(f"backbone.weights={path} does not fit {config.name} (- missing or not finite {_some(unset)})")
    positions = [
        shape for name, shape in shapes.items() if name.endswith(("pos_embedding", "posembed_input/pos_embedding"))
    ]
    own = getattr(net, POSITIONS, None)
    return _positions_note(positions[0][1], own.shape[1], path) if positions and own is not None else []


def _beside(name: str) -> bool:
    return name.startswith(("head/", "pre_logits/")) or any(
        part in name for part in ("/head/", "/pre_logits/", "pos_embedding")
    )


def _numbers(shape: Collection[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def _refuse_other_patch(given: Tensor | None, wanted: Tensor | None, config: BackboneConfig) -> None:
    """Refuse another patch size, for which timm's loader would silently resample the weights."""
    if given is None or wanted is None or given.ndim != 4 or wanted.ndim != 4:
        return
    if given.shape[2:] != wanted.shape[2:]:
        raise _other_patch(tuple(given.shape[2:]), tuple(wanted.shape[2:]), config)


def _other_patch(given: tuple[int, ...], wanted: tuple[int, ...], config: BackboneConfig) -> UserError:
    sizes = [" x ".join(map(str, size)) for size in (given, wanted)]
    return UserError(
        f"backbone.weights={config.weights} does not fit {config.name}: its patch size is {sizes[0]} pixels, not "
        f"{sizes[1]}; name the architecture that the file was made for"
    )


def _resampled(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> list[str]:
    given, own = state.get(POSITIONS), wanted.get(POSITIONS)
    if given is None or own is None or given.ndim != 3:
        return []
    return _positions_note(given.shape[1], own.shape[1], path)


def _positions_note(given: int, own: int, path: Path) -> list[str]:
    """Warn that position embeddings were resampled, unless register or class tokens explain the difference."""
    if abs(given - own) <= 8:
        return []
    return [
        f"warning: {path} was trained at another image size: its position embeddings for {given} tokens were "
        f"resampled to {own}. If an architecture of that size exists, use it"
    ]


def _some(names: Collection[str]) -> str:
    """Number of names, and the first few.

    >>> _some(["a", "b"]), _some(["a", "b", "c", "d"])
    ('2: a, b', '4: a, b, c, ...')
    """
    some = list(names)
    return f"{len(some)}: {', '.join(some[:SHOWN])}{', ...' if len(some) > SHOWN else ''}"


def no_weights(config: BackboneConfig, error: Exception) -> UserError:
    """Error for pretrained weights that are unavailable."""
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"Could not download the weights of {config.name} ({type(error).__name__}: {reason}); without network access "
        "give backbone.weights=FILE, or try the embedded backbone=vpt_nano"
    )


def not_built(config: BackboneConfig, error: Exception) -> UserError:
    """Error for a network that cannot be created."""
    return UserError(f"backbone {config.name} cannot be created: {' '.join(str(error).split())[:300]}")


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed random weights, and restore the caller's random state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
