"""Digest of what a frozen network computes: its weights, and properties that are not stored in weights.

Networks with equal weights may differ in activation, number of heads or pooling, and a prompt trained on one gives
wrong results on the other. So the digest includes the types of all modules and those of their attributes that affect
results. Attributes are selected by name, because libraries add others from one version to the next.
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
    # rotary and other position embeddings
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
IDLE = ("Identity", "Dropout", "DropPath", "DropBlock", "PatchDropout")  # no effect in evaluation mode


def fingerprint(*nets: nn.Module, without: Collection[str] = ()) -> str:
    """Digest of networks: sha256 over types and attributes of modules, and names, shapes and float32 values of weights.

    Position embeddings are included, so compute it before they are resampled for another image size.

    Args:
        nets: networks, digested together.
        without: names of weights to leave out, such as trainable ones.

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
    """Type and attributes of a module; attributes that are off are omitted, as other library versions may lack them."""
    own = getattr(thing, "__dict__", {})  # excludes methods and properties
    own = own | own.get("_buffers", {})
    found = {trait: _as_text(own.get(trait), deep) for trait in TRAITS}
    return " ".join([type(thing).__name__, *(f"{trait}={value}" for trait, value in found.items() if value)])


def _as_text(value: Any, deep: bool = True) -> str:
    if value is None or isinstance(value, nn.Module):
        return ""  # modules have their own entry
    if isinstance(value, bool | int | str):
        return str(value) if value else ""
    if isinstance(value, float):
        return f"{value:.6g}" if value else ""  # the last digits of powers may depend on the machine
    if isinstance(value, tuple | list):
        return f"({','.join(_as_text(each, deep) for each in value)})"
    if isinstance(value, Tensor):
        return "tensor"  # its values are among the weights, or follow from other attributes
    # A function, or an object such as a tokenizer.
    return getattr(value, "__name__", "") or (_described(value, deep=False) if deep else type(value).__name__)
