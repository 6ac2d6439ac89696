"""From token embeddings and token ids back to words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

ROUNDED = 0.02  # relative distance that averages in half precision stay below
CHUNK = 512


def nearest_tokens(rows: Tensor, table: Tensor) -> Tensor:
    """The tokens whose embeddings are rows (N, C), up to the rounding of half precision: (N,), -1 where there is none.

    Args:
        table: embeddings of all tokens (V, C).

    >>> nearest_tokens(torch.tensor([[1.0, 2.001], [9.0, 9.0]]), torch.tensor([[0.0, 3.0], [1.0, 2.0]]))
    tensor([ 1, -1])
    """
    table = table.float()
    different, back = torch.unique(rows.float(), dim=0, return_inverse=True)
    squares = table.square().sum(1)
    found = []
    for some in different.split(CHUNK):
        # A few candidates by a matrix product, whose rounding is larger than some distances; then these exactly.
        rough = squares - 2 * some @ table.T
        candidates = rough.topk(min(8, len(table)), dim=1, largest=False).indices
        apart = (table[candidates] - some[:, None]).norm(dim=2)
        best = apart.argmin(dim=1, keepdim=True)
        token = candidates.gather(1, best)[:, 0]
        near = apart.gather(1, best)[:, 0] <= ROUNDED * table[token].norm(dim=1)
        found.append(torch.where(near, token, -1))
    return torch.cat(found)[back]


def spelled(tokenizer: Any, tokens: Sequence[int]) -> str:
    """A class name as its tokens say it, without the full stop.

    A CLIP's tokenizer takes digits and signs one by one, and forgets whether spaces stood between them. They are put
    together again where that makes the very same tokens; where a letter stands beside a digit, a space remains.
    """
    plain = tokenizer.decode(tokens).strip().removesuffix(".").strip()
    joined = re.sub(r"(?<=\d) (?=\d)", "", plain)
    joined = re.sub(r"(?<=\w) ?([-/'&.]) ?(?=\w)", r"\1", joined).replace(" ,", ",")
    same = tokenizer.encode(f"{joined}.") == list(tokens) or tokenizer.encode(joined) == list(tokens)
    return joined if same else plain
