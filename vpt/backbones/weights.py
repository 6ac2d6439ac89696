"""Weights from local files: read without unpickling, loaded strictly; and what is said when there are none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from vpt.config import BackboneConfig
from vpt.errors import UserError


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


def load_strictly(net: nn.Module, state: Mapping[str, Tensor], config: BackboneConfig) -> None:
    """Load `state` into `net`; a classifier in the file that the net lacks is left out.

    Raises:
        UserError: weights that are missing, unknown or of another shape, with an example of each.
    """
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


def no_weights(config: BackboneConfig, error: Exception) -> UserError:
    """Pretrained weights that could not be had."""
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"the weights of {config.name} cannot be had ({type(error).__name__}: {reason}); without a network give "
        "backbone.weights=FILE, or try the embedded backbone=vpt_nano"
    )


def not_built(config: BackboneConfig, error: Exception) -> UserError:
    """A network that could not be built."""
    return UserError(f"backbone {config.name} cannot be built: {' '.join(str(error).split())[:300]}")


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random weights are a function of the seed, and the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
