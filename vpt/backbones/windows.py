"""Attention within the windows of a patch grid, with prompt tokens in every window (Swin, Liu et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.swin_transformer import window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Windows:
    """How the tokens of a layer attend to each other if patches attend within their window only.

    Every window has a copy of the prompt tokens. Their queries, keys and values are the same in all windows, so they
    are computed once an image; only their attention differs, and their outputs are averaged over the windows.

    Args:
        block: timm's `SwinTransformerBlock` or `SwinTransformerV2Block`, which owns sizes, shift and mask.
        bias: position bias of the keys of a window for its queries, (1, heads, area, area).
        merge: timm's `PatchMerging` between this layer and the next one; None if the grid stays.
    """

    block: Any
    bias: Callable[[], Tensor]
    merge: nn.Module | None = None

    @property
    def count(self) -> int:
        """Number of windows."""
        height, width = self._padded
        return height * width // self.block.window_area

    @property
    def _padded(self) -> tuple[int, int]:
        sizes = zip(self.block.input_resolution, self.block.window_size, strict=True)
        height, width = (-(-side // window) * window for side, window in sizes)
        return height, width

    def cut(self, tokens: Tensor, prompts: int) -> Tensor:
        """Sort tokens (B, P + N, C), prompts first, by window: (B, P + windows * area, C). A grid that is no multiple
        of the window is padded with zeros."""
        height, width = self.block.input_resolution
        grid = tokens[:, prompts:].unflatten(1, (height, width))
        if any(self.block.shift_size):
            grid = torch.roll(grid, [-shift for shift in self.block.shift_size], (1, 2))
        full = self._padded
        grid = F.pad(grid, (0, 0, 0, full[1] - width, 0, full[0] - height))
        windows = window_partition(grid, self.block.window_size)
        windows = windows.reshape(tokens.shape[0], self.count * self.block.window_area, tokens.shape[2])
        return torch.cat([tokens[:, :prompts], windows], dim=1) if prompts else windows

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        extra: tuple[Tensor, Tensor] | None,
        prompts: int,
        mask: Tensor | None,
    ) -> Tensor:
        """Attention of all tokens, with heads concatenated and patches in the order of the grid: (B, P + N, C).

        Args:
            query: of tokens sorted by `cut`, (B, heads, P + windows * area, head_dim).
            key: likewise.
            value: likewise.
            extra: keys and values of prompt tokens that have no query.
            prompts: P.
            mask: see `Block.forward`; only its columns of prompts are read.
        """
        sizes = (self.count, self.block.window_area)
        own, patches = query[:, :, :prompts, None], query[:, :, prompts:].unflatten(2, sizes)
        own = own.transpose(2, 3).expand(-1, -1, sizes[0], -1, -1)
        query = torch.cat([own, patches], dim=3) * query.shape[-1] ** -0.5  # (B, heads, windows, P + area, head_dim)
        first = [part[:, :, :prompts] for part in (key, value)]
        if extra is not None:
            batch = query.shape[0]  # not len, which would fix the batch size of an export
            first = [
                torch.cat([new.to(old.dtype).expand(batch, -1, -1, -1), old], 2)
                for new, old in zip(extra, first, strict=True)
            ]
        prompt_key, prompt_value = (part[:, :, None] for part in first)  # (B, heads, 1, M, head_dim)
        key, value = (part[:, :, prompts:].unflatten(2, sizes) for part in (key, value))
        far, near = query @ prompt_key.transpose(-2, -1), query @ key.transpose(-2, -1)
        if mask is not None:
            far = far.masked_fill(~mask[:, :, None, :, : far.shape[-1]], -torch.inf)
        scores = torch.cat([far, near + F.pad(self._scores(), (0, 0, prompts, 0))], dim=-1)
        weights = scores.softmax(-1).to(value.dtype)
        count = far.shape[-1]
        mixed = weights[..., :count] @ prompt_value + weights[..., count:] @ value
        mixed = mixed.permute(0, 2, 3, 1, 4).flatten(3)  # (B, windows, P + area, C)
        found = self._joined(mixed[:, :, prompts:])
        return torch.cat([mixed[:, :, :prompts].mean(1), found], dim=1) if prompts else found

    def merged(self, tokens: Tensor) -> Tensor:
        """Tokens (B, P + N, C) at the input of the next layer: (B, P + N / 4, 2 C) where patches are merged by fours,
        and four copies of each prompt token."""
        if self.merge is None:
            return tokens
        height, width = self.block.input_resolution
        prompts = tokens.shape[1] - height * width
        patches = self.merge(tokens[:, prompts:].unflatten(1, (height, width))).flatten(1, 2)
        if not prompts:
            return patches
        fours = tokens[:, :prompts].repeat_interleave(2, dim=1)[:, None].expand(-1, 2, -1, -1)  # (B, 2, 2 P, C)
        return torch.cat([self.merge(fours).flatten(1, 2), patches], dim=1)

    def _scores(self) -> Tensor:
        """What is added to scores: position bias, and the mask of the shift, (1, heads, 1 or windows, area, area)."""
        bias = self.bias()[:, :, None]
        shifted: Tensor | None = self.block.attn_mask
        return bias if shifted is None else bias + shifted

    def _joined(self, windows: Tensor) -> Tensor:
        """(B, windows, area, C) in the order of the grid: (B, N, C)."""
        height, width = self.block.input_resolution
        flat = windows.reshape(-1, *self.block.window_size, windows.shape[-1])
        grid = window_reverse(flat, self.block.window_size, *self._padded)[:, :height, :width]
        if any(self.block.shift_size):
            grid = torch.roll(grid, list(self.block.shift_size), (1, 2))
        return grid.flatten(1, 2)
