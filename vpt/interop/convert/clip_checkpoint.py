"""Common parts of the checkpoints of CoOp and its successors: class names and the frozen CLIP.

File format: `token_suffix` (K, T, C) contains the token embeddings after the context for every class: fixed words, the
name, the full stop, the end token; `token_prefix` (K, 1, C) contains the start token. So the file itself determines its
class names, and whether the backbone has the same token embeddings. PromptSRC averages them over epochs in half
precision, so they equal the embedding table only up to some thousandths. If a whole model was saved, `image_encoder.`
and `text_encoder.` have the same names as in open_clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from vpt.backbones.backbone import Backbone
from vpt.backbones.text_encoder import TextEncoder
from vpt.config import RunConfig
from vpt.interop.convert.base import Source
from vpt.interop.convert.tokens import nearest_tokens, spelled
from vpt.models.classifier import PromptedModel
from vpt.prompts.clip.text_context import Position, layout
from vpt.utils.errors import UserError

LEARNER = "prompt_learner."
USUAL_WORDS = "a photo of a"


class ClipFile(Source):
    """A Dassl checkpoint: trained parameters, and embeddings of the class names."""

    clip = True
    default_words: ClassVar[tuple[str | None, ...]] = (None,)  # possible words between context and name

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__({name.removeprefix(LEARNER): value for name, value in state.items()})
        # A second, frozen tower that PromptSRC uses for its loss.
        self.taken |= set(self.under("ZS_image_encoder."))

    def resolve(
        self, config: RunConfig, backbone: Backbone, names: Sequence[str] | None
    ) -> tuple[RunConfig, tuple[str, ...]]:
        """Class names and fixed words of the file, or the given ones, checked against the file."""
        if "token_suffix" not in self.state:
            return super().resolve(config, backbone, names)
        assert backbone.text is not None
        said = self._said(backbone.text)
        given = getattr(config.prompt, "words", None)
        wrong = ""
        for words in dict.fromkeys((given,) if given is not None else self.default_words):
            fixed = _fixed(backbone.text, words, self.context_count())
            if any(row[: len(fixed)] != fixed for row in said):
                wrong = wrong or f"no class starts with the words that follow the context in '{words}'"
                continue
            mine = tuple(names) if names is not None else _names(backbone.text, [row[len(fixed) :] for row in said])
            misfit = self._misfit(backbone.text, said, mine, words, config)
            if not misfit:
                return config.with_({} if words is None else {"prompt.words": words}), mine
            wrong = misfit
        remedy = (
            "give the class names in the order of training with --classes, and prompt.words if it was used in training"
        )
        raise UserError(f"{self.title}: {wrong}; {remedy}")

    def context_count(self) -> int:
        """Number of context tokens M."""
        return self.state["ctx"].shape[-2]

    def _said(self, encoder: TextEncoder) -> list[list[int]]:
        """Token ids after the context of every class, without the end token."""
        tower = encoder.require_tower("learned context")
        table = tower.embed(torch.arange(encoder.tokenizer.vocab_size, device=encoder.scale.device)).cpu()
        end, start = encoder.tokenizer.eot_token_id, encoder.tokenizer.sot_token_id
        rows = self.take("token_suffix")
        if rows.ndim != 3 or rows.shape[-1] != table.shape[-1]:
            raise self._other(encoder.name, f"'token_suffix' is {tuple(rows.shape)}")
        found = []
        for number, tokens in enumerate(nearest_tokens(rows.flatten(0, 1), table).view(rows.shape[:2]).tolist()):
            said = tokens[: tokens.index(end)] if end in tokens else tokens
            if -1 in said or end not in tokens:
                raise self._other(encoder.name, f"no token is embedded as token {len(said)} of class {number}")
            found.append(said)
        if "token_prefix" in self.state:
            first = self.take("token_prefix").flatten(0, 1)
            if first.shape[-1] != table.shape[-1] or (nearest_tokens(first, table) != start).any():
                raise self._other(encoder.name, "the start token has another embedding")
        return found

    def _other(self, name: str, what: str) -> UserError:
        return UserError(
            f"{self.title} does not go with the token embeddings of {name}: {what}; name the CLIP it was trained on, "
            "or its file with backbone.weights=FILE"
        )

    def _misfit(
        self, encoder: TextEncoder, said: list[list[int]], names: Sequence[str], words: str | None, config: RunConfig
    ) -> str:
        """Why `names` do not produce the texts of the file; empty if they do."""
        if len(names) != len(said):
            return f"it has {len(said)} classes, not {len(names)}"
        position: Position = getattr(config.prompt, "position", "end")
        made = layout(encoder, names, self.context_count(), words, position)
        for name, row, slots, end in zip(names, said, made.slots.tolist(), made.ends.tolist(), strict=True):
            if [slot for slot in slots[1:end] if slot >= 0] != row:
                return f"class '{name}' reads '{encoder.tokenizer.decode(row).strip()}' in the file"
        return ""

    def check_towers(self, model: PromptedModel, learned: str) -> None:
        """Check that frozen weights of the file equal the backbone's; names containing `learned` are prompts."""
        backbone = model.backbone
        assert backbone.text is not None
        image, text = backbone.net.state_dict(), backbone.text.clip.state_dict()
        for name in [name for name in self.state if name not in self.taken and learned not in name]:
            part, _, rest = name.partition(".")
            if name == "logit_scale":
                self.same(name, text["logit_scale"], backbone.name)
            elif part == "image_encoder" and rest in image:
                self.same(name, image[rest], backbone.name)
            elif part == "text_encoder" and rest in text:
                self.same(name, text[rest], backbone.name)


def _fixed(encoder: TextEncoder, words: str | None, count: int) -> list[int]:
    return encoder.tokenizer.encode(words)[count:] if words else []


def _names(encoder: TextEncoder, rows: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Class names decoded from tokens, without the full stop."""
    return tuple(spelled(encoder.tokenizer, row) for row in rows)
