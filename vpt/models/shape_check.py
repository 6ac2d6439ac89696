"""Checks that the tensors of an artifact fit the model its header describes, before memory of that size is allocated.

Prompt and head are built on the meta device, where tensors have a shape but no memory: a header of three kilobytes must
not decide how much is allocated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpt.backbones.backbone import Backbone
from vpt.config import LabelMapHead, LoraTuning, RunConfig, TipHead
from vpt.config.tasks import task_entry
from vpt.models.base import keys_in, owned_parts, unpacked
from vpt.models.classifier import unknown_of
from vpt.prompts.base import TokenPrompts
from vpt.prompts.pixel.prompt import PixelPrompts
from vpt.utils.errors import FileError, UserError
from vpt.utils.plugins import imported
from vpt.utils.tensor_state import misfits, shown

# Maximum size of a model relative to its file, which omits pruned values.
MOST_BYTES = 64_000_000
MOST_TIMES = 64

Parts = tuple[TokenPrompts | PixelPrompts | None, nn.Module]  # prompt and head, on the meta device


def check_tensors(
    path: Path, config: RunConfig, classes: Sequence[str], tensors: Mapping[str, Tensor], backbone: Backbone | None
) -> None:
    """Compare the tensors of an artifact with its settings.

    Args:
        path: of the artifact, for messages.
        config: its settings.
        classes: its class names.
        tensors: its tensors.
        backbone: backbone of its model; None for a complete detector, which has its own head.

    Raises:
        FileError: tensors are missing, unknown, of another shape or type, not finite, or out of range.
        UserError: the settings do not fit the backbone.
    """
    mine = {name: value for name, value in tensors.items() if not name.startswith("backbone.")}
    width = backbone.feature_width("native") if backbone is not None and isinstance(config.head, TipHead) else 0
    try:
        prompt, head = imported(task_entry(config.task).skeleton)(config, backbone, classes)
        unknown = None if backbone is None else unknown_of(config, backbone, prompt, "meta")
        wanted = _owned(prompt, head, mine, width, unknown)
        if config.backbone.channels == "learned":
            wanted["channels.weight"] = torch.empty(3, config.data.channels or 3, device="meta")
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    # A pruned prompt is stored without its pruned values, so the model may be larger than the file, but not by much.
    if _bytes(wanted) <= MOST_BYTES + MOST_TIMES * _bytes(mine):
        mine = unpacked(prompt, mine)
    wrong = misfits(wanted, mine)
    if config.tuning.kind == "frozen":
        wrong += sorted(set(tensors) - set(mine))
    if isinstance(config.tuning, LoraTuning):
        wrong += _other_ranks(tensors, config.tuning.rank)
    if wrong:
        raise FileError(path, f"does not fit the model that its own header describes: see {shown(wrong)}")
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise FileError(path, f"contains values that are not finite, in {shown([name])}; train it again")
    _check_indices(path, config, len(classes), mine, backbone)


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _owned(
    prompt: TokenPrompts | PixelPrompts | None,
    head: nn.Module,
    found: Mapping[str, Tensor],
    width: int,
    unknown: nn.Module | None,
) -> dict[str, Tensor]:
    """Tensors of prompt, head and score of unknown images by name, as in `Prompted.owned_state`.

    Args:
        found: tensors of the artifact; they decide the number of stored features of a head.
        width: width of the keys of a Tip-Adapter; 0 for any other head.
    """
    owned: dict[str, Tensor] = {}
    sized: Any = head
    if hasattr(head, "resize_for") and "head.labels" in found:
        sized.resize_for(keys_in(found, sized.width))
    for part, module in (("prompt", prompt), ("head", head), ("unknown", unknown)):
        owned |= {f"{part}.{name}": value for name, value in owned_parts(module or nn.Identity()).items()}
    if width and "head.labels" in found:
        count = keys_in(found, width)
        with torch.device("meta"):
            owned |= {"head.keys": torch.empty(count, width), "head.mix": torch.empty(2)}
            owned["head.labels"] = torch.empty(count, dtype=torch.int64)
    return owned


def _other_ranks(tensors: Mapping[str, Tensor], rank: int) -> list[str]:
    """Names of low-rank matrices of another rank; without any matrices, an error."""
    ranks = {name: value.shape[:1] for name, value in tensors.items() if ".lora_A." in name}
    return [name for name, found in ranks.items() if found != (rank,)] if ranks else ["lora_A"]


def _check_indices(
    path: Path, config: RunConfig, classes: int, tensors: Mapping[str, Tensor], backbone: Backbone | None
) -> None:
    """Check that tensors of indices only contain valid indices."""
    most = {"head.labels": classes}
    if isinstance(config.head, LabelMapHead) and backbone is not None:
        most["head.index"] = backbone.feature_width("classifier")
    for name, end in most.items():
        value = tensors.get(name)
        if value is not None and value.numel() and not (int(value.min()) >= 0 and int(value.max()) < end):
            raise FileError(path, f"contains invalid indices in {name}; train it again")
