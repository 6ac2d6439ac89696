"""IVLP and VPT in CLIP (github.com/muzairkhattak/multimodal-prompt-learning), and PromptSRC (muzairkhattak/PromptSRC).

File format: `VLPromptLearner/model.pth.tar-N` (`prompt_learner/` of VPT) contains the whole model; the trained
parameters are `prompt_learner.ctx` (M_text, C_text), `image_encoder.VPT` (M, C), and `VPT_shallow` in all layers but
the first of each tower: `image_encoder.transformer.resblocks.N.VPT_shallow`, `text_encoder...`. VPT has no `ctx` and
the template "a photo of a {}.". PromptSRC's file contains the prompts averaged over epochs; at inference it is an IVLP.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vpt.heads.zero_shot import ZeroShot
from vpt.interop.convert.base import fit
from vpt.interop.convert.clip_checkpoint import USUAL_WORDS, ClipFile
from vpt.models.classifier import PromptedModel
from vpt.prompts.clip.text_context import Contexts
from vpt.prompts.clip.vision import ClipVisionPrompts
from vpt.utils.errors import UserError

DEEPER = "transformer.resblocks.{}.VPT_shallow"


class Ivlp(ClipFile):
    """Independent prompts in one or both towers."""

    title = "the file of IVLP, PromptSRC or VPT in CLIP"
    default_words = (USUAL_WORDS, None)

    @classmethod
    def knows(cls, names: Iterable[str]) -> bool:
        """Whether a file with tensors of these names has this format."""
        return any("VPT" in name.split(".") or name.endswith(".VPT_shallow") for name in names)

    def settings(self) -> dict[str, Any]:
        """Tokens and depth of both towers."""
        image, text = self._layers("image_encoder"), self._layers("text_encoder")
        if ("image_encoder.VPT" not in self.state and image) or ("ctx" not in self.state and text):
            raise UserError(f"{self.title} has prompts in deeper layers of a tower but none before its first layer")
        prompt: dict[str, Any] = {"kind": "ivlp", "words": None, "tokens": 0, "text_tokens": 0}
        if "image_encoder.VPT" in self.state:
            prompt |= {"tokens": len(self.state["image_encoder.VPT"]), "depth": 1 + image}
        if "ctx" in self.state:
            prompt |= {"text_tokens": self.context_count(), "text_depth": 1 + text}
        return {"prompt": prompt, "head": {"kind": "zeroshot", "templates": "single"}}

    def _layers(self, tower: str) -> int:
        """Number of layers after the first that have their own prompts."""
        found = [int(name.split(".")[-2]) for name in self.under(f"{tower}.transformer.") if "VPT_shallow" in name]
        if sorted(found) != list(range(1, len(found) + 1)):
            raise UserError(f"{self.title} has prompts in layers {sorted(found)} of {tower}, not in the first ones")
        return len(found)

    def owned(self, model: PromptedModel) -> dict[str, Tensor]:
        """The prompts of each tower in one tensor."""
        assert isinstance(model.head, ZeroShot)
        self.check_towers(model, learned="VPT")
        found = {}
        if isinstance(model.prompt, ClipVisionPrompts):
            found["prompt.tokens"] = self._stack("image_encoder", "image_encoder.VPT", model.prompt.tokens, model)
        if isinstance(model.head.contexts, Contexts):
            found["head.contexts.tokens"] = self._stack("text_encoder", "ctx", model.head.contexts.tokens, model)
        return found

    def _stack(self, tower: str, first: str, ours: Tensor, model: PromptedModel) -> Tensor:
        names = [first, *(f"{tower}.{DEEPER.format(layer)}" for layer in range(1, len(ours)))]
        return torch.stack(
            [fit(name, self.take(name), ours.shape[1:], self.title, model.backbone.name) for name in names]
        )
