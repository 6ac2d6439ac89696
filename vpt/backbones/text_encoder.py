"""Text encoder of an open_clip model: text features of names, and the tower that accepts learned embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vpt.backbones.adapters.timm import UnreadableError
from vpt.backbones.text_tower import TextTower, read_text
from vpt.utils.errors import UserError


class TextEncoder(nn.Module):
    """Text tower of an open_clip model with its tokenizer and logit scale; the image tower is kept separately.

    Args:
        clip: an open_clip model; its `visual` is replaced.
        tokenizer: the result of `open_clip.get_tokenizer` for it.
        name: for messages.
    """

    def __init__(self, clip: nn.Module, tokenizer: Any, name: str) -> None:
        super().__init__()
        clip.visual = nn.Identity()
        self.clip = clip
        self.tokenizer = tokenizer
        self.name = name
        self.refusal = ""
        self.tower = self._read()

    def _read(self) -> TextTower | None:
        try:
            return read_text(self.clip)
        except UnreadableError as error:
            self.refusal = f"its text tower does not accept embeddings ({error})"
        return None

    def require_tower(self, purpose: str) -> TextTower:
        """The tower, or a UserError that says why this model does not support `purpose`."""
        if self.tower is not None and not hasattr(self.tokenizer, "sot_token_id"):
            self.refusal = f"its tokenizer {type(self.tokenizer).__name__} does not expose its special tokens"
        if self.tower is None or self.refusal:
            raise UserError(
                f"backbone {self.name} does not support {purpose}: {self.refusal}; choose a CLIP with open_clip's own "
                "tokenizer, such as open_clip:ViT-B-32, or prompts in the image tower (prompt=deep)"
            )
        return self.tower

    @property
    def scale(self) -> Tensor:
        """Scale of the cosine similarities, a scalar."""
        model: Any = self.clip
        return model.logit_scale.exp()

    def token_ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids (N, length).

        Raises:
            UserError: a text that is too long; open_clip would truncate it silently.
        """
        if hasattr(self.tokenizer, "encode"):
            length = int(self.tokenizer.context_length)
            for text in texts:
                if len(self.tokenizer.encode(text)) + 2 > length:
                    raise UserError(f"the text '{text[:80]}' does not fit into {length} tokens; use a shorter name")
        return self.tokenizer(list(texts))

    @torch.no_grad()
    def features(self, texts: Sequence[str], batch: int = 256) -> Tensor:
        """Text features (N, D), not normalised, computed by open_clip's own forward pass."""
        model: Any = self.clip
        device = model.logit_scale.device
        found = [
            model.encode_text(self.token_ids(texts[start : start + batch]).to(device), normalize=False)
            for start in range(0, len(texts), batch)
        ]
        return torch.cat(found).float()
