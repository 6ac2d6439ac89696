"""Pixel prompts of Bahng et al. 2022 (github.com/hjbahng/visual_prompting).

File format: `state_dict` contains `pad_up`, `pad_down` (1, 3, p, S), `pad_left`, `pad_right` (1, 3, S - 2p, p) for a
frame, or `patch` (1, 3, p, p) in the corner. The prompt is added to normalised pixels at full size. With CLIP, class
names are inserted in 'This is a photo of a {}', in lower case, with spaces for '_' and '-'; vision models use their
first classes as outputs. A patch at a random place has a random place at evaluation too, so it has no fixed output and
cannot be converted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vpt.backbones.backbone import Backbone
from vpt.backbones.factory import NORMALISATIONS
from vpt.config import RunConfig
from vpt.data.normalization import Preprocess
from vpt.heads.label_mapping import LabelMap
from vpt.interop.convert.base import Source, fit
from vpt.models.classifier import PromptedModel
from vpt.prompts.pixel.prompt import PixelPrompts
from vpt.utils.errors import UserError

SIDES = ("pad_up", "pad_down", "pad_left", "pad_right")
TEMPLATE = "This is a photo of a {}"


class Pixels(Source):
    """A frame, or a patch in the corner."""

    title = "the file of visual_prompting"

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__(state)
        self.on_clip = False

    @classmethod
    def knows(cls, names: Iterable[str]) -> bool:
        """Whether a file with tensors of these names has this format."""
        found = set(names)
        return set(SIDES) <= found or found == {"patch"}

    def settings(self) -> dict[str, Any]:
        """Shape and size; the head depends on the backbone."""
        frame = "pad_up" in self.state
        size = self.state["pad_up" if frame else "patch"].shape[2]
        shape = "pad" if frame else "patch"
        prompt = {"kind": "pixel", "shape": shape, "size": size, "space": "normalised", "squash": "none"}
        head = {"kind": "zeroshot", "templates": TEMPLATE} if self.on_clip else {"kind": "labelmap", "method": "first"}
        return {"prompt": prompt, "head": head}

    def resolve(
        self, config: RunConfig, backbone: Backbone, names: Sequence[str] | None
    ) -> tuple[RunConfig, tuple[str, ...]]:
        """Class names as spelled by the other project."""
        config, names = super().resolve(config, backbone, names)
        refined = tuple(name.lower().replace("_", " ").replace("-", " ") for name in names)
        return config, refined if self.on_clip else tuple(names)

    def preprocess(self, pre: Preprocess) -> Preprocess:
        """CLIP's own, or 256 pixels cropped to 224 with ImageNet's mean and standard deviation."""
        if self.on_clip:
            return pre
        mean, std = NORMALISATIONS["imagenet"]
        return replace(pre, mean=mean, std=std, interpolation="bilinear", crop_pct=224 / 256)

    def owned(self, model: PromptedModel) -> dict[str, Tensor]:
        """The prompted pixels, row by row."""
        prompt = model.prompt
        assert isinstance(prompt, PixelPrompts)
        side, name = prompt.side, model.backbone.name
        if "patch" in self.state:
            pixels = self.take("patch")[0].flatten(1)
        else:
            up, down, left, right = (self.take(part)[0] for part in SIDES)
            if up.shape[2] != side:
                raise UserError(f"{self.title} is for images of {up.shape[2]} pixels, but {name} takes {side}")
            middle = torch.cat([left, left.new_zeros(3, left.shape[1], side - 2 * left.shape[2]), right], dim=2)
            pixels = torch.cat([up, middle, down], dim=1)[:, prompt.frame.cpu()]
        found = {"prompt.pixels": fit("the prompt", pixels, prompt.pixels.shape, self.title, name)}
        if isinstance(model.head, LabelMap):
            found["head.index"] = torch.arange(len(model.head.index))[:, None]
        return found
