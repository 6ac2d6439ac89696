"""Maps tensor names in a file to those of a network: prefixes of wrappers, and timm's own conversions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

import timm
from timm.models import clean_state_dict
from torch import Tensor, nn

State = dict[str, Tensor]

# Prefixes under which trainers store a backbone: Lightning, DINO, MoCo v3, MoCo, mmpretrain, HF wrappers. If several
# fit equally well the first is used: a teacher before a student, a base encoder before its momentum encoder.
PREFIXES = (
    "module.",
    "_orig_mod.",
    "teacher.",
    "target_encoder.",
    "model.",
    "base_encoder.",
    "encoder_q.",
    "backbone.",
    "encoder.",
    "net.",
    "network.",
    "student.",
    "momentum_encoder.",
    "encoder_k.",
)
DEPTH = 3  # maximum number of nested prefixes


def unwrapped(state: Mapping[str, Tensor], wanted: Collection[str]) -> tuple[State, list[str]]:
    """Select the backbone's tensors from a file and remove the prefixes of wrappers; also returns the names of the
    other tensors.

    Args:
        state: contents of the file.
        wanted: the network's own names.

    >>> import torch
    >>> file = {"teacher.backbone.norm.weight": torch.ones(1), "teacher.head.weight": torch.ones(1)}
    >>> part, outside = unwrapped(file, ["norm.weight", "norm.bias"])
    >>> list(part), outside
    (['norm.weight'], ['teacher.head.weight'])
    """
    state = clean_state_dict(dict(state))
    best, kept = _part(state, ""), ""
    prefixes = [""]
    for _ in range(DEPTH):
        prefixes = [f"{before}{prefix}" for before in prefixes for prefix in PREFIXES]
        prefixes = [prefix for prefix in prefixes if any(name.startswith(prefix) for name in state)]
        for prefix in prefixes:
            part = _part(state, prefix)
            if _hits(part, wanted) > _hits(best, wanted):
                best, kept = part, prefix
    return best, [name for name in state if not name.startswith(kept)]


def converted(state: State, net: nn.Module, name: str) -> State:
    """Convert tensors as timm's own loader of this architecture does: names and layouts of other projects, obsolete
    layers, position embeddings of another size.

    Args:
        state: contents of the file.
        net: the network.
        name: name of the architecture.
    """
    convert = _filter_of(name)
    if convert is None:
        return state
    try:
        return dict(convert(dict(state), net))
    except Exception:  # a file of another architecture; strict loading reports what does not fit
        return state


def _filter_of(name: str) -> Callable[..., Mapping[str, Tensor]] | None:
    arch = name.split(".")[0]
    if not timm.is_model(arch):
        from timm.models import vision_transformer as module  # the embedded backbone belongs to it
    else:
        module = sys.modules[timm.model_entrypoint(arch).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None)
    if convert is not None and module.__name__ == "timm.models.deit":
        return lambda state, net: convert(state, net, adapt_layer_scale=True)  # as timm does for these
    return convert


def _part(state: Mapping[str, Any], prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _hits(state: Mapping[str, Any], wanted: Collection[str]) -> int:
    return sum(name in state for name in wanted)
