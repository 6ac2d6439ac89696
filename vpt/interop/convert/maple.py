"""MaPLe (github.com/muzairkhattak/multimodal-prompt-learning): deep text prompts, projected to the image tower.

File format: `MultiModalPromptLearner/model.pth.tar-N` contains the whole model; the trained parameters are
`prompt_learner.ctx` (M, C_text), `prompt_learner.proj` to the image tower, `compound_prompts_text.N` (M, C_text) for
layer N + 1 and `compound_prompt_projections.N`. Image prompts follow the patches, in the first layer before the tower's
first norm; they have no position embedding, so their place in the sequence does not matter. If CTX_INIT is longer than
N_CTX, the words after the first N_CTX remain words: "of a" for "a photo of a" with two tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vpt.interop.convert.base import fit
from vpt.interop.convert.clip_checkpoint import LEARNER, USUAL_WORDS, ClipFile
from vpt.models.classifier import PromptedModel
from vpt.prompts.clip.vision import CoupledPrompts


class Maple(ClipFile):
    """Coupled prompts."""

    title = "the file of MaPLe"
    default_words = (USUAL_WORDS, None)

    @classmethod
    def knows(cls, names: Iterable[str]) -> bool:
        """Whether tensors of these names have this format; for one layer only `proj` distinguishes it from CoOp's."""
        found = {name.removeprefix(LEARNER) for name in names}
        return {"ctx", "proj.weight"} <= found or any(name.startswith("compound_prompt") for name in found)

    def settings(self) -> dict[str, Any]:
        """Tokens and depth."""
        depth = 1 + self.count("compound_prompts_text.")
        prompt = {"kind": "maple", "tokens": self.context_count(), "depth": depth, "words": None}
        return {"prompt": prompt, "head": {"kind": "zeroshot", "templates": "single"}}

    def owned(self, model: PromptedModel) -> dict[str, Tensor]:
        """Text prompts of all layers in one tensor, and a projection for each."""
        assert isinstance(model.prompt, CoupledPrompts)
        self.check_towers(model, learned="compound_prompt")
        name = model.backbone.name
        deeper = range(len(model.prompt.maps) - 1)
        rows = [self.take("ctx"), *(self.take(f"compound_prompts_text.{layer}") for layer in deeper)]
        shape = model.prompt.tokens.shape
        for key, row in zip(["ctx", *(f"compound_prompts_text.{layer}" for layer in deeper)], rows, strict=True):
            fit(key, row, shape[1:], self.title, name)
        found = {"prompt.tokens": torch.stack(rows)}
        theirs = ["proj", *(f"compound_prompt_projections.{layer}" for layer in deeper)]
        for index, (key, ours) in enumerate(zip(theirs, model.prompt.maps, strict=True)):
            for part, parameter in ours.named_parameters():
                whole = f"{key}.{part}"
                found[f"prompt.maps.{index}.{part}"] = fit(whole, self.take(whole), parameter.shape, self.title, name)
        return found
