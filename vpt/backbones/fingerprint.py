"""A digest of what a frozen network computes: its weights, and what no weight tells.

Networks with equal weights may differ in their activation, the number of heads or the pooling. A prompt learned in one
answers wrongly in the other, so these are told apart by the kinds of all modules and by those of their attributes that
decide results. Attributes are chosen by name, for libraries add others from one version to the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

TRAITS = (
    # attention
    *("num_heads", "heads", "head_dim", "scale", "num_kv_groups", "attn_mask", "scaled_cosine", "norm_first"),
    *("window_size", "shift_size"),
    # rotary and other places
    *("rotate_half", "rope_mixed", "temperature", "grid_indexing", "grid_offset", "in_pixels", "linear_bands"),
    *("max_res", "ref_feat_shape", "normalize_coords", "min_period", "max_period", "no_embed_class"),
    # norms and activations
    *("eps", "num_groups", "approximate", "activation", "negative_slope", "gate_last"),
    # convolutions
    *("kernel_size", "stride", "padding", "padding_mode", "dilation", "groups", "same_pad"),
    # pooling
    *("global_pool", "pool", "pool_type", "text_pool_type", "pool_include_prefix", "num_prefix_tokens"),
    *("final_ln_after_pool", "output_size"),
    # text to token ids
    *("tokenizer", "context_length", "clean_fn", "eos_id", "pad_id", "use_pad_mask"),
)
IDLE = ("Identity", "Dropout", "DropPath", "DropBlock", "PatchDropout")  # do nothing in evaluation


def fingerprint(*nets: nn.Module, without: Collection[str] = ()) -> str:
    """Digest of networks: sha256 over kinds and traits of modules, and names, shapes and float32 values of weights.

    Position embeddings belong to it, so it is taken before they are resampled for another image size.

    Args:
        nets: together they make the digest.
        without: names of weights that are left out, those that learn.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.GELU())
    >>> twin = nn.Sequential(nn.Linear(2, 2), nn.GELU(approximate="tanh"))
    >>> _ = twin.load_state_dict(net.state_dict())
    >>> fingerprint(net) == fingerprint(twin), fingerprint(net[0]) == fingerprint(twin[0])
    (False, True)
    """
    digest = hashlib.sha256()
    for net in nets:
        for name, module in sorted(net.named_modules()):
            if not type(module).__name__.startswith(IDLE):
                digest.update(f"{name}: {_described(module)}\n".encode())
        state = net.state_dict()
        for name in sorted(state):
            if name in without:
                continue
            tensor = state[name].detach().cpu().float().contiguous()
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _described(thing: Any, deep: bool = True) -> str:
    """Its kind, and its traits that are not off; those that are may be missing in another version of its library."""
    own = getattr(thing, "__dict__", {})  # not its methods and properties
    own = own | own.get("_buffers", {})
    told = {trait: _told(own.get(trait), deep) for trait in TRAITS}
    return " ".join([type(thing).__name__, *(f"{trait}={value}" for trait, value in told.items() if value)])


def _told(value: Any, deep: bool = True) -> str:
    if value is None or isinstance(value, nn.Module):
        return ""  # a module speaks for itself
    if isinstance(value, bool | int | str):
        return str(value) if value else ""
    if isinstance(value, float):
        return f"{value:.6g}" if value else ""  # made of powers, whose last digit may depend on the machine
    if isinstance(value, tuple | list):
        return f"({','.join(_told(each, deep) for each in value)})"
    if isinstance(value, Tensor):
        return "tensor"  # its numbers are among the weights, or made of other traits
    # A function, or an object such as a tokenizer.
    return getattr(value, "__name__", "") or (_described(value, deep=False) if deep else type(value).__name__)
