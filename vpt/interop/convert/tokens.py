"""Words from token embeddings and token ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

ROUNDED = 0.02  # upper bound of the relative rounding error of averages in half precision
CHUNK = 512


def nearest_tokens(rows: Tensor, table: Tensor) -> Tensor:
    """Tokens with embeddings equal to rows (N, C) up to the rounding of half precision: (N,), -1 if there is none.

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
        # Find candidates by a matrix product, whose rounding error exceeds some distances, then compare them exactly.
        rough = squares - 2 * some @ table.T
        candidates = rough.topk(min(8, len(table)), dim=1, largest=False).indices
        apart = (table[candidates] - some[:, None]).norm(dim=2)
        best = apart.argmin(dim=1, keepdim=True)
        token = candidates.gather(1, best)[:, 0]
        near = apart.gather(1, best)[:, 0] <= ROUNDED * table[token].norm(dim=1)
        found.append(torch.where(near, token, -1))
    return torch.cat(found)[back]


def spelled(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Decode the tokens of a class name, without the full stop.

    CLIP's tokenizer splits digits and punctuation into single tokens and does not keep spaces between them. They are
    joined again if the result has the same tokens; a space between a letter and a digit is kept.
    """
    plain = tokenizer.decode(tokens).strip().removesuffix(".").strip()
    joined = re.sub(r"(?<=\d) (?=\d)", "", plain)
    joined = re.sub(r"(?<=\w) ?([-/'&.]) ?(?=\w)", r"\1", joined).replace(" ,", ",")
    same = tokenizer.encode(f"{joined}.") == list(tokens) or tokenizer.encode(joined) == list(tokens)
    return joined if same else plain
