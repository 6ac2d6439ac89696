"""The text tower as open_clip's own forward computes it."""

from __future__ import annotations

import torch

from tests.helpers.clip_models import tokenizer
from vpt.prompts.clip.text_context import Contexts

NAMES = ["cat", "hot_dog", "kite (bird of prey)", "aeroplane"]


def slow(model, contexts: Contexts, position: str, shift: torch.Tensor | None = None) -> torch.Tensor:
    """CoOp's definition: sequences put together row by row, at full length, through open_clip's own layers."""
    encoder = tokenizer()
    features = []
    for index, name in enumerate(NAMES):
        context = contexts.tokens[index] if contexts.class_specific else contexts.tokens[0]
        context = context if shift is None else context + shift
        start = model.token_embedding(torch.tensor([encoder.sot_token_id]))
        end = model.token_embedding(torch.tensor([encoder.eot_token_id]))
        words = encoder.encode(name.replace("_", " "))
        stopped = encoder.encode(name.replace("_", " ") + ".")
        half = len(context) // 2
        named, dot = (
            model.token_embedding(torch.tensor(words)),
            model.token_embedding(torch.tensor(encoder.encode("."))),
        )
        parts = {
            "end": [start, context, model.token_embedding(torch.tensor(stopped)), end],
            "middle": [start, context[:half], named, context[half:], dot, end],
            "front": [start, named, context, dot, end],
        }[position]
        rows = torch.cat(parts)
        place = len(rows) - 1
        padding = model.token_embedding(torch.zeros(model.positional_embedding.shape[0] - len(rows), dtype=torch.long))
        rows = torch.cat([rows, padding]) + model.positional_embedding
        out = rows[None]
        for layer, block in enumerate(model.transformer.resblocks):
            if layer and not contexts.class_specific and layer < len(contexts.tokens):
                deep = contexts.tokens[layer]
                out = torch.cat([out[:, :1], deep[None], out[:, 1 + len(deep) :]], dim=1)
            out = block(out, attn_mask=model.attn_mask)
        features.append(model.ln_final(out)[0, place] @ model.text_projection)
    return torch.stack(features)
