"""CoOp and CoCoOp (github.com/KaiyangZhou/CoOp), KgCoOp (github.com/htyao89/KgCoOp).

File format: `prompt_learner/model.pth.tar-N` contains `ctx`, (M, C) or (K, M, C) if every class has its own, and the
buffers of clip_checkpoint.py; CoCoOp also has `meta_net.linear1` and `meta_net.linear2`, whose output is added to every
context token. The position of the class name (CLASS_TOKEN_POSITION) is not in the file: it is `end` unless
`prompt.position` is given. KgCoOp's prompt learner has `bias_vectors` and a `meta_net` of one layer, which are neither
used in its forward pass nor trained: they are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from vpt.heads.zero_shot import ZeroShot
from vpt.interop.convert.base import fit
from vpt.interop.convert.clip_checkpoint import LEARNER, ClipFile
from vpt.models.classifier import PromptedModel
from vpt.prompts.clip.text_context import Contexts
from vpt.utils.errors import UserError

META = {"0": "linear1", "2": "linear2"}
UNUSED = ("bias_vectors", "meta_net.linear1.weight", "meta_net.linear1.bias")  # tensors of KgCoOp


class Coop(ClipFile):
    """One context for all classes, or one for each."""

    title = "the file of CoOp"

    @property
    def guided(self) -> bool:
        """Whether the checkpoint is KgCoOp's."""
        return "bias_vectors" in self.state and "meta_net.linear2.weight" not in self.state

    @classmethod
    def knows(cls, names: Iterable[str]) -> bool:
        """Whether a file with tensors of these names has this format."""
        found = {name.removeprefix(LEARNER) for name in names}
        return "ctx" in found and not any(name.startswith(("compound_prompts", "image_encoder.VPT")) for name in found)

    def settings(self) -> dict[str, Any]:
        """Settings of CoOp, or of CoCoOp if there is a meta-net."""
        context = self.state["ctx"]
        prompt: dict[str, Any] = {"kind": "coop", "tokens": self.context_count()}
        if self.guided and context.ndim == 2:
            self.taken |= set(UNUSED)
            prompt |= {"kind": "kgcoop", "words": None}
        elif self.under("meta_net."):
            prompt |= {"kind": "cocoop", "words": None}
        elif context.ndim == 3:
            prompt["class_specific"] = True
        if context.ndim != (3 if prompt.get("class_specific") else 2):
            raise UserError(f"{self.title}: 'ctx' is {tuple(context.shape)}, which is not a context of this method")
        return {"prompt": prompt, "head": {"kind": "zeroshot", "templates": "single"}}

    def owned(self, model: PromptedModel) -> dict[str, Tensor]:
        """The context and the meta-net."""
        assert isinstance(model.head, ZeroShot)
        contexts = model.head.contexts
        assert isinstance(contexts, Contexts)
        self.check_towers(model, learned="ctx")
        name = model.backbone.name
        context = self.take("ctx")
        context = context if context.ndim == 3 else context[None]
        found = {"head.contexts.tokens": fit("ctx", context, contexts.tokens.shape, self.title, name)}
        for ours, theirs in META.items() if contexts.meta is not None else ():
            for part in ("weight", "bias"):
                key = f"meta_net.{theirs}.{part}"
                wanted = dict(contexts.named_parameters())[f"meta.{ours}.{part}"].shape
                found[f"head.contexts.meta.{ours}.{part}"] = fit(key, self.take(key), wanted, self.title, name)
        return found
