"""Checks that the tensors of an artifact fit the model its header describes, before memory of that size is allocated.

Prompt and head are built on the meta device, where tensors have a shape but no memory: a header of three kilobytes must
not decide how much is allocated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vpt.backbones.backbone import Backbone
from vpt.backbones.pos_embed import refuse_many_patches
from vpt.config import (
    ClipPrompt,
    LabelMapHead,
    LoraTuning,
    NativeHead,
    OwlHead,
    PixelPrompt,
    PyramidHead,
    RunConfig,
    TipHead,
    ZeroShotHead,
)
from vpt.heads.registry import build_head
from vpt.models.base import keys_in, owned_parts, unpacked
from vpt.models.classifier import pool_of
from vpt.models.clip import learner_skeleton
from vpt.models.detection.detector import detection_skeleton
from vpt.prompts.base import TokenPrompts
from vpt.prompts.pixel.prompt import PixelPrompts
from vpt.prompts.registry import build_prompt
from vpt.utils.errors import FileError, UserError
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
        prompt, head = _parts(config, classes, backbone)
        wanted = _owned(prompt, head, mine, width)
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


def _parts(config: RunConfig, classes: Sequence[str], backbone: Backbone | None) -> Parts:
    head = config.head
    if isinstance(head, NativeHead):
        with torch.device("meta"):
            prompt = PixelPrompts(config.prompt, head.size or 320) if isinstance(config.prompt, PixelPrompt) else None
            return prompt, nn.Identity()
    assert backbone is not None
    if isinstance(head, OwlHead | PyramidHead):
        return detection_skeleton(config, backbone, classes)
    if backbone.tower is not None:
        refuse_many_patches(backbone.preprocess.size, backbone.tower.patch[0], backbone.name)
    # The feature width of some backbones is found by a forward pass, which is not possible on the meta device.
    pool = pool_of(config)
    features = backbone.feature_width(pool)
    with torch.device("meta"):
        if isinstance(config.prompt, ClipPrompt):
            return learner_skeleton(config, backbone, classes)
        own = build_prompt(config.prompt, backbone)
        features += 0 if own is None else own.added_features
        return own, nn.Identity() if isinstance(head, ZeroShotHead) else build_head(head, features, len(classes))


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _owned(
    prompt: TokenPrompts | PixelPrompts | None, head: nn.Module, found: Mapping[str, Tensor], width: int
) -> dict[str, Tensor]:
    """Tensors of prompt and head by name, as in `Prompted.owned_state`.

    Args:
        found: tensors of the artifact; they decide the number of keys of a Tip-Adapter.
        width: width of the keys of a Tip-Adapter; 0 for any other head.
    """
    owned: dict[str, Tensor] = {}
    for part, module in (("prompt", prompt or nn.Identity()), ("head", head)):
        owned |= {f"{part}.{name}": value for name, value in owned_parts(module).items()}
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
